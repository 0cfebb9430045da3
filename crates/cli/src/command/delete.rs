//! `banger vm delete`.

use super::Context;
use super::fleet::{Deed, Which};
use crate::failure::Outcome;
use clap::Args;
use hyper::Method;

/// Remove sandboxes with their disks.
///
/// One that runs is ended first. What lies on its disks is lost; images and kernels stay. Work in a repository that was
/// shipped into it is brought home first; where that cannot be done nothing is removed without `--discard`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  banger vm delete web db")]
pub struct DeleteArgs {
    #[command(flatten)]
    pub which: Which,
    /// Go on past anything that cannot be undone cleanly
    #[arg(short, long)]
    pub force: bool,
    /// Give up work in its workspaces that is not on this host
    #[arg(long)]
    pub discard: bool,
    /// Show the plan and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

pub async fn run(context: &Context, args: DeleteArgs) -> Outcome {
    let vms = args.which.resolve(context).await?;
    deed(args.force, args.discard, args.dry_run).for_each(context, vms, |vm| format!("{}: deleted", vm.name)).await
}

pub fn deed(force: bool, discard: bool, dry_run: bool) -> Deed<()> {
    let flags = [("force", force), ("discard", discard), ("dry_run", dry_run)];
    let query = flags.into_iter().filter(|(_, set)| *set).map(|(name, _)| (name, "true")).collect();
    Deed { method: Method::DELETE, verb: "", query, body: (), dry_run }
}
