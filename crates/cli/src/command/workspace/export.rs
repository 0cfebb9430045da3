//! `banger vm workspace export`, `diff`, `log`: what a guest did, as bytes for other tools or for reading.

use crate::client::{Lines, Path};
use crate::command::{Context, complete};
use crate::failure::{Failure, Outcome};
use crate::render::{self, json};
use clap::{Args, ValueEnum};
use clap_complete::ArgValueCandidates;
use serde::Serialize;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use wire::FaultKind;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// One binary patch, for `git apply`
    Patch,
    /// A mail for each commit, for `git am`
    Mbox,
    /// A git bundle, for `git fetch`
    Bundle,
}

impl Format {
    fn word(self) -> &'static str {
        match self {
            Format::Patch => "patch",
            Format::Mbox => "mbox",
            Format::Bundle => "bundle",
        }
    }
}

/// Which sandbox, and which of its workspaces.
#[derive(Debug, Args)]
pub struct Of {
    /// The sandbox: a name, an id or the beginning of one
    #[arg(value_name = "VM", add = ArgValueCandidates::new(complete::vms))]
    pub vm: String,
    /// The workspace's folder in the guest; not needed where there is only one
    #[arg(long, value_name = "PATH")]
    pub guest_path: Option<String>,
}

/// Print what a guest did to its workspace as a patch.
///
/// Everything since the commit that was shipped: commits, edits, new files that git does not ignore. It works on a
/// sandbox that runs, and as well on the disk of one that is stopped or was killed.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  banger vm workspace export web --output web.patch")]
pub struct ExportArgs {
    #[command(flatten)]
    pub of: Of,
    /// Since this commit instead of the shipped one
    #[arg(long, value_name = "COMMIT")]
    pub base_commit: Option<String>,
    /// As one patch, as mails or as a bundle
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "patch")]
    pub format: Format,
    /// Write it to this file instead of stdout
    #[arg(short, long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub output: Option<PathBuf>,
}

/// Show what a guest changed since its code was shipped.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  banger vm workspace diff web | less")]
pub struct DiffArgs {
    #[command(flatten)]
    pub of: Of,
    /// Since this commit instead of the shipped one
    #[arg(long, value_name = "COMMIT")]
    pub base_commit: Option<String>,
}

/// Show the commits that a guest made.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  banger vm workspace log web")]
pub struct LogArgs {
    #[command(flatten)]
    pub of: Of,
    /// Since this commit instead of the shipped one
    #[arg(long, value_name = "COMMIT")]
    pub base_commit: Option<String>,
}

#[derive(Serialize)]
struct Exported {
    file: String,
    bytes: u64,
}

pub async fn export(context: &Context, args: ExportArgs) -> Outcome {
    if args.format == Format::Bundle && args.output.is_none() && std::io::stdout().is_terminal() {
        let failure = Failure::new(FaultKind::Invalid, "a bundle is nothing for a terminal");
        return Err(failure.with_hint("write it to a file with `--output FILE`"));
    }
    let view = open(context, &args.of, args.format.word(), args.base_commit.as_deref()).await?;
    match &args.output {
        None => print(view).await,
        Some(file) => {
            let bytes = save(view, file).await?;
            match context.output.json {
                true => json::document(&Exported { file: file.display().to_string(), bytes }),
                false => {
                    render::note(&format!("{}: {bytes} bytes", file.display()));
                    Ok(())
                }
            }
        }
    }
}

pub async fn diff(context: &Context, args: DiffArgs) -> Outcome {
    print(open(context, &args.of, "diff", args.base_commit.as_deref()).await?).await
}

pub async fn log(context: &Context, args: LogArgs) -> Outcome {
    print(open(context, &args.of, "log", args.base_commit.as_deref()).await?).await
}

/// The daemon looks at the guest first, so the answer has no deadline of ours.
async fn open(context: &Context, of: &Of, view: &str, base: Option<&str>) -> Outcome<Lines> {
    let mut path = Path::vm(&of.vm).then("work").query("view", view);
    if let Some(guest_path) = &of.guest_path {
        path = path.query("guest_path", guest_path);
    }
    if let Some(base) = base {
        path = path.query("base_commit", base);
    }
    Ok(context.client.open(path).await?)
}

async fn print(mut view: Lines) -> Outcome {
    while let Some(chunk) = view.chunk().await? {
        render::raw(&chunk)?;
    }
    Ok(())
}

/// The file is there whole, or as it was.
async fn save(mut view: Lines, file: &std::path::Path) -> Outcome<u64> {
    let failed = |error: std::io::Error| {
        Failure::new(FaultKind::Invalid, format!("cannot write {}: {error}", file.display()))
            .with_hint("`--output` takes a file in a folder that is there")
    };
    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let partial = file.with_file_name(format!(".{name}.{}", std::process::id()));
    let mut out = std::fs::File::create(&partial).map_err(failed)?;
    let mut bytes = 0;
    let written = async {
        while let Some(chunk) = view.chunk().await? {
            out.write_all(&chunk).map_err(failed)?;
            bytes += chunk.len() as u64;
        }
        out.sync_all().map_err(failed)?;
        std::fs::rename(&partial, file).map_err(failed)
    };
    let written: Outcome = written.await;
    if written.is_err() {
        let _ = std::fs::remove_file(&partial);
    }
    written.map(|()| bytes)
}
