//! `banger vm rename`.

use super::{Context, complete, set};
use crate::failure::Outcome;
use clap::Args;
use clap_complete::ArgValueCandidates;
use model::SandboxName;
use wire::control::SetRequest;

/// Give a sandbox another name.
///
/// Its id, its disks and what runs in it stay as they are.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  banger vm rename web shop")]
pub struct RenameArgs {
    /// The sandbox: a name, an id or the beginning of one
    #[arg(value_name = "VM", add = ArgValueCandidates::new(complete::vms))]
    pub vm: String,
    /// What to call it from now on
    #[arg(value_name = "NAME")]
    pub name: SandboxName,
}

pub async fn run(context: &Context, args: RenameArgs) -> Outcome {
    let request = SetRequest { name: Some(args.name.into()), ..SetRequest::default() };
    set::change(context, vec![args.vm], &request).await
}
