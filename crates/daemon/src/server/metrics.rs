//! `GET /metrics`: the daemon and its sandboxes in Prometheus' text format. Only what is known without asking a guest.

use super::host::own_memory_bytes;
use crate::app::App;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use model::State as Life;
use std::fmt::Write;
use std::sync::Arc;

/// Figures in Prometheus' text format
#[utoipa::path(get, path = "/metrics", tag = "daemon", responses((status = 200, content_type = "text/plain", body = String)))]
pub async fn metrics(State(app): State<Arc<App>>) -> Response {
    let list = app.engine.list();
    let mut text = String::new();
    describe(&mut text, "banger_vms", "Sandboxes by state.");
    for &state in Life::ALL {
        let count = list.iter().filter(|record| record.state == state).count();
        let _ = writeln!(text, "banger_vms{{state=\"{}\"}} {count}", state.word());
    }
    let on = || list.iter().filter(|record| record.state.may_have_vmm());
    gauge(
        &mut text,
        "banger_running_vcpus",
        "CPUs of machines that are on.",
        on().map(|r| u64::from(r.spec.vcpus.count())).sum(),
    );
    gauge(
        &mut text,
        "banger_running_memory_bytes",
        "Memory of machines that are on.",
        on().map(|r| r.spec.memory.bytes()).sum(),
    );
    gauge(
        &mut text,
        "banger_disk_logical_bytes",
        "Disks as the guests see them.",
        list.iter().map(|r| r.disk_total().bytes()).sum(),
    );
    gauge(&mut text, "banger_daemon_memory_bytes", "Resident memory of bangerd.", own_memory_bytes());
    gauge(
        &mut text,
        "banger_daemon_started_seconds",
        "When bangerd started, seconds since 1970.",
        app.started_at / 1_000_000_000,
    );
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

fn describe(text: &mut String, name: &str, what: &str) {
    let _ = writeln!(text, "# HELP {name} {what}\n# TYPE {name} gauge");
}

fn gauge(text: &mut String, name: &str, what: &str, value: u64) {
    describe(text, name, what);
    let _ = writeln!(text, "{name} {value}");
}
