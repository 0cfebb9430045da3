//! The group of processes that a running VMM is: what it may take of the host, and that it ends with nobody else.
//!
//! | on a host with | a VMM runs in | limits |
//! |---|---|---|
//! | systemd | `banger-<tag>-<id>.scope`, asked for over D-Bus ([`systemd`]) | CPU and I/O weight, memory ceiling, tasks |
//! | cgroup v2, delegated to us | `<our cgroup>/banger-<tag>/<id>` ([`tree`]) | the same, as far as the controllers were delegated |
//! | cgroup v1, writable | the same folder in each controller's hierarchy ([`tree`]) | the same |
//! | none of these | the session that every VMM has | none; `doctor` says so |
//!
//! `<tag>` tells installations apart that share a host. A group that cannot be made is a warning and no reason not to
//! start: the sandbox works, with the limits of its daemon. Groups go when their VMM has ended; what is left over is
//! found by [`Groups::list`], so the audit sees it.

mod systemd;
mod tree;

use engine::host::vmm::Machine;
use model::{Backend, Change, SandboxId};
use sha2::{Digest, Sha256};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// 100: what every group has that nobody gave a weight (cgroup-v2.rst); 1 to 10000.
pub const DEFAULT_WEIGHT: u32 = 100;
/// 1024: QEMU has a thread for each CPU and up to 64 for I/O; a guest that breaks out finds no room for more.
const MAX_TASKS: u64 = 1024;
/// A VMM's own memory beside its guest's. QEMU: code, device state and I/O buffers of a few hundred MiB; while it
/// translates, up to 1 GiB of translated code (`DEFAULT_CODE_GEN_BUFFER_SIZE` in tcg/region.c). Too low a ceiling kills
/// healthy guests, so these are generous.
const QEMU_OVERHEAD_BYTES: u64 = 1536 << 20;
const FIRECRACKER_OVERHEAD_BYTES: u64 = 256 << 20;
/// 1 s for the last process of a group to leave it.
const EMPTY_WITHIN: Duration = Duration::from_secs(1);

/// What one VMM may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub cpu_weight: u32,
    pub io_weight: u32,
    pub memory_bytes: u64,
    pub tasks: u64,
}

/// The owner's part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weights {
    pub cpu: u32,
    pub io: u32,
}

impl Default for Weights {
    fn default() -> Self {
        Weights { cpu: DEFAULT_WEIGHT, io: DEFAULT_WEIGHT }
    }
}

impl Limits {
    pub fn of(machine: &Machine, weights: Weights) -> Limits {
        let overhead = match machine.backend {
            Backend::Qemu => QEMU_OVERHEAD_BYTES,
            Backend::Firecracker | Backend::Sim => FIRECRACKER_OVERHEAD_BYTES,
        };
        let memory_bytes = machine.memory.bytes().saturating_add(overhead);
        Limits { cpu_weight: weights.cpu, io_weight: weights.io, memory_bytes, tasks: MAX_TASKS }
    }
}

/// How this host groups processes, and the groups of this installation.
#[derive(Debug)]
pub struct Groups {
    tag: String,
    way: Way,
}

#[derive(Debug)]
enum Way {
    Systemd(systemd::Manager),
    Tree(tree::Tree),
    Session { why: String },
}

impl Groups {
    /// Looks and changes nothing.
    pub fn find(state: &Path) -> Groups {
        let tag = tag(state);
        let way = match (systemd::Manager::find(), tree::Tree::find(&format!("banger-{tag}"))) {
            (Some(manager), _) => Way::Systemd(manager),
            (None, Ok(tree)) => Way::Tree(tree),
            (None, Err(why)) => Way::Session { why },
        };
        Groups { tag, way }
    }

    /// For `doctor`: what limits a VMM here, and whether anything does.
    pub fn describe(&self) -> (bool, String) {
        match &self.way {
            Way::Systemd(manager) => (true, format!("each VMM runs in a scope of {manager}")),
            Way::Tree(tree) => (true, format!("each VMM runs in a group of {tree}")),
            Way::Session { why } => (false, format!("VMMs run without limits of their own: {why}")),
        }
    }

    /// Moves the processes of a VMM into a group of its own, with its limits.
    pub fn place(&self, id: &SandboxId, pids: &[u32], limits: Limits) {
        let placed = match &self.way {
            Way::Systemd(manager) => manager.start_scope(&self.scope(id), id, pids, limits),
            Way::Tree(tree) => tree.place(id, pids, limits),
            Way::Session { .. } => Ok(()),
        };
        if let Err(error) = placed {
            tracing::warn!(vm = %id, %error, "the VMM runs without limits of its own");
        }
    }

    /// The group goes, once its last process has left it.
    pub fn remove(&self, id: &SandboxId) -> io::Result<Change> {
        let deadline = Instant::now() + EMPTY_WITHIN;
        loop {
            let removed = match &self.way {
                Way::Systemd(manager) => manager.stop_scope(&self.scope(id)),
                Way::Tree(tree) => tree.remove(id),
                Way::Session { .. } => Ok(Change::Unchanged),
            };
            match removed {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(2));
                }
                removed => return removed,
            }
        }
    }

    /// Whose groups there are.
    pub fn list(&self) -> Vec<SandboxId> {
        match &self.way {
            Way::Systemd(manager) => {
                let scopes = manager.scopes(&format!("banger-{}-*.scope", self.tag));
                let prefix = format!("banger-{}-", self.tag);
                let id = |scope: &String| scope.strip_prefix(&prefix)?.strip_suffix(".scope")?.parse().ok();
                scopes.iter().filter_map(id).collect()
            }
            Way::Tree(tree) => tree.list(),
            Way::Session { .. } => Vec::new(),
        }
    }

    fn scope(&self, id: &SandboxId) -> String {
        format!("banger-{}-{id}.scope", self.tag)
    }
}

/// Eight hexadecimal digits that stand for a state folder.
fn tag(state: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    let hash = Sha256::digest(state.as_os_str().as_bytes());
    hash[..4].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits { cpu_weight: 50, io_weight: 100, memory_bytes: 64 << 20, tasks: 7 }
    }

    fn cgroup_of(pid: u32) -> String {
        std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap()
    }

    /// Runs wherever this host groups processes for us, and says so where it does not.
    #[test]
    #[allow(clippy::print_stderr)]
    fn a_process_is_placed_limited_listed_and_removed() {
        let state = tempfile::tempdir().unwrap();
        let groups = Groups::find(state.path());
        let id = SandboxId::from_bits(0x0123_4567_89ab_cdef);
        if let (false, why) = groups.describe() {
            eprintln!("skipped: {why}");
            assert_eq!(groups.remove(&id).unwrap(), Change::Unchanged);
            return;
        }
        assert_eq!(groups.list(), []);
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        groups.place(&id, &[child.id()], limits());
        groups.place(&id, &[child.id()], limits());
        assert!(cgroup_of(child.id()).contains(&format!("banger-{}", groups.tag)), "{}", cgroup_of(child.id()));
        assert_eq!(groups.list(), std::slice::from_ref(&id));
        assert_eq!(Groups::find(Path::new("/another/state")).list(), [], "another installation sees its own");
        child.kill().unwrap();
        child.wait().unwrap();
        let _change = groups.remove(&id).unwrap();
        assert_eq!(groups.remove(&id).unwrap(), Change::Unchanged);
        assert_eq!(groups.list(), []);
    }

    #[test]
    fn a_state_folder_has_one_tag() {
        assert_eq!(tag(Path::new("/s")), tag(Path::new("/s")));
        assert_ne!(tag(Path::new("/s")), tag(Path::new("/t")));
        assert_eq!(tag(Path::new("/s")).len(), 8);
    }
}
