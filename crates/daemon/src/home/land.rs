//! From the quarantine into the host's repository: objects that git's own rules accept, and references below
//! `refs/banger/<home>/`, nothing else.
//!
//! ```text
//!  quarantine ─ pack-objects ─► one pack ─► scratch repository: index-pack --strict, rev-list (all is there)
//!                                                    │ only what passed
//!                                                    ▼
//!                              host: unpack-objects, or the pack itself by rename ─► update-ref
//! ```
//! The host's repository is written to only after everything is proven, objects before references, so a failure or a
//! kill in between leaves it as it was, with at most unreachable objects that its next gc removes. A reference of an
//! earlier sandbox of the same name is put aside, never overwritten.

use super::quarantine::{Quarantine, run_bounded};
use super::refs::shown;
use super::sync::Place;
use super::{HomeError, Result};
use crate::workspace::inspect::Repository;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Up to so many objects arrive loose, as git's own fetch does (`fetch.unpackLimit`): many small packs slow a repository.
const UNPACK_LIMIT: u32 = 100;

/// Full names of references on the host and what they shall be.
pub type Wanted = BTreeMap<String, String>;

#[derive(Debug, Default)]
pub struct Landed {
    pub references: Wanted,
    /// One sentence for each that git refused.
    pub refused: Vec<String>,
}

/// Brings all that it can. `ours`: what stands below `refs/banger/<home>/` is of the same sandbox; else it is put aside
/// before the first of ours arrives.
pub fn land(host: &Repository, quarantine: &Quarantine, place: &Place, wanted: &Wanted, ours: bool) -> Result<Landed> {
    let home = place.home.as_str();
    let present = host_references(host)?;
    let own = format!("refs/banger/{home}/");
    let mut landed = Landed::default();
    // A guest that only has what the host has leaves no trace.
    let is_known = |object: &String| present.values().any(|own| own == object) || host.head.as_ref() == Some(object);
    let wip = format!("{own}wip");
    let mut news = wanted.iter().filter(|(_, object)| !is_known(object));
    let only_wip = news.next().is_none_or(|(name, _)| *name == wip) && news.next().is_none();
    let is_here = |wip: &String| is_known(wip) || is_checkout(host, quarantine, wip, place.include_untracked);
    if !ours && only_wip && wanted.get(&wip).is_none_or(is_here) {
        return Ok(landed);
    }
    let is_there = |name: &String, object: &String| ours && present.get(name) == Some(object);
    let new: Wanted = wanted.iter().filter(|(name, object)| !is_there(name, object)).map(owned).collect();
    landed.references = wanted.iter().filter(|(name, _)| !new.contains_key(*name)).map(owned).collect();
    if new.is_empty() {
        return Ok(landed);
    }
    let accepted = match bring(host, quarantine, &present, &new) {
        Ok(()) => new,
        // One bad branch must not keep the others from coming home.
        Err(HomeError::Git { .. }) => one_by_one(host, quarantine, &present, new, &mut landed.refused)?,
        Err(error) => return Err(error),
    };
    let in_the_way = match ours {
        true => conflicts(&present, &accepted, &own),
        false => present.keys().filter(|name| name.starts_with(&own)).cloned().collect(),
    };
    put_aside(host, home, &present, &in_the_way)?;
    point(host, &accepted, home)?;
    landed.references.extend(accepted);
    Ok(landed)
}

/// Whether the host's own checkout is what this commit holds: what was shipped uncommitted and not touched since. Its tree
/// is made with an index of ours, and what that takes is written into the quarantine.
fn is_checkout(host: &Repository, quarantine: &Quarantine, wip: &str, with_untracked: bool) -> bool {
    let wanted = quarantine.git().line(["rev-parse", "--verify", "--quiet", &format!("{wip}^{{tree}}")]);
    let index = quarantine.folder().join("incoming/index");
    let tree = |which: &str| -> Option<String> {
        let _ = fs::remove_file(&index);
        fs::copy(host.git_folder.join("index"), &index).ok()?;
        let objects = host.common_folder.join("objects");
        let git = host.git.clone().with_environment("GIT_INDEX_FILE", &index);
        let git = git.with_environment("GIT_OBJECT_DIRECTORY", quarantine.folder().join("objects"));
        let git = git.with_environment("GIT_ALTERNATE_OBJECT_DIRECTORIES", objects);
        git.ask(["add", which, "--", "."]).ok()?;
        git.line(["write-tree"]).ok()?
    };
    let which = if with_untracked { "-A" } else { "-u" };
    wanted.ok().flatten().is_some_and(|wanted| tree(which).as_ref() == Some(&wanted))
}

fn owned((name, object): (&String, &String)) -> (String, String) {
    (name.clone(), object.clone())
}

pub fn host_references(host: &Repository) -> Result<BTreeMap<String, String>> {
    let listing =
        host.git.ask(["for-each-ref", "--format=%(objectname) %(refname)"]).map_err(|error| unusable(host, error))?;
    let listing = String::from_utf8_lossy(&listing);
    let lines = listing.lines().filter_map(|line| line.split_once(' '));
    Ok(lines.map(|(object, name)| (name.to_owned(), object.to_owned())).collect())
}

fn unusable(host: &Repository, source: crate::workspace::WorkspaceError) -> HomeError {
    HomeError::Host { path: host.top.clone(), source: Box::new(source) }
}

fn one_by_one(
    host: &Repository,
    quarantine: &Quarantine,
    present: &BTreeMap<String, String>,
    new: Wanted,
    refused: &mut Vec<String>,
) -> Result<Wanted> {
    let mut accepted = Wanted::new();
    for (name, object) in new {
        let alone = Wanted::from([(name.clone(), object.clone())]);
        match bring(host, quarantine, present, &alone) {
            Ok(()) => drop(accepted.insert(name, object)),
            Err(HomeError::Git { source }) => refused.push(format!("`{name}`: {}", shown(&source.to_string()))),
            Err(error) => return Err(error),
        }
    }
    Ok(accepted)
}

/// Packs what the host lacks of these, proves it, and gives it to the host.
fn bring(host: &Repository, quarantine: &Quarantine, present: &BTreeMap<String, String>, new: &Wanted) -> Result<()> {
    let old: BTreeSet<&String> = present.values().chain(&host.head).collect();
    let new: BTreeSet<&String> = new.values().collect();
    let new = new.iter().map(|object| format!("{object}\n"));
    let tips: String = new.chain(old.iter().map(|object| format!("^{object}\n"))).collect();
    let prefix = quarantine.folder().join("incoming/out");
    let words = ["pack-objects", "--revs", "--delta-base-offset", "--non-empty", "--quiet", "--threads=1"];
    let mut command = quarantine.git().command(words);
    command.arg(&prefix);
    let made = run_bounded(quarantine.git(), command, tips.as_bytes())?;
    let made = String::from_utf8_lossy(&made);
    let pack = made.lines().last().map(|name| PathBuf::from(format!("{}-{}.pack", prefix.display(), name.trim())));
    let objects_folder = host.common_folder.join("objects");
    let shallow = fs::read(host.common_folder.join("shallow")).ok();
    let scratch = quarantine.scratch("proof", &objects_folder, shallow.as_deref())?;
    let proven = match &pack {
        Some(pack) => Some(prove_pack(&scratch, pack)?),
        None => None,
    };
    let connected = scratch.git().command(["rev-list", "--objects", "--quiet", "--stdin"]);
    run_bounded(scratch.git(), connected, tips.as_bytes())?;
    if let Some(proven) = proven {
        deliver(host, &proven, &objects_folder)?;
    }
    Ok(())
}

/// Moves the pack into the scratch repository, where it is indexed anew by strict rules.
fn prove_pack(scratch: &Quarantine, pack: &Path) -> Result<PathBuf> {
    let name = pack.file_name().expect("a pack has a name").to_string_lossy().replacen("out-", "pack-", 1);
    let place = scratch.folder().join("objects/pack").join(name);
    fs::rename(pack, &place).map_err(|source| scratch.store_error(source))?;
    for other in ["idx", "rev"] {
        let _ = fs::remove_file(pack.with_extension(other));
    }
    let mut command = scratch.git().command(["index-pack", "--strict", "--threads=1"]);
    command.arg(&place);
    run_bounded(scratch.git(), command, b"")?;
    Ok(place)
}

fn deliver(host: &Repository, pack: &Path, objects: &Path) -> Result<()> {
    let count = object_count(pack).map_err(|source| HomeError::Store { path: pack.to_owned(), source })?;
    if count <= UNPACK_LIMIT {
        let bytes = fs::read(pack).map_err(|source| HomeError::Store { path: pack.to_owned(), source })?;
        let unpacked = host.git.ask_with_input(["unpack-objects", "-q", "--strict"], &bytes);
        return unpacked.map(drop).map_err(|source| unusable(host, source));
    }
    let failed = |source| HomeError::Store { path: objects.to_owned(), source };
    // The index last: a pack without one is not there for git.
    for end in ["pack", "rev", "idx"] {
        let from = pack.with_extension(end);
        if from.exists() {
            install(&from, &objects.join("pack")).map_err(failed)?;
        }
    }
    Ok(())
}

/// Bytes 8 to 11 of a pack hold how many objects it has (gitformat-pack(5)).
fn object_count(pack: &Path) -> io::Result<u32> {
    use std::io::Read;
    let mut head = [0; 12];
    fs::File::open(pack)?.read_exact(&mut head)?;
    Ok(u32::from_be_bytes(head[8..].try_into().expect("four bytes")))
}

fn install(from: &Path, folder: &Path) -> io::Result<()> {
    let name = from.file_name().expect("a pack has a name");
    // A name that git's gc clears away should we be killed here.
    let partial = folder.join(format!("tmp_banger_{}", name.to_string_lossy()));
    let install = || {
        fs::copy(from, &partial)?;
        fs::set_permissions(&partial, fs::Permissions::from_mode(0o444))?;
        fs::File::open(&partial)?.sync_all()?;
        fs::rename(&partial, folder.join(name))
    };
    install().inspect_err(|_| {
        // A full disk is not to stay full because of us.
        let _ = fs::remove_file(&partial);
    })
}

/// References that are there and cannot stand beside a new one: `a` beside `a/b`.
fn conflicts(present: &BTreeMap<String, String>, new: &Wanted, own: &str) -> BTreeSet<String> {
    let below = |name: &str, other: &str| name.strip_prefix(other).is_some_and(|rest| rest.starts_with('/'));
    let clash = |old: &String| new.keys().any(|name| below(name, old) || below(old, name));
    present.keys().filter(|old| old.starts_with(own) && !new.contains_key(*old) && clash(old)).cloned().collect()
}

/// Renames below `refs/banger/<home>.<n>/`; a sandbox's name has no dot, so no sandbox ever owns that place.
fn put_aside(
    host: &Repository,
    home: &str,
    present: &BTreeMap<String, String>,
    names: &BTreeSet<String>,
) -> Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    let own = format!("refs/banger/{home}/");
    let free = |number: &u32| !present.keys().any(|name| name.starts_with(&format!("refs/banger/{home}.{number}/")));
    let number = (1..).find(free).expect("there are more numbers than references");
    let mut script = String::new();
    for name in names {
        let rest = name.strip_prefix(&own).expect("only our own references are put aside");
        let object = &present[name];
        script.push_str(&format!("create refs/banger/{home}.{number}/{rest} {object}\ndelete {name} {object}\n"));
    }
    update(host, &script)
}

/// The wip reference keeps a log, so that what one look overwrites can be had back for as long as git keeps logs.
fn point(host: &Repository, accepted: &Wanted, home: &str) -> Result<()> {
    let wip = format!("refs/banger/{home}/wip");
    let lines = accepted.iter().filter(|(name, _)| **name != wip);
    let script: String = lines.map(|(name, object)| format!("update {name} {object}\n")).collect();
    update(host, &script)?;
    if let Some(object) = accepted.get(&wip) {
        let words = ["-c", "core.logAllRefUpdates=false", "update-ref", "--no-deref", "--create-reflog"];
        let words = words.into_iter().chain(["-m", "banger: as the guest is", &wip, object]);
        named(host).ask(words).map_err(|error| unusable(host, error))?;
    }
    Ok(())
}

fn update(host: &Repository, script: &str) -> Result<()> {
    if script.is_empty() {
        return Ok(());
    }
    let words = ["-c", "core.logAllRefUpdates=false", "update-ref", "--no-deref", "--stdin"];
    named(host).ask_with_input(words, script.as_bytes()).map(drop).map_err(|error| unusable(host, error))
}

/// A log's line needs somebody who wrote it; the person's own name is not ours to use.
fn named(host: &Repository) -> crate::workspace::git::Git {
    let git = host.git.clone();
    git.with_environment("GIT_COMMITTER_NAME", "banger").with_environment("GIT_COMMITTER_EMAIL", "banger@localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_branch_that_became_a_folder_is_put_aside() {
        let map = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), "1".to_owned())).collect();
        let present =
            map(&["refs/banger/x/a", "refs/banger/x/b/c", "refs/banger/x/d", "refs/banger/y/a", "refs/heads/a"]);
        let new = map(&["refs/banger/x/a/b", "refs/banger/x/b", "refs/banger/x/d"]);
        let found = conflicts(&present, &new, "refs/banger/x/");
        assert_eq!(found.into_iter().collect::<Vec<_>>(), ["refs/banger/x/a", "refs/banger/x/b/c"]);
    }
}
