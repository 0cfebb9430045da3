//! `banger vm kill`.

use super::Context;
use super::fleet::{Deed, Which};
use crate::failure::Outcome;
use clap::Args;
use wire::control::KillRequest;

const SIGNALS: [&str; 8] = ["TERM", "KILL", "INT", "HUP", "QUIT", "USR1", "USR2", "ABRT"];

/// End sandboxes at once.
///
/// Sends a signal to the program that runs the machine. The guest gets no chance to write anything back; `banger vm
/// stop` is the gentle way.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  banger vm kill --signal TERM web")]
pub struct KillArgs {
    #[command(flatten)]
    pub which: Which,
    /// Send this signal instead of KILL
    #[arg(short, long, value_name = "SIGNAL", value_parser = signal)]
    pub signal: Option<String>,
}

/// `TERM`, `term` and `SIGTERM` mean the same.
fn signal(given: &str) -> Result<String, String> {
    let name = given.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    if SIGNALS.contains(&name) { Ok(name.to_owned()) } else { Err(format!("it is one of {}", SIGNALS.join(", "))) }
}

pub async fn run(context: &Context, args: KillArgs) -> Outcome {
    let vms = args.which.resolve(context).await?;
    let deed = Deed::post("kill", KillRequest { signal: args.signal });
    deed.for_each(context, vms, |vm| format!("{}: {}", vm.name, vm.state)).await
}
