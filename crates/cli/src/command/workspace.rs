//! `banger vm workspace`: code of this host in a guest. One file per verb below; here is what they share.

mod export;
mod list;
mod prepare;
mod ship;
mod status;

pub use list::{ask, host_word};
pub use prepare::{listing, plan, send, summary};
pub use ship::ShipArgs;
pub use status::moved;

use super::Context;
use crate::failure::Outcome;
use crate::interrupt::or_cancel;
use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub enum WorkspaceCommand {
    Prepare(prepare::PrepareArgs),
    Export(export::ExportArgs),
    Diff(export::DiffArgs),
    Log(export::LogArgs),
    Status(status::StatusArgs),
    Pull(status::PullArgs),
    #[command(visible_alias = "ls")]
    List(list::ListArgs),
}

pub async fn run(context: &Context, command: WorkspaceCommand) -> Outcome {
    match command {
        WorkspaceCommand::Prepare(args) => or_cancel(prepare::run(context, args)).await,
        WorkspaceCommand::Export(args) => or_cancel(export::export(context, args)).await,
        WorkspaceCommand::Diff(args) => or_cancel(export::diff(context, args)).await,
        WorkspaceCommand::Log(args) => or_cancel(export::log(context, args)).await,
        WorkspaceCommand::Status(args) => or_cancel(status::status(context, args)).await,
        WorkspaceCommand::Pull(args) => or_cancel(status::pull(context, args)).await,
        WorkspaceCommand::List(args) => or_cancel(list::run(context, args)).await,
    }
}
