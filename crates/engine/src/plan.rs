//! What an operation will do, as data: made before the first step from the record and the settings, printed by
//! `--dry-run`, journalled, and only then carried out (`run`).
//!
//! Every step is idempotent: it may be repeated after any crash. Planning is pure.

use crate::host::disk::Disks;
use crate::host::network::{Attachment, Link};
use crate::host::vmm::Machine;
use crate::sandbox::Sandbox;
use crate::settings::Settings;
use model::port::PortForward;
use model::{Backend, ImageName, KernelName, SandboxId, SandboxName, State};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Does a created sandbox boot at once?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    Now,
    Later,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    Create,
    Start,
    Stop,
    Kill,
    Restart,
    Delete,
    Set,
    Reset,
    Rename,
    Pause,
    Resume,
    /// Nobody asked: the VMM ended by itself, or the records were brought in line with the machine.
    Reconcile,
}

impl Verb {
    pub const fn word(self) -> &'static str {
        match self {
            Verb::Create => "create",
            Verb::Start => "start",
            Verb::Stop => "stop",
            Verb::Kill => "kill",
            Verb::Restart => "restart",
            Verb::Delete => "delete",
            Verb::Set => "set",
            Verb::Reset => "reset",
            Verb::Rename => "rename",
            Verb::Pause => "pause",
            Verb::Resume => "resume",
            Verb::Reconcile => "reconcile",
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub verb: Verb,
    pub id: SandboxId,
    pub name: SandboxName,
    pub steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Puts the record into the table under its name; the first step of a create.
    Reserve(State),
    /// The state as others see it from here on.
    Enter(State),
    EnsureImage(ImageName),
    EnsureKernel(KernelName),
    EnsureDisks(Disks),
    RenewRoot(Disks),
    /// These three grow the disks of a machine that is on: the files, what the guest sees, the file systems in it.
    ExtendDisks(Disks),
    EnsureDrives,
    EnsureFileSystems(Disks),
    EnsureLink(Link),
    /// The attachment is filled in from the link when the step runs.
    EnsureVmm(Machine),
    AwaitReady {
        timeout_ms: u64,
    },
    Identify,
    SyncFiles {
        count: u32,
    },
    EnsureService,
    EnsurePorts(Vec<PortForward>),
    RequestShutdown {
        grace_ms: u64,
    },
    AwaitExit {
        grace_ms: u64,
    },
    EnsureStopped {
        signal: Option<i32>,
    },
    EnsurePaused,
    EnsureResumed,
    RemoveLink,
    RemoveDisks,
    /// The record goes; the last step of a delete.
    Forget,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Reserve(state) => write!(f, "record as {state}"),
            Step::Enter(state) => write!(f, "enter {state}"),
            Step::EnsureImage(name) => write!(f, "ensure image {name}"),
            Step::EnsureKernel(name) => write!(f, "ensure kernel {name}"),
            Step::EnsureDisks(disks) => write!(f, "ensure disks: root {}, work {}", disks.root_size, disks.work_size),
            Step::RenewRoot(disks) => write!(f, "renew root disk: {}", disks.root_size),
            Step::ExtendDisks(disks) => write!(f, "extend disks: root {}, work {}", disks.root_size, disks.work_size),
            Step::EnsureDrives => write!(f, "ensure drives"),
            Step::EnsureFileSystems(_) => write!(f, "ensure file systems"),
            Step::EnsureLink(link) => write!(f, "ensure link {}", link.name),
            Step::EnsureVmm(machine) => {
                write!(f, "ensure vmm: {}, {} CPUs, {}", machine.backend, machine.vcpus, machine.memory)
            }
            Step::AwaitReady { timeout_ms } => write!(f, "await ready for {timeout_ms} ms"),
            Step::Identify => write!(f, "identify guest"),
            Step::SyncFiles { count } => write!(f, "sync {count} files of this host"),
            Step::EnsureService => write!(f, "ensure service"),
            Step::EnsurePorts(ports) => {
                write!(f, "ensure ports")?;
                ports.iter().try_for_each(|port| write!(f, " {port}"))
            }
            Step::RequestShutdown { grace_ms } => write!(f, "request shutdown within {grace_ms} ms"),
            Step::AwaitExit { grace_ms } => write!(f, "await exit for {grace_ms} ms"),
            Step::EnsureStopped { signal: None } => write!(f, "ensure vmm stopped"),
            Step::EnsureStopped { signal: Some(signal) } => write!(f, "ensure vmm stopped with signal {signal}"),
            Step::EnsurePaused => write!(f, "ensure vmm paused"),
            Step::EnsureResumed => write!(f, "ensure vmm resumed"),
            Step::RemoveLink => write!(f, "remove link"),
            Step::RemoveDisks => write!(f, "remove disks"),
            Step::Forget => write!(f, "forget record"),
        }
    }
}

pub(crate) fn create(sandbox: &Sandbox, start: Start, backend: Backend, settings: &Settings) -> Plan {
    let mut steps = vec![Step::Reserve(sandbox.state)];
    steps.extend(artifact_steps(sandbox));
    if start == Start::Now {
        steps.extend(boot_steps(sandbox, backend, settings));
    }
    plan(Verb::Create, sandbox, steps)
}

pub(crate) fn start(sandbox: &Sandbox, backend: Backend, settings: &Settings) -> Plan {
    plan(Verb::Start, sandbox, start_steps(sandbox, backend, settings))
}

pub(crate) fn stop(sandbox: &Sandbox, grace_ms: u64) -> Plan {
    plan(Verb::Stop, sandbox, stop_steps(sandbox, grace_ms))
}

pub(crate) fn kill(sandbox: &Sandbox, signal: Option<i32>) -> Plan {
    let mut steps = vec![Step::Enter(State::Stopping)];
    steps.extend(off_steps(signal));
    plan(Verb::Kill, sandbox, steps)
}

pub(crate) fn restart(sandbox: &Sandbox, backend: Backend, settings: &Settings) -> Plan {
    let mut steps = match sandbox.state.may_have_vmm() {
        true => stop_steps(sandbox, settings.grace_ms),
        false => Vec::new(),
    };
    steps.extend(start_steps(sandbox, backend, settings));
    plan(Verb::Restart, sandbox, steps)
}

pub(crate) fn delete(sandbox: &Sandbox) -> Plan {
    let mut steps = vec![Step::Enter(State::Removing)];
    steps.extend(removal_steps());
    plan(Verb::Delete, sandbox, steps)
}

pub(crate) fn reset(sandbox: &Sandbox) -> Plan {
    let mut steps = artifact_steps(sandbox);
    steps.push(Step::RenewRoot(disks(sandbox)));
    plan(Verb::Reset, sandbox, steps)
}

pub(crate) fn pause(sandbox: &Sandbox) -> Plan {
    plan(Verb::Pause, sandbox, vec![Step::EnsurePaused, Step::Enter(State::Paused)])
}

pub(crate) fn resume(sandbox: &Sandbox) -> Plan {
    plan(Verb::Resume, sandbox, vec![Step::EnsureResumed, Step::Enter(State::Running)])
}

pub(crate) fn plan(verb: Verb, sandbox: &Sandbox, steps: Vec<Step>) -> Plan {
    Plan { verb, id: sandbox.id.clone(), name: sandbox.name().clone(), steps }
}

/// Image and kernel come first: they may take minutes, and nothing of the host is held while they do.
fn artifact_steps(sandbox: &Sandbox) -> Vec<Step> {
    vec![
        Step::EnsureImage(sandbox.spec.image.clone()),
        Step::EnsureKernel(sandbox.spec.kernel.clone()),
        Step::EnsureDisks(disks(sandbox)),
    ]
}

fn start_steps(sandbox: &Sandbox, backend: Backend, settings: &Settings) -> Vec<Step> {
    let mut steps = vec![Step::Enter(State::Starting)];
    steps.extend(artifact_steps(sandbox));
    steps.extend(boot_steps(sandbox, backend, settings));
    steps
}

fn boot_steps(sandbox: &Sandbox, backend: Backend, settings: &Settings) -> Vec<Step> {
    let mut steps = vec![Step::EnsureLink(link(sandbox, backend)), Step::EnsureVmm(machine(sandbox, backend))];
    steps.extend(ready_steps(sandbox, settings));
    steps
}

/// From a VMM that runs to a sandbox that does.
pub(crate) fn ready_steps(sandbox: &Sandbox, settings: &Settings) -> Vec<Step> {
    let mut steps = vec![Step::AwaitReady { timeout_ms: settings.ready_timeout_ms }, Step::Identify];
    if settings.synced_files > 0 {
        steps.push(Step::SyncFiles { count: settings.synced_files });
    }
    let ports = Step::EnsurePorts(sandbox.spec.ports.clone());
    steps.extend([Step::EnsureService, ports, Step::Enter(State::Running)]);
    steps
}

fn stop_steps(sandbox: &Sandbox, grace_ms: u64) -> Vec<Step> {
    let mut steps = vec![Step::Enter(State::Stopping)];
    if sandbox.state == State::Paused {
        steps.push(Step::EnsureResumed);
    }
    steps.extend([Step::RequestShutdown { grace_ms }, Step::AwaitExit { grace_ms }]);
    steps.extend(off_steps(None));
    steps
}

/// The VMM and its link are gone, the disks stay.
pub(crate) fn off_steps(signal: Option<i32>) -> Vec<Step> {
    vec![Step::EnsureStopped { signal }, Step::RemoveLink, Step::Enter(State::Stopped)]
}

/// What follows `Enter(Removing)`.
pub(crate) fn removal_steps() -> Vec<Step> {
    vec![Step::EnsureStopped { signal: None }, Step::RemoveLink, Step::RemoveDisks, Step::Forget]
}

pub(crate) fn disks(sandbox: &Sandbox) -> Disks {
    Disks {
        id: sandbox.id.clone(),
        image: sandbox.spec.image.clone(),
        root_size: sandbox.spec.root_size,
        work_size: sandbox.spec.disk_size,
        work_template: sandbox.spec.work_template.clone(),
    }
}

pub(crate) fn link(sandbox: &Sandbox, backend: Backend) -> Link {
    Link { id: sandbox.id.clone(), name: sandbox.name().clone(), backend, egress: sandbox.spec.egress.clone() }
}

fn machine(sandbox: &Sandbox, backend: Backend) -> Machine {
    Machine {
        id: sandbox.id.clone(),
        backend,
        image: sandbox.spec.image.clone(),
        kernel: sandbox.spec.kernel.clone(),
        vcpus: sandbox.spec.vcpus,
        memory: sandbox.spec.memory,
        init: sandbox.spec.init,
        attachment: Attachment::default(),
    }
}
