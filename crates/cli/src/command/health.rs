//! `banger vm health`.

use super::{Context, complete};
use crate::client::Path;
use crate::failure::{Failure, Outcome};
use crate::render::table::facts;
use crate::render::{self, json, time};
use clap::Args;
use clap_complete::ArgValueCandidates;
use wire::control::{SandboxHealth, exit};

/// Ask the guest how it is.
///
/// Fails unless the guest answers and says that it is well.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  banger vm health web")]
pub struct HealthArgs {
    /// The sandbox: a name, an id or the beginning of one
    #[arg(value_name = "VM", add = ArgValueCandidates::new(complete::vms))]
    pub vm: String,
}

pub async fn run(context: &Context, args: HealthArgs) -> Outcome {
    let health: SandboxHealth = context.client.get(Path::vm(&args.vm).then("health")).await?;
    match () {
        () if context.output.json => json::document(&health)?,
        () if context.output.quiet => {}
        () => render::data(&text(&health))?,
    }
    if health.healthy { Ok(()) } else { Err(Failure::Status(exit::FAILED)) }
}

fn text(health: &SandboxHealth) -> String {
    facts(&[
        ("healthy", Some(if health.healthy { "yes" } else { "no" }.into())),
        ("system", health.system_state.clone()),
        ("init", Some(health.init.clone())),
        ("up", Some(time::span_s(health.uptime_ms / 1000))),
        ("sessions", Some(health.sessions.to_string())),
        ("answered in", Some(time::span_us(health.latency_us))),
        ("agent", Some(health.agent_version.clone())),
        ("boot id", Some(health.boot_id.clone())),
    ])
}
