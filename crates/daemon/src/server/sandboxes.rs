//! Sandboxes on the control API: list, show, and every verb of the lifecycle table, one handler each.

use super::convert;
use super::fault::{Refusal, fault};
use super::input::{Json, Named, Query};
use super::stream::respond;
use super::workspaces;
use crate::app::App;
use crate::homecoming::{Work, settle, settle_root};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use engine::Sandbox;
use engine::host::Watch;
use engine::{Plan, Start};
use model::SandboxId;
use serde::Serialize;
use std::sync::Arc;
use wire::Fault;
use wire::control as api;
use wire::control::{
    CreateRequest, DeleteRequest, Event, KillRequest, PlanFacts, SandboxList, SetAnswer, SetRequest, StartRequest,
    StopRequest,
};

type Shared = State<Arc<App>>;

/// Lists all sandboxes, oldest first
#[utoipa::path(get, path = "/v1/vms", tag = "vms", responses((status = 200, body = SandboxList)))]
pub async fn list(State(app): Shared) -> axum::Json<SandboxList> {
    let shown = |record: &Arc<Sandbox>| {
        let mut shown = convert::listed(record);
        app.homes.annotate(&mut shown);
        shown
    };
    axum::Json(SandboxList { vms: app.engine.list().iter().map(shown).collect() })
}

/// Shows one sandbox
#[utoipa::path(get, path = "/v1/vms/{ref}", tag = "vms", params(("ref" = String, Path, description = "Name, id or unique prefix of an id")),
    responses((status = 200, body = api::Sandbox), (status = "default", body = Fault)))]
pub async fn show(State(app): Shared, reference: Named) -> Result<axum::Json<api::Sandbox>, Refusal> {
    let record = app.engine.resolve(&reference.0)?;
    let mut shown = convert::sandbox(&record);
    app.homes.annotate(&mut shown);
    if record.state.may_have_vmm() {
        shown.vmm_pid = app.ask(move |app| Ok(vmm_pid(app, &record.id))).await?;
    }
    Ok(axum::Json(shown))
}

pub fn vmm_pid(app: &App, id: &SandboxId) -> Option<u32> {
    use engine::host::vmm::VmmState;
    let vmms = app.host.vmm.observe().ok()?;
    let alive = |state: &VmmState| matches!(state, VmmState::Running | VmmState::Paused);
    vmms.into_iter().find(|facts| facts.id == *id && alive(&facts.state)).map(|facts| facts.pid)
}

/// Creates a sandbox and, unless told otherwise, boots it
#[utoipa::path(post, path = "/v1/vms", tag = "vms", request_body = CreateRequest,
    responses((status = 200, description = "A stream of events", content_type = "application/x-ndjson", body = Event<api::Sandbox>), (status = "default", body = Fault)))]
pub async fn create(State(app): Shared, Json(request): Json<CreateRequest>) -> Result<Response, Refusal> {
    let start = if request.no_start { Start::Later } else { Start::Now };
    let dry_run = request.dry_run;
    let spec = {
        let request = request.clone();
        app.ask(move |app| {
            let mut spec = convert::spec(&request, app).map_err(|refusal| refusal.0)?;
            spec.work_template = request.workspace.as_ref().and_then(|wanted| workspaces::known(app, &spec, wanted));
            Ok(spec)
        })
        .await?
    };
    if dry_run {
        return dry(app, move |app| app.engine.plan_create(spec, start)).await;
    }
    let name = spec.name.to_string();
    Ok(respond(app, Some(name), move |app, watch| {
        let mut spec = spec;
        if let (None, Some(wanted)) = (&spec.work_template, &request.workspace) {
            // Nothing is made for a create that is refused.
            app.engine.plan_create(spec.clone(), start).map_err(super::fault)?;
            spec.work_template = workspaces::made(app, &spec, wanted, watch);
        }
        one(app.engine.create(spec, start, watch))
    }))
}

/// Boots a sandbox and waits for its guest
#[utoipa::path(post, path = "/v1/vms/{ref}/start", tag = "vms", params(("ref" = String, Path)), request_body = StartRequest,
    responses((status = 200, content_type = "application/x-ndjson", body = Event<api::Sandbox>), (status = "default", body = Fault)))]
pub async fn start(
    State(app): Shared,
    reference: Named,
    Json(request): Json<StartRequest>,
) -> Result<Response, Refusal> {
    let plan = request.dry_run.then_some(|app: &App, id: &SandboxId| app.engine.plan_start(id));
    verb(app, reference, plan, |app, id, watch| app.engine.start(id, watch)).await
}

/// Stops a sandbox and boots it again
#[utoipa::path(post, path = "/v1/vms/{ref}/restart", tag = "vms", params(("ref" = String, Path)), request_body = StartRequest,
    responses((status = 200, content_type = "application/x-ndjson", body = Event<api::Sandbox>), (status = "default", body = Fault)))]
pub async fn restart(
    State(app): Shared,
    reference: Named,
    Json(request): Json<StartRequest>,
) -> Result<Response, Refusal> {
    let plan = request.dry_run.then_some(|app: &App, id: &SandboxId| app.engine.plan_restart(id));
    verb(app, reference, plan, |app, id, watch| app.engine.restart(id, watch)).await
}

/// Gives a stopped sandbox a fresh root disk and keeps its work disk
#[utoipa::path(post, path = "/v1/vms/{ref}/reset", tag = "vms", params(("ref" = String, Path)), request_body = StartRequest,
    responses((status = 200, content_type = "application/x-ndjson", body = Event<api::Sandbox>), (status = "default", body = Fault)))]
pub async fn reset(
    State(app): Shared,
    reference: Named,
    Json(request): Json<StartRequest>,
) -> Result<Response, Refusal> {
    if request.dry_run {
        let plan = Some(|app: &App, id: &SandboxId| app.engine.plan_reset(id));
        return verb(app, reference, plan, |app, id, watch| app.engine.reset(id, watch)).await;
    }
    let record = app.engine.resolve(&reference.0)?;
    let name = record.name().to_string();
    Ok(respond(app, Some(name), move |app, watch| {
        let _turns = settle_root(app, &record.id, watch)?;
        one(app.engine.reset(&record.id, watch))
    }))
}

/// Asks the guest to sync, stop its services and power off; ends the machine after the grace
#[utoipa::path(post, path = "/v1/vms/{ref}/stop", tag = "vms", params(("ref" = String, Path)), request_body = StopRequest,
    responses((status = 200, content_type = "application/x-ndjson", body = Event<api::Sandbox>), (status = "default", body = Fault)))]
pub async fn stop(State(app): Shared, reference: Named, Json(request): Json<StopRequest>) -> Result<Response, Refusal> {
    let grace = request.grace_ms;
    let plan = request.dry_run.then_some(move |app: &App, id: &SandboxId| app.engine.plan_stop(id, grace));
    verb(app, reference, plan, move |app, id, watch| app.engine.stop(id, grace, watch)).await
}

/// Ends the machine at once
#[utoipa::path(post, path = "/v1/vms/{ref}/kill", tag = "vms", params(("ref" = String, Path)), request_body = KillRequest,
    responses((status = 200, content_type = "application/x-ndjson", body = Event<api::Sandbox>), (status = "default", body = Fault)))]
pub async fn kill(State(app): Shared, reference: Named, Json(request): Json<KillRequest>) -> Result<Response, Refusal> {
    let signal = request.signal.as_deref().map(convert::signal).transpose()?;
    verb(app, reference, NO_PLAN, move |app, id, watch| app.engine.kill(id, signal, watch)).await
}

/// Holds the machine still
#[utoipa::path(post, path = "/v1/vms/{ref}/pause", tag = "vms", params(("ref" = String, Path)),
    responses((status = 200, content_type = "application/x-ndjson", body = Event<api::Sandbox>), (status = "default", body = Fault)))]
pub async fn pause(State(app): Shared, reference: Named) -> Result<Response, Refusal> {
    verb(app, reference, NO_PLAN, |app, id, watch| app.engine.pause(id, watch)).await
}

/// Lets a paused machine go on
#[utoipa::path(post, path = "/v1/vms/{ref}/resume", tag = "vms", params(("ref" = String, Path)),
    responses((status = 200, content_type = "application/x-ndjson", body = Event<api::Sandbox>), (status = "default", body = Fault)))]
pub async fn resume(State(app): Shared, reference: Named) -> Result<Response, Refusal> {
    verb(app, reference, NO_PLAN, |app, id, watch| app.engine.resume(id, watch)).await
}

/// Ends a sandbox and removes everything it had
#[utoipa::path(delete, path = "/v1/vms/{ref}", tag = "vms", params(("ref" = String, Path), DeleteRequest),
    responses((status = 200, content_type = "application/x-ndjson", body = Event<api::Sandbox>), (status = "default", body = Fault)))]
pub async fn delete(
    State(app): Shared,
    reference: Named,
    Query(request): Query<DeleteRequest>,
) -> Result<Response, Refusal> {
    let force = request.force;
    let work = if request.discard { Work::Discard } else { Work::Keep };
    if request.dry_run {
        let plan = Some(|app: &App, id: &SandboxId| app.engine.plan_delete(id));
        return verb(app, reference, plan, move |app, id, watch| app.engine.delete(id, force, watch)).await;
    }
    let record = app.engine.resolve(&reference.0)?;
    let name = record.name().to_string();
    Ok(respond(app, Some(name), move |app, watch| {
        let _turns = settle(app, &record.id, work, watch)?;
        one(app.engine.delete(&record.id, force, watch))
    }))
}

/// Changes what a sandbox shall be; says what is in force now and what waits for the next start
#[utoipa::path(patch, path = "/v1/vms/{ref}", tag = "vms", params(("ref" = String, Path)), request_body = SetRequest,
    responses((status = 200, body = SetAnswer), (status = "default", body = Fault)))]
pub async fn set(
    State(app): Shared,
    reference: Named,
    Json(request): Json<SetRequest>,
) -> Result<axum::Json<SetAnswer>, Refusal> {
    let record = app.engine.resolve(&reference.0)?;
    let changes = convert::changes(&request, &record.spec.egress)?;
    let id = record.id.clone();
    let outcome = app.ask_engine(move |engine| engine.set(&id, &changes, &engine::host::Unwatched)).await?;
    Ok(axum::Json(convert::set_answer(&outcome)))
}

const NO_PLAN: Option<fn(&App, &SandboxId) -> engine::Result<Plan>> = None;

/// Resolves the reference, then answers with the plan or carries the verb out as a stream.
async fn verb<P, F>(app: Arc<App>, reference: Named, plan: Option<P>, work: F) -> Result<Response, Refusal>
where
    P: FnOnce(&App, &SandboxId) -> engine::Result<Plan> + Send + 'static,
    F: FnOnce(&App, &SandboxId, &dyn Watch) -> engine::Result<Arc<Sandbox>> + Send + 'static,
{
    let record = app.engine.resolve(&reference.0)?;
    let id = record.id.clone();
    match plan {
        Some(plan) => dry(app, move |app| plan(app, &id)).await,
        None => {
            let name = record.name().to_string();
            Ok(respond(app, Some(name), move |app, watch| one(work(app, &id, watch))))
        }
    }
}

/// The very plan that would run, as the only event of a stream.
async fn dry<F>(app: Arc<App>, plan: F) -> Result<Response, Refusal>
where
    F: FnOnce(&App) -> engine::Result<Plan> + Send + 'static,
{
    let plan = app.ask(move |app| plan(app).map_err(fault)).await?;
    let steps = plan.steps.iter().map(ToString::to_string).collect();
    let facts = PlanFacts { verb: plan.verb.word().to_owned(), vm_name: plan.name.to_string(), steps };
    Ok(only(&facts))
}

fn only<T: Serialize + Clone>(value: &T) -> Response {
    let line = super::stream::line(&Event::Result { value: value.clone() });
    ([(axum::http::header::CONTENT_TYPE, "application/x-ndjson")], line).into_response()
}

fn one(result: engine::Result<Arc<Sandbox>>) -> Result<api::Sandbox, Fault> {
    result.map(|record| convert::sandbox(&record)).map_err(fault)
}
