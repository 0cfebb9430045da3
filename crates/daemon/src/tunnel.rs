//! `GET /v1/vms/{ref}/stream?port=N`: a connection of the control socket that becomes one to a port on the guest's loopback.
//! So a guest's own server is reached without a network and without a published port: `vm ssh --direct` is made of it.

use crate::app::{App, HostKind};
use crate::exec::check_runs;
use crate::guest_channel::{Destination, Guest, GuestError, Vsock};
use crate::server::{Named, Query, Refusal};
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use wire::control::StreamRequest;
use wire::guest::STREAM_UPGRADE;
use wire::{Fault, FaultKind};

/// 64 KiB each way.
const COPY_BYTES: usize = 64 * 1024;

/// Joins the connection to a TCP port on the guest's loopback
#[utoipa::path(get, path = "/v1/vms/{ref}/stream", tag = "vms", params(("ref" = String, Path), StreamRequest),
    responses((status = 101, description = "Bytes to and from the port"), (status = "default", body = Fault)))]
pub async fn stream(
    State(app): State<Arc<App>>,
    reference: Named,
    Query(wanted): Query<StreamRequest>,
    mut request: Request,
) -> Result<Response, Refusal> {
    let sandbox = app.engine.resolve(&reference.0)?;
    check_runs(&sandbox)?;
    if app.kind == HostKind::Sim {
        return Err(Refusal(Fault::new(FaultKind::Refused, "a simulated guest has no ports")));
    }
    let protocol = request.headers().get(header::UPGRADE);
    if protocol.is_none_or(|protocol| protocol.as_bytes() != STREAM_UPGRADE.as_bytes()) {
        return Err(Refusal::invalid(format!("a stream is an upgrade: the request must ask for `{STREAM_UPGRADE}`")));
    }
    let guest = Guest::new(Vsock::channel(app.layout.clone()), sandbox.id.clone());
    let mut port = guest.stream(&Destination::Port(wanted.port)).await.map_err(refusal)?;
    let client = hyper::upgrade::on(&mut request);
    let hold = app.engine.hold(&sandbox.id);
    tokio::spawn(async move {
        let Ok(client) = client.await else { return };
        let mut client = TokioIo::new(client);
        tokio::select! {
            ended = tokio::io::copy_bidirectional_with_sizes(&mut client, &mut port, COPY_BYTES, COPY_BYTES) => {
                if let Err(error) = ended {
                    tracing::debug!(vm = %sandbox.name(), %error, "a stream into a guest broke off");
                }
            }
            () = app.stopped() => {}
        }
        drop(hold);
    });
    Ok((StatusCode::SWITCHING_PROTOCOLS, [(header::CONNECTION, "upgrade"), (header::UPGRADE, STREAM_UPGRADE)])
        .into_response())
}

fn refusal(error: GuestError) -> Refusal {
    match error {
        GuestError::Refused { fault } => Refusal(fault),
        error => Refusal(Fault::new(FaultKind::GuestSilent, error.to_string()).with_sources(&error)),
    }
}
