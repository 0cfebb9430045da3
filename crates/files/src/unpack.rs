//! An archive into a folder. Every entry is made under a name of its own and then takes its place by a rename; folders get
//! their modes and times last, since one without write permission must not keep its own files out.

use crate::below::{self, Below, inside};
use crate::read::{Archive, Entry, Kind};
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, chmodat, chownat, fsetxattr, ftruncate, linkat,
    makedev, mknodat, openat, renameat, symlinkat, unlinkat, utimensat,
};
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// 4 KiB of zeros become a hole: a block of every file system we know.
const HOLE_BYTES: usize = 4096;
/// What nobody reads on is not collected.
const MAX_NOTES: usize = 100;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnpackOptions {
    pub owner: Owner,
    pub trust: Trust,
}

/// Whose the files become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// As the archive says, where we may; else ours.
    AsArchived,
    Of {
        uid: u32,
        gid: u32,
    },
    Ours,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// Everything that the archive has.
    Own,
    /// Nothing that gives its files a right: no devices, no setuid, setgid and sticky bits, `user.` attributes only.
    Foreign,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unpacked {
    pub entries: u64,
    pub bytes: u64,
    /// What was left out and why, a line each.
    pub notes: Vec<String>,
}

/// The folder is made when it is missing. What was unpacked before an error stays.
pub fn unpack(folder: &Path, options: UnpackOptions, input: impl Read) -> io::Result<Unpacked> {
    let existed = folder.is_dir();
    if !existed {
        std::fs::create_dir_all(folder)?;
    }
    let below = Below::open(folder)?;
    let mut work =
        Unpacker { below, options, archive: Archive::new(input), done: Unpacked::default(), folders: Vec::new() };
    while let Some(entry) = work.archive.next_entry()? {
        let named = entry.path.display().to_string();
        work.entry(entry).map_err(|error| match error.kind() {
            // It names the entry already, or is about the archive.
            ErrorKind::InvalidInput | ErrorKind::InvalidData | ErrorKind::UnexpectedEof => error,
            kind => io::Error::new(kind, format!("{named}: {error}")),
        })?;
    }
    work.finish_folders(existed)?;
    // What follows the end (a tape's padding) is read, so that its sender is not cut off.
    io::copy(&mut work.archive.into_inner(), &mut io::sink())?;
    Ok(work.done)
}

struct Unpacker<R> {
    below: Below,
    options: UnpackOptions,
    archive: Archive<R>,
    done: Unpacked,
    folders: Vec<(PathBuf, Entry)>,
}

impl<R: Read> Unpacker<R> {
    fn entry(&mut self, entry: Entry) -> io::Result<()> {
        let name = inside(&entry.path)?;
        self.done.entries += 1;
        match &entry.kind {
            Kind::Folder => {
                self.below.ensure_folder(&name)?;
                self.folders.push((name, entry));
                Ok(())
            }
            Kind::File => self.file(&name, &entry),
            Kind::Symlink(target) => {
                let target = target.clone();
                self.replace(&name, &entry, |folder, partial| Ok(symlinkat(&target, folder, partial)?))
            }
            Kind::HardLink(first) => self.hard_link(&name, &inside(first)?),
            Kind::Fifo => self.special(&name, &entry, FileType::Fifo, 0),
            Kind::Device { .. } if self.options.trust == Trust::Foreign => {
                self.note(format!("{}: a device is not copied", name.display()));
                Ok(())
            }
            Kind::Device { block, major, minor } => {
                let kind = if *block { FileType::BlockDevice } else { FileType::CharacterDevice };
                self.special(&name, &entry, kind, makedev(*major, *minor))
            }
        }
    }

    fn file(&mut self, name: &Path, entry: &Entry) -> io::Result<()> {
        let options = self.options;
        let (folder, last) = self.below.ensure_parent(name)?;
        let partial = Partial::new(folder)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(openat(folder, &partial.name, flags, Mode::from_raw_mode(0o600))?);
        self.archive.contents(entry, |offset, bytes| write_around_holes(&file, offset, bytes))?;
        ftruncate(&file, entry.size)?;
        dress(folder, &partial.name, entry, options)?;
        for (key, value) in attributes(entry, options.trust) {
            set_attribute(&file, key, value)?;
        }
        drop(file);
        put_in_place(folder, partial, last)?;
        self.done.bytes += entry.size;
        Ok(())
    }

    fn hard_link(&mut self, name: &Path, first: &Path) -> io::Result<()> {
        let (folder, file) = self.below.ensure_parent(first)?;
        let file = file.to_owned();
        let first_folder = folder.try_clone_to_owned()?;
        let (folder, last) = self.below.ensure_parent(name)?;
        let partial = Partial::new(folder)?;
        linkat(&first_folder, &file, folder, &partial.name, AtFlags::empty())?;
        put_in_place(folder, partial, last)
    }

    fn special(&mut self, name: &Path, entry: &Entry, kind: FileType, device: u64) -> io::Result<()> {
        self.replace(name, entry, |folder, partial| {
            Ok(mknodat(folder, partial, kind, Mode::from_raw_mode(0o600), device)?)
        })
    }

    fn replace(
        &mut self,
        name: &Path,
        entry: &Entry,
        make: impl FnOnce(BorrowedFd, &OsStr) -> io::Result<()>,
    ) -> io::Result<()> {
        let options = self.options;
        let (folder, last) = self.below.ensure_parent(name)?;
        let partial = Partial::new(folder)?;
        make(folder, &partial.name)?;
        dress(folder, &partial.name, entry, options)?;
        put_in_place(folder, partial, last)
    }

    /// The deepest first.
    fn finish_folders(&mut self, existed: bool) -> io::Result<()> {
        let mut folders = std::mem::take(&mut self.folders);
        folders.sort_by(|(a, _), (b, _)| b.cmp(a));
        for (name, entry) in folders {
            // The folder itself was there: it stays whose and what it is.
            if name.as_os_str().is_empty() && existed {
                continue;
            }
            let folder = self.below.ensure_folder(&name)?;
            let folder = openat(folder, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
            for (key, value) in attributes(&entry, self.options.trust) {
                set_attribute(&folder, key, value)?;
            }
            dress(folder.as_fd(), OsStr::new("."), &entry, self.options)?;
        }
        Ok(())
    }

    fn note(&mut self, line: String) {
        if self.done.notes.len() < MAX_NOTES {
            self.done.notes.push(line);
        }
    }
}

/// Removed again unless it took its place.
struct Partial<'a> {
    folder: BorrowedFd<'a>,
    name: OsString,
    placed: bool,
}

impl<'a> Partial<'a> {
    fn new(folder: BorrowedFd<'a>) -> io::Result<Self> {
        Ok(Partial { folder, name: below::partial_name()?, placed: false })
    }
}

impl Drop for Partial<'_> {
    fn drop(&mut self) {
        if !self.placed {
            let _ = unlinkat(self.folder, &self.name, AtFlags::empty());
        }
    }
}

fn put_in_place(folder: BorrowedFd, mut partial: Partial, last: &OsStr) -> io::Result<()> {
    match renameat(folder, &partial.name, folder, last) {
        Ok(()) => {}
        Err(rustix::io::Errno::ISDIR) => {
            let sentence = format!("{}: a folder is there already", Path::new(last).display());
            return Err(io::Error::new(ErrorKind::IsADirectory, sentence));
        }
        Err(error) => return Err(error.into()),
    }
    // Of two names of one file rename makes nothing and leaves both (rename(2)).
    partial.placed = !matches!(below::kind_of(folder, &partial.name), Ok(Some(_)));
    Ok(())
}

fn write_around_holes(file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
    let mut at = 0;
    while at < bytes.len() {
        let is_hole = |piece: &[u8]| piece.len() == HOLE_BYTES && piece.iter().all(|byte| *byte == 0);
        let mut pieces = bytes[at..].chunks(HOLE_BYTES);
        let data: usize = pieces.by_ref().take_while(|piece| !is_hole(piece)).map(<[u8]>::len).sum();
        file.write_all_at(&bytes[at..at + data], offset + at as u64)?;
        at += data;
        at += bytes[at..].chunks(HOLE_BYTES).take_while(|piece| is_hole(piece)).map(<[u8]>::len).sum::<usize>();
    }
    Ok(())
}

/// Owner first: a change of owner takes setuid bits and capabilities away (chown(2)).
fn dress(folder: BorrowedFd, name: &OsStr, entry: &Entry, options: UnpackOptions) -> io::Result<()> {
    let owner = match options.owner {
        Owner::AsArchived => rustix::process::geteuid().is_root().then_some((entry.uid, entry.gid)),
        Owner::Of { uid, gid } => Some((uid, gid)),
        Owner::Ours => None,
    };
    if let Some((uid, gid)) = owner {
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        chownat(folder, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    if !matches!(entry.kind, Kind::Symlink(_)) {
        let bits = if options.trust == Trust::Foreign { 0o777 } else { 0o7777 };
        chmodat(folder, name, Mode::from_raw_mode(entry.mode & bits), AtFlags::empty())?;
    }
    let (seconds, nanos) = entry.mtime;
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos.into() };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(utimensat(folder, name, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

fn attributes(entry: &Entry, trust: Trust) -> impl Iterator<Item = (&[u8], &[u8])> {
    let may = move |key: &[u8]| trust == Trust::Own || key.starts_with(b"user.");
    entry.xattrs.iter().map(|(key, value)| (key.as_slice(), value.as_slice())).filter(move |(key, _)| may(key))
}

/// A file system that knows no attributes, or a name space that is not ours to write, leaves them out.
fn set_attribute(file: impl AsFd, key: &[u8], value: &[u8]) -> io::Result<()> {
    let key =
        CString::new(key).map_err(|_| io::Error::new(ErrorKind::InvalidData, "an attribute's name holds a NUL"))?;
    match fsetxattr(file, &key, value, rustix::fs::XattrFlags::empty()) {
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::PERM) => Ok(()),
        set => Ok(set?),
    }
}
