//! What changed on the host since the last shipment, so that only that travels again.
//!
//! The host remembers of every shipped file its kind, size, inode and times; one whose facts are the same was not written to
//! (the kernel stamps every change with a new `ctime`, inode(7)). Commits travel as one pack of what the guest lacks. A
//! repository that went another way (other folder, rewritten history, submodules) is shipped whole.

use super::Result;
use super::git::Git;
use super::inspect::{Repository, Source};
use super::list::Entry;
use super::prepare::Preparation;
use super::settings::{self, Change, Settings};
use model::workspace::{Workspace, WorkspaceMode};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

const HEAD_LINE: &[u8] = b"banger shipped 2\n";
/// More new commits than this are another history rather than a day's work.
const MAX_COMMITS: u64 = 500;

/// 2 s: within one tick of its clock the kernel stamps two changes alike, so a file that was just written to may change again
/// without a sign.
const SETTLED_S: i64 = 2;
/// The facts of such a file: it always counts as changed.
const FRESH: &str = "fresh";

/// The facts of a shipped file, in one line.
type Facts = String;

/// What was shipped the last time, path by path.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// The shipment's name, which the guest's ledger has, too.
    pub id: String,
    settings: Settings,
    files: BTreeMap<PathBuf, Facts>,
}

impl Manifest {
    /// As the files are now: taken before they are read, so that one that changes meanwhile counts as changed.
    pub fn take(preparation: &Preparation, id: String) -> Manifest {
        let top = preparation.host_path();
        let facts = |path: &PathBuf| Some((path.clone(), facts(&top.join(path).symlink_metadata().ok()?)));
        let settings = match &preparation.source {
            Source::Git(repository) => repository.settings.clone(),
            Source::Folder { .. } => Settings::new(),
        };
        Manifest { id, settings, files: preparation.entries.iter().filter_map(|entry| facts(&entry.path)).collect() }
    }

    pub fn read(file: &Path) -> Option<Manifest> {
        let bytes = fs::read(file).ok()?;
        let mut lines = bytes.strip_prefix(HEAD_LINE)?.split(|byte| *byte == 0);
        let mut text = || String::from_utf8(lines.next()?.to_vec()).ok();
        let (id, settings) = (text()?, serde_json::from_str(&text()?).ok()?);
        let entry = |line: &[u8]| {
            let blank = line.iter().position(|byte| *byte == b' ')?;
            let path = PathBuf::from(OsString::from_vec(line[blank + 1..].to_vec()));
            Some((path, String::from_utf8(line[..blank].to_vec()).ok()?))
        };
        let files = lines.filter(|line| !line.is_empty()).map(entry).collect::<Option<_>>()?;
        Some(Manifest { id, settings, files })
    }

    /// Whole, by rename.
    pub fn write(&self, file: &Path) -> io::Result<()> {
        let fresh = file.with_extension("new");
        let mut output = BufWriter::new(fs::File::create(&fresh)?);
        output.write_all(HEAD_LINE)?;
        write!(output, "{}\0{}\0", self.id, serde_json::to_string(&self.settings)?)?;
        for (path, facts) in &self.files {
            output.write_all(facts.as_bytes())?;
            output.write_all(b" ")?;
            output.write_all(path.as_os_str().as_bytes())?;
            output.write_all(b"\0")?;
        }
        output.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        fs::rename(&fresh, file)
    }
}

fn facts(facts: &fs::Metadata) -> Facts {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(i64::MAX, |since| since.as_secs() as i64);
    if facts.ctime() > now - SETTLED_S {
        return FRESH.to_owned();
    }
    let (mode, size, inode) = (facts.mode(), facts.size(), facts.ino());
    format!("{mode:o}:{size}:{inode}:{}.{}:{}.{}", facts.mtime(), facts.mtime_nsec(), facts.ctime(), facts.ctime_nsec())
}

/// What travels instead of everything.
#[derive(Debug)]
pub struct Delta {
    /// The shipment that it changes.
    pub base: String,
    /// Listed paths that changed or are new.
    pub changed: Vec<Entry>,
    /// Paths that the guest still has and the host has no more.
    pub removed: Vec<PathBuf>,
    /// The commit that the guest has; none for a plain folder.
    pub known: Option<String>,
    /// Settings that changed, and the guest's configuration, if somebody looked.
    pub settings: Vec<Change>,
    pub guest_config: Option<Vec<u8>>,
    /// The guest has had it since it booted, and nobody has worked on it.
    pub fresh: bool,
}

/// None where everything has to travel.
pub fn delta(
    preparation: &Preparation,
    record: Option<&Workspace>,
    before: Option<Manifest>,
    now: &Manifest,
) -> Option<Delta> {
    let (record, before) = (record?, before?);
    let wish = &preparation.wish;
    let same = record.host_path == preparation.host_path().display().to_string()
        && record.mode == wish.mode
        && record.readonly == wish.readonly
        && record.depth == preparation.options.depth
        && !wish.discard
        && preparation.inner.is_empty();
    if !same {
        return None;
    }
    let known = match &preparation.source {
        Source::Git(repository) if wish.mode != WorkspaceMode::Files => {
            Some(known_commit(preparation, repository, record)?)
        }
        Source::Git(_) | Source::Folder { .. } => None,
    };
    Some(changes(preparation, known, before, now))
}

/// For a guest that began with this on its disk: `commit`, checked out without a branch.
pub fn delta_of_template(
    preparation: &Preparation,
    repository: &Repository,
    commit: &str,
    before: Manifest,
    now: &Manifest,
) -> Option<Delta> {
    let has_submodules = !preparation.inner.is_empty() || !super::list::submodules(repository).ok()?.is_empty();
    if has_submodules || preparation.options.from.is_some() {
        return None;
    }
    follows(repository, commit, repository.head.as_deref()?)?;
    Some(Delta { fresh: true, ..changes(preparation, Some(commit.to_owned()), before, now) })
}

fn changes(preparation: &Preparation, known: Option<String>, before: Manifest, now: &Manifest) -> Delta {
    let unchanged = |path: &PathBuf| {
        now.files.get(path).is_some_and(|facts| facts != FRESH && before.files.get(path) == Some(facts))
    };
    let changed = preparation.entries.iter().filter(|entry| !unchanged(&entry.path));
    let removed = before.files.keys().filter(|path| !now.files.contains_key(*path)).cloned();
    let changed = changed.cloned().collect();
    let removed = removed.collect();
    let settings = settings::changes(&before.settings, &now.settings);
    Delta { base: before.id, changed, removed, known, settings, guest_config: None, fresh: false }
}

/// The commit of the guest, if what is to be checked out follows it.
fn known_commit(preparation: &Preparation, repository: &Repository, record: &Workspace) -> Option<String> {
    let before = record.head_commit.clone()?;
    let now = preparation.head_commit()?;
    let has_submodules = !super::list::submodules(repository).ok()?.is_empty();
    if has_submodules || preparation.branch() != record.branch || preparation.options.from.is_some() {
        return None;
    }
    follows(repository, &before, &now).map(|()| before)
}

/// Whether `now` is `before`, or a day's work after it.
pub fn follows(repository: &Repository, before: &str, now: &str) -> Option<()> {
    if before == now {
        return Some(());
    }
    repository.git.ask(["merge-base", "--is-ancestor", "--end-of-options", before, now]).ok()?;
    let range = format!("{before}..{now}");
    let count = repository.git.line(["rev-list", "--count", "--end-of-options", &range]).ok()??;
    (count.parse::<u64>().ok()? <= MAX_COMMITS).then_some(())
}

/// Into the staged repository: one pack of the commits that follow `known` and of what the index holds beyond them.
pub fn pack(repository: &Repository, staged: &Git, known: &str, head: &str) -> Result<()> {
    let beyond = beyond_commit(repository, head)?;
    if beyond.is_empty() && known == head {
        return Ok(());
    }
    let mut wanted = beyond;
    if known != head {
        wanted.push(head.to_owned());
        wanted.push(format!("^{known}"));
    }
    let names: Vec<u8> = wanted.iter().flat_map(|name| [name.as_bytes(), b"\n"].concat()).collect();
    let arguments = ["pack-objects", "--revs", "--stdout", "-q"];
    repository.git.patient().pipe(arguments, &names, staged, ["index-pack", "--stdin"])
}

/// Blobs of the index that are not in the commit.
fn beyond_commit(repository: &Repository, head: &str) -> Result<Vec<String>> {
    let differs = repository.git.ask(["diff-index", "--cached", "--raw", "-z", "--no-abbrev", "--no-renames", head])?;
    // `:<mode> <mode> <name> <name> <status>`, then its path, in turns: a path may look like anything.
    let mut names = Vec::new();
    let mut words = differs.split(|byte| *byte == 0);
    while let (Some(line), Some(_path)) = (words.next(), words.next()) {
        let parts: Vec<_> = line.split(|byte| *byte == b' ').collect();
        if let [_, mode, _, name, _] = parts.as_slice()
            && *mode != b"160000"
            && name.iter().all(u8::is_ascii_hexdigit)
            && name.iter().any(|byte| *byte != b'0')
        {
            names.push(String::from_utf8_lossy(name).into_owned());
        }
    }
    names.sort();
    names.dedup();
    Ok(names)
}

/// The list of removed paths as the first entry of a delta's archive.
pub fn removed_list(removed: &[PathBuf]) -> Vec<u8> {
    removed.iter().flat_map(|path| [path.as_os_str().as_bytes(), b"\0"].concat()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_reads_back_with_every_name() {
        let folder = tempfile::tempdir().unwrap();
        let names = [&b"a b"[..], b"new\nline", b"\xff"];
        let files =
            names.map(|name| (PathBuf::from(OsString::from_vec(name.to_vec())), "100644:1:2:3.4:5.6".to_owned()));
        let settings = [("user.name".to_owned(), "new\nline".to_owned())].into();
        let manifest = Manifest { id: "0123".into(), settings, files: files.into() };
        let file = folder.path().join("x.shipped");
        manifest.write(&file).unwrap();
        assert_eq!(Manifest::read(&file), Some(manifest));
        fs::write(&file, "of another version").unwrap();
        assert_eq!(Manifest::read(&file), None);
    }
}
