//! `banger vm start`.

use super::Context;
use super::fleet::{Deed, Which};
use crate::failure::Outcome;
use clap::Args;
use wire::control::StartRequest;

/// Start sandboxes that are off.
///
/// Returns once each guest has reported that it is ready. One that runs already is fine.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  banger vm start web db")]
pub struct StartArgs {
    #[command(flatten)]
    pub which: Which,
    /// Show the plan and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

pub async fn run(context: &Context, args: StartArgs) -> Outcome {
    let vms = args.which.resolve(context).await?;
    let deed = Deed { dry_run: args.dry_run, ..Deed::post("start", StartRequest { dry_run: args.dry_run }) };
    deed.for_each(context, vms, |vm| format!("{}: {}", vm.name, vm.state)).await
}
