//! `banger vm workspace`: code of this host in a guest. One file per verb below; here is what they share.

mod prepare;
mod ship;

pub use prepare::{listing, plan, send, summary};
pub use ship::ShipArgs;

use super::Context;
use crate::failure::Outcome;
use crate::interrupt::or_cancel;
use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub enum WorkspaceCommand {
    Prepare(prepare::PrepareArgs),
}

pub async fn run(context: &Context, command: WorkspaceCommand) -> Outcome {
    match command {
        WorkspaceCommand::Prepare(args) => or_cancel(prepare::run(context, args)).await,
    }
}
