//! `banger vm restart`.

use super::Context;
use super::fleet::{Deed, Which};
use crate::failure::Outcome;
use clap::Args;
use wire::control::StartRequest;

/// Stop sandboxes and start them again.
///
/// Returns once each guest has reported that it is ready. Disks are kept; one that is off is started.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  banger vm restart web")]
pub struct RestartArgs {
    #[command(flatten)]
    pub which: Which,
    /// Show the plan and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

pub async fn run(context: &Context, args: RestartArgs) -> Outcome {
    let vms = args.which.resolve(context).await?;
    let deed = Deed { dry_run: args.dry_run, ..Deed::post("restart", StartRequest { dry_run: args.dry_run }) };
    deed.for_each(context, vms, |vm| format!("{}: {}", vm.name, vm.state)).await
}
