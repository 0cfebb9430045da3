//! `banger vm ping`.

use super::Context;
use super::fleet::{self, Which};
use crate::client::Path;
use crate::failure::Outcome;
use crate::render::time;
use clap::Args;
use wire::control::SandboxHealth;

/// Measure how fast the guest answers.
///
/// Fails for a guest that does not answer.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  banger vm ping web db")]
pub struct PingArgs {
    #[command(flatten)]
    pub which: Which,
}

pub async fn run(context: &Context, args: PingArgs) -> Outcome {
    let vms = args.which.resolve(context).await?;
    let ask = |vm: String, _line| async move {
        let health: SandboxHealth = context.client.get(Path::vm(&vm).then("health")).await?;
        Ok(Pong { vm, latency_us: health.latency_us })
    };
    let outcomes = fleet::each(context, vms, ask).await;
    fleet::report(context, outcomes, |pong| format!("{}: {}", pong.vm, time::span_us(pong.latency_us)))
}

#[derive(serde::Serialize)]
struct Pong {
    #[serde(skip)]
    vm: String,
    latency_us: u64,
}
