//! `GET /healthz`: who answers, since when, and what systemd says of itself.

use crate::machine::{self, InitKind};
use crate::serve::Server;
use std::process::Stdio;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::process::Command;
use wire::guest::Health;

/// 1 s for systemd's answer: early in the boot its bus is not up, and health must not wait for it.
const STATE_DEADLINE: Duration = Duration::from_secs(1);

pub async fn health(server: &Server) -> Health {
    let system_state = match server.init {
        InitKind::Agent => None,
        InitKind::Systemd => system_state().await,
    };
    Health {
        api_version: wire::version::GUEST,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        boot_id: machine::boot_id(),
        uptime_ms: machine::uptime_ms(),
        init: server.init.name().to_owned(),
        system_state,
        sessions: server.sessions.load(Ordering::Relaxed),
        clock_ns: crate::clock::now_ns(),
    }
}

async fn system_state() -> Option<String> {
    let asked = Command::new("systemctl")
        .arg("is-system-running")
        .env("PATH", machine::PATH)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(STATE_DEADLINE, asked).await.ok()?.ok()?;
    let state = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (!state.is_empty()).then_some(state)
}
