//! `banger vm reset`.

use super::Context;
use super::fleet::{Deed, Which};
use crate::failure::Outcome;
use clap::Args;
use wire::control::StartRequest;

/// Give sandboxes a fresh root disk and keep what lies in /root.
///
/// Everything that was installed or changed outside of /root is gone afterwards. The sandbox must be off.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  banger vm reset web")]
pub struct ResetArgs {
    #[command(flatten)]
    pub which: Which,
    /// Show the plan and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

pub async fn run(context: &Context, args: ResetArgs) -> Outcome {
    let vms = args.which.resolve(context).await?;
    let deed = Deed { dry_run: args.dry_run, ..Deed::post("reset", StartRequest { dry_run: args.dry_run }) };
    deed.for_each(context, vms, |vm| format!("{}: {}", vm.name, vm.state)).await
}
