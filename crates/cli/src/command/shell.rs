//! `banger vm shell`: a shell in a sandbox that runs.

use super::exec::{self, EnvArgs, Look};
use super::{Context, complete};
use crate::failure::Outcome;
use clap::Args;
use clap_complete::ArgValueCandidates;
use model::UserName;

/// Open a shell in a running sandbox.
///
/// It is the login shell of the user, in the sandbox's workspace where it has one. Enter `~.` leaves a guest that no longer answers. What is piped into banger is
/// read by the shell.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  banger vm shell web")]
pub struct ShellArgs {
    /// Be this user instead of root
    #[arg(long, value_name = "USER")]
    pub user: Option<UserName>,
    /// The sandbox: a name, an id or the beginning of one
    #[arg(value_name = "VM", add = ArgValueCandidates::new(complete::vms))]
    pub vm: String,
}

pub async fn run(context: &Context, args: ShellArgs) -> Outcome {
    let env = EnvArgs { user: args.user, ..EnvArgs::default() };
    let request = exec::request(Vec::new(), env, false, true)?;
    match exec::workspace_of(None, &request) {
        Some(folder) => exec::in_folder(context, &args.vm, folder, Look::Away, request).await,
        None => exec::in_guest(context, &args.vm, &request).await,
    }
}
