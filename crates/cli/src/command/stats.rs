//! `banger vm stats`.

use super::{Context, complete, fleet};
use crate::client::Path;
use crate::failure::{Failure, Outcome};
use crate::interrupt::{Interrupt, or_cancel};
use crate::render::{self, json, table};
use clap::Args;
use clap_complete::ArgValueCandidates;
use std::io::IsTerminal;
use std::time::Duration;
use wire::control::{Stats, exit};

/// Show what sandboxes use of the machine.
///
/// CPU time and memory as the host sees them, memory as the guest sees it, what its disks take and could take, and
/// what went over the network. Without a name: all that run.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  banger vm stats --watch web")]
pub struct StatsArgs {
    /// Names, ids or beginnings of ids
    #[arg(value_name = "VM", add = ArgValueCandidates::new(complete::vms))]
    pub vms: Vec<String>,
    /// Measure again and again, until Ctrl-C
    #[arg(short, long)]
    pub watch: bool,
    /// Measure so often
    #[arg(long, value_name = "SPAN", value_parser = super::values::span, default_value = "2s")]
    pub interval: Duration,
}

pub async fn run(context: &Context, args: StatsArgs) -> Outcome {
    if !args.watch {
        return or_cancel(once(context, &args.vms)).await;
    }
    // Ctrl-C is how one ends it.
    Interrupt::listen()?.or(again_and_again(context, &args)).await.unwrap_or(Ok(()))
}

async fn again_and_again(context: &Context, args: &StatsArgs) -> Outcome {
    // A span of nothing would be a loop that hammers.
    let mut ticks = tokio::time::interval(args.interval.max(Duration::from_millis(100)));
    loop {
        ticks.tick().await;
        let (stats, failed) = measure(context, &args.vms).await?;
        if context.output.json {
            stats.iter().try_for_each(json::line)?;
        } else {
            if std::io::stdout().is_terminal() {
                render::data("\x1b[H\x1b[2J")?;
            }
            table::stats(&stats)?;
        }
        failed?;
    }
}

async fn once(context: &Context, vms: &[String]) -> Outcome {
    let (stats, failed) = measure(context, vms).await?;
    if context.output.json {
        json::document(&stats)?
    } else {
        table::stats(&stats)?
    }
    failed
}

/// What could be measured, and whether all could. A sandbox that stopped since it was listed is no failure.
async fn measure(context: &Context, named: &[String]) -> Outcome<(Vec<Stats>, Outcome)> {
    let vms = match named {
        [] => fleet::all(context).await?.into_iter().filter(|vm| vm.state == "running").map(|vm| vm.name).collect(),
        _ => named.to_vec(),
    };
    let outcomes =
        fleet::each(
            context,
            vms,
            |vm, _line| async move { context.client.get::<Stats>(Path::vm(&vm).then("stats")).await },
        );
    let mut stats = Vec::new();
    let mut failed = Ok(());
    for (_, outcome) in outcomes.await {
        match outcome {
            Ok(measured) => stats.push(measured),
            Err(_) if named.is_empty() => {}
            Err(error) if named.len() == 1 => return Err(error.into()),
            Err(error) => {
                render::error::say(&error.into_fault());
                failed = Err(Failure::Status(exit::FAILED));
            }
        }
    }
    Ok((stats, failed))
}
