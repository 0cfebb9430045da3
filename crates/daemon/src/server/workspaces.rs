//! Workspaces on the control API: what would travel, and shipping it.

use super::convert;
use super::fault::Refusal;
use super::input::{Json, Named, Query};
use super::stream::respond;
use crate::app::{App, HostKind};
use crate::exec::check_runs;
use crate::guest;
use crate::homecoming;
use crate::workspace::bootstrap::{self, Bootstrap};
use crate::workspace::deliver::deliver;
use crate::workspace::drift::{HostSide, host_side};
use crate::workspace::prepare::Install;
use crate::workspace::quote::quote;
use crate::workspace::repository_config::{self, Consents, RepositoryConfig};
use crate::workspace::template;
use crate::workspace::tools::{Tool, pinned};
use crate::workspace::{Preparation, Source, Wish};
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use engine::Sandbox;
use engine::host::{Report, Watch};
use model::workspace::{DEFAULT_GUEST_PATH, Workspace, WorkspaceMode};
use model::{SandboxId, SandboxSpec, WorkTemplate};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use wire::control::{
    ConsentRequest, Event, ExecQuery, FIRST_WORKSPACE, GuestSide, PlanRequest, PrepareRequest, Prepared, ToolFacts,
    WorkFacts, WorkspaceList, WorkspaceListRequest, WorkspacePlan, WorkspaceStatus,
};
use wire::guest::WorkspaceState;
use wire::{Fault, FaultKind};

type Shared = State<Arc<App>>;
/// More commands than a person writes down.
const MAX_SETUP: usize = 64;
/// 200 ms: how soon a wait for an installation ends that nobody waits for any more.
const LOOK_UP: Duration = Duration::from_millis(200);
/// A longer list helps nobody who reads it as one document; the counts tell of all.
const MAX_LISTED: usize = 1_000_000;

/// Tells what would be shipped, and refuses what cannot be; nothing is made
#[utoipa::path(post, path = "/v1/workspaces/plan", tag = "workspaces", request_body = PlanRequest,
    responses((status = 200, body = WorkspacePlan), (status = "default", body = Fault)))]
pub async fn plan(State(app): Shared, Json(request): Json<PlanRequest>) -> Result<axum::Json<WorkspacePlan>, Refusal> {
    let wish = wish(&request.prepare)?;
    let disk_bytes = request.disk_bytes.unwrap_or(app.defaults.disk_size.value.bytes());
    let look = app.ask(move |app| {
        let preparation = Preparation::look(wish)?;
        preparation.check_size(disk_bytes)?;
        let mut plan = planned(&preparation, request.list);
        plan.tools = pinned(&preparation.source, &preparation.entries)?.into_iter().map(tool).collect();
        if !request.ignore_config {
            let config = repository_config::read(&preparation.source, &preparation.entries)?;
            plan.config = config.map(|config| config_facts(config, &Consents(app.layout.consents())));
        }
        Ok(plan)
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
        tools: Vec::new(),
        config: None,
    }
}

fn tool(tool: Tool) -> ToolFacts {
    ToolFacts { name: tool.name, version: tool.version, source: tool.source.to_owned() }
}

fn config_facts(config: RepositoryConfig, consents: &Consents) -> wire::control::RepositoryConfig {
    wire::control::RepositoryConfig {
        accepted: consents.has(&config.digest),
        digest: config.digest,
        image: config.image,
        vcpus: config.vcpus.map(model::Vcpus::count),
        memory_bytes: config.memory.map(model::ByteSize::bytes),
        disk_bytes: config.disk.map(model::ByteSize::bytes),
        ports: config.ports.iter().map(ToString::to_string).collect(),
        env: config.env,
        setup: config.setup,
        bootstrap: config.bootstrap,
    }
}

/// Remembers that a repository may have what it asks for
#[utoipa::path(post, path = "/v1/workspaces/consent", tag = "workspaces", request_body = ConsentRequest,
    responses((status = 204), (status = "default", body = Fault)))]
pub async fn consent(State(app): Shared, Json(request): Json<ConsentRequest>) -> Result<StatusCode, Refusal> {
    let given = app.ask(move |app| {
        let failed = |error: std::io::Error| {
            Fault::new(FaultKind::Internal, "cannot remember the agreement").with_cause(error.to_string())
        };
        Consents(app.layout.consents()).give(&request.digest).map_err(failed)
    });
    match given.await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(Refusal::invalid("that is no digest of a repository's wish")),
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
    let wish = if request.again { wish_again(&sandbox, &request)? } else { wish(&request)? };
    let id = sandbox.id.clone();
    let shared = app.clone();
    Ok(respond(app, Some(sandbox.name().to_string()), move |_, watch| prepare_now(&shared, &id, wish, watch)))
}

/// Lists the workspaces of a sandbox, and how far host and guest have moved apart
#[utoipa::path(get, path = "/v1/vms/{ref}/workspaces", tag = "workspaces", params(("ref" = String, Path), WorkspaceListRequest),
    responses((status = 200, body = WorkspaceList), (status = "default", body = Fault)))]
pub async fn list(
    State(app): Shared,
    reference: Named,
    Query(request): Query<WorkspaceListRequest>,
) -> Result<axum::Json<WorkspaceList>, Refusal> {
    let sandbox = app.engine.resolve(&reference.0)?;
    let records = sandbox.workspaces.clone();
    let hosts = app.ask(move |_| Ok(records.iter().map(host_side).collect::<Vec<_>>())).await?;
    let mut workspaces = Vec::new();
    for (record, host) in sandbox.workspaces.iter().zip(hosts) {
        // A guest that does not answer hides nothing of the host's side.
        let asked = request.guest && app.kind == HostKind::Real && check_runs(&sandbox).is_ok();
        let guest = if asked { guest_side(&app, &sandbox, record).await } else { None };
        workspaces.push(status(record, host, guest));
    }
    Ok(axum::Json(WorkspaceList { workspaces }))
}

/// The workspace that an `exec` asks for, as a header's value; absent where the sandbox has none such.
pub async fn asked_for(app: &Arc<App>, sandbox: &Sandbox, query: &ExecQuery) -> Result<Option<HeaderValue>, Refusal> {
    let Some(wanted) = &query.workspace else { return Ok(None) };
    let found = sandbox.workspaces.iter().find(|work| wanted == FIRST_WORKSPACE || work.guest_path == *wanted);
    let Some(record) = found else { return Ok(None) };
    let told = match query.host {
        true => {
            let looked_at = record.clone();
            let host = app.ask(move |_| Ok(host_side(&looked_at))).await?;
            let mut told = status(record, host, None);
            told.workspace.work = guest_in_short(app, sandbox, record);
            told
        }
        false => WorkspaceStatus { workspace: convert::workspace(record), ..WorkspaceStatus::default() },
    };
    // The one control character that JSON leaves as it is and a header cannot hold (RFC 9110, 5.5).
    let text = serde_json::to_string(&told).expect("facts are plain data").replace('\u{7f}', "\\u007f");
    Ok(Some(HeaderValue::from_bytes(text.as_bytes()).expect("JSON has no other control characters")))
}

/// What the last look at the guest told, as far as a header has room for it.
fn guest_in_short(app: &App, sandbox: &Sandbox, record: &Workspace) -> Option<WorkFacts> {
    let report = app.homes.report(&sandbox.id, &record.guest_path)?;
    let mut facts = homecoming::facts(report);
    facts.references.clear();
    facts.left.truncate(1);
    Some(facts)
}

async fn guest_side(app: &App, sandbox: &Sandbox, record: &Workspace) -> Option<GuestSide> {
    let target = format!("/workspace?path={}", guest::percent_encode(&record.guest_path));
    let state: WorkspaceState = guest::get(&app.layout.vsock(&sandbox.id), &target).await.ok()?;
    Some(GuestSide {
        untouched: state.is_untouched(),
        history: state.history,
        changed: state.changed,
        removed: state.removed,
        added: state.added,
    })
}

fn status(record: &Workspace, host: HostSide, guest: Option<GuestSide>) -> WorkspaceStatus {
    let (word, host_commits, host_error) = match host {
        HostSide::Same => ("same", None, None),
        HostSide::Commits(count) => ("commits", count, None),
        HostSide::Edits => ("edits", None, None),
        HostSide::Gone(why) => ("gone", None, Some(why)),
    };
    WorkspaceStatus { workspace: convert::workspace(record), host: word.to_owned(), host_commits, host_error, guest }
}

/// What a work disk may begin with, so that less of this has to be shipped.
pub fn known(app: &App, spec: &SandboxSpec, request: &PrepareRequest) -> Option<WorkTemplate> {
    let wish = wish(request).ok()?;
    template::choose(app, &spec.image, spec.disk_size, &wish)
}

/// As [`known`], made first where there is none yet.
pub fn made(app: &App, spec: &SandboxSpec, request: &PrepareRequest, watch: &dyn Watch) -> Option<WorkTemplate> {
    let wish = wish(request).ok()?;
    template::make_now(app, &spec.image, spec.disk_size, wish, watch)
}

fn prepare_now(app: &Arc<App>, id: &SandboxId, wish: Wish, watch: &dyn Watch) -> Result<Prepared, Fault> {
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
    if delivered.mostly_new {
        template::make_later(app, &sandbox, preparation.wish.clone());
    }
    let mut notes = delivered.shipped.notes;
    let bootstrap = preparation.bootstrap()?;
    let lines = bootstrap.lines();
    if !bootstrap.is_empty() {
        install(app, sandbox.clone(), bootstrap, preparation.wish.bootstrap, watch, &mut notes);
    }
    Ok(Prepared {
        vm_name: sandbox.name().to_string(),
        workspace: convert::workspace(&delivered.workspace),
        files: delivered.shipped.files,
        bytes: delivered.shipped.bytes,
        bootstrap: lines,
        notes,
    })
}

/// Never a failure: the workspace is there, and the log tells.
fn install(
    app: &Arc<App>,
    sandbox: Arc<Sandbox>,
    bootstrap: Bootstrap,
    how: Install,
    watch: &dyn Watch,
    notes: &mut Vec<String>,
) {
    let shared = app.clone();
    let name = sandbox.name().to_string();
    let work = async move { bootstrap::run(&shared, &sandbox, &bootstrap).await };
    if how == Install::Background {
        tokio::runtime::Handle::current().spawn(work);
        return;
    }
    watch.report(Report::Stage { text: format!("installing what the repository wants in {name}") });
    let gone = async {
        while !watch.cancelled() {
            tokio::time::sleep(LOOK_UP).await;
        }
    };
    let worked = tokio::runtime::Handle::current().block_on(async {
        tokio::select! {
            worked = work => worked,
            () = gone => false,
        }
    });
    if !worked {
        notes.push(format!("not everything could be installed; `banger vm logs --bootstrap {name}` tells why"));
    }
}

/// What was asked for the last time.
fn wish_again(sandbox: &Sandbox, request: &PrepareRequest) -> Result<Wish, Refusal> {
    let path = request.guest_path.as_deref().unwrap_or(DEFAULT_GUEST_PATH);
    let found = sandbox.workspaces.iter().find(|workspace| workspace.guest_path == path);
    let record = found.ok_or_else(|| {
        let name = sandbox.name();
        let path: String = path.chars().take(120).collect();
        let fault = Fault::new(FaultKind::NotFound, format!("{name} has no workspace at `{path}`"));
        Refusal(fault.with_hint(format!("`banger vm workspace list {name}` shows what it has")))
    })?;
    Ok(Wish { discard: request.discard, ..Wish::from(record) })
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
        bootstrap: install_wish(request.bootstrap.as_deref())?,
        setup: bounded("setup commands", &request.setup)?,
        env: request.env.clone(),
    })
}

fn bounded(what: &str, list: &[String]) -> Result<Vec<String>, Refusal> {
    match list.len() > MAX_SETUP {
        true => Err(Refusal::invalid(format!("{} {what} are too many: {MAX_SETUP} are allowed", list.len()))),
        false => Ok(list.to_vec()),
    }
}

fn install_wish(word: Option<&str>) -> Result<Install, Refusal> {
    match word {
        None => Ok(Install::Nothing),
        Some("setup") => Ok(Install::Setup),
        Some("background") => Ok(Install::Background),
        Some("wait") => Ok(Install::Wait),
        Some(_) => Err(Refusal::invalid("a bootstrap is one of `background`, `wait`, `setup`")),
    }
}
