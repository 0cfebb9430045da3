//! The way in: `GET /v1/vms/{ref}/ssh`, a connection of the control socket that becomes an SSH connection.
//!
//! Before the client hears a yes, the sandbox's host key stands in known_hosts: it reads that file right after.

use super::keys::Keys;
use super::{Target, serve};
use crate::app::{App, HostKind};
use crate::exec::check_runs;
use crate::guest_channel::{Guest, Vsock};
use crate::names;
use crate::server::{Named, Refusal};
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use engine::Sandbox;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use wire::control::SSH_UPGRADE;
use wire::{Fault, FaultKind};

/// Talks SSH with a sandbox, whether or not it has a server, a network or an account
#[utoipa::path(get, path = "/v1/vms/{ref}/ssh", tag = "vms", params(("ref" = String, Path, description = "Name, id or unique prefix of an id")),
    responses((status = 101, description = "The SSH protocol, spoken by bangerd itself"), (status = "default", body = Fault)))]
pub async fn ssh(State(app): State<Arc<App>>, reference: Named, mut request: Request) -> Result<Response, Refusal> {
    let sandbox = app.engine.resolve(&reference.0)?;
    check_runs(&sandbox)?;
    if app.kind == HostKind::Sim {
        return Err(Refusal(Fault::new(FaultKind::Refused, "a simulated guest has nothing that ssh could reach")));
    }
    let asked =
        request.headers().get(header::UPGRADE).is_some_and(|protocol| protocol.as_bytes() == SSH_UPGRADE.as_bytes());
    if !asked {
        return Err(Refusal::invalid(format!("ssh is an upgrade: the request must ask for `{SSH_UPGRADE}`")));
    }
    let target = target(&app, &sandbox).await?;
    let client = hyper::upgrade::on(&mut request);
    tokio::spawn(converse(app, sandbox, client, target));
    Ok((StatusCode::SWITCHING_PROTOCOLS, [(header::CONNECTION, "upgrade"), (header::UPGRADE, SSH_UPGRADE)])
        .into_response())
}

async fn target(app: &Arc<App>, sandbox: &Sandbox) -> Result<Target, Refusal> {
    let id = sandbox.id.clone();
    let host_key = app.ask(move |app| {
        let prepared = Keys::open(app.layout.ssh()).and_then(|keys| {
            names::pin_host_keys(app, &keys)?;
            keys.ensure_host_key(&id)
        });
        prepared
            .map_err(|error| Fault::new(FaultKind::Internal, "cannot prepare for ssh").with_cause(error.to_string()))
    });
    let guest = Guest::new(Vsock::channel(app.layout.clone()), sandbox.id.clone());
    Ok(Target { guest, name: sandbox.name().to_string(), host_key: host_key.await? })
}

/// A sandbox that somebody is logged in to is not idle.
async fn converse(app: Arc<App>, sandbox: Arc<Sandbox>, client: OnUpgrade, target: Target) {
    let session = app.engine.hold(&sandbox.id);
    let Ok(client) = client.await else { return };
    tokio::select! {
        ended = serve(TokioIo::new(client), target) => if let Err(error) = ended {
            tracing::debug!(vm = %sandbox.name(), %error, "an ssh connection broke off");
        },
        () = app.stopped() => {}
    }
    drop(session);
}
