//! The VMM seam: one process per running sandbox, found again by pid, start time and socket, never by name.
//!
//! A VMM outlives the daemon: it runs in a scope or session of its own, holds a lock on its sandbox's disks that dies
//! with it, and writes its console to the sandbox's run folder. `observe` finds every VMM this installation started.

use super::Result;
use super::clock::Timestamp;
use super::network::Attachment;
use model::{Backend, ByteSize, Change, ImageName, InitMode, KernelName, SandboxId, Vcpus, VmmChoice};

pub trait Vmm: Send + Sync {
    /// Every backend with what it can do here, and why not where it cannot. The first usable one is the choice of `auto`.
    fn backends(&self) -> Vec<BackendFacts>;
    /// Starts the VMM and boots the machine; does not wait for the guest. Unchanged when this very machine runs already.
    fn ensure_running(&self, machine: &Machine) -> Result<Change>;
    /// Ends the VMM at once (after `signal`, if it heeds it) and whatever was started beside it; its run folder goes,
    /// the console log stays. Unchanged when there is none.
    fn ensure_stopped(&self, id: &SandboxId, signal: Option<i32>) -> Result<Change>;
    /// Blocks until the VMM of `id` has ended by itself, at most this long; `None` when the time passed.
    fn await_exit(&self, id: &SandboxId, timeout_ms: u64) -> Result<Option<VmmExit>>;
    /// The guest sees its drives as large as its disks are now. `NotFound` when no VMM runs.
    fn ensure_drives(&self, id: &SandboxId) -> Result<()>;
    fn ensure_paused(&self, id: &SandboxId) -> Result<Change>;
    fn ensure_resumed(&self, id: &SandboxId) -> Result<Change>;
    /// All VMMs of this installation, alive or ended since the last look.
    fn observe(&self) -> Result<Vec<VmmFacts>>;
    /// The last lines of the guest's console since its last start, lossy UTF-8, at most this many bytes.
    fn console_tail(&self, id: &SandboxId, bytes: usize) -> String;
}

/// What boots. Everything the host derives paths from; nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    pub id: SandboxId,
    pub backend: Backend,
    pub image: ImageName,
    pub kernel: KernelName,
    pub vcpus: Vcpus,
    pub memory: ByteSize,
    pub init: InitMode,
    pub attachment: Attachment,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendFacts {
    pub backend: Backend,
    pub usable: bool,
    /// One sentence: why it is the choice, or why it cannot be used.
    pub reason: String,
    pub version: Option<String>,
    /// Does the guest's code run on the processor itself?
    pub accelerated: bool,
    pub features: Features,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Features {
    pub vsock: bool,
    pub network: bool,
    pub pause: bool,
    pub snapshot: bool,
    pub balloon: bool,
    pub entropy: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmmFacts {
    pub id: SandboxId,
    pub backend: Backend,
    pub pid: u32,
    pub started_at: Timestamp,
    pub state: VmmState,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VmmState {
    Running,
    Paused,
    Ended(VmmExit),
    /// Something in the run folder that is no VMM any more: pid reused, half-started, files without a process.
    Remains {
        what: String,
    },
}

/// How a VMM ended; no code where it was not our child (after a daemon restart).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VmmExit {
    pub code: Option<i32>,
    pub signal: Option<i32>,
}

/// The choice, as a sentence for people: which backend `wanted` means here.
pub fn choose(wanted: VmmChoice, backends: &[BackendFacts]) -> std::result::Result<Backend, String> {
    let named = |backend: Backend| match backends.iter().find(|facts| facts.backend == backend) {
        Some(facts) if facts.usable => Ok(backend),
        Some(facts) => Err(facts.reason.clone()),
        None => Err(format!("this host offers no {backend}")),
    };
    match wanted {
        VmmChoice::Firecracker => named(Backend::Firecracker),
        VmmChoice::Qemu => named(Backend::Qemu),
        VmmChoice::Auto => match backends.iter().find(|facts| facts.usable) {
            Some(facts) => Ok(facts.backend),
            None => Err(backends.iter().map(|facts| facts.reason.as_str()).collect::<Vec<_>>().join("; ")),
        },
    }
}
