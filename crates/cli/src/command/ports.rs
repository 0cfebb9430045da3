//! `banger vm ports`.

use super::{Context, complete};
use crate::client::Path;
use crate::failure::Outcome;
use crate::render::{json, table};
use clap::Args;
use clap_complete::ArgValueCandidates;
use wire::control::PortsAnswer;

/// List what listens in the guest and how to reach it.
///
/// One line for each listening socket, with the process behind it and the address on this host, if it is published; then
/// published ports on which nothing listens. `auto` marks those that `banger vm port auto` published.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  banger vm ports web")]
pub struct PortsArgs {
    /// The sandbox: a name, an id or the beginning of one
    #[arg(value_name = "VM", add = ArgValueCandidates::new(complete::vms))]
    pub vm: String,
}

pub async fn run(context: &Context, args: PortsArgs) -> Outcome {
    let answer: PortsAnswer = context.client.get(Path::vm(&args.vm).then("ports")).await?;
    if context.output.json { json::document(&answer.ports) } else { table::ports(&answer.ports) }
}
