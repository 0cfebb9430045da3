//! `banger vm service`: the command that an image brings, as a service of its guest.

use super::{Context, complete};
use crate::client::Path;
use crate::failure::Outcome;
use crate::render::table::facts;
use crate::render::{self, json};
use clap::Args;
use clap_complete::ArgValueCandidates;
use wire::control::Service;

/// Show how the image's own command fares.
///
/// A guest runs the command that its image brings, starts it again when it fails, and keeps what it writes:
/// `banger vm logs --source service` shows it.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  banger vm service web")]
pub struct ServiceArgs {
    /// The sandbox: a name, an id or the beginning of one
    #[arg(value_name = "VM", add = ArgValueCandidates::new(complete::vms))]
    pub vm: String,
}

pub async fn run(context: &Context, args: ServiceArgs) -> Outcome {
    let service = fetch(context, &args.vm).await?;
    if context.output.json { json::document(&service) } else { render::data(&text(&service)) }
}

pub async fn fetch(context: &Context, vm: &str) -> Outcome<Service> {
    Ok(context.client.get(Path::vm(vm).then("service")).await?)
}

fn text(service: &Service) -> String {
    facts(&[
        ("command", Some(service.argv.join(" "))),
        ("phase", Some(service.phase.clone())),
        ("pid", service.pid.map(|pid| pid.to_string())),
        ("ended with", service.exit_code.map(|code| format!("status {code}"))),
        ("failure", service.failure.clone()),
        ("restarts", Some(service.restarts.to_string())),
    ])
}
