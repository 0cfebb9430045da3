//! `banger daemon`.

use super::Context;
use crate::client::{Client, Path};
use crate::failure::{Failure, Outcome};
use crate::render::table::{facts, size};
use crate::render::{self, json, time};
use clap::Subcommand;
use hyper::Method;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::os::fd::OwnedFd;
use std::time::Duration;
use wire::FaultKind;
use wire::control::DaemonStatus;

#[derive(Debug, Subcommand)]
pub enum DaemonCommand {
    /// Show what bangerd is doing and where its files are
    #[command(after_help = "Example:\n  banger daemon status --json")]
    Status,
    /// Stop bangerd; sandboxes run on
    #[command(after_help = "Example:\n  banger daemon stop")]
    Stop,
    /// Start bangerd, if it does not run
    #[command(after_help = "Example:\n  banger daemon start")]
    Start,
}

pub async fn run(context: &Context, command: DaemonCommand) -> Outcome {
    match command {
        DaemonCommand::Status => status(context, &Client::only_running()).await,
        DaemonCommand::Start => status(context, &context.client).await,
        DaemonCommand::Stop => stop(context, &Client::only_running()).await,
    }
}

async fn status(context: &Context, client: &Client) -> Outcome {
    let status: DaemonStatus = client.get(Path::new("/v1/daemon")).await?;
    match () {
        () if context.output.json => json::document(&status),
        () if context.output.quiet => Ok(()),
        () => render::data(&text(&status)),
    }
}

fn text(status: &DaemonStatus) -> String {
    facts(&[
        ("version", Some(status.version.clone())),
        ("pid", Some(status.pid.to_string())),
        ("up", Some(time::since(status.started_at_ns))),
        ("host", Some(status.host.clone())),
        ("sandboxes", Some(format!("{} ({} running)", status.vms, status.running))),
        ("memory", Some(size(status.memory_bytes))),
        ("socket", Some(status.socket.clone())),
        ("dns", status.dns.clone()),
        ("state", Some(status.state_folder.clone())),
        ("log", Some(status.log_file.clone())),
    ])
}

/// 15 seconds: it answers what was asked before it goes.
const STOP_WITHIN: Duration = Duration::from_secs(15);

async fn stop(context: &Context, client: &Client) -> Outcome {
    let status: DaemonStatus = client.get(Path::new("/v1/daemon")).await?;
    // Held before the order goes out, so that it can only mean the process that gets it.
    let process = i32::try_from(status.pid).ok().and_then(Pid::from_raw);
    let process = process.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    client.order(Method::POST, Path::new("/v1/daemon/stop")).await?;
    if let Some(process) = process
        && !ended(process).await
    {
        return Err(still_there(status.pid));
    }
    if context.output.quiet || context.output.json { Ok(()) } else { render::data("bangerd: stopped\n") }
}

/// A pidfd becomes readable when its process ends.
async fn ended(process: OwnedFd) -> bool {
    let wait = move || {
        let within = Timespec::try_from(STOP_WITHIN).expect("fifteen seconds fit in a timespec");
        poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&within))
    };
    matches!(tokio::task::spawn_blocking(wait).await, Ok(Ok(1)))
}

fn still_there(pid: u32) -> Failure {
    let message = format!("bangerd (process {pid}) did not end within {} s", STOP_WITHIN.as_secs());
    Failure::new(FaultKind::TimedOut, message).with_hint("`banger daemon status` names its log file")
}
