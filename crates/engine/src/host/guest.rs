//! The guest seam: what the engine asks of a booted machine. Streams (exec, files, ports) never pass through here;
//! the daemon joins them itself.

use super::disk::Disks;
use super::network::Attachment;
use super::{Result, Watch};
use model::service::Service;
use model::{SandboxId, SandboxName};

pub trait Guest: Send + Sync {
    /// Blocks until the guest says that it is ready, its VMM has ended (`GuestGone`), the deadline passed (`TimedOut`)
    /// or nobody wants it any more (`Cancelled`). An event, never a poll.
    fn await_ready(&self, id: &SandboxId, timeout_ms: u64, watch: &dyn Watch) -> Result<Readiness>;
    /// Gives a guest its name, address, clock and entropy; after boot and after every restore.
    fn identify(&self, id: &SandboxId, identity: &GuestIdentity) -> Result<()>;
    /// Gives a guest the files of the host that its owner wants in every guest. One that is not there is worth a note.
    fn sync_files(&self, id: &SandboxId, watch: &dyn Watch) -> Result<()>;
    /// The guest knows the image's command and runs it unless it has ended for good. How it fares is the guest's to tell.
    fn ensure_service(&self, id: &SandboxId, service: &Service) -> Result<()>;
    /// The guest's file systems take all of drives that have grown to this much.
    fn ensure_file_systems(&self, wanted: &Disks) -> Result<()>;
    /// Asks the guest to stop its services, sync and power off; answers once it has agreed.
    fn request_shutdown(&self, id: &SandboxId, grace_ms: u64) -> Result<()>;
    fn health(&self, id: &SandboxId) -> Result<GuestHealth>;
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readiness {
    pub boot_id: String,
    pub agent_version: String,
    /// Kernel start to the agent's first word, by the guest's clock.
    pub guest_uptime_ms: u64,
    pub init: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestIdentity {
    pub name: SandboxName,
    pub attachment: Attachment,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestHealth {
    pub boot_id: String,
    pub agent_version: String,
    pub uptime_ms: u64,
    pub init: String,
    pub system_state: Option<String>,
    pub sessions: u32,
    /// 1-minute load times 100.
    pub load_percent: u32,
}
