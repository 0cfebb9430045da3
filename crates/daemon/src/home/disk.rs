//! A folder of a guest that is gone, read from its disk: no boot, no mount, no root.
//!
//! `ext4-view` reads the file system and replays its journal in memory, so a disk of a VMM that was killed shows what
//! the guest's kernel had committed; the disk itself is opened for reading alone. Where that library finds something it
//! cannot read, `e2fsck` mends a copy and the copy is read. No VMM may write to the disk meanwhile; the caller makes sure.
//!
//! What is below `/root` lies on the work disk; everything else in the overlay's upper layer on the root disk.

use super::tree::{Each, Tree};
use super::{HomeError, Result};
use crate::program;
use ext4_view::{Ext4, FileType, Metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;
use wire::guest::work::{Kind, PATH_LIMIT_BYTES, Record};

/// Where the agent mounts the work disk.
const WORK_MOUNT: &str = "/root";
/// Where the root disk holds the overlay's upper layer (`agent/src/init/root.rs`).
const UPPER: &str = "/upper";

#[derive(Clone)]
pub struct DiskTree {
    disk: PathBuf,
    /// A hostile disk shows more than there is: folders that hold themselves.
    end: Instant,
    /// The folder in the guest's words, and on the disk.
    path: String,
    place: Vec<u8>,
    system: Ext4,
}

pub fn is_on_work_disk(guest_path: &str) -> bool {
    guest_path.strip_prefix(WORK_MOUNT).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The disk that holds a folder of a guest, and the folder's path on it.
pub fn locate<'a>(guest_path: &str, work: &'a Path, root: &'a Path) -> (&'a Path, String) {
    match is_on_work_disk(guest_path) {
        true => (work, guest_path[WORK_MOUNT.len()..].to_owned()),
        false => (root, format!("{UPPER}{guest_path}")),
    }
}

impl DiskTree {
    /// `scratch` is a folder of ours for a copy, should the disk need mending; the whole look ends at `end`.
    pub fn open(disk: &Path, guest_path: &str, place: &str, scratch: &Path, end: Instant) -> Result<DiskTree> {
        let system = match load(disk) {
            Ok(system) => system,
            Err(error) => {
                tracing::warn!(disk = %disk.display(), %error, "reading a mended copy instead");
                let copy = mended(disk, scratch)?;
                let loaded = load(&copy);
                // Open, it needs no name any more.
                let _ = std::fs::remove_file(&copy);
                loaded.map_err(|source| disk_error(disk, source))?
            }
        };
        let (disk_path, path) = (disk.to_owned(), guest_path.to_owned());
        let tree = DiskTree { disk: disk_path, end, path, place: place.as_bytes().to_vec(), system };
        match tree.system.exists(tree.on_disk(b"").as_slice()) {
            Ok(true) => Ok(tree),
            Ok(false) => Err(HomeError::Nothing { path: guest_path.to_owned() }),
            Err(source) => Err(disk_error(disk, source)),
        }
    }

    /// A whole disk in memory.
    pub(super) fn of_bytes(bytes: Vec<u8>, end: Instant) -> Result<DiskTree> {
        let disk = PathBuf::from("memory");
        let system = Ext4::load(Box::new(bytes)).map_err(|source| disk_error(&disk, source))?;
        Ok(DiskTree { disk, end, path: "/".to_owned(), place: Vec::new(), system })
    }

    fn check_time(&self) -> Result<()> {
        if Instant::now() < self.end { Ok(()) } else { Err(HomeError::Late { path: self.path.clone() }) }
    }

    fn on_disk(&self, path: &[u8]) -> Vec<u8> {
        let mut full = self.place.clone();
        if !path.is_empty() {
            full.push(b'/');
            full.extend(path);
        }
        if full.is_empty() { b"/".to_vec() } else { full }
    }

    fn failed(&self, source: impl std::error::Error + Send + Sync + 'static) -> HomeError {
        disk_error(&self.disk, source)
    }

    fn facts(&self, path: &[u8]) -> Option<Metadata> {
        self.system.symlink_metadata(self.on_disk(path).as_slice()).ok()
    }
}

fn load(disk: &Path) -> std::result::Result<Ext4, ext4_view::Ext4Error> {
    // A disk is hostile, too: should the library trip over it, that is one more disk that cannot be read.
    let loaded = std::panic::catch_unwind(|| Ext4::load_from_path(disk));
    loaded.unwrap_or_else(|_| Err(ext4_view::Ext4Error::Io(Box::new(io::Error::other("it confuses the reader")))))
}

/// A copy beside, made whole by `e2fsck`; its holes cost nothing.
fn mended(disk: &Path, scratch: &Path) -> Result<PathBuf> {
    let copy = scratch.join("mended.ext4");
    let _ = std::fs::remove_file(&copy);
    crate::host::disk::clone::clone_sparse(disk, &copy).map_err(|source| disk_error(disk, source))?;
    let checked = program::command("e2fsck").arg("-fy").arg(&copy).stdin(Stdio::null()).output();
    let checked = checked.map_err(|source| disk_error(disk, source))?;
    // 0 to 2: nothing to mend, or mended (e2fsck(8)).
    match checked.status.code() {
        Some(0..=2) => Ok(copy),
        _ => Err(disk_error(disk, io::Error::other("`e2fsck` cannot mend it"))),
    }
}

fn disk_error(disk: &Path, source: impl std::error::Error + Send + Sync + 'static) -> HomeError {
    HomeError::Disk { path: disk.to_owned(), source: Box::new(source) }
}

impl Tree for DiskTree {
    fn path(&self) -> &str {
        &self.path
    }

    fn scan(&mut self, pruned: &[Vec<u8>], each: &mut dyn FnMut(Record) -> Result<()>) -> Result<()> {
        let pruned: std::collections::HashSet<&[u8]> = pruned.iter().map(Vec::as_slice).collect();
        let mut waiting = vec![Vec::new()];
        while let Some(folder) = waiting.pop() {
            let children =
                self.system.read_dir(self.on_disk(&folder).as_slice()).map_err(|error| self.failed(error))?;
            for child in children {
                self.check_time()?;
                let child = child.map_err(|error| self.failed(error))?;
                let name = child.file_name();
                let name: &[u8] = name.as_ref();
                if matches!(name, b"." | b"..") {
                    continue;
                }
                let facts = child.metadata().map_err(|error| self.failed(error))?;
                let path = if folder.is_empty() { name.to_vec() } else { [&folder, &b"/"[..], name].concat() };
                // Folders that hold themselves exist on hostile disks; their paths grow until here.
                if path.len() > PATH_LIMIT_BYTES {
                    continue;
                }
                if facts.is_dir() && !pruned.contains(path.as_slice()) {
                    waiting.push(path.clone());
                }
                each(record(path, &facts))?;
            }
        }
        Ok(())
    }

    fn read(&mut self, paths: &[Vec<u8>], each: Each) -> Result<()> {
        for (number, path) in paths.iter().enumerate() {
            self.check_time()?;
            let full = self.on_disk(path);
            let absent = Record::plain(Kind::Absent);
            match self.facts(path) {
                Some(facts) if facts.file_type() == FileType::Regular => {
                    let file = self.system.open(full.as_slice()).map_err(|error| self.failed(error))?;
                    each(number, &record(Vec::new(), &facts), &mut file.take(facts.len()))?;
                }
                Some(facts) if facts.is_symlink() => {
                    let target = self.system.read_link(full.as_slice()).map_err(|error| self.failed(error))?;
                    let target: &[u8] = target.as_ref();
                    let facts = Record { size: target.len() as u64, ..record(Vec::new(), &facts) };
                    each(number, &facts, &mut &*target)?;
                }
                _ => each(number, &absent, &mut io::empty())?,
            }
        }
        Ok(())
    }

    fn below(&self, path: &str) -> Box<dyn Tree + '_> {
        let place = self.on_disk(path.as_bytes());
        Box::new(DiskTree {
            path: format!("{}/{path}", self.path),
            place,
            end: self.end,
            disk: self.disk.clone(),
            system: self.system.clone(),
        })
    }
}

fn record(path: Vec<u8>, facts: &Metadata) -> Record {
    let kind = match facts.file_type() {
        FileType::Regular => Kind::File,
        FileType::Symlink => Kind::Link,
        FileType::Directory => Kind::Folder,
        _ => Kind::Other,
    };
    let modified = facts.modified();
    Record {
        kind,
        mode: u32::from(facts.mode()) & 0o7777,
        size: facts.len(),
        mtime_ns: modified.seconds().saturating_mul(1_000_000_000).saturating_add(i64::from(modified.nanoseconds())),
        ctime_ns: 0,
        inode: 0,
        path,
    }
}
