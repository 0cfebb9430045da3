//! Between the wire and the engine: requests become validated types of `model`, the engine's records become answers.
//! Every string a client sent passes through a type of `model` here, and nowhere else.

use super::fault::Refusal;
use crate::app::App;
use crate::config::Config;
use engine::Sandbox;
use engine::{Applied, Changes};
use model::egress::{Egress, Outbound};
use model::image_ref::ImageRef;
use model::port::PortForward;
use model::service::{ServiceChoice, ServiceRestart, ServiceStart};
use model::{ByteSize, ImageName, KernelName, SandboxName, SandboxSpec, Vcpus, VmmChoice};
use std::fmt::Display;
use std::str::FromStr;
use wire::control as wire_control;
use wire::control::{CreateRequest, OperationFacts, ServiceRequest, StepFacts};
use wire::privilege::address::Network;

/// More published ports, labels and opened networks than anyone types.
const MAX_LIST: usize = 256;

fn parse<T>(given: &str) -> Result<T, Refusal>
where
    T: FromStr,
    T::Err: Display,
{
    given.parse().map_err(|error: T::Err| Refusal::invalid(error.to_string()))
}

fn parse_or<T>(given: &Option<String>, otherwise: impl FnOnce() -> T) -> Result<T, Refusal>
where
    T: FromStr,
    T::Err: Display,
{
    given.as_deref().map_or_else(|| Ok(otherwise()), parse)
}

/// What a person asked for, with every default filled in.
pub fn spec(request: &CreateRequest, app: &App) -> Result<SandboxSpec, Refusal> {
    let (config, defaults) = (&app.config, &app.defaults);
    bounded("ports", request.ports.len())?;
    bounded("labels", request.labels.len())?;
    bounded("allow_networks", request.allow_networks.len())?;
    let image = image(request, app)?;
    let spec = SandboxSpec {
        name: parse_or(&request.name, || free_name(app))?,
        kernel: parse_or(&request.kernel, || kernel_of(&image, app))?,
        image,
        vmm: parse_or(&request.vmm, || VmmChoice::Auto)?,
        vcpus: vcpus(request.vcpus)?.unwrap_or(defaults.vcpus.value),
        memory: request.memory_bytes.map_or(defaults.memory.value, ByteSize::from_bytes),
        disk_size: request.disk_bytes.map_or(defaults.disk_size.value, ByteSize::from_bytes),
        root_size: request.root_bytes.map_or(defaults.root_size.value, ByteSize::from_bytes),
        init: parse_or(&request.init, || model::InitMode::Auto)?,
        egress: Egress {
            outbound: parse_or(&request.outbound, || Outbound::Nat)?,
            allow_networks: networks(&request.allow_networks)?,
            allow_vms: Vec::new(),
        },
        ports: request.ports.iter().map(|port| parse::<PortForward>(port)).collect::<Result<_, _>>()?,
        auto_forward: request.auto_forward,
        labels: request.labels.clone(),
        restart: parse_or(&request.restart, || defaults.restart.value)?,
        stop_when_idle_s: request.stop_when_idle_s.or_else(|| idle_default(config)),
        ephemeral: request.ephemeral,
        service: service(request.service.as_ref())?,
        work_template: None,
    };
    spec.validate().map_err(|error| Refusal::invalid(error.to_string()))?;
    Ok(spec)
}

/// What a person wants other than the image says of its command.
fn service(request: Option<&ServiceRequest>) -> Result<ServiceChoice, Refusal> {
    let Some(request) = request else { return Ok(ServiceChoice::default()) };
    let words = [request.entrypoint.as_deref(), request.command.as_deref()].into_iter().flatten().flatten();
    let texts = words.chain(request.env.keys()).chain(request.env.values()).chain(&request.user).chain(&request.cwd);
    if texts.into_iter().any(|text| text.contains('\0')) {
        return Err(Refusal::invalid("a word of the command holds a NUL byte"));
    }
    if request.cwd.as_deref().is_some_and(|cwd| !cwd.starts_with('/')) {
        return Err(Refusal::invalid("the command's folder does not start with `/`"));
    }
    Ok(ServiceChoice {
        entrypoint: request.entrypoint.clone(),
        command: request.command.clone(),
        env: request.env.clone(),
        user: request.user.clone(),
        working_folder: request.cwd.clone(),
        start: if request.off { ServiceStart::Never } else { ServiceStart::Auto },
        restart: request.restart.as_deref().map(parse).transpose()?.map(ServiceRestart).unwrap_or_default(),
    })
}

fn bounded(what: &str, count: usize) -> Result<(), Refusal> {
    match count > MAX_LIST {
        true => Err(Refusal::invalid(format!("{count} {what} are too many: {MAX_LIST} are allowed"))),
        false => Ok(()),
    }
}

/// An image that is named by its reference gets its name here; the first start fetches it.
fn image(request: &CreateRequest, app: &App) -> Result<ImageName, Refusal> {
    let wanted = match &request.image {
        Some(given) => parse::<ImageRef>(given)?,
        None => app.defaults.image.value.clone(),
    };
    match (wanted, &app.library) {
        (ImageRef::Name(name), _) => Ok(name),
        (ImageRef::Oci(reference), Some(library)) => Ok(library.name_of(&reference)?),
        (ImageRef::Oci(_), None) => Err(Refusal(super::images::imaginary())),
    }
}

/// The image's own kernel, else the one that the catalog names for it, else the default one.
pub fn kernel_of(image: &ImageName, app: &App) -> KernelName {
    let images = app.host.images.images().unwrap_or_default();
    let own = images.into_iter().find(|facts| facts.name == *image).and_then(|facts| facts.kernel);
    let said = || app.library.as_ref().and_then(|library| library.catalog_kernel(image));
    own.or_else(said).unwrap_or_else(|| app.defaults.kernel.value.clone())
}

/// A name of two words that nobody has yet.
fn free_name(app: &App) -> SandboxName {
    let words = petname::Petnames::default();
    let pick = |list: &[&'static str]| list[(app.host.clock.random() % list.len() as u64) as usize];
    loop {
        let name = format!("{}-{}", pick(&words.adjectives), pick(&words.nouns));
        if app.engine.resolve(&name).is_err()
            && let Ok(name) = name.parse()
        {
            return name;
        }
    }
}

fn idle_default(config: &Config) -> Option<u64> {
    config.auto_stop_stale_after.map(|after| after.as_secs())
}

fn vcpus(given: Option<u8>) -> Result<Option<Vcpus>, Refusal> {
    given.map(Vcpus::try_from).transpose().map_err(|error| Refusal::invalid(error.to_string()))
}

/// Each as it will be written into rules: `10.1.2.3` becomes `10.1.2.3/32`.
pub fn networks(given: &[String]) -> Result<Vec<String>, Refusal> {
    given.iter().map(|text| parse::<Network>(text).map(String::from)).collect()
}

pub fn sandbox(record: &Sandbox) -> wire_control::Sandbox {
    let timing = record.timing.iter().map(span).collect();
    wire_control::Sandbox { timing, ..listed(record) }
}

/// Without where the time of its start went, which is more than all the rest.
pub fn listed(record: &Sandbox) -> wire_control::Sandbox {
    let spec = &record.spec;
    wire_control::Sandbox {
        id: record.id.to_string(),
        name: spec.name.to_string(),
        state: record.state.word().to_owned(),
        failure: record.failure.as_ref().map(failure),
        image: spec.image.to_string(),
        kernel: spec.kernel.to_string(),
        vmm: record.backend.map(|backend| backend.word().to_owned()),
        vcpus: spec.vcpus.count(),
        memory_bytes: spec.memory.bytes(),
        disk_bytes: spec.disk_size.bytes(),
        root_bytes: spec.root_size.bytes(),
        init: record.init.clone().unwrap_or_else(|| spec.init.word().to_owned()),
        ephemeral: spec.ephemeral,
        restart: spec.restart.word().to_owned(),
        stop_when_idle_s: spec.stop_when_idle_s,
        outbound: spec.egress.outbound.word().to_owned(),
        addresses: record.attachment.as_ref().map(|link| link.addresses.clone()).unwrap_or_default(),
        ports: ports(record).iter().map(ToString::to_string).collect(),
        auto_forward: spec.auto_forward,
        labels: spec.labels.clone(),
        workspaces: record.workspaces.iter().map(workspace).collect(),
        created_at_ns: record.created_at,
        started_at_ns: record.started_at,
        vmm_pid: None,
        service: service_words(record),
        timing: Vec::new(),
    }
}

/// The command that the guest runs by itself.
fn service_words(record: &Sandbox) -> Vec<String> {
    let running = record.service.as_ref().filter(|service| service.starts);
    running.map(|service| [service.entrypoint.as_slice(), &service.command].concat()).unwrap_or_default()
}

/// As bound while it runs, as wanted while it does not.
fn ports(record: &Sandbox) -> &[PortForward] {
    if record.ports.is_empty() { &record.spec.ports } else { &record.ports }
}

fn failure(failure: &engine::Failure) -> String {
    let mut text = failure.sentence.clone();
    if let Some(hint) = &failure.hint {
        text.push_str("; ");
        text.push_str(hint);
    }
    if !failure.console.is_empty() {
        text.push_str("; the console ends with:\n");
        text.push_str(&failure.console);
    }
    text
}

pub fn workspace(workspace: &model::workspace::Workspace) -> wire_control::WorkspaceFacts {
    wire_control::WorkspaceFacts {
        guest_path: workspace.guest_path.clone(),
        host_path: workspace.host_path.clone(),
        head_commit: workspace.head_commit.clone(),
        branch: workspace.branch.clone(),
        mode: (workspace.prepared_at > 0).then(|| workspace.mode.word().to_owned()),
        readonly: workspace.readonly,
        prepared_at_ns: (workspace.prepared_at > 0).then_some(workspace.prepared_at),
        work: None,
        env: workspace.env.clone(),
    }
}

fn span(span: &engine::Span) -> wire_control::Span {
    wire_control::Span {
        name: span.name.clone(),
        depth: span.depth,
        start_us: span.start_us,
        duration_us: span.duration_us,
    }
}

pub fn operation(operation: &engine::Operation) -> OperationFacts {
    let step = |step: &engine::StepRecord| StepFacts {
        name: step.name.clone(),
        state: step.state.word().to_owned(),
        duration_us: step.duration_us,
    };
    OperationFacts {
        id: operation.id.to_string(),
        verb: operation.verb.word().to_owned(),
        vm_id: operation.sandbox.to_string(),
        vm_name: operation.name.to_string(),
        began_at_ns: operation.began_at,
        ended_at_ns: operation.ended_at,
        outcome: operation.outcome.word().to_owned(),
        error: operation.error.clone(),
        steps: operation.steps.iter().map(step).collect(),
    }
}

pub fn state_change(change: &engine::StateChange) -> wire_control::StateChange {
    wire_control::StateChange {
        at_ns: change.at,
        vm_id: change.id.to_string(),
        vm_name: change.name.to_string(),
        from: change.from.map(|state| state.word().to_owned()),
        to: change.to.map(|state| state.word().to_owned()),
        operation: change.operation.as_ref().map(ToString::to_string),
    }
}

/// The signals a person may have a VMM ended with; no signal is the same as KILL.
const SIGNALS: &[(&str, i32)] = &[
    ("TERM", libc::SIGTERM),
    ("KILL", libc::SIGKILL),
    ("INT", libc::SIGINT),
    ("HUP", libc::SIGHUP),
    ("QUIT", libc::SIGQUIT),
    ("USR1", libc::SIGUSR1),
    ("USR2", libc::SIGUSR2),
    ("ABRT", libc::SIGABRT),
];

pub fn signal(given: &str) -> Result<i32, Refusal> {
    let word = given.strip_prefix("SIG").unwrap_or(given);
    let found = SIGNALS.iter().find(|(name, number)| *name == word || number.to_string() == word);
    found.map(|(_, number)| *number).ok_or_else(|| {
        let given: String = given.chars().take(40).collect();
        let words: Vec<_> = SIGNALS.iter().map(|(name, _)| *name).collect();
        Refusal::invalid(format!("`{given}` is no signal to kill with: it is one of {}", words.join(", ")))
    })
}

pub fn image_facts(facts: &engine::host::images::ImageFacts, used_by: Vec<String>) -> wire_control::ImageFacts {
    wire_control::ImageFacts {
        name: facts.name.to_string(),
        present: true,
        digest: Some(facts.digest.to_string()),
        has_systemd: facts.has_systemd(),
        kernel: facts.kernel.as_ref().map(ToString::to_string),
        size_bytes: facts.size.bytes(),
        allocated_bytes: facts.allocated.bytes(),
        created_at_ns: facts.created_at,
        source: facts.source.clone(),
        used_by,
        managed: true,
        ..wire_control::ImageFacts::default()
    }
}

pub fn kernel_facts(facts: &engine::host::images::KernelFacts) -> wire_control::KernelFacts {
    wire_control::KernelFacts {
        name: facts.name.to_string(),
        present: true,
        version: Some(facts.version.clone()),
        digest: Some(facts.digest.to_string()),
        size_bytes: facts.size.bytes(),
        created_at_ns: facts.created_at,
        source: facts.source.clone(),
        details: wire_control::KernelDetails {
            // Nothing real boots in a simulation.
            backends: facts
                .backends
                .iter()
                .filter(|backend| **backend != model::Backend::Sim)
                .map(|backend| backend.word().to_owned())
                .collect(),
            boot_args: facts.boot_args.join(" "),
            modules: Some(facts.modules as u64),
            ..wire_control::KernelDetails::default()
        },
    }
}

/// `now` is what is open before; a set adds to it.
pub fn changes(request: &wire_control::SetRequest, now: &Egress) -> Result<Changes, Refusal> {
    bounded("labels", request.labels.len())?;
    bounded("allow_networks", request.allow_networks.len())?;
    let label = |(key, value): (&String, &String)| (key.clone(), (!value.is_empty()).then(|| value.clone()));
    Ok(Changes {
        name: request.name.as_deref().map(parse).transpose()?,
        vcpus: vcpus(request.vcpus)?,
        memory: request.memory_bytes.map(ByteSize::from_bytes),
        disk_size: request.disk_bytes.map(ByteSize::from_bytes),
        root_size: request.root_bytes.map(ByteSize::from_bytes),
        restart: request.restart.as_deref().map(parse).transpose()?,
        outbound: request.outbound.as_deref().map(parse).transpose()?,
        allow_networks: match request.allow_networks.is_empty() {
            true => None,
            false => Some(union(&now.allow_networks, networks(&request.allow_networks)?)),
        },
        allow_vms: None,
        stop_when_idle_s: request.stop_when_idle_s.map(|seconds| (seconds > 0).then_some(seconds)),
        labels: request.labels.iter().map(label).collect(),
        ..Changes::default()
    })
}

pub fn port_changes(request: &wire_control::PortsRequest) -> Result<Changes, Refusal> {
    bounded("ports", request.add.len().max(request.remove.len()))?;
    let add = request.add.iter().map(|port| parse(port)).collect::<Result<_, _>>()?;
    let remove = request.remove.iter().map(|port| parse(port)).collect::<Result<_, _>>()?;
    let ports = engine::PortChanges { add, remove };
    Ok(Changes { ports, auto_forward: request.auto_forward, ..Changes::default() })
}

pub fn union<T: PartialEq + Clone>(old: &[T], new: Vec<T>) -> Vec<T> {
    let mut all = old.to_vec();
    new.into_iter().for_each(|one| {
        if !all.contains(&one) {
            all.push(one);
        }
    });
    all
}

pub fn set_answer(applied: &Applied) -> wire_control::SetAnswer {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    wire_control::SetAnswer {
        vm: sandbox(&applied.sandbox),
        live: words(&applied.live),
        at_next_start: words(&applied.at_next_start),
    }
}

pub fn audit(findings: &[engine::Finding], fixed: bool) -> wire_control::Audit {
    let finding = |finding: &engine::Finding| wire_control::Finding {
        what: finding.what.to_owned(),
        subject: finding.subject.clone(),
        detail: finding.detail.clone(),
        mended: finding.mended,
    };
    wire_control::Audit { findings: findings.iter().map(finding).collect(), fixed }
}
