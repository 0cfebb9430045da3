//! `banger kernel`.

use super::values::absolute;
use super::{Context, complete};
use crate::client::Path;
use crate::failure::Outcome;
use crate::render::progress::Board;
use crate::render::{self, json, table, time};
use clap::{Args, Subcommand};
use clap_complete::ArgValueCandidates;
use hyper::Method;
use model::KernelName;
use serde::Serialize;
use std::path::PathBuf;
use wire::control::{KernelBuild, KernelFacts, KernelImport, KernelList};

#[derive(Debug, Subcommand)]
pub enum KernelCommand {
    /// List kernels, those that are here and those that could be
    #[command(visible_alias = "ls", after_help = "Example:\n  banger kernel list")]
    List(ListArgs),
    /// Show everything about a kernel that is here
    #[command(after_help = "Example:\n  banger kernel show debian-cloud")]
    Show(NamedArgs),
    /// Fetch a kernel
    #[command(after_help = "Example:\n  banger kernel pull debian-cloud")]
    Pull(NamedArgs),
    /// Register a kernel that lies on this machine
    ///
    /// It may be an ELF `vmlinux`, also packed, or a bzImage with a payload of gzip, lz4, zstd or xz; or a folder that holds
    /// one, with its modules in `lib/modules/VERSION`. What is kept is the ELF; you are told which VMM can boot it.
    #[command(after_help = "Example:\n  banger kernel import mine ./vmlinux --modules ./lib/modules/6.6.1")]
    Import(ImportArgs),
    /// Build the generic guest kernel from source
    ///
    /// The source is Debian's `linux-source-*` package, or an archive whose signature is verified against the keyring that
    /// you name. Everything that guests, Docker, k3s and tailscale need is built in; a source that drops one of the wanted
    /// options is refused before the compiler runs. It takes some 16 minutes of CPU time and 2 GB of disk while it does.
    #[command(after_help = "Example:\n  banger kernel build generic --package linux-source-6.1 --jobs 4")]
    Build(BuildArgs),
    /// Delete kernels that no image uses
    #[command(visible_alias = "rm", after_help = "Example:\n  banger kernel delete old-one")]
    Delete(ManyArgs),
}

#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only those that could be fetched by name
    #[arg(long)]
    pub available: bool,
}

#[derive(Debug, Args)]
pub struct NamedArgs {
    /// The kernel
    #[arg(value_name = "KERNEL", add = ArgValueCandidates::new(complete::kernels))]
    pub kernel: String,
}

#[derive(Debug, Args)]
pub struct ImportArgs {
    /// What to call it
    #[arg(value_name = "NAME")]
    pub name: KernelName,
    /// The kernel, or a folder that holds one
    #[arg(value_name = "PATH", required_unless_present = "from")]
    pub file: Option<PathBuf>,
    /// The same, by name
    #[arg(long, value_name = "PATH", conflicts_with = "file")]
    pub from: Option<PathBuf>,
    /// Pass these words on its command line
    #[arg(long, value_name = "WORDS", default_value = "")]
    pub boot_args: String,
    /// Take its modules from this folder (`lib/modules/VERSION`)
    #[arg(long, value_name = "FOLDER")]
    pub modules: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct BuildArgs {
    /// What to call it
    #[arg(value_name = "NAME", default_value = "generic")]
    pub name: KernelName,
    /// Take the source from this Debian package; the newest `linux-source-*` unless told otherwise
    #[arg(long, value_name = "PACKAGE", conflicts_with = "archive")]
    pub package: Option<String>,
    /// Take the source from this archive
    #[arg(long, value_name = "FILE")]
    pub archive: Option<PathBuf>,
    /// Verify the archive by this detached signature
    #[arg(long, value_name = "FILE", requires = "archive", requires = "keyring")]
    pub signature: Option<PathBuf>,
    /// Believe the keys of this keyring, and no others
    #[arg(long, value_name = "FILE", requires = "signature")]
    pub keyring: Option<PathBuf>,
    /// Build an archive that nobody signed
    #[arg(long, requires = "archive", conflicts_with = "signature")]
    pub unverified: bool,
    /// Compile so many files at once; as many as there are CPUs unless told otherwise
    #[arg(short, long, value_name = "COUNT")]
    pub jobs: Option<u32>,
}

#[derive(Debug, Args)]
pub struct ManyArgs {
    /// The kernels
    #[arg(value_name = "KERNEL", required = true, add = ArgValueCandidates::new(complete::kernels))]
    pub kernels: Vec<String>,
}

pub async fn run(context: &Context, command: KernelCommand) -> Outcome {
    match command {
        KernelCommand::List(args) => list(context, args).await,
        KernelCommand::Show(args) => show(context, &args.kernel).await,
        KernelCommand::Build(args) => build(context, args).await,
        KernelCommand::Pull(args) => pull(context, &args.kernel).await,
        KernelCommand::Import(args) => import(context, args).await,
        KernelCommand::Delete(args) => super::fleet::delete_artifacts(context, "/v1/kernels", args.kernels).await,
    }
}

async fn list(context: &Context, args: ListArgs) -> Outcome {
    let mut list: KernelList = context.client.get(Path::new("/v1/kernels")).await?;
    if args.available {
        list.kernels.retain(|kernel| !kernel.present);
    }
    let names = || list.kernels.iter().map(|kernel| format!("{}\n", kernel.name)).collect::<String>();
    match () {
        () if context.output.json => json::document(&list.kernels),
        () if context.output.quiet => render::data(&names()),
        () => table::kernels(&list.kernels),
    }
}

async fn show(context: &Context, name: &str) -> Outcome {
    let kernel: KernelFacts = context.client.get(Path::new("/v1/kernels").then(name)).await?;
    if context.output.json { json::document(&kernel) } else { render::data(&everything(&kernel)) }
}

fn everything(kernel: &KernelFacts) -> String {
    let details = &kernel.details;
    let files: Vec<String> = details.files.iter().map(|(what, path)| format!("{what} {path}")).collect();
    table::facts(&[
        ("name", Some(kernel.name.clone())),
        ("version", kernel.version.clone()),
        ("digest", kernel.digest.clone()),
        ("boots with", Some(details.backends.join(" "))),
        ("boot arguments", Some(details.boot_args.clone())),
        ("modules", details.modules.map(|count| count.to_string())),
        ("size", Some(table::size(kernel.size_bytes))),
        ("created", Some(time::moment(kernel.created_at_ns))),
        ("source", Some(kernel.source.clone())),
        ("files", Some(files.join(", "))),
        ("used by", Some(details.used_by.join(" "))),
    ])
}

async fn build(context: &Context, args: BuildArgs) -> Outcome {
    let path = |file: Option<PathBuf>| file.as_deref().map(absolute).transpose();
    let request = KernelBuild {
        package: args.package,
        archive: path(args.archive)?,
        signature: path(args.signature)?,
        keyring: path(args.keyring)?,
        unverified: args.unverified,
        jobs: args.jobs,
    };
    make(context, Method::POST, Path::new("/v1/kernels").then(args.name.as_str()).then("build"), &request).await
}

async fn pull(context: &Context, name: &str) -> Outcome {
    make(context, Method::POST, Path::new("/v1/kernels").then(name).then("pull"), &()).await
}

async fn import(context: &Context, args: ImportArgs) -> Outcome {
    let modules = args.modules.as_deref().map(absolute).transpose()?;
    let file = args.file.or(args.from).expect("clap wants one of the two");
    let request = KernelImport { vmlinux: absolute(&file)?, boot_args: args.boot_args, modules };
    make(context, Method::PUT, Path::new("/v1/kernels").then(args.name.as_str()), &request).await
}

async fn make<B: Serialize>(context: &Context, method: Method, path: Path, request: &B) -> Outcome {
    let line = Board::new(context.output.progress()).line(None);
    let kernel: KernelFacts = context.client.work(method, path, request, |event| line.event(event)).await?;
    drop(line);
    if !context.output.quiet && !context.output.json {
        render::note(&format!("`{}` boots with {}", kernel.name, kernel.details.backends.join(" and ")));
    }
    if context.output.json { json::document(&kernel) } else { render::data(&format!("{}\n", kernel.name)) }
}
