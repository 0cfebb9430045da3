//! An archive into a fresh folder of ours: as few system calls a file as can be, since a repository has many small ones.
//!
//! Every step goes relative to an open folder and follows no link, so a name can lead nowhere else. Files, folders and
//! symbolic links are all that a shipment holds; anything else is refused.

use super::ledger::{Ledger, stamp};
use rustix::fs::{AtFlags, Mode, OFlags, Timespec, Timestamps, mkdirat, openat, statat, symlinkat, unlinkat};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use tar::EntryType;
use wire::guest::ledger::Stamp;

const BUFFER_BYTES: usize = 256 * 1024;
/// Two blocks of zeros end an archive (POSIX, pax).
const END_BYTES: usize = 1024;
/// What a file may let others do; set-user-id and the like have no place in a work tree.
const PERMISSIONS: u32 = 0o777;
/// Permissions that the agent's umask takes away when a file is made.
const MASKED: u32 = 0o022;

/// Answers what came, as it lies there: it is noted beside each file, which is cheaper than to look for all of them again.
pub fn unpack(folder: &Path, input: impl Read) -> io::Result<Ledger> {
    std::fs::create_dir_all(folder)?;
    let mut came = Ledger::default();
    let mut tree = Tree { top: File::open(folder)?.into(), last: None };
    let mut archive = tar::Archive::new(BufReader::with_capacity(BUFFER_BYTES, Tail { input, zeros: 0 }));
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let parts = parts(&path)?;
        let Some((name, parents)) = parts.split_last() else { continue };
        match entry.header().entry_type() {
            EntryType::Directory => {
                let _made = tree.folder(&parts)?;
            }
            EntryType::Regular | EntryType::Continuous => {
                let (mode, mtime) = (entry.header().mode()? & PERMISSIONS, entry.header().mtime()?);
                let file = make(tree.folder(parents)?, name, mode)?;
                came.add(&parts.iter().collect::<PathBuf>(), fill(file, &mut entry, mode, mtime)?);
            }
            EntryType::Symlink => {
                let target = entry.link_name()?.ok_or_else(|| wrong(&path, "it is a link to nothing"))?.into_owned();
                came.add(&parts.iter().collect::<PathBuf>(), link(tree.folder(parents)?, name, &target)?);
            }
            _ => return Err(wrong(&path, "it is no file, folder or symbolic link")),
        }
    }
    // The library takes the end of the stream for the end of the archive.
    match archive.into_inner().into_inner().zeros >= END_BYTES {
        true => Ok(came),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Counts the zeros that a stream ends with.
struct Tail<R> {
    input: R,
    zeros: usize,
}

impl<R: Read> Read for Tail<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        let zeros = buffer[..count].iter().rev().take_while(|byte| **byte == 0).count();
        self.zeros = if zeros == count { self.zeros.saturating_add(count) } else { zeros };
        Ok(count)
    }
}

/// Names below the folder, none of which leads up.
fn parts(path: &Path) -> io::Result<Vec<&OsStr>> {
    let part = |part| match part {
        Component::Normal(name) => Some(Ok(name)),
        Component::CurDir => None,
        _ => Some(Err(wrong(path, "it would leave the folder"))),
    };
    path.components().filter_map(part).collect()
}

fn wrong(path: &Path, why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("cannot unpack {}: {why}", path.display()))
}

/// The folders that were made; the last one is kept open, since its files follow one another.
struct Tree {
    top: OwnedFd,
    last: Option<(PathBuf, OwnedFd)>,
}

impl Tree {
    fn folder(&mut self, parts: &[&OsStr]) -> io::Result<BorrowedFd<'_>> {
        let path: PathBuf = parts.iter().collect();
        if self.last.as_ref().is_none_or(|(last, _)| *last != path) {
            let mut here = self.top.try_clone()?;
            for part in parts {
                here = enter(here.as_fd(), part)?;
            }
            self.last = Some((path, here));
        }
        Ok(self.last.as_ref().expect("it was set a moment ago").1.as_fd())
    }
}

fn enter(here: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(here, name, flags, Mode::empty()) {
        Err(Errno::NOENT) => {
            mkdirat(here, name, Mode::from_raw_mode(0o755))?;
            Ok(openat(here, name, flags, Mode::empty())?)
        }
        opened => Ok(opened?),
    }
}

fn make(here: BorrowedFd<'_>, name: &OsStr, mode: u32) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = || openat(here, name, flags, Mode::from_raw_mode(mode));
    match made() {
        // The archive has it twice; the later one counts.
        Err(Errno::EXIST) => {
            unlinkat(here, name, AtFlags::empty())?;
            Ok(made()?.into())
        }
        file => Ok(file?.into()),
    }
}

fn fill<R: Read>(mut file: File, content: &mut tar::Entry<'_, R>, mode: u32, mtime: u64) -> io::Result<Stamp> {
    // The library takes the end of the stream for the end of the file.
    if io::copy(content, &mut file)? != content.size() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if mode & MASKED != 0 {
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
    }
    let time = Timespec { tv_sec: i64::try_from(mtime).unwrap_or(i64::MAX), tv_nsec: 0 };
    rustix::fs::futimens(&file, &Timestamps { last_access: time, last_modification: time })?;
    Ok(stamp(&file.metadata()?))
}

fn link(here: BorrowedFd<'_>, name: &OsStr, target: &Path) -> io::Result<Stamp> {
    match symlinkat(target, here, name) {
        Err(Errno::EXIST) => {
            unlinkat(here, name, AtFlags::empty())?;
            symlinkat(target, here, name)?;
        }
        made => made?,
    }
    let facts = statat(here, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let changed_ns = facts.st_ctime.saturating_mul(1_000_000_000).saturating_add(facts.st_ctime_nsec as i64);
    Ok(Stamp { changed_ns, size: facts.st_size as u64, mode: facts.st_mode })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    fn archive(entries: &[(EntryType, &str, &str, u32)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (kind, name, content, mode) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(*mode);
            header.set_mtime(1_700_000_000);
            // Written raw: the library refuses names that a hostile archive has.
            header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
            let data = if kind.is_symlink() { "" } else { content };
            if kind.is_symlink() {
                header.set_link_name_literal(content).unwrap();
            }
            header.set_size(data.len() as u64);
            header.set_cksum();
            builder.append(&header, data.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn files_folders_and_links_arrive_with_mode_and_time() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path().join("new");
        let bytes = archive(&[
            (EntryType::Directory, "a/", "", 0o755),
            (EntryType::Regular, "a/b/tool", "one", 0o755),
            (EntryType::Regular, "a/b/open", "two", 0o666),
            (EntryType::Regular, "a/b/open", "three", 0o444),
            (EntryType::Symlink, "link", "../outside", 0o777),
        ]);
        let came = unpack(&top, bytes.as_slice()).unwrap();
        assert_eq!(came, Ledger::of(&top).unwrap());
        assert_eq!(came.len(), 3);
        let facts = |name: &str| fs::metadata(top.join(name)).unwrap();
        assert_eq!(facts("a/b/tool").permissions().mode() & 0o7777, 0o755);
        assert_eq!(facts("a/b/open").permissions().mode() & 0o7777, 0o444);
        assert_eq!(facts("a/b/tool").mtime(), 1_700_000_000);
        assert_eq!(fs::read_to_string(top.join("a/b/open")).unwrap(), "three");
        assert_eq!(fs::read_link(top.join("link")).unwrap(), Path::new("../outside"));
    }

    #[test]
    fn no_entry_leaves_the_folder_or_is_a_device() {
        for (kind, name) in [
            (EntryType::Regular, "../x"),
            (EntryType::Regular, "/x"),
            (EntryType::Regular, "a/../../x"),
            (EntryType::Fifo, "pipe"),
            (EntryType::Char, "device"),
            (EntryType::Link, "hard"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let bytes = archive(&[(kind, name, "", 0o644)]);
            assert!(unpack(&folder.path().join("new"), bytes.as_slice()).is_err(), "{name}");
            assert!(!folder.path().join("x").exists());
        }
        let folder = tempfile::tempdir().unwrap();
        let bytes = archive(&[(EntryType::Symlink, "l", "..", 0o777), (EntryType::Regular, "l/x", "y", 0o644)]);
        assert!(unpack(&folder.path().join("new"), bytes.as_slice()).is_err());
        assert!(!folder.path().join("x").exists());
        // Neither through a link that lies there already.
        let top = folder.path().join("other");
        fs::create_dir(&top).unwrap();
        symlink("..", top.join("l")).unwrap();
        assert!(unpack(&top, archive(&[(EntryType::Regular, "l/x", "y", 0o644)]).as_slice()).is_err());
        assert!(!folder.path().join("x").exists());
    }

    #[test]
    fn an_archive_that_breaks_off_is_an_error() {
        let bytes = archive(&[(EntryType::Regular, "a", "some content", 0o644)]);
        for length in [100, 512, 515, 1024] {
            let folder = tempfile::tempdir().unwrap();
            assert!(unpack(&folder.path().join("new"), &bytes[..length]).is_err(), "{length}");
        }
    }
}
