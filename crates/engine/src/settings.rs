//! What the owner allows and how long things may take; filled in by the daemon from its configuration.

use model::ByteSize;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub caps: Caps,
    /// From the VMM's start to the guest's first word. 60 s: an emulated guest on a busy machine takes up to 20.
    pub ready_timeout_ms: u64,
    /// How long a guest's services may take to stop; then the VMM is ended.
    pub grace_ms: u64,
    /// How long `stop`, `kill` and `delete` wait for a cancelled operation to let go.
    pub preempt_timeout_ms: u64,
    /// Operations kept in the journal; the oldest go first.
    pub history_limit: u32,
    /// A 1-minute load (times 100) from which a guest without sessions still counts as used.
    pub idle_load_percent: u32,
    /// How many files and folders of the host every guest gets at its start; which ones, the host knows.
    pub synced_files: u32,
}

/// Limits of the whole installation; none means the host's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caps {
    pub sandboxes: Option<u32>,
    /// Of all machines that run or start.
    pub memory: Option<ByteSize>,
    /// Of all disks, as the guests see them.
    pub disk: Option<ByteSize>,
    /// Room that must be left where disks live, so that no guest meets a full host.
    pub free_disk: ByteSize,
}

impl Default for Caps {
    fn default() -> Self {
        Caps { sandboxes: None, memory: None, disk: None, free_disk: ByteSize::from_mib(512) }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            caps: Caps::default(),
            ready_timeout_ms: 60_000,
            grace_ms: 20_000,
            preempt_timeout_ms: 30_000,
            history_limit: 5_000,
            idle_load_percent: 20,
            synced_files: 0,
        }
    }
}
