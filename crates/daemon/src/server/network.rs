//! How sandboxes are connected: what one may reach, what it was refused, and the bridge of this host.

use super::convert;
use super::fault::Refusal;
use super::input::{Json, Named};
use crate::app::App;
use crate::host::network::bridged::Bridged;
use crate::host::network::choice::Mode;
use axum::extract::State;
use engine::host::Unwatched;
use engine::host::network::LinkMode;
use engine::{Changes, Sandbox};
use model::SandboxId;
use std::sync::Arc;
use wire::control::{
    NetChange, NetFacts, NetLog, NetworkDownAnswer, NetworkDownRequest, NetworkStatus, NetworkUpRequest,
    RefusedConnection,
};
use wire::privilege::address::{BRIDGE, Network, Range};
use wire::privilege::facts::{Facts, Obstacle, RefusedEntry, RulesState};
use wire::{Fault, FaultKind};

type Shared = State<Arc<App>>;
/// More targets than anyone types at once.
const MAX_TARGETS: usize = 256;

/// Tells how a sandbox is connected and what it may reach
#[utoipa::path(get, path = "/v1/vms/{ref}/net", tag = "network", params(("ref" = String, Path)),
    responses((status = 200, body = NetFacts), (status = "default", body = Fault)))]
pub async fn show(State(app): Shared, reference: Named) -> Result<axum::Json<NetFacts>, Refusal> {
    let record = app.engine.resolve(&reference.0)?;
    Ok(axum::Json(facts(&app, &record)))
}

/// Opens or closes private networks and other sandboxes to a sandbox, at once
#[utoipa::path(patch, path = "/v1/vms/{ref}/net", tag = "network", params(("ref" = String, Path)), request_body = NetChange,
    responses((status = 200, body = NetFacts), (status = "default", body = Fault)))]
pub async fn change(
    State(app): Shared,
    reference: Named,
    Json(request): Json<NetChange>,
) -> Result<axum::Json<NetFacts>, Refusal> {
    let record = app.engine.resolve(&reference.0)?;
    let changes = changes(&app, &record, &request)?;
    let id = record.id.clone();
    let applied = app.ask_engine(move |engine| engine.set(&id, &changes, &Unwatched)).await?;
    Ok(axum::Json(facts(&app, &applied.sandbox)))
}

/// Lists connections of a sandbox that were refused lately
#[utoipa::path(get, path = "/v1/vms/{ref}/net/log", tag = "network", params(("ref" = String, Path)),
    responses((status = 200, body = NetLog), (status = "default", body = Fault)))]
pub async fn log(State(app): Shared, reference: Named) -> Result<axum::Json<NetLog>, Refusal> {
    let record = app.engine.resolve(&reference.0)?;
    let entries = app.ask(move |app| refused(app, &record.id).map_err(|error| Refusal::from(error).0)).await?;
    let entry = |entry: RefusedEntry| RefusedConnection {
        destination: entry.destination.to_string(),
        protocol: entry.protocol,
        port: entry.port,
        packets: entry.packets,
        last_s: entry.last_s,
    };
    Ok(axum::Json(NetLog { entries: entries.into_iter().map(entry).collect() }))
}

/// Tells which mode new sandboxes get and why, and what the bridge looks like
#[utoipa::path(get, path = "/v1/network", tag = "network",
    responses((status = 200, body = NetworkStatus), (status = "default", body = Fault)))]
pub async fn status(State(app): Shared) -> Result<axum::Json<NetworkStatus>, Refusal> {
    Ok(axum::Json(app.ask(|app| status_of(real(app)?)).await?))
}

/// Makes the bridge before anybody needs it
#[utoipa::path(post, path = "/v1/network/up", tag = "network", request_body = NetworkUpRequest,
    responses((status = 200, body = NetworkStatus), (status = "default", body = Fault)))]
pub async fn up(
    State(app): Shared,
    Json(request): Json<NetworkUpRequest>,
) -> Result<axum::Json<NetworkStatus>, Refusal> {
    let range = request.range.as_deref().map(str::parse::<Range>).transpose();
    let range = range.map_err(|error| Refusal::invalid(error.to_string()))?;
    let up = app.ask(move |app| {
        let network = real(app)?;
        network.up(range).map_err(|error| Refusal::from(error).0)?;
        status_of(network)
    });
    Ok(axum::Json(up.await?))
}

/// Unmakes everything that was made of the host's network
#[utoipa::path(post, path = "/v1/network/down", tag = "network", request_body = NetworkDownRequest,
    responses((status = 200, body = NetworkDownAnswer), (status = "default", body = Fault)))]
pub async fn down(
    State(app): Shared,
    Json(request): Json<NetworkDownRequest>,
) -> Result<axum::Json<NetworkDownAnswer>, Refusal> {
    let linked: Vec<_> = app.engine.list().iter().filter(|record| holds_tap(record)).cloned().collect();
    if let (Some(first), false) = (linked.first(), request.force) {
        let others = match linked.len() - 1 {
            0 => String::new(),
            1 => " and another VM".to_owned(),
            others => format!(" and {others} other VMs"),
        };
        let sentence = format!("cannot take the network down: {}{others} would lose it", first.name());
        let hint = "stop them first, or add `--force`";
        return Err(Refusal(Fault::new(FaultKind::Refused, sentence).with_hint(hint)));
    }
    let down = app.work(|app| real(app)?.down().map_err(|error| Refusal::from(error).0)).await?;
    Ok(axum::Json(NetworkDownAnswer { changed: down.change == model::Change::Changed, kept: down.kept }))
}

fn real(app: &App) -> Result<&Arc<Bridged>, Fault> {
    let imaginary = || Fault::new(FaultKind::HostUnfit, "a simulated host has no network");
    app.network.as_ref().ok_or_else(imaginary)
}

fn holds_tap(record: &Sandbox) -> bool {
    let tapped = |mode: &LinkMode| matches!(mode, LinkMode::Tap { .. });
    record.state.may_have_vmm() && record.attachment.as_ref().is_some_and(|attachment| tapped(&attachment.mode))
}

fn facts(app: &App, record: &Sandbox) -> NetFacts {
    let link = record.attachment.as_ref().filter(|_| record.state.may_have_vmm());
    let texts = |addresses: &[std::net::IpAddr]| addresses.iter().map(ToString::to_string).collect();
    let egress = &record.spec.egress;
    let mut facts = NetFacts {
        id: record.id.to_string(),
        name: record.name().to_string(),
        outbound: egress.outbound.word().to_owned(),
        allow_networks: egress.allow_networks.clone(),
        allow_vms: egress.allow_vms.iter().map(|id| name_of(app, id)).collect(),
        ..NetFacts::default()
    };
    if let Some(link) = link {
        (facts.mode, facts.device) = match &link.mode {
            LinkMode::None => (Some("none".to_owned()), None),
            LinkMode::User => (Some("user".to_owned()), None),
            LinkMode::Tap { device } => (Some("bridged".to_owned()), Some(device.clone())),
        };
        facts.mac = link.mac.clone();
        facts.addresses = link.addresses.clone();
        facts.gateways = texts(&link.gateways);
        facts.name_servers = texts(&link.name_servers);
    }
    facts
}

/// The name of one that is gone is its id.
fn name_of(app: &App, id: &SandboxId) -> String {
    app.engine.resolve(id.as_str()).map_or_else(|_| id.to_string(), |record| record.name().to_string())
}

/// A target that reads as a network is one; a sandbox can hardly be called so.
enum Target {
    Network(String),
    Vm(SandboxId),
}

fn target(app: &App, given: &str) -> Result<Target, Refusal> {
    if let Ok(network) = given.parse::<Network>() {
        return Ok(Target::Network(network.into()));
    }
    if given.contains(['/', ':']) {
        return Err(Refusal::invalid(given.parse::<Network>().expect_err("it was refused above").to_string()));
    }
    Ok(Target::Vm(app.engine.resolve(given)?.id.clone()))
}

fn changes(app: &App, record: &Sandbox, request: &NetChange) -> Result<Changes, Refusal> {
    if request.allow.len() + request.deny.len() > MAX_TARGETS {
        return Err(Refusal::invalid(format!("too many targets: {MAX_TARGETS} are allowed at once")));
    }
    let mut egress = record.spec.egress.clone();
    for given in &request.allow {
        match target(app, given)? {
            Target::Network(network) => {
                egress.allow_networks = convert::union(&egress.allow_networks, vec![network]);
            }
            Target::Vm(id) if id == record.id => {
                return Err(Refusal::invalid(format!("{} reaches itself without being allowed to", record.name())));
            }
            Target::Vm(_) if !has_neighbours(app, record) => return Err(no_neighbours(record, given)),
            Target::Vm(id) => egress.allow_vms = convert::union(&egress.allow_vms, vec![id]),
        }
    }
    for given in &request.deny {
        match target(app, given) {
            Ok(Target::Network(network)) => egress.allow_networks.retain(|other| *other != network),
            Ok(Target::Vm(id)) => egress.allow_vms.retain(|other| *other != id),
            // The right outlived the sandbox; it is still there under its id.
            Err(refused) if !egress.allow_vms.iter().any(|id| id.as_str() == given) => return Err(refused),
            Err(_) => egress.allow_vms.retain(|id| id.as_str() != given),
        }
    }
    Ok(Changes { allow_networks: Some(egress.allow_networks), allow_vms: Some(egress.allow_vms), ..Changes::default() })
}

/// Behind a gateway a guest is alone; a right to a neighbour would be none.
fn has_neighbours(app: &App, record: &Sandbox) -> bool {
    let link = record.attachment.as_ref().filter(|_| record.state.may_have_vmm());
    match (link.map(|link| &link.mode), &app.network) {
        (Some(LinkMode::Tap { .. }), _) | (None, None) => true,
        (Some(LinkMode::User | LinkMode::None), _) => false,
        (None, Some(network)) => network.choice().mode == Mode::Bridged,
    }
}

fn no_neighbours(record: &Sandbox, other: &str) -> Refusal {
    let name = record.name();
    let fault =
        Fault::new(FaultKind::HostUnfit, format!("cannot let {name} reach {other}: it has no bridge to others"));
    Refusal(fault.with_hint("`banger system network status` tells why, and `network = \"bridged\"` asks for bridges"))
}

fn refused(app: &App, id: &SandboxId) -> engine::host::Result<Vec<RefusedEntry>> {
    match &app.network {
        Some(network) => network.refused(id),
        None => Ok(Vec::new()),
    }
}

fn status_of(network: &Arc<Bridged>) -> Result<NetworkStatus, Fault> {
    let choice = network.choice();
    let facts = network.facts().map_err(|error| Refusal::from(error).0)?;
    let mut status = NetworkStatus {
        wanted: choice.wanted.word().to_owned(),
        mode: choice.mode.to_string(),
        reason: choice.reason,
        ..NetworkStatus::default()
    };
    if let Some(facts) = facts {
        describe(&mut status, &facts);
    }
    Ok(status)
}

fn describe(status: &mut NetworkStatus, facts: &Facts) {
    if let Some(bridge) = facts.bridge.as_ref().filter(|bridge| bridge.up) {
        status.bridge = Some(BRIDGE.to_owned());
        status.range = Some(bridge.range.to_string());
    }
    let rules = match facts.rules {
        RulesState::None => "none",
        RulesState::InSync => "in_sync",
        RulesState::Changed => "changed",
    };
    status.taps = facts.taps.len() as u32;
    status.rules = Some(rules.to_owned());
    status.forwarding_ours = facts.forwarding.ipv4_ours;
    status.obstacles = facts.obstacles.iter().map(obstacle).collect();
    status.helper = Some(facts.version.helper.clone());
}

pub fn obstacle(obstacle: &Obstacle) -> String {
    let hint = obstacle.hint.as_ref().map(|hint| format!(" (`{hint}`)")).unwrap_or_default();
    format!("{} {}{hint}", obstacle.holder, obstacle.effect)
}
