//! What is known of a sandbox between two looks at the machine: its spec, its state, and what its last start brought.
//!
//! A record is immutable once published; its one driver replaces it. It is stored as JSON, so every field added later
//! has a default. Times are nanoseconds since 1970-01-01 UTC. What can be done to a sandbox is one file per verb below.

mod change;
mod create;
mod pause;
mod ports;
mod remove;
mod start;
mod stop;

pub use change::{Applied, Changes};
pub use ports::PortChanges;

use crate::host::clock::Timestamp;
use crate::host::network::Attachment;
use crate::host::vmm::VmmExit;
use model::port::PortForward;
use model::service::Service;
use model::workspace::Workspace;
use model::{Backend, ByteSize, OperationId, SandboxId, SandboxName, SandboxSpec, State};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sandbox {
    pub id: SandboxId,
    pub spec: SandboxSpec,
    pub state: State,
    /// Why it is `failed`.
    #[serde(default)]
    pub failure: Option<Failure>,
    /// What runs it, or ran it last.
    #[serde(default)]
    pub backend: Option<Backend>,
    /// Its link while it has one.
    #[serde(default)]
    pub attachment: Option<Attachment>,
    /// Published ports as bound; empty while it is off.
    #[serde(default)]
    pub ports: Vec<PortForward>,
    pub created_at: Timestamp,
    /// When the guest said that it is ready, the last time.
    #[serde(default)]
    pub started_at: Option<Timestamp>,
    /// When the VMM was last seen gone.
    #[serde(default)]
    pub ended_at: Option<Timestamp>,
    /// The guest's own, of its last boot.
    #[serde(default)]
    pub boot_id: Option<String>,
    /// The host's, under which the VMM was started.
    #[serde(default)]
    pub host_boot: String,
    #[serde(default)]
    pub agent_version: Option<String>,
    /// Who is PID 1 in the guest, as the guest says.
    #[serde(default)]
    pub init: Option<String>,
    /// The image's command as the guest was given it at its last start.
    #[serde(default)]
    pub service: Option<Service>,
    /// Its disks have been made; a missing one is a loss from then on.
    #[serde(default)]
    pub has_disks: bool,
    /// The last start, span by span.
    #[serde(default)]
    pub timing: Vec<Span>,
    #[serde(default)]
    pub workspaces: Vec<Workspace>,
    /// Starts in a row that its restart policy asked for.
    #[serde(default)]
    pub restarts: u32,
    /// When its restart policy wants it started again.
    #[serde(default)]
    pub restart_due: Option<Timestamp>,
}

/// Why a sandbox is `failed`, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub sentence: String,
    #[serde(default)]
    pub hint: Option<String>,
    #[serde(default)]
    pub exit_code: Option<i32>,
    #[serde(default)]
    pub exit_signal: Option<i32>,
    /// The last lines of the guest's console.
    #[serde(default)]
    pub console: String,
    #[serde(default)]
    pub operation: Option<OperationId>,
}

/// One span of a launch, in order of start; `depth` makes the tree. Microseconds after the launch began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    pub name: String,
    pub depth: u8,
    pub start_us: u64,
    pub duration_us: u64,
}

impl Sandbox {
    pub(crate) fn new(id: SandboxId, spec: SandboxSpec, state: State, created_at: Timestamp) -> Self {
        Sandbox {
            id,
            spec,
            state,
            failure: None,
            backend: None,
            attachment: None,
            ports: Vec::new(),
            created_at,
            started_at: None,
            ended_at: None,
            boot_id: None,
            host_boot: String::new(),
            agent_version: None,
            init: None,
            service: None,
            has_disks: false,
            timing: Vec::new(),
            workspaces: Vec::new(),
            restarts: 0,
            restart_due: None,
        }
    }

    pub fn name(&self) -> &SandboxName {
        &self.spec.name
    }

    /// Both disks, as the guest sees them.
    pub fn disk_total(&self) -> ByteSize {
        ByteSize::from_bytes(self.spec.disk_size.bytes().saturating_add(self.spec.root_size.bytes()))
    }
}

impl Failure {
    pub(crate) fn of_exit(sentence: String, exit: &VmmExit, console: String) -> Self {
        Failure { sentence, hint: None, exit_code: exit.code, exit_signal: exit.signal, console, operation: None }
    }
}

/// A sandbox went from one state to another; `from` is absent for a new one, `to` for one that is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateChange {
    pub at: Timestamp,
    pub id: SandboxId,
    pub name: SandboxName,
    pub from: Option<State>,
    pub to: Option<State>,
    pub operation: Option<OperationId>,
}
