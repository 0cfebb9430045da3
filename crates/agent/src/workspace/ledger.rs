//! What was put in place: every path with the moment of its last change, so that what the guest did since shows.
//!
//! The kernel stamps a changed or renamed file with a new `ctime`, which no program can set (inode(7)): one that has the
//! old one is the shipped one. What of a `.git` counts, and how it is written down, says [`wire::guest::ledger`]. Folders
//! count through what is in them.

use std::collections::{BTreeMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use wire::guest::ledger::{Entry, HEAD_LINE, Records, Stamp, counts, encode_id};
use wire::guest::{MAX_EXAMPLES, WorkspaceState};

pub fn stamp(facts: &Metadata) -> Stamp {
    let changed_ns = facts.ctime().saturating_mul(1_000_000_000).saturating_add(facts.ctime_nsec());
    Stamp { changed_ns, size: facts.size(), mode: facts.mode() }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ledger {
    /// The shipment that was put in place last.
    pub id: String,
    entries: BTreeMap<PathBuf, Stamp>,
}

impl Ledger {
    /// As the tree lies there now.
    pub fn of(folder: &Path) -> io::Result<Ledger> {
        let mut ledger = Ledger::default();
        walk(folder, Path::new(""), &mut |path, facts| {
            ledger.add(path, stamp(facts));
            Ok(())
        })?;
        Ok(ledger)
    }

    /// A path that does not count is not held.
    pub fn add(&mut self, path: &Path, stamp: Stamp) {
        if counts(path.as_os_str().as_bytes()) {
            self.entries.insert(path.to_owned(), stamp);
        }
    }

    pub fn remove(&mut self, path: &Path) {
        self.entries.remove(path);
    }

    pub fn len(&self) -> u64 {
        self.entries.len() as u64
    }

    pub fn holds(&self, path: &Path) -> bool {
        self.entries.contains_key(path)
    }

    /// The same paths as they lie in `folder` now; what vanished is left out.
    pub fn anew(&self, folder: &Path) -> io::Result<Ledger> {
        let mut anew = Ledger { id: self.id.clone(), entries: BTreeMap::new() };
        for path in self.entries.keys() {
            match fs::symlink_metadata(folder.join(path)) {
                Ok(facts) => drop(anew.entries.insert(path.clone(), stamp(&facts))),
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(anew)
    }

    /// This one with everything of the other, but for these paths.
    pub fn with(mut self, other: Ledger, without: &[PathBuf]) -> Ledger {
        for path in without {
            self.entries.remove(path);
        }
        self.entries.extend(other.entries);
        self
    }

    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.entries.keys().map(PathBuf::as_path)
    }

    /// None where there is none, or none that this agent can read.
    pub fn read(file: &Path) -> io::Result<Option<Ledger>> {
        Ok(bytes(file)?.and_then(|bytes| collect(Records::of(&bytes)?, |records| records.entries())))
    }

    /// Of these paths alone, without making room for all that there are.
    pub fn look(file: &Path, paths: &HashSet<&[u8]>) -> io::Result<Option<Ledger>> {
        let wanted = |path: &[u8]| paths.contains(path);
        Ok(bytes(file)?.and_then(|bytes| collect(Records::of(&bytes)?, |records| records.entries_of(wanted))))
    }

    /// Whole, by rename.
    pub fn write(&self, file: &Path) -> io::Result<()> {
        let fresh = file.with_extension("banger-new");
        let mut output = File::create(&fresh)?;
        output.write_all(&[HEAD_LINE, &self.encoded(&[])].concat())?;
        output.sync_all()?;
        fs::rename(&fresh, file)
    }

    /// Adds this to what a ledger holds: the id comes last, and without it nothing was added.
    pub fn append(&self, file: &Path, gone: &[PathBuf]) -> io::Result<()> {
        let mut output = OpenOptions::new().append(true).open(file)?;
        output.write_all(&self.encoded(gone))?;
        output.sync_all()
    }

    fn encoded(&self, gone: &[PathBuf]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for path in gone {
            Entry::Gone(path.as_os_str().as_bytes()).encode(&mut bytes);
        }
        for (path, stamp) in &self.entries {
            Entry::There(*stamp, path.as_os_str().as_bytes()).encode(&mut bytes);
        }
        encode_id(&self.id, &mut bytes);
        bytes
    }

    /// What became of all this.
    pub fn compare(&self, folder: &Path) -> io::Result<WorkspaceState> {
        let mut state = WorkspaceState { known: true, ..WorkspaceState::default() };
        let mut seen = 0;
        walk(folder, Path::new(""), &mut |path, facts| {
            match self.entries.get(path) {
                Some(before) => {
                    seen += 1;
                    if *before != stamp(facts) {
                        let counter = if is_git(path) { &mut state.history } else { &mut state.changed };
                        *counter += 1;
                        example(&mut state.examples, path);
                    }
                }
                None if is_git(path) => state.history += 1,
                None => state.added += 1,
            }
            Ok(())
        })?;
        if seen < self.len() {
            for path in self.paths().filter(|path| fs::symlink_metadata(folder.join(path)).is_err()) {
                let counter = if is_git(path) { &mut state.history } else { &mut state.removed };
                *counter += 1;
                example(&mut state.examples, path);
            }
        }
        Ok(state)
    }

    /// As [`Ledger::compare`], looking at nothing but these paths.
    pub fn compare_own(&self, folder: &Path) -> io::Result<WorkspaceState> {
        let mut state = WorkspaceState { known: true, ..WorkspaceState::default() };
        let now = self.anew(folder)?;
        for (path, before) in &self.entries {
            let counter = match now.entries.get(path) {
                Some(now) if now == before => continue,
                _ if is_git(path) => &mut state.history,
                Some(_) => &mut state.changed,
                None => &mut state.removed,
            };
            *counter += 1;
            example(&mut state.examples, path);
        }
        Ok(state)
    }
}

fn bytes(file: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(file) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn collect<'a, I: Iterator<Item = Option<Entry<'a>>>>(
    records: Records<'a>,
    entries: impl FnOnce(Records<'a>) -> I,
) -> Option<Ledger> {
    let mut ledger = Ledger { id: records.id.to_owned(), entries: BTreeMap::new() };
    for entry in entries(records) {
        let entry = entry?;
        let path = PathBuf::from(OsString::from_vec(entry.path().to_vec()));
        match entry {
            Entry::There(stamp, _) => drop(ledger.entries.insert(path, stamp)),
            Entry::Gone(_) => drop(ledger.entries.remove(&path)),
        }
    }
    Some(ledger)
}

/// Below a `.git`.
pub fn is_git(path: &Path) -> bool {
    path.components().any(|part| part == Component::Normal(OsStr::new(".git")))
}

pub fn example(examples: &mut Vec<String>, path: &Path) {
    if examples.len() < MAX_EXAMPLES {
        examples.push(path.display().to_string().escape_debug().to_string());
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Every file and link below `folder` that counts, by its path from there. What vanishes meanwhile is passed over.
fn walk(folder: &Path, below: &Path, found: &mut dyn FnMut(&Path, &Metadata) -> io::Result<()>) -> io::Result<()> {
    let listed = match fs::read_dir(folder.join(below)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        listed => listed?,
    };
    for entry in listed {
        let entry = entry?;
        let path = below.join(entry.file_name());
        if !counts(path.as_os_str().as_bytes()) {
            continue;
        }
        match entry.metadata() {
            Ok(facts) if facts.is_dir() => walk(folder, &path, found)?,
            Ok(facts) => found(&path, &facts)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ledger_reads_back_with_every_name() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path().join("top");
        fs::create_dir_all(top.join(".git/objects")).unwrap();
        fs::create_dir_all(top.join(".git/refs/banger")).unwrap();
        for name in [&b"a b"[..], b"new\nline", b"\xff", b".git/HEAD", b".git/objects/x", b".git/refs/banger/x"] {
            fs::write(top.join(OsStr::from_bytes(name)), "x").unwrap();
        }
        let mut ledger = Ledger::of(&top).unwrap();
        ledger.id = "0123".into();
        assert_eq!(ledger.len(), 4, "{ledger:?}");
        let file = folder.path().join(".top.banger");
        ledger.write(&file).unwrap();
        assert_eq!(Ledger::read(&file).unwrap(), Some(ledger));
        fs::write(&file, "of another version").unwrap();
        assert_eq!(Ledger::read(&file).unwrap(), None);
    }

    #[test]
    fn what_is_appended_counts_and_a_look_shows_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(".top.banger");
        let stamp = |size| Stamp { changed_ns: 1, size, mode: 0o100_644 };
        let mut first = Ledger { id: "1".into(), entries: BTreeMap::new() };
        for name in ["a", "b", "c"] {
            first.add(Path::new(name), stamp(1));
        }
        first.write(&file).unwrap();
        let mut second = Ledger { id: "2".into(), entries: BTreeMap::new() };
        second.add(Path::new("b"), stamp(2));
        second.append(&file, &[PathBuf::from("c")]).unwrap();
        let whole = Ledger::read(&file).unwrap().unwrap();
        assert_eq!((whole.id.as_str(), whole.len()), ("2", 2));
        assert_eq!(whole.entries[Path::new("b")], stamp(2));
        let looked = Ledger::look(&file, &HashSet::from([&b"b"[..], b"c", b"d"])).unwrap().unwrap();
        assert_eq!(looked, second);
    }

    #[test]
    fn what_the_guest_did_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path();
        fs::create_dir_all(top.join(".git/refs/heads")).unwrap();
        for name in ["kept", "changed", "removed", ".git/HEAD", ".git/index"] {
            fs::write(top.join(name), "x").unwrap();
        }
        let ledger = Ledger::of(top).unwrap();
        assert!(ledger.compare(top).unwrap().is_untouched());
        assert!(ledger.compare_own(top).unwrap().is_untouched());
        std::thread::sleep(std::time::Duration::from_millis(20));
        fs::write(top.join("changed"), "y").unwrap();
        fs::remove_file(top.join("removed")).unwrap();
        fs::write(top.join(".git/index"), "other").unwrap();
        fs::write(top.join(".git/refs/heads/new"), "x").unwrap();
        fs::write(top.join("added"), "x").unwrap();
        let state = ledger.compare(top).unwrap();
        assert_eq!((state.changed, state.removed, state.history, state.added), (1, 1, 1, 1), "{state:?}");
        assert_eq!(state.examples, ["changed", "removed"]);
        let state = ledger.compare_own(top).unwrap();
        assert_eq!((state.changed, state.removed, state.history, state.added), (1, 1, 0, 0), "{state:?}");
    }
}
