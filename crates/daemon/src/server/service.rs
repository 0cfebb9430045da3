//! The image's own command: how it fares, and its log. Both are the guest's own words.

use super::fault::{Refusal, guest_fault};
use super::input::Named;
use super::observe::{ask, running};
use crate::app::{App, HostKind};
use crate::guest;
use axum::body::Body;
use axum::extract::State;
use bytes::Bytes;
use engine::Sandbox;
use http_body_util::Full;
use hyper::StatusCode;
use std::sync::Arc;
use wire::control::{LogsRequest, Service};
use wire::guest::{ExecStatus, ServiceFacts};
use wire::{Fault, FaultKind};

/// Tells how the image's own command fares
#[utoipa::path(get, path = "/v1/vms/{ref}/service", tag = "vms", params(("ref" = String, Path)),
    responses((status = 200, body = Service), (status = "default", body = Fault)))]
pub async fn service(State(app): State<Arc<App>>, reference: Named) -> Result<axum::Json<Service>, Refusal> {
    let sandbox = running(&app, &reference)?;
    check_has_one(&sandbox)?;
    if app.kind == HostKind::Sim {
        return Ok(axum::Json(simulated(&sandbox)));
    }
    let facts: ServiceFacts = ask(&app, &sandbox, "/service").await?;
    Ok(axum::Json(convert(facts)))
}

fn check_has_one(sandbox: &Sandbox) -> Result<(), Refusal> {
    if sandbox.service.is_some() {
        return Ok(());
    }
    let name = sandbox.name();
    let fault = Fault::new(FaultKind::NotFound, format!("{name} has no service: its image brings no command"));
    Err(Refusal(fault.with_hint(format!("`banger vm exec {name} -- …` runs a command in it"))))
}

/// Nothing runs in a simulated guest; what would, has always just been started.
fn simulated(sandbox: &Sandbox) -> Service {
    let service = sandbox.service.as_ref();
    let argv = service.map(|service| [service.entrypoint.as_slice(), &service.command].concat()).unwrap_or_default();
    let phase = if service.is_some_and(|service| service.starts) { "running" } else { "waiting" };
    Service { argv, phase: phase.to_owned(), ..Service::default() }
}

fn convert(facts: ServiceFacts) -> Service {
    let (exit_code, failure) = match facts.ended {
        None => (None, None),
        Some(ExecStatus::Exited { code }) => (Some(code), None),
        Some(ExecStatus::Signalled { signal }) => (Some(signal.saturating_add(128)), None),
        Some(ExecStatus::NotStarted { fault }) => (None, Some(sentence(&fault))),
    };
    Service {
        argv: facts.argv,
        phase: facts.phase.word().to_owned(),
        pid: facts.pid,
        exit_code,
        failure,
        restarts: facts.restarts,
    }
}

fn sentence(fault: &Fault) -> String {
    let words: Vec<&str> = std::iter::once(&fault.message).chain(&fault.causes).map(String::as_str).collect();
    words.join(": ").chars().filter(|c| !c.is_control()).take(400).collect()
}

/// The command's log, streamed from the guest at the reader's pace.
pub async fn log(app: &App, sandbox: &Sandbox, request: &LogsRequest) -> Result<Body, Refusal> {
    check_has_one(sandbox)?;
    if app.kind == HostKind::Sim {
        return Ok(Body::empty());
    }
    if sandbox.state != model::State::Running {
        let name = sandbox.name();
        let message =
            format!("cannot read the log of the command in {name}: it lies in the guest, which is {}", sandbox.state);
        let hint = format!("`banger vm logs {name}` has what the command last wrote on the console");
        return Err(Refusal(Fault::new(FaultKind::Refused, message).with_hint(hint)));
    }
    let tail = request.tail.map(|lines| format!("&tail={lines}")).unwrap_or_default();
    let path = format!("/service/log?follow={}{tail}", request.follow);
    let question = hyper::Request::get(path).header("host", "guest").body(Full::new(Bytes::new()));
    let question = question.expect("a path of ours is valid");
    let answer = tokio::time::timeout(guest::CALL_TIMEOUT, guest::send(&app.layout.vsock(&sandbox.id), question)).await;
    let answer = answer
        .unwrap_or_else(|_| {
            Err(guest::GuestError::Silent { call: "GET /service/log".into(), within: guest::CALL_TIMEOUT })
        })
        .map_err(|error| Refusal(guest_fault(sandbox.name(), &error)))?;
    match answer.status() {
        StatusCode::OK => Ok(Body::new(answer.into_body())),
        status => {
            let message = format!("the agent of {} answered with status {status}", sandbox.name());
            Err(Refusal(Fault::new(FaultKind::GuestSilent, message)))
        }
    }
}
