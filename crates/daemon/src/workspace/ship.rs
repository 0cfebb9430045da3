//! The tar stream of a workspace: a staged `.git` first, then every listed path as it is on the host at this moment.
//!
//! The staged repository is made below a scratch folder of ours: shallow history of the commit that is checked out, the
//! host's own index (so staged, unstaged, deleted, renamed and skipped states are the host's), the objects which that
//! index names and the history lacks, and the few settings that change how a status reads. Files are opened relative to
//! the top without following any link, so a tree that changes under us or lies can never show us another folder.

use super::delta::{self, Delta};
use super::inspect::{Repository, Source};
use super::list::{Entry, Selection, list, submodules};
use super::quote::quote;
use super::stage::{stage, stage_changes};
use super::{Result, WorkspaceError};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, openat2, readlinkat};
use std::fs::{File, Metadata};
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
