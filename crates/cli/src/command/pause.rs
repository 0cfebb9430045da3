//! `banger vm pause` and `banger vm resume`.

use super::Context;
use super::fleet::{Deed, Which};
use crate::failure::Outcome;
use clap::Args;

/// Freeze running sandboxes.
///
/// Their CPUs stand still, their memory is kept. `banger vm resume` lets them run on where they were.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  banger vm pause web")]
pub struct PauseArgs {
    #[command(flatten)]
    pub which: Which,
}

/// Let paused sandboxes run on.
///
/// They go on where they were; their clock is set to the host's.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  banger vm resume web")]
pub struct ResumeArgs {
    #[command(flatten)]
    pub which: Which,
}

pub async fn pause(context: &Context, args: PauseArgs) -> Outcome {
    let vms = args.which.resolve(context).await?;
    Deed::post("pause", ()).for_each(context, vms, |vm| format!("{}: {}", vm.name, vm.state)).await
}

pub async fn resume(context: &Context, args: ResumeArgs) -> Outcome {
    let vms = args.which.resolve(context).await?;
    Deed::post("resume", ()).for_each(context, vms, |vm| format!("{}: {}", vm.name, vm.state)).await
}
