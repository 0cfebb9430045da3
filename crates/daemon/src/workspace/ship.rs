//! The tar stream of a workspace: a staged `.git` first, then every listed path as it is on the host at this moment.
//!
//! The staged repository is made below a scratch folder of ours: shallow history of the commit that is checked out, the
//! host's own index (so staged, unstaged, deleted, renamed and skipped states are the host's), the objects which that
//! index names and the history lacks, and the few settings that change how a status reads. Files are opened relative to
//! the top without following any link, so a tree that changes under us or lies can never show us another folder.

use super::delta::{self, Delta};
use super::git::Git;
use super::inspect::{Repository, Source};
use super::list::{Entry, Selection, list, submodules};
use super::quote::quote;
use super::settings;
use super::{Result, WorkspaceError};
use crate::home::quarantine::Hash;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, openat2, readlinkat};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{File, FileTimes, Metadata};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use wire::guest::ledger;

pub use model::workspace::DEFAULT_DEPTH;
/// 64 KiB: a disk with less is full for any git.
const LITTLE_BYTES: u64 = 64 << 10;
/// How deep submodules may nest; deeper ones are shipped without their own repository.
const MAX_SUBMODULE_DEPTH: u32 = 8;

#[derive(Debug, Clone, Default)]
pub struct ShipOptions {
    pub selection: Selection,
    /// Commits of history; none means all of it.
    pub depth: Option<u32>,
    /// Check out this branch in the guest, made from `from`.
    pub branch: Option<String>,
    /// The commit to start `branch` from, already resolved.
    pub from: Option<String>,
    /// Take the write permission from the files.
    pub readonly: bool,
    /// No repository at all.
    pub files_only: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shipped {
    pub files: u64,
    pub bytes: u64,
    pub head: Option<String>,
    /// One line each: what was left out and why.
    pub notes: Vec<String>,
}

/// Writes the whole workspace as one tar: `entries` are what [`list`] answered. `scratch` is an empty folder of ours, used
/// for the staged repository.
pub fn ship(
    source: &Source,
    entries: &[Entry],
    options: &ShipOptions,
    scratch: &Path,
    out: &mut dyn Write,
) -> Result<Shipped> {
    let mut shipment = Shipment::new(source, options, out);
    if let Source::Git(repository) = source {
        let staged = shipment.repository(repository, options, scratch, Path::new(""), 0);
        staged.map_err(|error| for_want_of_room(scratch, error))?;
    }
    shipment.files(source.path(), entries, Path::new(""))?;
    shipment.finish()
}

/// Writes only what changed since the last shipment.
pub fn ship_delta(
    source: &Source,
    delta: &Delta,
    options: &ShipOptions,
    scratch: &Path,
    out: &mut dyn Write,
) -> Result<Shipped> {
    let mut shipment = Shipment::new(source, options, out);
    shipment.append_bytes(Path::new(wire::guest::REMOVED_LIST), &delta::removed_list(&delta.removed))?;
    if let (Source::Git(repository), Some(known)) = (source, &delta.known) {
        let staged = scratch.join("changes");
        stage_changes(repository, options, delta, known, &staged).map_err(|error| for_want_of_room(scratch, error))?;
        shipment.append_tree(&staged.join(".git"), Path::new(".git"))?;
        shipment.shipped.head = repository.head.clone();
    }
    shipment.files(source.path(), &delta.changed, Path::new(""))?;
    shipment.finish()
}

/// 100 bytes of a link's target fit in its header (POSIX, ustar); what is longer goes before it, as GNU tar has it.
const LINK_BYTES: usize = 100;
/// 3: what is written to again and again arrives as it was once, and that is said.
const READS: u32 = 3;

/// How a file fared while it was read.
enum Content {
    Still,
    Changed,
    Gone,
}

/// Writes what a template holds: the commit `options.from`, checked out without a branch, the files of `entries`, and the
/// ledger of all that, by which the agent knows it. `place`: the folder on the disk, and the shipment's name.
pub fn ship_template(
    repository: &Repository,
    entries: &[Entry],
    options: &ShipOptions,
    scratch: &Path,
    (place, id): (&Path, &str),
    out: &mut dyn Write,
) -> Result<()> {
    // As if nothing were checked out on the host: neither its branch nor its index goes along.
    let committed = Repository { branch: None, head: None, ..repository.clone() };
    let source = Source::Git(Box::new(committed));
    let mut shipment = Shipment::new(&source, options, out);
    shipment.below = place.to_owned();
    shipment.ledger = Some(ledger::HEAD_LINE.to_vec());
    let Source::Git(committed) = &source else { unreachable!("it was made one above") };
    stage(committed, options, scratch)?;
    shipment.append_tree(&scratch.join(".git"), Path::new(".git"))?;
    shipment.files(&repository.top, entries, Path::new(""))?;
    let mut written = shipment.ledger.take().expect("it was given one above");
    ledger::encode_id(id, &mut written);
    let name = [b".", place.file_name().unwrap_or_default().as_bytes(), b".banger"].concat();
    shipment.below = place.parent().unwrap_or(Path::new("")).to_owned();
    shipment.append_bytes(Path::new(std::ffi::OsStr::from_bytes(&name)), &written)?;
    shipment.finish().map(drop)
}

struct Shipment<'a> {
    tar: tar::Builder<&'a mut dyn Write>,
    shipped: Shipped,
    top: PathBuf,
    /// Where in the archive all of it lies.
    below: PathBuf,
    /// What goes into it, as the agent would note it on a disk that holds every file with the archive's time.
    ledger: Option<Vec<u8>>,
    /// Permissions that no file keeps.
    unwritable: u32,
    /// Repositories staged so far: each has a folder of its own.
    staged: u32,
}

impl<'a> Shipment<'a> {
    fn new(source: &Source, options: &ShipOptions, out: &'a mut dyn Write) -> Shipment<'a> {
        let mut tar = tar::Builder::new(out);
        tar.mode(tar::HeaderMode::Complete);
        tar.follow_symlinks(false);
        Shipment {
            tar,
            shipped: Shipped::default(),
            top: source.path().into(),
            below: PathBuf::new(),
            ledger: None,
            unwritable: if options.readonly { 0o222 } else { 0 },
            staged: 0,
        }
    }

    fn finish(self) -> Result<Shipped> {
        let Shipment { mut tar, shipped, top, .. } = self;
        tar.finish().map_err(|source| WorkspaceError::Write { path: top, source })?;
        Ok(shipped)
    }

    /// Stages the repository and appends it as `<below>/.git`; then its submodules, each with its files.
    fn repository(
        &mut self,
        repository: &Repository,
        options: &ShipOptions,
        scratch: &Path,
        below: &Path,
        nesting: u32,
    ) -> Result<()> {
        if !options.files_only {
            self.staged += 1;
            let staged = scratch.join(self.staged.to_string());
            stage(repository, options, &staged)?;
            self.append_tree(&staged.join(".git"), &below.join(".git"))?;
        }
        if below.as_os_str().is_empty() {
            self.shipped.head = repository.head.clone();
        }
        for link in submodules(repository)? {
            self.submodule(repository, &link, options, scratch, below, nesting + 1)?;
        }
        Ok(())
    }

    /// An initialized submodule travels as a repository of its own; one that is not stays an empty folder, as on the host.
    fn submodule(
        &mut self,
        parent: &Repository,
        link: &Path,
        options: &ShipOptions,
        scratch: &Path,
        below: &Path,
        nesting: u32,
    ) -> Result<()> {
        let place = below.join(link);
        let Some(child) = initialized(parent, link, nesting)? else {
            let is_there = open_below(&parent.top, link, OFlags::PATH | OFlags::DIRECTORY).is_ok();
            return if is_there { self.append_folder(&place, 0o755) } else { Ok(()) };
        };
        let own = ShipOptions { branch: None, from: None, ..options.clone() };
        self.repository(&child, &own, scratch, &place, nesting)?;
        let top = child.top.clone();
        let entries = list(&Source::Git(Box::new(child)), options.selection)?;
        self.files(&top, &entries, &place)
    }

    fn files(&mut self, top: &Path, entries: &[Entry], below: &Path) -> Result<()> {
        let folder = open_folder(top).map_err(|source| WorkspaceError::Read { path: top.to_owned(), source })?;
        entries.iter().try_for_each(|entry| self.file((top, &folder), &entry.path, &below.join(&entry.path)))
    }

    fn file(&mut self, (top, folder): (&Path, &OwnedFd), path: &Path, place: &Path) -> Result<()> {
        let read = |source: io::Error| WorkspaceError::Read { path: top.join(path), source };
        let handle = match open_in(folder, path, OFlags::PATH | OFlags::NOFOLLOW) {
            Ok(handle) => handle,
            // Gone since it was listed, or a folder on the way became a link: not what git tracks, so it stays here.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(());
            }
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
                self.note(path, "a folder on its way is a symbolic link");
                return Ok(());
            }
            Err(error) => return Err(read(error)),
        };
        let handle = File::from(handle);
        let metadata = handle.metadata().map_err(read)?;
        let kind = metadata.file_type();
        self.shipped.files += 1;
        if kind.is_symlink() {
            let target = readlinkat(&handle, "", Vec::new()).map_err(|error| read(error.into()))?;
            let mut header = header(tar::EntryType::Symlink, 0o777, 0, metadata.mtime());
            self.note_in_ledger(place, &header, target.as_bytes().len() as u64);
            let place = self.below.join(place);
            return self.append_link(&mut header, &place, target.as_bytes()).map_err(|source| self.write_error(source));
        }
        if !kind.is_file() {
            self.note(path, "it is neither a file nor a symbolic link");
            return Ok(());
        }
        for attempt in 1..=READS {
            match self.content((top, folder), path, place)? {
                Content::Still => break,
                Content::Gone if attempt == 1 => break,
                Content::Gone | Content::Changed if attempt < READS => {}
                Content::Gone | Content::Changed => self.note_restless(path),
            }
        }
        Ok(())
    }

    /// Appends what a file holds; the later of two copies counts. One that was written to meanwhile may look untouched to git
    /// and be neither the old nor the new.
    fn content(&mut self, (top, folder): (&Path, &OwnedFd), path: &Path, place: &Path) -> Result<Content> {
        let read = |source: io::Error| WorkspaceError::Read { path: top.join(path), source };
        let file = match open_in(folder, path, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK) {
            Ok(file) => File::from(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Content::Gone),
            Err(error) => return Err(read(error)),
        };
        let before = file.metadata().map_err(read)?;
        if !before.is_file() {
            return Ok(Content::Gone);
        }
        let size = before.len();
        let mode = (0o644 | (before.permissions().mode() & 0o111)) & !self.unwritable;
        let mut header = header(tar::EntryType::Regular, mode, size, before.mtime());
        self.note_in_ledger(place, &header, size);
        // The header promised `size` bytes; a file that shrinks or grows meanwhile is padded or cut to it.
        let exact = (&file).chain(io::repeat(0)).take(size);
        self.tar.append_data(&mut header, self.below.join(place), exact).map_err(|source| self.write_error(source))?;
        self.shipped.bytes += size;
        let stamp = |facts: &Metadata| (facts.len(), facts.mtime_nsec(), facts.ctime(), facts.ctime_nsec());
        let still = stamp(&before) == stamp(&file.metadata().map_err(read)?);
        Ok(if still { Content::Still } else { Content::Changed })
    }

    fn note_restless(&mut self, path: &Path) {
        let name = quote(path);
        self.shipped.notes.push(format!("`{name}` changed while it was read; what arrived is of one moment"));
    }

    /// The target byte for byte: the library's own way makes `a/b` of `a//b`, which git would call an edit.
    fn append_link(&mut self, header: &mut tar::Header, place: &Path, target: &[u8]) -> io::Result<()> {
        let short = &target[..target.len().min(LINK_BYTES)];
        if short.len() < target.len() {
            let mut long = self::header(tar::EntryType::GNULongLink, 0o644, target.len() as u64 + 1, 0);
            let name = b"././@LongLink";
            long.as_old_mut().name[..name.len()].copy_from_slice(name);
            long.set_cksum();
            self.tar.append(&long, target.chain(&[0][..]))?;
        }
        header.set_link_name_literal(short)?;
        self.tar.append_data(header, place, io::empty())
    }

    /// A staged folder of ours, whole; it belongs to root in the guest.
    fn append_tree(&mut self, from: &Path, place: &Path) -> Result<()> {
        self.append_folder(place, 0o755)?;
        let read = |source: io::Error| WorkspaceError::Read { path: from.to_owned(), source };
        for entry in std::fs::read_dir(from).map_err(read)? {
            let entry = entry.map_err(read)?;
            let (path, place) = (entry.path(), place.join(entry.file_name()));
            let facts = entry.metadata().map_err(read)?;
            if facts.is_dir() {
                self.append_tree(&path, &place)?;
            } else if facts.is_file() {
                let mode = facts.permissions().mode() & 0o777;
                let mut header = header(tar::EntryType::Regular, mode, facts.len(), facts.mtime());
                self.note_in_ledger(&place, &header, facts.len());
                let (file, place) = (File::open(&path).map_err(read)?, self.below.join(place));
                self.tar.append_data(&mut header, place, file).map_err(|source| self.write_error(source))?;
            }
        }
        Ok(())
    }

    fn note_in_ledger(&mut self, place: &Path, header: &tar::Header, size: u64) {
        let Some(written) = &mut self.ledger else { return };
        let path = place.as_os_str().as_bytes();
        let kind =
            if header.entry_type() == tar::EntryType::Symlink { FileType::Symlink } else { FileType::RegularFile };
        let (mode, mtime) = (header.mode().unwrap_or(0), header.mtime().unwrap_or(0));
        let changed_ns = i64::try_from(mtime).unwrap_or(i64::MAX).saturating_mul(1_000_000_000);
        if ledger::counts(path) {
            let stamp = ledger::Stamp { changed_ns, size, mode: kind.as_raw_mode() | mode };
            ledger::Entry::There(stamp, path).encode(written);
        }
    }

    fn append_bytes(&mut self, place: &Path, bytes: &[u8]) -> Result<()> {
        let mut header = header(tar::EntryType::Regular, 0o644, bytes.len() as u64, 0);
        let place = self.below.join(place);
        self.tar.append_data(&mut header, place, bytes).map_err(|source| self.write_error(source))
    }

    fn append_folder(&mut self, place: &Path, mode: u32) -> Result<()> {
        let mut header = header(tar::EntryType::Directory, mode, 0, 0);
        let place = self.below.join(place);
        self.tar.append_data(&mut header, place, io::empty()).map_err(|source| self.write_error(source))
    }

    fn note(&mut self, path: &Path, reason: &str) {
        self.shipped.notes.push(format!("`{}` stays here: {reason}", quote(path)));
    }

    fn write_error(&self, source: io::Error) -> WorkspaceError {
        WorkspaceError::Write { path: self.top.clone(), source }
    }
}

/// The repository of a submodule that is checked out; none for one that is not, or that is not what it seems.
pub(super) fn initialized(parent: &Repository, link: &Path, nesting: u32) -> Result<Option<Repository>> {
    let folder = parent.top.join(link);
    let inside = open_below(&parent.top, link, OFlags::PATH | OFlags::DIRECTORY).is_ok();
    if !inside || folder.join(".git").symlink_metadata().is_err() || nesting > MAX_SUBMODULE_DEPTH {
        return Ok(None);
    }
    let Source::Git(child) = super::inspect(&folder)? else { return Ok(None) };
    // A `.git` that points back out of this folder would make us ship the parent again.
    Ok((child.top == folder.canonicalize().unwrap_or(folder)).then_some(*child))
}

/// Makes `<staged>/.git`: what the guest gets instead of the host's git folder.
fn stage(repository: &Repository, options: &ShipOptions, staged: &Path) -> Result<()> {
    std::fs::create_dir_all(staged).map_err(|source| copy_failed(staged, source))?;
    let git = Git::own(staged);
    let format = format!("--object-format={}", repository.object_format);
    git.ask(["init", "--quiet", "--template=", &format, "--initial-branch=main"])?;
    let commit = options.from.as_ref().or(repository.head.as_ref());
    if let Some(commit) = commit {
        fetch(repository, &git, commit, options.depth)?;
    }
    point_head(repository, options, &git, commit)?;
    settings::configure(repository, &git)?;
    info(repository, &git)?;
    // A branch from another commit starts with that commit's tree; otherwise the host's index is the truth.
    match options.from.is_some() && options.from != repository.head {
        true => git.ask(["read-tree", "HEAD"]).map(|_| ()),
        false => index(repository, &git, staged),
    }
}

/// Makes what joins the guest's `.git`: its references as they shall be, the host's index, one pack of what it lacks, and its
/// configuration if settings of the host changed.
fn stage_changes(
    repository: &Repository,
    options: &ShipOptions,
    delta: &Delta,
    known: &str,
    staged: &Path,
) -> Result<()> {
    let failed = |source: io::Error| WorkspaceError::Write { path: staged.to_path_buf(), source };
    std::fs::create_dir_all(staged).map_err(failed)?;
    let git = Git::own(staged);
    let format = format!("--object-format={}", repository.object_format);
    git.ask(["init", "--quiet", "--template=", &format, "--initial-branch=main"])?;
    let head = repository.head.as_deref().unwrap_or(known);
    delta::pack(repository, &git, known, head)?;
    info(repository, &git)?;
    index_file(repository, &git, staged)?;
    // By hand: git refuses a reference to a commit that it has not.
    let folder = staged.join(".git");
    let write = |name: &str, text: String| -> Result<()> {
        let path = folder.join(name);
        let made = path.parent().map_or(Ok(()), std::fs::create_dir_all);
        made.and_then(|()| std::fs::write(path, text)).map_err(failed)
    };
    write("refs/banger/base", format!("{head}\n"))?;
    match options.branch.as_ref().or(repository.branch.as_ref()) {
        Some(branch) => {
            write(&format!("refs/heads/{branch}"), format!("{head}\n"))?;
            write("HEAD", format!("ref: refs/heads/{branch}\n"))?;
        }
        None => write("HEAD", format!("{head}\n"))?,
    }
    let config = folder.join("config");
    if delta.settings.is_empty() {
        return std::fs::remove_file(config).map_err(failed);
    }
    if let Some(text) = &delta.guest_config {
        let own = staged.join("config");
        std::fs::write(&own, text).map_err(failed)?;
        if settings::apply(&git, &own, &delta.settings).is_ok() {
            return std::fs::rename(own, config).map_err(failed);
        }
    }
    // One that is not there, or that git cannot read, is made anew.
    settings::configure(repository, &git)
}

/// Exactly the commits that `depth` allows, from the host's own objects, by the protocol git itself uses for strangers.
fn fetch(repository: &Repository, into: &Git, commit: &str, depth: Option<u32>) -> Result<()> {
    // The environment wins over what the repository says of missing objects: nothing is fetched from anywhere else.
    let upload = "GIT_ALLOW_PROTOCOL=none GIT_SSH_COMMAND=false GIT_NO_REPLACE_OBJECTS=1 GIT_GRAFT_FILE=/dev/null git -c safe.directory=* -c uploadpack.allowAnySHA1InWant=true -c core.fsmonitor=false upload-pack";
    let words = ["fetch", "--quiet", "--no-tags", "--no-write-fetch-head"];
    let mut arguments: Vec<OsString> = words.into_iter().map(OsString::from).collect();
    arguments.push(format!("--upload-pack={upload}").into());
    arguments.extend(depth.map(|depth| format!("--depth={depth}").into()));
    arguments.extend([repository.top.clone().into(), format!("{commit}:refs/banger/base").into()]);
    into.patient().ask(&arguments).map(|_| ())
}

fn point_head(repository: &Repository, options: &ShipOptions, git: &Git, commit: Option<&String>) -> Result<()> {
    let branch = options.branch.as_ref().or(repository.branch.as_ref());
    match (branch, commit) {
        (Some(branch), Some(commit)) => {
            let reference = format!("refs/heads/{branch}");
            git.ask(["update-ref", &reference, commit])?;
            git.ask(["symbolic-ref", "HEAD", &reference])?;
        }
        (Some(branch), None) => drop(git.ask(["symbolic-ref", "HEAD", &format!("refs/heads/{branch}")])?),
        (None, Some(commit)) => drop(git.ask(["update-ref", "--no-deref", "HEAD", commit])?),
        (None, None) => {}
    }
    Ok(())
}

fn info(repository: &Repository, git: &Git) -> Result<()> {
    let info = repository.common_folder.join("info");
    let own = repository.git_folder.join("info");
    for (from, name) in [(&info, "exclude"), (&info, "attributes"), (&own, "sparse-checkout")] {
        copy_small(&from.join(name), &git.folder().join(".git/info").join(name))?;
    }
    Ok(())
}

/// The host's index as it is, and the objects it names that the shipped history does not hold.
fn index(repository: &Repository, git: &Git, staged: &Path) -> Result<()> {
    index_file(repository, git, staged)?;
    let missing = missing_objects(git)?;
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<u8> = missing.iter().flat_map(|name| [name.as_bytes(), b"\n"].concat()).collect();
    repository.git.patient().pipe(["pack-objects", "--stdout", "-q"], &names, git, ["unpack-objects", "-q"])
}

fn index_file(repository: &Repository, git: &Git, staged: &Path) -> Result<()> {
    let from = repository.git_folder.join("index");
    if !from.symlink_metadata().is_ok_and(|found| found.is_file()) {
        return Ok(());
    }
    let read = |source: io::Error| copy_failed(&from, source);
    std::fs::copy(&from, staged.join(".git/index")).map_err(read)?;
    for shared in std::fs::read_dir(&repository.git_folder).map_err(read)?.flatten() {
        let is_file = shared.file_type().is_ok_and(|kind| kind.is_file());
        if is_file && shared.file_name().as_bytes().starts_with(b"sharedindex.") {
            std::fs::copy(shared.path(), staged.join(".git").join(shared.file_name())).map_err(read)?;
        }
    }
    git.ask(["update-index", "--no-split-index", "--no-untracked-cache", "--no-fsmonitor"])?;
    without_trees(repository, &staged.join(".git/index")).map_err(read)?;
    // By the index's time git tells which files it has to read after all (racy-git(7)): it stays the host's.
    let times = from.metadata().and_then(|facts| Ok(FileTimes::new().set_modified(facts.modified()?))).map_err(read)?;
    File::options().write(true).open(staged.join(".git/index")).and_then(|file| file.set_times(times)).map_err(read)
}

/// An index remembers trees that it once wrote; one that is in no commit would be missing in the guest.
fn without_trees(repository: &Repository, file: &Path) -> io::Result<()> {
    // Of this very index and this very commit: the host's may be others by now.
    let git = repository.git.clone().with_environment("GIT_INDEX_FILE", file);
    let head = repository.head.as_deref();
    if head.is_some_and(|head| git.ask(["diff-index", "--cached", "--quiet", head]).is_ok()) {
        return Ok(());
    }
    let hash = Hash::of_format(&repository.object_format);
    match crate::home::index::without_trees(&std::fs::read(file)?, hash) {
        Some(index) => std::fs::write(file, index),
        None => Ok(()),
    }
}

/// Blobs of the index that the staged repository lacks: what was added and not yet committed.
fn missing_objects(git: &Git) -> Result<Vec<String>> {
    let staged = git.ask(["ls-files", "-z", "--stage"])?;
    let lines = staged.split(|byte| *byte == 0).filter(|line| !line.is_empty() && !line.starts_with(b"160000 "));
    let names: BTreeSet<&[u8]> = lines.filter_map(|line| line.split(|byte| *byte == b' ').nth(1)).collect();
    let asked: Vec<u8> = names.iter().flat_map(|name| [name, &b"\n"[..]].concat()).collect();
    if asked.is_empty() {
        return Ok(Vec::new());
    }
    let answer = git.ask_with_input(["cat-file", "--batch-check"], &asked)?;
    let answer = String::from_utf8_lossy(&answer);
    let missing = answer.lines().filter_map(|line| line.strip_suffix(" missing"));
    Ok(missing.map(str::to_owned).collect())
}

/// Copies a regular file of at most 1 MiB; anything else is passed over.
fn copy_small(from: &Path, to: &Path) -> Result<()> {
    const LIMIT: u64 = 1 << 20;
    let fits = from.symlink_metadata().is_ok_and(|found| found.is_file() && found.len() <= LIMIT);
    if !fits {
        return Ok(());
    }
    let copy = || -> io::Result<()> {
        std::fs::create_dir_all(to.parent().expect("a file lies in a folder"))?;
        std::fs::copy(from, to).map(|_| ())
    };
    copy().map_err(|source| copy_failed(from, source))
}

/// Git does not always tell why it could not write.
fn for_want_of_room(scratch: &Path, error: WorkspaceError) -> WorkspaceError {
    let left = rustix::fs::statvfs(scratch).map(|facts| facts.f_bavail * facts.f_frsize);
    match error {
        WorkspaceError::Git { .. } if left.is_ok_and(|left| left < LITTLE_BYTES) => {
            let source = rustix::io::Errno::NOSPC.into();
            WorkspaceError::Write { path: scratch.to_path_buf(), source }
        }
        error => error,
    }
}

/// Which side of a copy it was.
fn copy_failed(path: &Path, source: io::Error) -> WorkspaceError {
    let path = path.to_path_buf();
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => WorkspaceError::Write { path, source },
        _ => WorkspaceError::Read { path, source },
    }
}

/// A regular file of at most 64 KiB below `top` as text; none where it is anything else.
pub(super) fn read_small(top: &Path, path: &Path) -> Result<Option<String>> {
    const LIMIT: u64 = 64 << 10;
    let Ok(file) = open_below(top, path, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK) else { return Ok(None) };
    let read = |source: io::Error| WorkspaceError::Read { path: top.join(path), source };
    let file = File::from(file);
    let facts = file.metadata().map_err(read)?;
    if !facts.is_file() || facts.len() > LIMIT {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.take(LIMIT).read_to_end(&mut bytes).map_err(read)?;
    Ok(String::from_utf8(bytes).ok())
}

/// Opens below `top` without following a link anywhere on the way (openat2(2)).
fn open_below(top: &Path, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    open_in(&open_folder(top)?, path, flags)
}

fn open_folder(top: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(top, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

fn open_in(folder: &OwnedFd, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    // With PATH and NOFOLLOW a final link is opened itself; one on the way is refused all the same (openat2(2)).
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    Ok(openat2(folder, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)?)
}

fn header(kind: tar::EntryType, mode: u32, size: u64, mtime: i64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(u64::try_from(mtime).unwrap_or(0));
    header.set_uid(0);
    header.set_gid(0);
    header
}
