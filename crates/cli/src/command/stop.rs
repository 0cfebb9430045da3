//! `banger vm stop`.

use super::fleet::{Deed, Which};
use super::{Context, values};
use crate::failure::Outcome;
use clap::Args;
use std::time::Duration;
use wire::control::StopRequest;

/// Stop sandboxes, letting their services end in order.
///
/// The guest syncs its disks, stops its services and powers off; one that does not within its grace is ended. Disks
/// are kept. One that is off already is fine.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  banger vm stop web db")]
pub struct StopArgs {
    #[command(flatten)]
    pub which: Which,
    /// Let services take so long before the guest is ended
    #[arg(long, value_name = "SPAN", value_parser = values::span)]
    pub grace: Option<Duration>,
    /// Show the plan and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

pub async fn run(context: &Context, args: StopArgs) -> Outcome {
    let vms = args.which.resolve(context).await?;
    let grace_ms = args.grace.map(|grace| u64::try_from(grace.as_millis()).unwrap_or(u64::MAX));
    let body = StopRequest { grace_ms, dry_run: args.dry_run };
    let deed = Deed { dry_run: args.dry_run, ..Deed::post("stop", body) };
    deed.for_each(context, vms, |vm| format!("{}: {}", vm.name, vm.state)).await
}
