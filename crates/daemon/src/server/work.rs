//! Work on its way home, on the control API: a fresh look, views of it, and the pull into the host's checkout.

use super::fault::Refusal;
use super::input::{Json, Named, Query};
use super::stream::respond;
use crate::app::App;
use crate::home::quarantine::Quarantine;
use crate::home::view::{self, Range};
use crate::home::{HomeError, Report, pull, sync};
use crate::homecoming::{self, LOOK_WITHIN};
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use engine::Sandbox;
use model::workspace::Workspace;
use std::sync::Arc;
use std::time::Instant;
use wire::control::{Event, PullRequest, Pulled, WorkFacts, WorkRequest};
use wire::{Fault, FaultKind};

type Shared = State<Arc<App>>;

/// Shows what a guest did since its code was shipped, after a fresh look, also from the disk of one that is off
#[utoipa::path(get, path = "/v1/vms/{ref}/work", tag = "workspaces", params(("ref" = String, Path), WorkRequest),
    responses((status = 200, description = "The view's bytes", content_type = "application/octet-stream", body = String), (status = "default", body = Fault)))]
pub async fn view(
    State(app): Shared,
    reference: Named,
    Query(request): Query<WorkRequest>,
) -> Result<Response, Refusal> {
    let record = app.engine.resolve(&reference.0)?;
    let workspace = choose(&record, request.guest_path.as_deref())?;
    let bytes = app.work(move |app| render(app, &record, &workspace, &request)).await?;
    Ok(([(CONTENT_TYPE, "application/octet-stream")], bytes).into_response())
}

/// Looks at a workspace now and brings home what is new
#[utoipa::path(post, path = "/v1/vms/{ref}/work/look", tag = "workspaces", params(("ref" = String, Path)), request_body = WorkRequest,
    responses((status = 200, content_type = "application/x-ndjson", body = Event<WorkFacts>), (status = "default", body = Fault)))]
pub async fn look(State(app): Shared, reference: Named, Json(request): Json<WorkRequest>) -> Result<Response, Refusal> {
    let record = app.engine.resolve(&reference.0)?;
    let workspace = choose(&record, request.guest_path.as_deref())?;
    Ok(respond(app, Some(record.name().to_string()), move |app, _watch| {
        let looked = homecoming::look(app, &record.id, &workspace.guest_path, Instant::now() + LOOK_WITHIN);
        looked.map(homecoming::facts).map_err(|error| fault(&record, &error))
    }))
}

/// Brings a guest's work into the host's checkout, or makes a branch of it
#[utoipa::path(post, path = "/v1/vms/{ref}/work/pull", tag = "workspaces", params(("ref" = String, Path)), request_body = PullRequest,
    responses((status = 200, content_type = "application/x-ndjson", body = Event<Pulled>), (status = "default", body = Fault)))]
pub async fn pull(State(app): Shared, reference: Named, Json(request): Json<PullRequest>) -> Result<Response, Refusal> {
    let record = app.engine.resolve(&reference.0)?;
    let workspace = choose(&record, request.guest_path.as_deref())?;
    Ok(respond(app, Some(record.name().to_string()), move |app, _watch| {
        let looked = homecoming::look(app, &record.id, &workspace.guest_path, Instant::now() + LOOK_WITHIN);
        let report = looked.map_err(|error| fault(&record, &error))?;
        pull_now(&workspace, &report, request.branch.as_deref()).map_err(|error| {
            let message = format!("cannot pull from {}", record.name());
            let fault = Fault::new(FaultKind::Refused, message).with_cause(error.to_string()).with_sources(&error);
            fault.with_hint(error.hint(record.name().as_str()))
        })
    }))
}

fn pull_now(workspace: &Workspace, report: &Report, branch: Option<&str>) -> Result<Pulled, pull::PullError> {
    if let Some(line) = report.left.first() {
        return Err(pull::PullError::Left { line: line.clone() });
    }
    let host = crate::workspace::inspect(workspace.host_path.as_ref())?;
    let crate::workspace::Source::Git(host) = host else { return Err(pull::PullError::NoCommit) };
    match branch {
        Some(branch) => pull::into_branch(&host, report, branch),
        None => pull::forward(&host, report),
    }
}

/// The workspace that is meant: the only one, unless it is named.
fn choose(record: &Sandbox, guest_path: Option<&str>) -> Result<Workspace, Refusal> {
    let name = record.name();
    let found = match (guest_path, record.workspaces.as_slice()) {
        (Some(path), all) => all.iter().find(|workspace| workspace.guest_path == path.trim_end_matches('/')),
        (None, [only]) => Some(only),
        (None, []) => None,
        (None, several) => {
            let paths: Vec<&str> = several.iter().map(|workspace| workspace.guest_path.as_str()).collect();
            let fault = Fault::new(FaultKind::Invalid, format!("{name} has several workspaces: {}", paths.join(", ")));
            return Err(Refusal(fault.with_hint("name one with `--guest-path`")));
        }
    };
    found.cloned().ok_or_else(|| {
        let message = match guest_path {
            Some(path) => format!("{name} has no workspace at {}", path.chars().take(120).collect::<String>()),
            None => format!("{name} has no workspace"),
        };
        Refusal(
            Fault::new(FaultKind::NotFound, message).with_hint(format!("`banger vm show {name}` lists what it has")),
        )
    })
}

fn render(app: &App, record: &Sandbox, workspace: &Workspace, request: &WorkRequest) -> Result<Vec<u8>, Fault> {
    let (quarantine, report) = gather(app, record, workspace).map_err(|error| fault(record, &error))?;
    let base = match &request.base_commit {
        Some(given) => Some(view::resolve(&quarantine, given).map_err(|error| fault(record, &error))?),
        None => workspace.head_commit.clone(),
    };
    let view = request.view.unwrap_or_default();
    view::render(&quarantine, &Range::new(&report, base), view).map_err(|error| fault(record, &error))
}

/// A fresh look; where the host's repository is gone, one that needs none.
fn gather(app: &App, record: &Sandbox, workspace: &Workspace) -> Result<(Quarantine, Report), HomeError> {
    let end = Instant::now() + LOOK_WITHIN;
    let place = homecoming::place(app, record, workspace);
    match homecoming::look(app, &record.id, &workspace.guest_path, end) {
        Ok(report) => Ok((sync::open(&place, &*sync::repository(&place.host_path)?)?, report)),
        Err(HomeError::Host { .. }) => {
            let mut tree = homecoming::tree(app, record, &workspace.guest_path, &place, end)?;
            sync::without_host(tree.as_mut(), &place, app.host.clock.now())
        }
        Err(error) => Err(error),
    }
}

fn fault(record: &Sandbox, error: &HomeError) -> Fault {
    let mut fault = homecoming::fault(error);
    fault.hint.get_or_insert_with(|| match error {
        HomeError::Guest { .. } | HomeError::Late { .. } => {
            format!("`banger vm kill {0}` ends it; its disk is then read without it", record.name())
        }
        _ => format!("`banger vm show {}` tells where its workspace came from", record.name()),
    });
    fault
}
