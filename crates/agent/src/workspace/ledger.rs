//! What was put in place: every path with the moment of its last change, so that what the guest did since shows.
//!
//! The kernel stamps a changed or renamed file with a new `ctime`, which no program can set (inode(7)): one that has the
//! old one is the shipped one. Of a `.git` only HEAD and references count: objects and the index change without meaning
//! work, and `refs/banger` is the host's. Folders count through what is in them.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use wire::guest::{MAX_EXAMPLES, WorkspaceState};

const HEAD_LINE: &[u8] = b"banger workspace 1\n";

/// A file or link at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    changed_ns: i128,
    size: u64,
    mode: u32,
}

impl Stamp {
    fn of(facts: &Metadata) -> Stamp {
        let changed_ns = i128::from(facts.ctime()) * 1_000_000_000 + i128::from(facts.ctime_nsec());
        Stamp { changed_ns, size: facts.size(), mode: facts.mode() }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ledger {
    /// The shipment that was put in place last.
    pub id: String,
    entries: BTreeMap<PathBuf, Stamp>,
}

impl Ledger {
    /// As the tree lies there now; `only` these paths, since the guest's own are none of ours.
    pub fn of(folder: &Path, only: Option<&Ledger>) -> io::Result<Ledger> {
        let mut entries = BTreeMap::new();
        walk(folder, Path::new(""), &mut |path, facts| {
            if only.is_none_or(|only| only.entries.contains_key(path)) {
                entries.insert(path.to_owned(), Stamp::of(facts));
            }
            Ok(())
        })?;
        Ok(Ledger { id: String::new(), entries })
    }

    pub fn len(&self) -> u64 {
        self.entries.len() as u64
    }

    pub fn holds(&self, path: &Path) -> bool {
        self.entries.contains_key(path)
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
        match fs::read(file) {
            Ok(bytes) => Ok(parse(&bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whole, by rename.
    pub fn write(&self, file: &Path) -> io::Result<()> {
        let fresh = file.with_extension("banger-new");
        let mut output = BufWriter::new(fs::File::create(&fresh)?);
        output.write_all(HEAD_LINE)?;
        write!(output, "{}\0", self.id)?;
        for (path, stamp) in &self.entries {
            write!(output, "{} {} {:o} ", stamp.changed_ns, stamp.size, stamp.mode)?;
            output.write_all(path.as_os_str().as_bytes())?;
            output.write_all(b"\0")?;
        }
        output.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        fs::rename(&fresh, file)
    }

    /// What became of all this.
    pub fn compare(&self, folder: &Path) -> io::Result<WorkspaceState> {
        let mut state = WorkspaceState { known: true, ..WorkspaceState::default() };
        let mut seen = 0;
        walk(folder, Path::new(""), &mut |path, facts| {
            match self.entries.get(path) {
                Some(stamp) => {
                    seen += 1;
                    if *stamp != Stamp::of(facts) {
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

/// Every file and link below `folder` that counts, by its path from there. What vanishes meanwhile is passed over.
fn walk(folder: &Path, below: &Path, found: &mut dyn FnMut(&Path, &Metadata) -> io::Result<()>) -> io::Result<()> {
    let listed = match fs::read_dir(folder.join(below)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        listed => listed?,
    };
    for entry in listed {
        let entry = entry?;
        let path = below.join(entry.file_name());
        if !counts(&path) {
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

/// Of a git folder: itself, HEAD, `packed-refs` and `refs` but for `refs/banger`.
fn counts(path: &Path) -> bool {
    let mut parts = path.components().map(Component::as_os_str).skip_while(|part| *part != ".git").skip(1);
    let (first, second) = (parts.next(), parts.next());
    match first.map(OsStr::as_bytes) {
        None | Some(b"HEAD" | b"packed-refs") => true,
        Some(b"refs") => second.is_none_or(|name| name != "banger"),
        Some(_) => false,
    }
}

fn parse(bytes: &[u8]) -> Option<Ledger> {
    let mut entries = BTreeMap::new();
    let mut lines = bytes.strip_prefix(HEAD_LINE)?.split(|byte| *byte == 0);
    let id = String::from_utf8(lines.next()?.to_vec()).ok()?;
    for line in lines.filter(|line| !line.is_empty()) {
        let mut parts = line.splitn(4, |byte| *byte == b' ');
        let mut text = || std::str::from_utf8(parts.next()?).ok();
        let (changed_ns, size, mode) = (text()?, text()?, text()?);
        let stamp = Stamp {
            changed_ns: changed_ns.parse().ok()?,
            size: size.parse().ok()?,
            mode: u32::from_str_radix(mode, 8).ok()?,
        };
        entries.insert(PathBuf::from(OsString::from_vec(parts.next()?.to_vec())), stamp);
    }
    Some(Ledger { id, entries })
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
        let mut ledger = Ledger::of(&top, None).unwrap();
        ledger.id = "0123".into();
        assert_eq!(ledger.len(), 4, "{ledger:?}");
        let file = folder.path().join(".top.banger");
        ledger.write(&file).unwrap();
        assert_eq!(Ledger::read(&file).unwrap(), Some(ledger));
        fs::write(&file, "of another version").unwrap();
        assert_eq!(Ledger::read(&file).unwrap(), None);
    }

    #[test]
    fn what_the_guest_did_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path();
        fs::create_dir_all(top.join(".git/refs/heads")).unwrap();
        for name in ["kept", "changed", "removed", ".git/HEAD", ".git/index"] {
            fs::write(top.join(name), "x").unwrap();
        }
        let ledger = Ledger::of(top, None).unwrap();
        assert!(ledger.compare(top).unwrap().is_untouched());
        std::thread::sleep(std::time::Duration::from_millis(20));
        fs::write(top.join("changed"), "y").unwrap();
        fs::remove_file(top.join("removed")).unwrap();
        fs::write(top.join(".git/index"), "other").unwrap();
        fs::write(top.join(".git/refs/heads/new"), "x").unwrap();
        fs::write(top.join("added"), "x").unwrap();
        let state = ledger.compare(top).unwrap();
        assert_eq!((state.changed, state.removed, state.history, state.added), (1, 1, 1, 1), "{state:?}");
        assert_eq!(state.examples, ["changed", "removed"]);
    }
}
