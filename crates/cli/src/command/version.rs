//! `banger version`: ours at once, the daemon's only if it runs.

use super::{Context, block_on};
use crate::client::{Client, Path};
use crate::failure::Outcome;
use crate::render::{self, json};
use clap::Args;
use serde::Serialize;
use std::time::Duration;
use wire::control::DaemonStatus;

/// Print the versions of banger and of the bangerd that runs.
///
/// Does not start bangerd.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  banger version --json")]
pub struct VersionArgs {}

#[derive(Serialize)]
struct Versions {
    version: &'static str,
    api_version: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    daemon: Option<DaemonVersion>,
}

#[derive(Serialize)]
struct DaemonVersion {
    version: String,
    api_version: u32,
}

const OWN: &str = env!("CARGO_PKG_VERSION");
/// 200 ms: a daemon that is busy shall not make a version slow.
const DAEMON_WITHIN: Duration = Duration::from_millis(200);

pub fn run(context: &Context, _args: VersionArgs) -> Outcome {
    let client = Client::only_running();
    if !client.socket().exists() {
        return show(context, None);
    }
    block_on(async {
        let asked = client.get::<DaemonStatus>(Path::new("/v1/daemon"));
        let status = tokio::time::timeout(DAEMON_WITHIN, asked).await.ok().and_then(Result::ok);
        show(context, status.map(|status| DaemonVersion { version: status.version, api_version: status.api_version }))
    })
}

fn show(context: &Context, daemon: Option<DaemonVersion>) -> Outcome {
    let api_version = wire::version::CONTROL;
    if context.output.json {
        return json::document(&Versions { version: OWN, api_version, daemon });
    }
    render::data(&format!("banger {OWN} (API {api_version})\n"))?;
    let Some(daemon) = daemon else { return Ok(()) };
    render::data(&format!("bangerd {} (API {})\n", daemon.version, daemon.api_version))?;
    if daemon.version != OWN {
        render::note("They differ: `banger daemon stop` lets the next command start the new one; sandboxes run on.");
    }
    Ok(())
}
