//! The daemon and its host on the control API: status, stop, doctor, history, audit.

use super::convert;
use super::fault::{Refusal, fault};
use super::input::{Json, Query};
use crate::app::App;
use axum::extract::State;
use axum::http::StatusCode;
use model::State as Life;
use std::sync::Arc;
use wire::Fault;
use wire::control::{Audit, Backup, BackupRequest, DaemonStatus, Doctor, History, HistoryRequest};

type Shared = State<Arc<App>>;

/// What `history` answers when nobody says how much.
const HISTORY_LIMIT: u32 = 50;
const MAX_HISTORY: u32 = 10_000;

/// Tells what this daemon is and serves
#[utoipa::path(get, path = "/v1/daemon", tag = "daemon", responses((status = 200, body = DaemonStatus)))]
pub async fn daemon_status(State(app): Shared) -> axum::Json<DaemonStatus> {
    let list = app.engine.list();
    axum::Json(DaemonStatus {
        api_version: wire::version::CONTROL,
        version: crate::VERSION.to_owned(),
        pid: std::process::id(),
        socket: app.socket.display().to_string(),
        dns: app.dns.get().map(ToString::to_string),
        state_folder: app.layout.state().display().to_string(),
        log_file: app.log_file.display().to_string(),
        host: app.kind.word().to_owned(),
        started_at_ns: app.started_at,
        vms: list.len() as u32,
        running: list.iter().filter(|record| record.state == Life::Running).count() as u32,
        memory_bytes: own_memory_bytes(),
    })
}

/// Resident memory of this process, from /proc/self/statm (proc(5)).
pub fn own_memory_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or_default();
    pages * rustix::param::page_size() as u64
}

/// Ends the daemon; sandboxes run on
#[utoipa::path(post, path = "/v1/daemon/stop", tag = "daemon", responses((status = 202)))]
pub async fn stop_daemon(State(app): Shared) -> StatusCode {
    tracing::info!("told to stop");
    app.stop();
    StatusCode::ACCEPTED
}

/// Checks the host and tells every default with where it comes from
#[utoipa::path(get, path = "/v1/doctor", tag = "daemon", responses((status = 200, body = Doctor), (status = "default", body = Fault)))]
pub async fn doctor(State(app): Shared) -> Result<axum::Json<Doctor>, Refusal> {
    Ok(axum::Json(app.ask(|app| Ok(crate::doctor::examine(app))).await?))
}

/// Lists operations with their steps, the latest first
#[utoipa::path(get, path = "/v1/history", tag = "daemon", params(HistoryRequest),
    responses((status = 200, body = History), (status = "default", body = Fault)))]
pub async fn history(
    State(app): Shared,
    Query(request): Query<HistoryRequest>,
) -> Result<axum::Json<History>, Refusal> {
    let limit = request.limit.unwrap_or(HISTORY_LIMIT).min(MAX_HISTORY);
    let operations = app.ask_engine(move |engine| engine.history(request.vm.as_deref(), limit)).await?;
    Ok(axum::Json(History { operations: operations.iter().map(convert::operation).collect() }))
}

/// Compares what is on the host with the records, both ways
#[utoipa::path(get, path = "/v1/audit", tag = "daemon", responses((status = 200, body = Audit), (status = "default", body = Fault)))]
pub async fn audit(State(app): Shared) -> Result<axum::Json<Audit>, Refusal> {
    let findings = app.work(|app| {
        let mut findings = app.engine.audit().map_err(fault)?;
        findings.extend(crate::audit::look(app));
        Ok::<_, Fault>(findings)
    });
    let findings = findings.await?;
    Ok(axum::Json(convert::audit(&findings, false)))
}

/// Mends what an audit finds
#[utoipa::path(post, path = "/v1/audit/fix", tag = "daemon", responses((status = 200, body = Audit), (status = "default", body = Fault)))]
pub async fn fix(State(app): Shared) -> Result<axum::Json<Audit>, Refusal> {
    let findings = app.work(|app| {
        let mut findings = app.engine.audit_fix().map_err(fault)?;
        findings.extend(crate::audit::fix(app));
        Ok::<_, Fault>(findings)
    });
    let findings = findings.await?;
    Ok(axum::Json(convert::audit(&findings, true)))
}

/// Writes records, journal and keys into one file
#[utoipa::path(post, path = "/v1/backup", tag = "daemon", request_body = BackupRequest,
    responses((status = 200, body = Backup), (status = "default", body = Fault)))]
pub async fn back_up(State(app): Shared, Json(request): Json<BackupRequest>) -> Result<axum::Json<Backup>, Refusal> {
    let written = app.work(move |app| crate::backup::write(app, &request).map_err(|error| error.fault())).await?;
    Ok(axum::Json(written))
}
