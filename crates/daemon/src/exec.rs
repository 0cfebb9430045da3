//! `exec`: joins a person's WebSocket to the agent in a guest, byte for byte, without looking inside.
//!
//! ```text
//! client ─ GET …/exec, Upgrade ─► bangerd ─ CONNECT 5000, GET /exec, the same headers ─► agent
//! client ◄─ 101, the agent's headers ───── bangerd ◄──────────────────────────── 101 ─── agent
//! client ◄════════════════════════ copied both ways ═══════════════════════════════════► agent
//! ```
//! Nothing is buffered beyond two fixed blocks, so that a slow reader slows the writer down, through the guest's vsock
//! to the command. When either end goes, the other one hears it. On `--host sim` the other end is [`simulated`].

pub mod simulated;

use crate::app::{App, HostKind};
use crate::guest;
use crate::server::{Named, Query, Refusal, asked_for, guest_fault};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use engine::Sandbox;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use model::lifecycle::{Answer, Reason, Request as Wish, answer};
use std::sync::Arc;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use wire::control::{ExecQuery, WORKSPACE_HEADER};
use wire::{Fault, FaultKind};

/// 64 KiB each way: one exec frame, so that a full pipe moves a frame at a time.
const COPY_BYTES: usize = 64 * 1024;
/// 64 KiB: a fault of the agent.
const MAX_FAULT_BYTES: usize = 64 * 1024;
/// The headers of a WebSocket handshake (RFC 6455), the only ones that go through.
const HANDSHAKE: &[HeaderName] = &[
    header::CONNECTION,
    header::UPGRADE,
    header::SEC_WEBSOCKET_KEY,
    header::SEC_WEBSOCKET_VERSION,
    header::SEC_WEBSOCKET_PROTOCOL,
    header::SEC_WEBSOCKET_EXTENSIONS,
    header::SEC_WEBSOCKET_ACCEPT,
];

/// Talks to a command in a guest through a WebSocket (`wire::guest`)
#[utoipa::path(get, path = "/v1/vms/{ref}/exec", tag = "vms",
    params(("ref" = String, Path, description = "Name, id or unique prefix of an id"), ExecQuery),
    responses((status = 101, description = "A WebSocket: one text frame with the request, then binary frames that start with a channel byte; its header `banger-workspace` tells of the workspace that was asked for"), (status = "default", body = Fault)))]
pub async fn exec(
    State(app): State<Arc<App>>,
    reference: Named,
    Query(query): Query<ExecQuery>,
    mut request: Request,
) -> Result<Response, Refusal> {
    let sandbox = app.engine.resolve(&reference.0)?;
    check_runs(&sandbox)?;
    let key = websocket_key(request.headers())?;
    let client = hyper::upgrade::on(&mut request);
    let workspace = asked_for(&app, &sandbox, &query).await?;
    let mut answer = match app.kind {
        HostKind::Sim => answer_simulated(&app, &sandbox, &key, client),
        HostKind::Real => splice(&app, &sandbox, request.headers(), client).await?,
    };
    if let Some(told) = workspace {
        answer.headers_mut().insert(WORKSPACE_HEADER, told);
    }
    Ok(answer)
}

pub(crate) fn check_runs(sandbox: &Sandbox) -> Result<(), Refusal> {
    match answer(sandbox.state, Wish::Exec) {
        Answer::Begin | Answer::AlreadySo => Ok(()),
        Answer::Refused(reason) => {
            let name = sandbox.name();
            let fault = Fault::new(FaultKind::Refused, format!("cannot exec in {name}: {}", reason.sentence()));
            Err(Refusal(match reason {
                Reason::NotRunning => fault.with_hint(format!("start it with `banger vm start {name}`")),
                Reason::Paused => fault.with_hint(format!("resume it with `banger vm resume {name}`")),
                _ => fault,
            }))
        }
    }
}

fn websocket_key(headers: &HeaderMap) -> Result<HeaderValue, Refusal> {
    let asks = |name, wanted: &str| {
        let values = headers.get_all(name).into_iter().filter_map(|value: &HeaderValue| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|value| value.trim().eq_ignore_ascii_case(wanted))
    };
    match headers.get(header::SEC_WEBSOCKET_KEY) {
        Some(key) if asks(header::UPGRADE, "websocket") && asks(header::CONNECTION, "upgrade") => Ok(key.clone()),
        _ => Err(Refusal::invalid("exec is a WebSocket: the request must ask for an upgrade to `websocket`")),
    }
}

async fn splice(
    app: &Arc<App>,
    sandbox: &Sandbox,
    headers: &HeaderMap,
    client: OnUpgrade,
) -> Result<Response, Refusal> {
    let mut request = hyper::Request::get("/exec").header(header::HOST, "guest");
    for (name, value) in headers.iter().filter(|(name, _)| HANDSHAKE.contains(name)) {
        request = request.header(name, value);
    }
    let request = request.body(Full::new(Bytes::new())).expect("headers that were parsed are valid");
    let vsock = app.layout.vsock(&sandbox.id);
    let call = guest::send(&vsock, request);
    let response = tokio::time::timeout(guest::CALL_TIMEOUT, call)
        .await
        .unwrap_or_else(|_| Err(guest::GuestError::Silent { call: "GET /exec".into(), within: guest::CALL_TIMEOUT }))
        .map_err(|error| guest_fault(sandbox.name(), &error))?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(agent_refused(sandbox, response).await);
    }
    let mut answer = StatusCode::SWITCHING_PROTOCOLS.into_response();
    let handshake = response.headers().iter().filter(|(name, _)| HANDSHAKE.contains(name));
    answer.headers_mut().extend(handshake.map(|(name, value)| (name.clone(), value.clone())));
    let session = app.engine.hold(&sandbox.id);
    let app = app.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = join(client, hyper::upgrade::on(response)) => {}
            () = app.stopped() => {}
        }
        drop(session);
    });
    Ok(answer)
}

/// Copies until both directions have ended or one end broke.
async fn join(client: OnUpgrade, agent: OnUpgrade) {
    let (client, agent) = match tokio::try_join!(client, agent) {
        Ok(ends) => ends,
        Err(error) => return tracing::debug!(%error, "an exec did not come to its upgrade"),
    };
    let (mut client, mut agent) = (TokioIo::new(client), TokioIo::new(agent));
    if let Err(error) = tokio::io::copy_bidirectional_with_sizes(&mut client, &mut agent, COPY_BYTES, COPY_BYTES).await
    {
        tracing::debug!(%error, "an exec broke off");
    }
}

async fn agent_refused(sandbox: &Sandbox, response: hyper::Response<Incoming>) -> Refusal {
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_FAULT_BYTES).collect();
    let body = tokio::time::timeout(guest::CALL_TIMEOUT, body).await.ok().and_then(Result::ok);
    let said = body.and_then(|body| serde_json::from_slice::<Fault>(&body.to_bytes()).ok());
    Refusal(said.unwrap_or_else(|| {
        let message = format!("the agent of {} answered exec with status {status}", sandbox.name());
        Fault::new(FaultKind::GuestSilent, message)
    }))
}

fn answer_simulated(app: &Arc<App>, sandbox: &Sandbox, key: &HeaderValue, client: OnUpgrade) -> Response {
    let accept = derive_accept_key(key.as_bytes());
    let session = app.engine.hold(&sandbox.id);
    let hostname = sandbox.name().to_string();
    let mut gone = app.events();
    let id = sandbox.id.clone();
    tokio::spawn(async move {
        let Ok(client) = client.await else { return };
        tokio::select! {
            () = simulated::session(TokioIo::new(client), hostname) => {}
            () = stops_running(&mut gone, &id) => {}
        }
        drop(session);
    });
    let headers = [
        (header::CONNECTION, "upgrade"),
        (header::UPGRADE, "websocket"),
        (header::SEC_WEBSOCKET_ACCEPT, accept.as_str()),
    ];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

/// A simulated guest ends with its sandbox, as a real one does.
async fn stops_running(events: &mut tokio::sync::broadcast::Receiver<engine::StateChange>, id: &model::SandboxId) {
    use tokio::sync::broadcast::error::RecvError;
    loop {
        match events.recv().await {
            Ok(change) if change.id == *id && change.to != Some(model::State::Running) => return,
            Ok(_) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return,
        }
    }
}
