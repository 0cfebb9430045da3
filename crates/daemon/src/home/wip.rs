//! The wip commit: everything in a guest's tree that git would track, as one commit on top of what is checked out.
//!
//! Nothing runs in the guest for it. The guest's index tells which files are as they were staged; the others are read,
//! hashed and handed to one `git fast-import`. What is staged and differs from both the last commit and the file is kept
//! in a commit of its own in between. Contents are taken as they lie there: no filter, no line ending is changed.

use super::excluded::Excluded;
use super::index::IndexEntry;
use super::manifest::Manifest;
use super::quarantine::{Quarantine, digest, judge, quote, spawn_bounded};
use super::refs::shown_path;
use super::state::{Fact, State, encode_path};
use super::tree::{Tree, guest};
use super::{HomeError, Result, limits};
use crate::workspace::WorkspaceError;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufWriter, Read, Write};
use std::process::{ChildStdin, Stdio};
use wire::guest::work::{Kind, Record};

const FILE: u32 = 0o100644;
const EXECUTABLE: u32 = 0o100755;
const LINK: u32 = 0o120000;
const SUBMODULE: u32 = 0o160000;

/// Mode and object of each path.
pub type Paths = BTreeMap<Vec<u8>, (u32, String)>;

pub struct Wip {
    /// The same as `head` where the tree is as it was committed.
    pub commit: Option<String>,
    pub changed_files: u64,
    pub complaints: Vec<String>,
}

pub struct Input<'a> {
    pub manifest: &'a Manifest,
    pub index: &'a [IndexEntry],
    /// When the index was written: an entry no older than that says nothing about its file.
    pub index_mtime_ns: i64,
    pub head: Option<&'a str>,
    pub excluded: Excluded,
    /// Nanoseconds since 1970-01-01 UTC, for the commit.
    pub now: u64,
}

pub fn build(tree: &mut dyn Tree, mut input: Input, quarantine: &Quarantine, state: &mut State) -> Result<Wip> {
    let mut complaints = Vec::new();
    let committed = match input.head {
        Some(head) => tree_of(quarantine, head)?,
        None => Paths::new(),
    };
    let sorted = sort(&mut input, &committed, state, &mut complaints);
    let Sorted { mut wanted, unsure, staged } = sorted;
    let staged = present(quarantine, staged)?;
    // An untouched tree needs no git at all.
    if unsure.is_empty() && staged.is_empty() && wanted == committed {
        state.wip_key.clear();
        return Ok(Wip { commit: input.head.map(str::to_owned), changed_files: 0, complaints });
    }
    let mut import = FastImport::start(quarantine)?;
    let read = import.read_all(tree, &unsure, quarantine, &mut wanted, &mut complaints);
    let facts = match read {
        Ok(facts) => facts,
        Err(error) => return Err(import.give_up(error)),
    };
    state.facts.retain(|path, _| wanted.contains_key(&super::state::decode_path(path).unwrap_or_default()));
    state.held_bytes = facts.values().fold(state.held_bytes, |held, fact| held.saturating_add(fact.size));
    state.facts.extend(facts);
    let changes = differences(&committed, &wanted);
    let staged: Paths = staged.into_iter().filter(|(path, entry)| wanted.get(path) != Some(entry)).collect();
    let key = key_of(input.head, &staged, &changes);
    let changed_files = changes.len() as u64;
    if changes.is_empty() && staged.is_empty() {
        import.finish()?;
        state.wip_key.clear();
        return Ok(Wip { commit: input.head.map(str::to_owned), changed_files, complaints });
    }
    let before = state.report.wip.clone().filter(|_| state.wip_key == key);
    if let Some(commit) = before {
        import.finish()?;
        return Ok(Wip { commit: Some(commit), changed_files, complaints });
    }
    let commit = import.commit(&input, &committed, &staged, &wanted)?;
    state.wip_key = key;
    Ok(Wip { commit: Some(commit), changed_files, complaints })
}

struct Sorted {
    /// What is known without reading; what must be read is added later.
    wanted: Paths,
    unsure: Vec<Record>,
    /// Staged content that is neither the last commit's nor (as far as is known) the file's.
    staged: Paths,
}

fn sort(input: &mut Input, committed: &Paths, state: &State, complaints: &mut Vec<String>) -> Sorted {
    let mut sorted = Sorted { wanted: Paths::new(), unsure: Vec::new(), staged: Paths::new() };
    let mut entries: BTreeMap<&[u8], &IndexEntry> = BTreeMap::new();
    for entry in input.index {
        // Of a conflict the file itself tells most.
        entries.entry(&entry.path).or_insert(entry);
        let (mode, object) = (entry.mode, entry.object.clone());
        let is_file = matches!(mode, FILE | EXECUTABLE | LINK);
        let same = committed.get(&entry.path) == Some(&(mode, object.clone()));
        if entry.stage == 0 && is_file && !same && !entry.intended {
            sorted.staged.insert(entry.path.clone(), (mode, object.clone()));
        }
        if mode == SUBMODULE || entry.skipped {
            sorted.wanted.insert(entry.path.clone(), (mode, object));
        }
    }
    for record in &input.manifest.work {
        let entry = entries.get(record.path.as_slice()).copied().filter(|entry| entry.mode != SUBMODULE);
        if entry.is_none() && input.excluded.is_excluded(&record.path, false) {
            continue;
        }
        if record.size > limits::FILE_BYTES {
            complaints.push(format!("`{}` is too large: {} bytes", shown_path(&record.path), record.size));
            // Told of, and not shown as deleted.
            if let Some(entry) = committed.get(&record.path) {
                sorted.wanted.insert(record.path.clone(), entry.clone());
            }
            continue;
        }
        match known_object(record, entry, input.index_mtime_ns, committed, state) {
            Some(object) => drop(sorted.wanted.insert(record.path.clone(), (mode_of(record), object))),
            None => sorted.unsure.push(record.clone()),
        }
    }
    // A file under a submodule, or in the place of one, cannot stand in the same tree as it.
    let submodules: BTreeSet<Vec<u8>> =
        sorted.wanted.iter().filter(|(_, (mode, _))| *mode == SUBMODULE).map(|(path, _)| path.clone()).collect();
    let outside = |path: &[u8]| !prefixes(path).any(|prefix| submodules.contains(prefix));
    sorted.wanted.retain(|path, (mode, _)| *mode == SUBMODULE || outside(path));
    sorted.unsure.retain(|record| outside(&record.path));
    sorted
}

/// `a/b/c`: `a`, `a/b`, `a/b/c`.
fn prefixes(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
    ends.chain([path.len()]).map(|end| &path[..end])
}

fn mode_of(record: &Record) -> u32 {
    match record.kind {
        Kind::Link => LINK,
        _ if record.mode & 0o100 != 0 => EXECUTABLE,
        _ => FILE,
    }
}

/// The object that a file is, if that is known without reading it: from our own memory, or because the guest's index says
/// so of this very file, and the last commit holds that object.
fn known_object(
    record: &Record,
    entry: Option<&IndexEntry>,
    index_mtime_ns: i64,
    committed: &Paths,
    state: &State,
) -> Option<String> {
    let same = |ours: i64, theirs: i64| ours == theirs || ours == 0 || theirs == 0;
    if let Some(fact) = state.facts.get(&encode_path(&record.path)) {
        let unchanged = fact.size == record.size
            && fact.mtime_ns == record.mtime_ns
            && same(fact.ctime_ns, record.ctime_ns)
            && same(fact.inode as i64, record.inode as i64);
        return unchanged.then(|| fact.object.clone());
    }
    let entry = entry.filter(|entry| entry.stage == 0 && !entry.intended)?;
    let in_commit = committed.get(&record.path).is_some_and(|(_, object)| *object == entry.object);
    let (seconds, rest) = (record.mtime_ns.div_euclid(1_000_000_000), record.mtime_ns.rem_euclid(1_000_000_000));
    // Files that arrived in an archive have whole seconds; the host's index that came with them has more.
    let same_time = i64::from(entry.mtime_s) == seconds && (i64::from(entry.mtime_ns) == rest || rest == 0);
    // git-update-index(1), "racy git": what was written at the same moment as the index may have changed unseen.
    let is_old = record.mtime_ns < index_mtime_ns;
    let same_size = u64::from(entry.size) == record.size & u64::from(u32::MAX);
    let same_kind = (entry.mode == LINK) == (record.kind == Kind::Link);
    (in_commit && same_time && same_size && same_kind && is_old).then(|| entry.object.clone())
}

fn tree_of(quarantine: &Quarantine, commit: &str) -> Result<Paths> {
    let listing = quarantine.git().ask(["ls-tree", "-r", "-z", "--full-tree", commit])?;
    let mut paths = Paths::new();
    for line in listing.split(|byte| *byte == 0).filter(|line| !line.is_empty()) {
        let Some(tab) = line.iter().position(|byte| *byte == b'\t') else { continue };
        let head = String::from_utf8_lossy(&line[..tab]);
        let mut words = head.split(' ');
        if let (Some(mode), Some(_), Some(object)) = (words.next(), words.next(), words.next()) {
            let mode = u32::from_str_radix(mode, 8).unwrap_or(FILE);
            paths.insert(line[tab + 1..].to_vec(), (mode, object.to_owned()));
        }
    }
    Ok(paths)
}

fn present(quarantine: &Quarantine, mut paths: Paths) -> Result<Paths> {
    let names: Vec<String> = paths.values().map(|(_, object)| object.clone()).collect();
    let missing = quarantine.missing(&names)?;
    paths.retain(|_, (_, object)| !missing.contains(object));
    Ok(paths)
}

type Changes = Vec<(Vec<u8>, Option<(u32, String)>)>;

fn differences(from: &Paths, to: &Paths) -> Changes {
    let gone = from.keys().filter(|path| !to.contains_key(*path)).map(|path| (path.clone(), None));
    let new = to.iter().filter(|(path, entry)| from.get(*path) != Some(entry));
    gone.chain(new.map(|(path, entry)| (path.clone(), Some(entry.clone())))).collect()
}

fn key_of(head: Option<&str>, staged: &Paths, changes: &Changes) -> String {
    let line = |path: &[u8], entry: Option<&(u32, String)>| {
        let entry = entry.map(|(mode, object)| format!("{mode:o} {object}")).unwrap_or_default();
        [entry.as_bytes(), b"\0", path].concat()
    };
    let staged: Vec<Vec<u8>> = staged.iter().map(|(path, entry)| line(path, Some(entry))).collect();
    let changes: Vec<Vec<u8>> = changes.iter().map(|(path, entry)| line(path, entry.as_ref())).collect();
    let head = head.unwrap_or_default().as_bytes();
    let count = (staged.len() as u64).to_le_bytes();
    let parts = staged.iter().chain(&changes).map(Vec::as_slice);
    digest([head, &count[..]].into_iter().chain(parts))
}

struct FastImport<'a> {
    quarantine: &'a Quarantine,
    child: std::process::Child,
    input: BufWriter<ChildStdin>,
}

const WIP: &str = "refs/banger/wip";

impl FastImport<'_> {
    fn start(quarantine: &Quarantine) -> Result<FastImport<'_>> {
        let words = ["fast-import", "--quiet", "--force", "--date-format=raw", "--done"];
        let mut command = quarantine.git().command(words);
        let mut child = spawn_bounded(command.stdin(Stdio::piped()).stdout(Stdio::null()))?;
        let input = BufWriter::with_capacity(256 * 1024, child.stdin.take().expect("stdin is piped"));
        Ok(FastImport { quarantine, child, input })
    }

    /// Reads the files and adds what they are to `wanted`; answers what to remember of them.
    fn read_all(
        &mut self,
        tree: &mut dyn Tree,
        unsure: &[Record],
        quarantine: &Quarantine,
        wanted: &mut Paths,
        complaints: &mut Vec<String>,
    ) -> Result<BTreeMap<String, Fact>> {
        let mut facts = BTreeMap::new();
        let mut fetched = 0_u64;
        let paths: Vec<Vec<u8>> = unsure.iter().map(|record| record.path.clone()).collect();
        let place = tree.path().to_owned();
        tree.read(&paths, &mut |number, record, content| {
            let path = &paths[number];
            fetched = fetched.saturating_add(record.size);
            if record.kind != Kind::File && record.kind != Kind::Link {
                return Ok(());
            }
            if record.size > limits::FILE_BYTES || fetched > limits::LOOK_BYTES {
                complaints.push(format!("`{}` is too large: {} bytes", shown_path(path), record.size));
                return Ok(());
            }
            let object = self.blob(record.size, content, quarantine).map_err(|error| match error {
                BlobError::Guest(source) => guest(&place, source),
                BlobError::Git(source) => HomeError::Git { source: Box::new(WorkspaceError::NoGit { source }) },
            })?;
            wanted.insert(path.clone(), (mode_of(record), object.clone()));
            facts.insert(
                encode_path(path),
                Fact {
                    size: record.size,
                    mtime_ns: record.mtime_ns,
                    ctime_ns: record.ctime_ns,
                    inode: record.inode,
                    object,
                },
            );
            Ok(())
        })?;
        Ok(facts)
    }

    fn blob(
        &mut self,
        size: u64,
        content: &mut dyn Read,
        quarantine: &Quarantine,
    ) -> std::result::Result<String, BlobError> {
        let mut hasher = quarantine.hash().begin();
        hasher.update(format!("blob {size}\0").as_bytes());
        write!(self.input, "blob\ndata {size}\n").map_err(BlobError::Git)?;
        let mut chunk = [0; 64 * 1024];
        let mut left = size;
        while left > 0 {
            let count = content.read(&mut chunk).map_err(BlobError::Guest)?;
            if count == 0 {
                return Err(BlobError::Guest(io::ErrorKind::UnexpectedEof.into()));
            }
            left = left.saturating_sub(count as u64);
            hasher.update(&chunk[..count]);
            self.input.write_all(&chunk[..count]).map_err(BlobError::Git)?;
        }
        self.input.write_all(b"\n").map_err(BlobError::Git)?;
        Ok(hasher.finish())
    }

    fn commit(mut self, input: &Input, committed: &Paths, staged: &Paths, wanted: &Paths) -> Result<String> {
        let write = |out: &mut BufWriter<ChildStdin>| -> io::Result<()> {
            let mut before = committed.clone();
            let mut parent = input.head.map(str::to_owned);
            writeln!(out, "reset {WIP}\n")?;
            if !staged.is_empty() {
                let mut with_staged = before.clone();
                with_staged.extend(staged.iter().map(|(path, entry)| (path.clone(), entry.clone())));
                write_commit(
                    out,
                    "staged in the guest",
                    input.now,
                    parent.as_deref(),
                    &differences(&before, &with_staged),
                )?;
                before = with_staged;
                // Without `from`, fast-import goes on from the commit before.
                parent = None;
            }
            write_commit(out, "not committed in the guest", input.now, parent.as_deref(), &differences(&before, wanted))
        };
        if let Err(source) = write(&mut self.input) {
            return Err(self.give_up(WorkspaceError::NoGit { source }.into()));
        }
        let quarantine = self.quarantine;
        self.finish()?;
        let line = quarantine.git().line(["rev-parse", "--verify", "--quiet", &format!("{WIP}^{{commit}}")])?;
        line.ok_or_else(|| {
            let said = "it made no commit of the guest's files".to_owned();
            WorkspaceError::Git { path: quarantine.folder().to_owned(), said }.into()
        })
    }

    /// Why it ended, if it ended by itself; else it is ended because of this error.
    fn give_up(mut self, error: HomeError) -> HomeError {
        if !matches!(error, HomeError::Git { .. }) {
            // One that is gone needs no ending.
            let _ = self.child.kill();
        }
        drop(self.input);
        let ended = self.child.wait_with_output().map(|output| judge(self.quarantine.git(), output));
        match (ended, error) {
            (Ok(Err(said)), HomeError::Git { .. }) => said,
            (_, error) => error,
        }
    }

    fn finish(mut self) -> Result<()> {
        // A git that has ended tells why below.
        let _ = self.input.write_all(b"done\n");
        let _ = self.input.flush();
        drop(self.input);
        let output = self.child.wait_with_output();
        let output = output.map_err(|source| HomeError::from(WorkspaceError::NoGit { source }))?;
        judge(self.quarantine.git(), output).map(drop)
    }
}

enum BlobError {
    Guest(io::Error),
    Git(io::Error),
}

fn write_commit(
    out: &mut impl Write,
    subject: &str,
    now: u64,
    parent: Option<&str>,
    changes: &Changes,
) -> io::Result<()> {
    writeln!(out, "commit {WIP}")?;
    writeln!(out, "committer banger <banger@localhost> {} +0000", now / 1_000_000_000)?;
    writeln!(out, "data {}\n{subject}", subject.len())?;
    if let Some(parent) = parent {
        writeln!(out, "from {parent}")?;
    }
    // Deletions first: a file may stand where a folder was.
    for (path, entry) in changes {
        if entry.is_none() {
            out.write_all(&[b"D ", quote(path).as_slice(), b"\n"].concat())?;
        }
    }
    for (path, entry) in changes {
        if let Some((mode, object)) = entry {
            let head = format!("M {mode:o} {object} ");
            out.write_all(&[head.as_bytes(), quote(path).as_slice(), b"\n"].concat())?;
        }
    }
    writeln!(out)
}
