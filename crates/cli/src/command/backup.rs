//! `banger system backup` and `banger system restore`.

use super::{Context, values};
use crate::client::{Path, daemon_program};
use crate::failure::{Failure, Outcome};
use crate::render::table::size;
use crate::render::{self, json};
use clap::Args;
use hyper::Method;
use std::path::PathBuf;
use std::process::Command;
use wire::control::{Backup, BackupRequest};
use wire::{Fault, FaultKind};

/// Write the records of all sandboxes into one file.
///
/// It holds records, history and ssh keys, as they are at one moment; sandboxes may run on. Disks and images are no part of
/// it: they stay where they are, and the records find them again.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  banger system backup banger.tar")]
pub struct BackupArgs {
    /// The file to write
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Replace a file that is there
    #[arg(long)]
    pub replace: bool,
}

/// Bring the records of a backup back.
///
/// bangerd must be stopped. Records that are there and damaged are put aside; whole ones only with --replace. Nothing is
/// deleted.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  banger daemon stop && banger system restore banger.tar")]
pub struct RestoreArgs {
    /// The file to read
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Put the present records aside, though they are whole
    #[arg(long)]
    pub replace: bool,
}

pub async fn backup(context: &Context, args: BackupArgs) -> Outcome {
    let request = BackupRequest { path: values::absolute(&args.file)?, replace: args.replace };
    let backup: Backup = context.client.call(Method::POST, Path::new("/v1/backup"), &request).await?;
    match () {
        () if context.output.json => json::document(&backup),
        () if context.output.quiet => Ok(()),
        () => render::data(&format!("{}: {} VMs, {}\n", backup.path, backup.vms, size(backup.size_bytes))),
    }
}

/// By the daemon's own program, since the daemon itself cannot run without records.
pub fn restore(context: &Context, args: &RestoreArgs) -> Outcome {
    let mut command = Command::new(daemon_program());
    command.arg("--restore").arg(values::absolute(&args.file)?);
    if args.replace {
        command.arg("--replace");
    }
    let output = command.output().map_err(|error| {
        Failure::new(FaultKind::Internal, format!("cannot run `{}`: {error}", daemon_program().display()))
    })?;
    if !output.status.success() {
        return Err(told(&String::from_utf8_lossy(&output.stderr)).into());
    }
    let vms: u64 = String::from_utf8_lossy(&output.stdout).trim().parse().unwrap_or_default();
    match () {
        () if context.output.json => json::document(&serde_json::json!({ "vms": vms })),
        () if context.output.quiet => Ok(()),
        () => render::data(&format!("restored the records of {vms} VMs\n")),
    }
}

/// The daemon's program says why in the words of the control API.
fn told(stderr: &str) -> Fault {
    let words = stderr.trim().trim_start_matches("bangerd: ");
    serde_json::from_str(words).unwrap_or_else(|_| Fault::new(FaultKind::Internal, words))
}
