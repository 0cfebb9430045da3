//! The control API (`wire::control`) on a Unix socket: who may call ([`caller`]), what a call means to the engine
//! ([`convert`]), and long work as a stream of events ([`stream`]).
//!
//! The engine blocks, so every call that does more than load a pointer runs on a blocking thread. Readers take no part
//! in that queue: `list` and `resolve` read the engine's published snapshot, whatever else is under way.
//! Everything a client controls is bounded: connections, headers, bodies, the time it may take to send them.

pub mod caller;
mod convert;
mod events;
mod fault;
mod files;
mod host;
mod images;
mod input;
mod kernels;
mod library;
mod logs;
mod metrics;
mod network;
mod observe;
pub mod openapi;
mod ports;
mod sandboxes;
mod service;
mod stream;
mod upkeep;
mod work;
mod workspaces;

use crate::app::App;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post, put};
pub use fault::{Refusal, fault, guest_fault};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
pub use input::{Named, Query};
pub use network::obstacle;
pub use sandboxes::vmm_pid;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use wire::{Fault, FaultKind};
pub use workspaces::asked_for;

/// 256 KiB: a request is a name, a few sizes and some labels.
const MAX_BODY_BYTES: usize = 256 * 1024;
/// 64 KiB of request line and headers together, 64 headers; a WebSocket handshake has ten.
const MAX_HEAD_BYTES: usize = 64 * 1024;
const MAX_HEADERS: usize = 64;
/// 10 s to send the head of a request; a connection that idles longer is closed, too.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// More clients than one person runs; further ones wait in the listener's backlog.
const MAX_CONNECTIONS: usize = 512;
/// 10 s for streams and calls to end after the daemon was told to stop.
const DRAIN_WITHIN: Duration = Duration::from_secs(10);

/// Every route of the API. `openapi.rs` documents the same ones; a test compares the two.
pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/v1/daemon", get(host::daemon_status))
        .route("/v1/daemon/stop", post(host::stop_daemon))
        .route("/v1/doctor", get(host::doctor))
        .route("/v1/vms", get(sandboxes::list).post(sandboxes::create))
        .route("/v1/vms/{ref}", get(sandboxes::show).patch(sandboxes::set).delete(sandboxes::delete))
        .route("/v1/vms/{ref}/start", post(sandboxes::start))
        .route("/v1/vms/{ref}/stop", post(sandboxes::stop))
        .route("/v1/vms/{ref}/kill", post(sandboxes::kill))
        .route("/v1/vms/{ref}/restart", post(sandboxes::restart))
        .route("/v1/vms/{ref}/reset", post(sandboxes::reset))
        .route("/v1/vms/{ref}/pause", post(sandboxes::pause))
        .route("/v1/vms/{ref}/resume", post(sandboxes::resume))
        .route("/v1/vms/{ref}/health", get(observe::health))
        .route("/v1/vms/{ref}/stats", get(observe::stats))
        .route("/v1/vms/{ref}/ports", get(ports::ports).post(ports::change))
        .route("/v1/vms/{ref}/files", get(files::read).put(files::write))
        .route("/v1/vms/{ref}/files/facts", get(files::facts))
        .route("/v1/vms/{ref}/service", get(service::service))
        .route("/v1/vms/{ref}/logs", get(logs::logs))
        .route("/v1/vms/{ref}/work", get(work::view))
        .route("/v1/vms/{ref}/work/look", post(work::look))
        .route("/v1/vms/{ref}/work/pull", post(work::pull))
        .route("/v1/vms/{ref}/exec", get(crate::exec::exec))
        .route("/v1/vms/{ref}/stream", get(crate::tunnel::stream))
        .route("/v1/vms/{ref}/ssh", get(crate::ssh::door::ssh))
        .route("/v1/vms/{ref}/workspaces", get(workspaces::list).post(workspaces::prepare))
        .route("/v1/workspaces/consent", post(workspaces::consent))
        .route("/v1/workspaces/plan", post(workspaces::plan))
        .route("/v1/vms/{ref}/net", get(network::show).patch(network::change))
        .route("/v1/vms/{ref}/net/log", get(network::log))
        .route("/v1/network", get(network::status))
        .route("/v1/network/up", post(network::up))
        .route("/v1/network/down", post(network::down))
        .route("/v1/history", get(host::history))
        .route("/v1/events", get(events::events))
        .route("/v1/backup", post(host::back_up))
        .route("/v1/audit", get(host::audit))
        .route("/v1/audit/fix", post(host::fix))
        .route("/v1/images", get(images::images))
        .route("/v1/images/{name}", put(upkeep::register_image).delete(images::remove_image))
        .route("/v1/images/{name}/pull", post(images::pull_image))
        .route("/v1/images/{name}/import", post(images::import_image))
        .route("/v1/images/{name}/save", post(upkeep::save_image))
        .route("/v1/images/{name}/bundle", post(upkeep::bundle_image))
        .route("/v1/images/{name}/promote", post(upkeep::promote_image))
        .route("/v1/images/{name}/tag", post(upkeep::tag_image))
        .route("/v1/library/load", post(upkeep::load_image))
        .route("/v1/library/images/prune", post(upkeep::prune_images))
        .route("/v1/library/cache/prune", post(upkeep::prune_cache))
        .route("/v1/df", get(upkeep::disk_use))
        .route("/v1/kernels", get(library::kernels))
        .route("/v1/kernels/{name}", get(kernels::kernel).put(library::import_kernel).delete(library::remove_kernel))
        .route("/v1/kernels/{name}/build", post(kernels::build_kernel))
        .route("/v1/kernels/{name}/pull", post(library::pull_kernel))
        .route("/v1/openapi.json", get(openapi::document))
        .route("/metrics", get(metrics::metrics))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(app)
}

/// A person meets these when `banger` is newer than the bangerd that still runs; the second half is for them.
const HINT: &str = "`GET /v1/openapi.json` lists all of them; if `banger` asked, the bangerd that runs is an older one: \
    `banger daemon stop` ends it, sandboxes run on, and the next command starts the new one";

async fn no_such_path() -> Refusal {
    Refusal(Fault::new(FaultKind::NotFound, "there is no such path in the control API").with_hint(HINT))
}

async fn no_such_method() -> Refusal {
    Refusal(Fault::new(FaultKind::Invalid, "this path of the control API knows no such method").with_hint(HINT))
}

/// Serves until the daemon is told to stop, then lets calls under way end.
pub async fn serve(listener: UnixListener, app: Arc<App>) {
    let router = router(app.clone());
    let seats = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let seat = tokio::select! {
            seat = seats.clone().acquire_owned() => seat.expect("nobody closes the semaphore"),
            () = app.stopped() => break,
        };
        let stream = tokio::select! {
            accepted = listener.accept() => accepted,
            () = app.stopped() => break,
        };
        match stream {
            Ok((stream, _)) => {
                let router = router.clone();
                let app = app.clone();
                connections.spawn(async move {
                    connection(stream, router, app).await;
                    drop(seat);
                });
            }
            Err(error) => {
                // Out of descriptors, most likely: waiting a moment lets connections end.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
    let drained = tokio::time::timeout(DRAIN_WITHIN, async { while connections.join_next().await.is_some() {} }).await;
    if drained.is_err() {
        tracing::warn!(open = connections.len(), "closing connections that did not end");
    }
}

async fn connection(stream: UnixStream, router: Router, app: Arc<App>) {
    if let Err(refused) = caller::check(&stream) {
        tracing::warn!(%refused, "refused a connection");
        return;
    }
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .with_upgrades();
    let mut served = std::pin::pin!(served);
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = app.stopped() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke off");
    }
}
