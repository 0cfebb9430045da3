//! What a running sandbox tells: health, stats. Figures of the host come from the host, figures of the guest are
//! the guest's own claims.

use super::fault::{Refusal, guest_fault};
use super::input::Named;
use super::sandboxes::vmm_pid;
use crate::app::{App, HostKind};
use crate::guest;
use crate::process::{self, ProcessUse};
use axum::extract::State;
use engine::Sandbox;
use model::State as Life;
use std::sync::Arc;
use std::time::Instant;
use wire::control::{SandboxHealth, Stats};
use wire::guest::{Health, Metrics};
use wire::{Fault, FaultKind};

type Shared = State<Arc<App>>;

/// Asks the agent how it is
#[utoipa::path(get, path = "/v1/vms/{ref}/health", tag = "vms", params(("ref" = String, Path)),
    responses((status = 200, body = SandboxHealth), (status = "default", body = Fault)))]
pub async fn health(State(app): Shared, reference: Named) -> Result<axum::Json<SandboxHealth>, Refusal> {
    let sandbox = running(&app, &reference)?;
    let asked_at = Instant::now();
    if app.kind == HostKind::Sim {
        let id = sandbox.id.clone();
        let facts = app.ask(move |app| app.host.guest.health(&id).map_err(|error| Refusal::from(error).0)).await?;
        return Ok(axum::Json(SandboxHealth {
            healthy: true,
            boot_id: facts.boot_id,
            agent_version: facts.agent_version,
            uptime_ms: facts.uptime_ms,
            init: facts.init,
            system_state: facts.system_state,
            sessions: facts.sessions,
            latency_us: 0,
        }));
    }
    let health: Health = ask(&app, &sandbox, "/healthz").await?;
    Ok(axum::Json(SandboxHealth {
        healthy: !matches!(health.system_state.as_deref(), Some("degraded" | "maintenance" | "offline")),
        boot_id: health.boot_id,
        agent_version: health.agent_version,
        uptime_ms: health.uptime_ms,
        init: health.init,
        system_state: health.system_state,
        sessions: health.sessions,
        latency_us: asked_at.elapsed().as_micros() as u64,
    }))
}

/// Tells what a sandbox takes, as the host and the guest see it
#[utoipa::path(get, path = "/v1/vms/{ref}/stats", tag = "vms", params(("ref" = String, Path)),
    responses((status = 200, body = Stats), (status = "default", body = Fault)))]
pub async fn stats(State(app): Shared, reference: Named) -> Result<axum::Json<Stats>, Refusal> {
    let sandbox = app.engine.resolve(&reference.0)?;
    let mut stats = Stats { id: sandbox.id.to_string(), name: sandbox.name().to_string(), ..Stats::default() };
    let (vmm, allocated) = {
        let id = sandbox.id.clone();
        app.ask(move |app| Ok((vmm_pid(app, &id).and_then(process::usage), allocated_bytes(app, &id)))).await?
    };
    let vmm: ProcessUse = vmm.unwrap_or_default();
    (stats.cpu_ms, stats.host_memory_bytes) = (vmm.cpu_ms, vmm.resident_bytes);
    stats.disk_logical_bytes = sandbox.disk_total().bytes();
    stats.disk_allocated_bytes = allocated;
    if sandbox.state == Life::Running {
        stats.uptime_ms = sandbox.started_at.map_or(0, |at| app.host.clock.now().saturating_sub(at) / 1_000_000);
        // A guest that does not answer still has figures of the host.
        if app.kind == HostKind::Real
            && let Ok(metrics) = ask::<Metrics>(&app, &sandbox, "/metrics").await
        {
            claim(&mut stats, &metrics);
        }
    }
    Ok(axum::Json(stats))
}

fn claim(stats: &mut Stats, metrics: &Metrics) {
    stats.guest_memory_total_bytes = metrics.memory_total_bytes;
    stats.guest_memory_available_bytes = metrics.memory_available_bytes;
    stats.load_percent = (metrics.load_1m.clamp(0.0, 10_000.0) * 100.0) as u32;
    stats.network_received_bytes = metrics.network_received_bytes;
    stats.network_sent_bytes = metrics.network_sent_bytes;
}

fn allocated_bytes(app: &App, id: &model::SandboxId) -> u64 {
    let disks = app.host.disk.observe().unwrap_or_default();
    disks.iter().find(|facts| facts.id == *id).map_or(0, |facts| facts.allocated.bytes())
}

pub(super) async fn ask<T: serde::de::DeserializeOwned>(
    app: &App,
    sandbox: &Sandbox,
    path: &str,
) -> Result<T, Refusal> {
    let vsock = app.layout.vsock(&sandbox.id);
    guest::get(&vsock, path).await.map_err(|error| Refusal(guest_fault(sandbox.name(), &error)))
}

pub(super) fn running(app: &App, reference: &Named) -> Result<Arc<Sandbox>, Refusal> {
    let sandbox = app.engine.resolve(&reference.0)?;
    match sandbox.state {
        Life::Running => Ok(sandbox),
        state => {
            let name = sandbox.name();
            let fault = Fault::new(FaultKind::Refused, format!("cannot ask the guest of {name}: it is {state}"));
            Err(Refusal(fault.with_hint(format!("`banger vm start {name}` boots it"))))
        }
    }
}
