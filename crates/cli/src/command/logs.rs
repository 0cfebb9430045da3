//! `banger vm logs`.

use super::{Context, complete, values};
use crate::client::{Lines, Path};
use crate::failure::Outcome;
use crate::interrupt::{Interrupt, or_cancel};
use crate::render;
use clap::Args;
use clap_complete::ArgValueCandidates;
use std::time::{SystemTime, UNIX_EPOCH};

/// Print what a sandbox said on its console.
///
/// With `--follow` it goes on until the sandbox ends or Ctrl-C is pressed. A console's lines carry no time, so `--since`
/// is right to within a few seconds, and shows rather too much than too little.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  banger vm logs --follow --tail 20 web")]
pub struct LogsArgs {
    /// The sandbox: a name, an id or the beginning of one
    #[arg(value_name = "VM", add = ArgValueCandidates::new(complete::vms))]
    pub vm: String,
    /// Go on with what comes
    #[arg(short, long)]
    pub follow: bool,
    /// Choose whose words: the guest's console, the VMM's, the agent's, the image's own command's or the bootstrap's
    #[arg(long, value_name = "SOURCE", value_parser = ["console", "vmm", "agent", "service", "bootstrap"], default_value = "console")]
    pub source: String,
    /// What installed the tools that its repository pins said; the same as `--source bootstrap`
    #[arg(long, conflicts_with = "source")]
    pub bootstrap: bool,
    /// Only the last so many lines
    #[arg(short = 'n', long, value_name = "LINES")]
    pub tail: Option<u64>,
    /// Only what was written since: a span (`10m`) or a time (`2026-11-25T09:30:00Z`)
    #[arg(long, value_name = "WHEN", value_parser = values::moment)]
    pub since: Option<SystemTime>,
}

pub async fn run(context: &Context, args: LogsArgs) -> Outcome {
    let mut path =
        Path::vm(&args.vm).then("logs").query("source", if args.bootstrap { "bootstrap" } else { &args.source });
    if args.follow {
        path = path.query("follow", "true");
    }
    if let Some(tail) = args.tail {
        path = path.query("tail", &tail.to_string());
    }
    if let Some(since) = args.since {
        let since = since.duration_since(UNIX_EPOCH).unwrap_or_default();
        path = path.query("since_ns", &since.as_nanos().to_string());
    }
    let log = or_cancel(async { Ok(context.client.open(path).await?) }).await?;
    let printed = Interrupt::listen()?.or(print(log)).await;
    match printed {
        Ok(outcome) => outcome,
        // Ctrl-C is how one leaves a log that goes on; anything else was cut short.
        Err(_) if args.follow => Ok(()),
        Err(_) => Err(crate::interrupt::cancelled("cancelled")),
    }
}

async fn print(mut log: Lines) -> Outcome {
    while let Some(chunk) = log.chunk().await? {
        render::raw(&chunk)?;
    }
    Ok(())
}
