//! Facts about this guest that more than one route tells.

use rustix::time::{ClockId, clock_gettime};

/// Where programs are, for a user without an opinion: as in Debian's /etc/profile for root.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Who is PID 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InitKind {
    Agent,
    Systemd,
}

impl InitKind {
    pub fn name(self) -> &'static str {
        match self {
            InitKind::Agent => "agent",
            InitKind::Systemd => "systemd",
        }
    }
}

/// New at every boot, kept through pause and restore.
pub fn boot_id() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().to_owned()
}

/// Milliseconds since the kernel's start, time asleep included.
pub fn uptime_ms() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000
}
