//! Workspaces on the control API: what would travel, and shipping it.

use super::convert;
use super::fault::Refusal;
use super::input::{Json, Named};
use super::stream::respond;
use crate::app::App;
use crate::exec::check_runs;
use crate::workspace::deliver::deliver;
use crate::workspace::quote::quote;
use crate::workspace::{Preparation, Source, Wish};
use axum::extract::State;
use axum::response::Response;
use engine::host::{Report, Watch};
use model::SandboxId;
use model::workspace::WorkspaceMode;
use std::path::PathBuf;
use std::sync::Arc;
use wire::control::{Event, PlanRequest, PrepareRequest, Prepared, WorkspacePlan};
use wire::{Fault, FaultKind};

type Shared = State<Arc<App>>;
/// A longer list helps nobody who reads it as one document; the counts tell of all.
const MAX_LISTED: usize = 1_000_000;

/// Tells what would be shipped, and refuses what cannot be; nothing is made
#[utoipa::path(post, path = "/v1/workspaces/plan", tag = "workspaces", request_body = PlanRequest,
    responses((status = 200, body = WorkspacePlan), (status = "default", body = Fault)))]
pub async fn plan(State(app): Shared, Json(request): Json<PlanRequest>) -> Result<axum::Json<WorkspacePlan>, Refusal> {
    let wish = wish(&request.prepare)?;
    let disk_bytes = request.disk_bytes.unwrap_or(app.defaults.disk_size.value.bytes());
    let look = app.ask(move |_| {
        let preparation = Preparation::look(wish)?;
        preparation.check_size(disk_bytes)?;
        Ok(planned(&preparation, request.list))
    });
    Ok(axum::Json(look.await?))
}

fn planned(preparation: &Preparation, list: bool) -> WorkspacePlan {
    let listed = if list { MAX_LISTED } else { 0 };
    let secrets: Vec<_> = preparation.secrets().map(|entry| quote(&entry.path)).collect();
    WorkspacePlan {
        guest_path: preparation.wish.guest_path.to_string(),
        host_path: preparation.host_path().display().to_string(),
        git: matches!(preparation.source, Source::Git(_)) && !preparation.options.files_only,
        head_commit: preparation.head_commit(),
        branch: preparation.branch(),
        file_count: preparation.measured.files,
        file_bytes: preparation.measured.bytes,
        files: preparation.travels().take(listed).map(|entry| quote(&entry.path)).collect(),
        notes: secrets.iter().map(|name| secret_note(name)).collect(),
        secrets,
    }
}

fn secret_note(name: &str) -> String {
    format!("`{name}` looks like it holds a secret, and travels")
}

/// Ships a folder of the host into a running sandbox
#[utoipa::path(post, path = "/v1/vms/{ref}/workspaces", tag = "workspaces", params(("ref" = String, Path)), request_body = PrepareRequest,
    responses((status = 200, content_type = "application/x-ndjson", body = Event<Prepared>), (status = "default", body = Fault)))]
pub async fn prepare(
    State(app): Shared,
    reference: Named,
    Json(request): Json<PrepareRequest>,
) -> Result<Response, Refusal> {
    let sandbox = app.engine.resolve(&reference.0)?;
    check_runs(&sandbox)?;
    let wish = wish(&request)?;
    let id = sandbox.id.clone();
    Ok(respond(app, Some(sandbox.name().to_string()), move |app, watch| prepare_now(app, &id, wish, watch)))
}

fn prepare_now(app: &App, id: &SandboxId, wish: Wish, watch: &dyn Watch) -> Result<Prepared, Fault> {
    let cancelled = || Fault::new(FaultKind::Cancelled, "cannot ship: it was cancelled while others were at it");
    let _turn = app.workspaces.hold(id, watch).ok_or_else(cancelled)?;
    let preparation = Preparation::look(wish)?;
    // Asked again: it may have been stopped while we waited for our turn.
    let sandbox = app.engine.get(id).map_err(super::fault)?;
    check_runs(&sandbox).map_err(|refusal| refusal.0)?;
    preparation.check_size(sandbox.spec.disk_size.bytes().max(sandbox.spec.root_size.bytes()))?;
    for entry in preparation.secrets() {
        watch.report(Report::Note { text: secret_note(&quote(&entry.path)) });
    }
    let delivered = deliver(app, &sandbox, &preparation, watch)?;
    Ok(Prepared {
        vm_name: sandbox.name().to_string(),
        workspace: convert::workspace(&delivered.workspace),
        files: delivered.shipped.files,
        bytes: delivered.shipped.bytes,
        notes: delivered.shipped.notes,
    })
}

/// Every string a client sent becomes a type here.
fn wish(request: &PrepareRequest) -> Result<Wish, Refusal> {
    let path = PathBuf::from(&request.path);
    if !path.is_absolute() {
        return Err(Refusal::invalid(format!("`{}` is no absolute path", path.display())));
    }
    let invalid = |error: &dyn std::fmt::Display| Refusal::invalid(error.to_string());
    let mode: Option<WorkspaceMode> = request
        .mode
        .as_deref()
        .map(str::parse)
        .transpose()
        .map_err(|error: model::workspace::WorkspaceModeError| invalid(&error))?;
    let guest_path = request.guest_path.as_deref().map(str::parse).transpose();
    let mode = mode.unwrap_or_default();
    if request.depth == Some(0) || request.depth.is_some() && mode != WorkspaceMode::Shallow {
        return Err(Refusal::invalid("a depth is at least 1, and goes with mode `shallow` alone"));
    }
    if request.from.is_some() && request.branch.is_none() {
        return Err(Refusal::invalid("`from` needs the name of the `branch` that shall start there"));
    }
    Ok(Wish {
        path,
        guest_path: guest_path.map_err(|error: model::workspace::GuestPathError| invalid(&error))?.unwrap_or_default(),
        mode,
        depth: request.depth,
        branch: request.branch.clone(),
        from: request.from.clone(),
        include_untracked: request.include_untracked,
        readonly: request.readonly,
        discard: request.discard,
    })
}
