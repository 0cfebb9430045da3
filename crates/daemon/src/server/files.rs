//! Files of a guest on the control API: tar archives out of it and into it, passed through piece by piece at the pace of the
//! slower side. What an archive means is between the client and the agent (`wire::guest`); nothing of it touches this host.

use super::fault::{Refusal, guest_fault};
use super::input::{Named, Query};
use crate::app::{App, HostKind};
use crate::exec::check_runs;
use crate::guest::{self, GuestError};
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use engine::Sandbox;
use futures_util::stream;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::StatusCode;
use hyper::body::{Frame, Incoming};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use wire::control::FilesRequest;
use wire::guest::FileFacts;
use wire::{Fault, FaultKind};

type Shared = State<Arc<App>>;
type Piece = Result<Frame<Bytes>, axum::Error>;

/// Pieces on their way; each is what the connection brought at once.
const PIECES: usize = 4;
/// 10 s for a sender to notice that its archive is not taken: closing at once could cut off the word that says why.
const DRAIN_WITHIN: Duration = Duration::from_secs(10);
/// 64 KiB: a fault of the agent.
const MAX_FAULT_BYTES: usize = 64 * 1024;

/// Answers a tar archive of a path in the guest
#[utoipa::path(get, path = "/v1/vms/{ref}/files", tag = "vms", params(("ref" = String, Path), FilesRequest),
    responses((status = 200, description = "The archive", content_type = "application/x-tar", body = String), (status = "default", body = Fault)))]
pub async fn read(
    State(app): Shared,
    reference: Named,
    Query(query): Query<FilesRequest>,
) -> Result<Response, Refusal> {
    let sandbox = with_files(&app, &reference)?;
    let hold = app.engine.hold(&sandbox.id);
    let request = hyper::Request::get(path(&query)).header("host", "guest").body(Full::<Bytes>::default());
    let response = send(&app, &sandbox, request.expect("an escaped path is one")).await?;
    let archive = response.into_body().map_frame(move |frame| {
        let _used = &hold;
        frame
    });
    Ok(([(axum::http::header::CONTENT_TYPE, "application/x-tar")], Body::new(archive)).into_response())
}

/// Unpacks a tar archive below a folder of the guest
#[utoipa::path(put, path = "/v1/vms/{ref}/files", tag = "vms", params(("ref" = String, Path), FilesRequest),
    request_body(content = String, content_type = "application/x-tar"),
    responses((status = 204), (status = "default", body = Fault)))]
pub async fn write(
    State(app): Shared,
    reference: Named,
    Query(query): Query<FilesRequest>,
    request: Request,
) -> Result<StatusCode, Refusal> {
    let sandbox = with_files(&app, &reference)?;
    let _hold = app.engine.hold(&sandbox.id);
    let body = passed_on(request.into_body());
    let request = hyper::Request::put(path(&query)).header("host", "guest").body(body);
    send(&app, &sandbox, request.expect("an escaped path is one")).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Tells what lies at a path in the guest
#[utoipa::path(get, path = "/v1/vms/{ref}/files/facts", tag = "vms", params(("ref" = String, Path), FilesRequest),
    responses((status = 200, body = FileFacts), (status = "default", body = Fault)))]
pub async fn facts(
    State(app): Shared,
    reference: Named,
    Query(query): Query<FilesRequest>,
) -> Result<axum::Json<FileFacts>, Refusal> {
    let sandbox = with_files(&app, &reference)?;
    let request = hyper::Request::get(format!("/stat?path={}", escape(&query.path))).header("host", "guest");
    let request = request.body(Full::<Bytes>::default()).expect("an escaped path is one");
    let response = send(&app, &sandbox, request).await?;
    let said = Limited::new(response.into_body(), MAX_FAULT_BYTES).collect().await.ok();
    let facts = said.and_then(|said| serde_json::from_slice(&said.to_bytes()).ok());
    let garbled = || Fault::new(FaultKind::GuestSilent, format!("the guest of {} gave no answer", sandbox.name()));
    Ok(axum::Json(facts.ok_or_else(|| Refusal(garbled()))?))
}

fn with_files(app: &App, reference: &Named) -> Result<Arc<Sandbox>, Refusal> {
    let sandbox = app.engine.resolve(&reference.0)?;
    check_runs(&sandbox)?;
    match app.kind {
        HostKind::Real => Ok(sandbox),
        HostKind::Sim => Err(Refusal(Fault::new(FaultKind::Refused, "a simulated guest has no files"))),
    }
}

fn path(query: &FilesRequest) -> String {
    let mut path = format!("/files?path={}", escape(&query.path));
    for (key, value) in [("name", &query.name), ("owner", &query.owner)] {
        if let Some(value) = value {
            path.push_str(&format!("&{key}={}", escape(value)));
        }
    }
    if query.follow {
        path.push_str("&follow=true");
    }
    path
}

fn escape(text: &str) -> String {
    guest::percent_encode(text)
}

async fn send<B>(app: &App, sandbox: &Sandbox, request: hyper::Request<B>) -> Result<hyper::Response<Incoming>, Refusal>
where
    B: hyper::body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let refuse = |error: GuestError| Refusal(guest_fault(sandbox.name(), &error));
    let response = guest::send(&app.layout.vsock(&sandbox.id), request).await.map_err(refuse)?;
    if response.status().is_success() {
        return Ok(response);
    }
    let status = response.status();
    let said = Limited::new(response.into_body(), MAX_FAULT_BYTES).collect().await.ok();
    let fault = said.and_then(|said| serde_json::from_slice::<Fault>(&said.to_bytes()).ok());
    let unsaid = || Fault::new(FaultKind::GuestSilent, format!("the agent answered with status {status}"));
    Err(Refusal(fault.unwrap_or_else(unsaid)))
}

/// The body for the agent. When that answers early, the rest is read and thrown away for a moment.
fn passed_on(mut body: Body) -> StreamBody<impl stream::Stream<Item = Piece> + Unpin> {
    let (sender, receiver) = mpsc::channel::<Piece>(PIECES);
    tokio::spawn(async move {
        while let Some(piece) = body.frame().await {
            if sender.send(piece).await.is_err() {
                let drained = async { while let Some(Ok(_)) = body.frame().await {} };
                let _ = tokio::time::timeout(DRAIN_WITHIN, drained).await;
                return;
            }
        }
    });
    StreamBody::new(Box::pin(stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver)))))
}
