//! The part of an audit that no seam sees: files beside the disks, locks on them, keys and names. As in the engine's part,
//! both directions are looked at, and more than once before anybody is accused.
//!
//! | what | is there and should not be | should be there and is not |
//! |---|---|---|
//! | `file` | a half-made file of before, a folder or key of nobody | – |
//! | `lock` | held, and its sandbox is off | a VMM runs without it |
//! | `name` | the name server or `known_hosts` tells of a sandbox that is gone; NetworkManager asks us still | … does not tell of one that there is |

use crate::app::{App, HostKind};
use crate::host::disk::prepared;
use crate::names;
use crate::server::vmm_pid;
use crate::ssh::keys::Keys;
use engine::{Finding, Sandbox};
use model::{SandboxId, SandboxName, State};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// 1 min: what is made in a folder of ours has its name long before.
const HALF_MADE_AFTER: Duration = Duration::from_secs(60);
/// Names follow a change of the records within 20 ms; a machine under load takes its time.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(200);
const LOOKS: usize = 10;

/// Empty when all is well. Blocks.
pub fn look(app: &App) -> Vec<Finding> {
    let mut found = look_once(app);
    for _ in 1..LOOKS {
        if found.is_empty() {
            break;
        }
        std::thread::sleep(LOOK_AGAIN_AFTER);
        let again = look_once(app);
        found.retain(|one| again.iter().any(|other| other.finding == one.finding));
    }
    found.into_iter().map(|one| one.finding).collect()
}

/// Removes what is nobody's and tells names anew, then looks again: what is gone is mended. Blocks.
pub fn fix(app: &App) -> Vec<Finding> {
    let mut findings = look(app);
    if findings.is_empty() {
        return findings;
    }
    for stray in look_once(app).into_iter().filter_map(|one| one.remove) {
        let removed = if stray.is_dir() { fs::remove_dir(&stray) } else { fs::remove_file(&stray) };
        if let Err(error) = removed {
            tracing::warn!(path = %stray.display(), %error, "cannot remove what is nobody's");
        }
    }
    if names_file(app).is_some()
        && let Some(network) = &app.network
        && let Err(error) = network.take_names_back()
    {
        tracing::warn!(%error, "the host's resolver still asks us");
    }
    app.tell_names_anew();
    if let Err(error) = Keys::open(app.layout.ssh()).and_then(|keys| names::pin_host_keys(app, &keys)) {
        tracing::warn!(%error, "cannot write known_hosts");
    }
    let left = look(app);
    for finding in &mut findings {
        finding.mended = !left.contains(finding);
    }
    findings
}

struct Found {
    finding: Finding,
    /// What goes when it is mended.
    remove: Option<PathBuf>,
}

fn look_once(app: &App) -> Vec<Found> {
    if app.kind == HostKind::Sim {
        return Vec::new();
    }
    let records = app.engine.list();
    let mut found = files(app, &records);
    found.extend(locks(app, &records));
    found.extend(told_names(app, &records));
    found.extend(names_file(app));
    found
}

/// A file in /etc outlives a daemon that was killed and a host that was rebooted.
fn names_file(app: &App) -> Option<Found> {
    let network = app.network.as_ref()?;
    if matches!(network.told_host(), Some(Ok(()))) {
        return None;
    }
    let file = network.facts().ok()??.names_file?;
    let detail = "this host's NetworkManager asks us for names, and was not told to";
    Some(Found { finding: Finding::new("name", file, detail), remove: None })
}

fn files(app: &App, records: &[Arc<Sandbox>]) -> Vec<Found> {
    let known = |id: &SandboxId| records.iter().any(|record| record.id == *id) || app.engine.get(id).is_ok();
    let mut found = Vec::new();
    for path in entries(&app.layout.vms()) {
        match id_of(&path) {
            None => found.push(stray(app, path, "nobody's, in the folder of sandboxes")),
            Some(_) => found.extend(half_made(app, &path)),
        }
    }
    found.extend(half_made(app, &app.layout.templates()));
    let alone = |path| stray(app, path, "remembers a template that is gone");
    found.extend(prepared::strays(&app.layout).into_iter().map(alone));
    for path in entries(&app.layout.ssh().join("host")) {
        if id_of(&path).is_some_and(|id| !known(&id)) {
            found.push(stray(app, path, "the host key of a VM that has no record"));
        }
    }
    found
}

/// Files are made beside their place and renamed into it; one that never was belongs to a daemon that died over it.
fn half_made(app: &App, folder: &Path) -> Vec<Found> {
    let old = |path: &PathBuf| {
        let changed = fs::metadata(path).and_then(|found| found.modified()).ok();
        changed.and_then(|at| at.elapsed().ok()).is_some_and(|age| age > HALF_MADE_AFTER)
    };
    let partial = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "partial");
    let partials = entries(folder).into_iter().filter(partial).filter(old);
    partials.map(|path| stray(app, path, "half-made, and nobody goes on with it")).collect()
}

fn stray(app: &App, path: PathBuf, detail: &str) -> Found {
    let shown = path.strip_prefix(app.layout.state()).unwrap_or(&path).display().to_string();
    Found { finding: Finding::new("file", shown, detail), remove: Some(path) }
}

fn locks(app: &App, records: &[Arc<Sandbox>]) -> Vec<Found> {
    let held = held_inodes(&fs::read_to_string("/proc/locks").unwrap_or_default());
    let mut found = Vec::new();
    for record in records {
        let Ok(lock) = fs::metadata(app.layout.disk_lock(&record.id)) else { continue };
        let wrong = match record.state {
            State::Running | State::Paused => {
                // A VMM whose descriptors may not be listed is believed.
                let holds = vmm_pid(app, &record.id).and_then(|pid| has_open(pid, lock.dev(), lock.ino()));
                (holds == Some(false)).then_some("a VMM runs, and does not hold the lock of its disks")
            }
            State::Created | State::Stopped | State::Failed => {
                held.contains(&lock.ino()).then_some("it is off, and somebody holds the lock of its disks")
            }
            State::Starting | State::Stopping | State::Snapshotting | State::Restoring | State::Removing => None,
        };
        found.extend(wrong.map(|detail| Found { finding: Finding::new("lock", record.name(), detail), remove: None }));
    }
    found
}

/// Inodes of files that somebody holds by flock(2): `1: FLOCK  ADVISORY  WRITE 4242 fe:01:123456 0 EOF` (proc(5)).
fn held_inodes(locks: &str) -> BTreeSet<u64> {
    let inode = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let is_flock = fields.get(1) == Some(&"FLOCK");
        fields.get(5).filter(|_| is_flock)?.rsplit(':').next()?.parse().ok()
    };
    locks.lines().filter_map(inode).collect()
}

fn has_open(pid: u32, device: u64, inode: u64) -> Option<bool> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let is_it = |found: fs::Metadata| (found.dev(), found.ino()) == (device, inode);
    Some(descriptors.flatten().any(|entry| fs::metadata(entry.path()).is_ok_and(is_it)))
}

/// Names as the name server and ssh are told them, against the records.
fn told_names(app: &App, records: &[Arc<Sandbox>]) -> Vec<Found> {
    let wanted: BTreeSet<SandboxName> = records.iter().map(|record| record.name().clone()).collect();
    let known_hosts = fs::read_to_string(app.layout.ssh().join("known_hosts")).unwrap_or_default();
    let mut found = compare(&wanted, &pinned(&known_hosts), "known_hosts");
    if app.dns.get().is_some() {
        found.extend(compare(&wanted, &app.told_names(), "the name server"));
    }
    found
}

fn pinned(known_hosts: &str) -> BTreeSet<SandboxName> {
    let name = |line: &str| line.split(' ').next()?.strip_suffix(".vm")?.parse().ok();
    known_hosts.lines().filter_map(name).collect()
}

fn compare(wanted: &BTreeSet<SandboxName>, told: &BTreeSet<SandboxName>, who: &str) -> Vec<Found> {
    let finding =
        |name: &SandboxName, detail: String| Found { finding: Finding::new("name", name, detail), remove: None };
    let gone = told.difference(wanted).map(|name| finding(name, format!("{who} tells of a VM that has no record")));
    let missing = wanted.difference(told).map(|name| finding(name, format!("{who} does not tell of it")));
    gone.chain(missing).collect()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn id_of(path: &Path) -> Option<SandboxId> {
    path.file_name()?.to_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn held_locks_are_read_from_the_kernels_table() {
        let table = "1: FLOCK  ADVISORY  WRITE 4242 fe:01:123456 0 EOF\n2: POSIX  ADVISORY  WRITE 7 fe:01:77 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 8 fe:01:88 0 EOF\n3: FLOCK ADVISORY READ 9 00:2d:99 0 EOF\nnoise\n";
        assert_eq!(held_inodes(table), [123_456, 99].into());
    }

    #[test]
    fn a_descriptor_is_found_by_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = fs::File::create(folder.path().join("lock")).unwrap();
        let found = file.metadata().unwrap();
        assert_eq!(has_open(std::process::id(), found.dev(), found.ino()), Some(true));
        drop(file);
        assert_eq!(has_open(std::process::id(), found.dev(), found.ino()), Some(false));
        assert_eq!(has_open(u32::MAX, 0, 0), None);
    }

    #[test]
    fn names_are_compared_both_ways() {
        let names = |list: &[&str]| list.iter().map(|name| name.parse().unwrap()).collect::<BTreeSet<SandboxName>>();
        let pinned = pinned("# Written by bangerd\ndb.vm ssh-ed25519 AAAA\nweb.vm ssh-ed25519 BBBB\nother ssh-rsa C\n");
        assert_eq!(pinned, names(&["db", "web"]));
        let found = compare(&names(&["web", "api"]), &pinned, "known_hosts");
        let told: Vec<String> =
            found.iter().map(|one| format!("{}: {}", one.finding.subject, one.finding.detail)).collect();
        assert_eq!(told, ["db: known_hosts tells of a VM that has no record", "api: known_hosts does not tell of it"]);
    }
}
