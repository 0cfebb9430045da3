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
use ext4_view::{Ext4, Ext4Error, Ext4Read, FileType, Metadata};
use std::cell::RefCell;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;
use wire::guest::work::{Kind, PATH_LIMIT_BYTES, Record};

/// Where the agent mounts the work disk.
const WORK_MOUNT: &str = "/root";
/// Where the root disk holds the overlay's upper layer (`agent/src/init/root.rs`).
const UPPER: &str = "/upper";
/// 64 KiB (1 KiB << 6): the largest block that ext4 knows.
const LOG_BLOCK_SIZE_LIMIT: u32 = 6;
/// 16 TiB in the usual blocks of 4 KiB; 3 MiB of memory.
const GROUP_LIMIT: u64 = 1 << 17;
/// How many links may lie on one way (path_resolution(7)).
const LINK_LIMIT: usize = 40;

#[derive(Clone)]
pub struct DiskTree {
    disk: PathBuf,
    /// A hostile disk shows more than there is: folders that hold themselves.
    end: Instant,
    /// The folder in the guest's words, and on the disk.
    path: String,
    place: Vec<u8>,
    system: Ext4,
    /// The last folder that was asked for, and where it lies.
    known: RefCell<Option<(Vec<u8>, Vec<u8>)>>,
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
        let place = place.as_bytes().to_vec();
        let tree = DiskTree { disk: disk_path, end, path, place, system, known: RefCell::default() };
        match tree.resolve(&tree.on_disk(b""), Last::Followed) {
            Ok(_) => Ok(tree),
            Err(Ext4Error::NotFound) => Err(HomeError::Nothing { path: guest_path.to_owned() }),
            Err(source) => Err(disk_error(disk, source)),
        }
    }

    /// A whole disk in memory.
    pub(super) fn of_bytes(bytes: Vec<u8>, end: Instant) -> Result<DiskTree> {
        let disk = PathBuf::from("memory");
        let system = load_bounded(Box::new(bytes)).map_err(|source| disk_error(&disk, source))?;
        let (path, place, known) = ("/".to_owned(), Vec::new(), RefCell::default());
        Ok(DiskTree { disk, end, path, place, system, known })
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

    /// A path that leads to the same without a link on the way. The library would follow one by itself, and makes room for
    /// as much as a link's size says: gigabytes, when a guest wrote it, and a failed allocation ends this process.
    fn resolve(&self, path: &[u8], last: Last) -> std::result::Result<Vec<u8>, Ext4Error> {
        let mut left: Vec<Vec<u8>> = parts(path).rev().collect();
        let (mut here, mut links) = (Vec::new(), 0);
        while let Some(part) = left.pop() {
            if part == b".." {
                here.truncate(here.iter().rposition(|byte| *byte == b'/').unwrap_or(0));
                continue;
            }
            let there = [&here[..], b"/", &part].concat();
            if left.is_empty() && last == Last::AsItIs {
                return Ok(there);
            }
            let facts = self.system.symlink_metadata(there.as_slice())?;
            if !facts.is_symlink() {
                here = there;
                continue;
            }
            links += 1;
            if links > LINK_LIMIT {
                return Err(refused("too many links lie on the way"));
            }
            let target = self.target(&there, &facts)?;
            if target.first() == Some(&b'/') {
                here.clear();
            }
            left.extend(parts(&target).rev());
        }
        Ok(if here.is_empty() { b"/".to_vec() } else { here })
    }

    /// What a link says; one that says more than a path holds is none.
    fn target(&self, link: &[u8], facts: &Metadata) -> std::result::Result<Vec<u8>, Ext4Error> {
        if facts.len() > PATH_LIMIT_BYTES as u64 {
            return Err(refused("a link says more than a link can"));
        }
        Ok(<[u8]>::to_vec(self.system.read_link(link)?.as_ref()))
    }

    /// Where something lies, itself and not what it leads to. Most often its folder is that of the one before.
    fn place_of(&self, path: &[u8]) -> Option<Vec<u8>> {
        let full = self.on_disk(path);
        let cut = full.iter().rposition(|byte| *byte == b'/')?;
        let (folder, name) = (&full[..cut], &full[cut + 1..]);
        if matches!(name, b"" | b"." | b"..") {
            return self.resolve(&full, Last::AsItIs).ok();
        }
        let mut known = self.known.borrow_mut();
        if known.as_ref().is_none_or(|(asked, _)| asked != folder) {
            *known = Some((folder.to_vec(), self.resolve(folder, Last::Followed).ok()?));
        }
        let (_, there) = known.as_ref()?;
        let there: &[u8] = if there == b"/" { b"" } else { there };
        Some([there, b"/", name].concat())
    }
}

/// What becomes of a link at the end of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Last {
    Followed,
    AsItIs,
}

fn parts(path: &[u8]) -> impl DoubleEndedIterator<Item = Vec<u8>> {
    path.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b".")).map(<[u8]>::to_vec)
}

fn load(disk: &Path) -> std::result::Result<Ext4, Ext4Error> {
    // A disk is hostile, too: should the library trip over it, that is one more disk that cannot be read.
    let loaded = std::panic::catch_unwind(|| {
        let file = std::fs::File::open(disk).map_err(|source| Ext4Error::Io(Box::new(source)))?;
        load_bounded(Box::new(file))
    });
    loaded.unwrap_or_else(|_| Err(refused("it confuses the reader")))
}

/// The library makes room for all groups that a superblock counts, and for some blocks of its size: gigabytes, when a
/// guest wrote it, and a failed allocation ends this process. So both are looked at before.
fn load_bounded(mut reader: Box<dyn Ext4Read>) -> std::result::Result<Ext4, Ext4Error> {
    let mut superblock = [0; 1024];
    reader.read(1024, &mut superblock).map_err(Ext4Error::Io)?;
    let field = |at: usize| u32::from_le_bytes(superblock[at..at + 4].try_into().expect("four bytes"));
    // `struct ext4_super_block`: s_log_block_size, s_blocks_count_hi and _lo, s_blocks_per_group.
    let (log_block_size, blocks_per_group) = (field(0x18), field(0x20));
    let blocks = u64::from(field(0x150)) << 32 | u64::from(field(0x4));
    if log_block_size > LOG_BLOCK_SIZE_LIMIT {
        return Err(refused("its blocks are larger than ext4's"));
    }
    if blocks_per_group == 0 || blocks.div_ceil(u64::from(blocks_per_group)) > GROUP_LIMIT {
        return Err(refused("it counts more groups than a disk has"));
    }
    Ext4::load(reader)
}

fn refused(reason: &'static str) -> Ext4Error {
    Ext4Error::Io(Box::new(io::Error::other(reason)))
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
        let top = self.resolve(&self.on_disk(b""), Last::Followed).map_err(|error| self.failed(error))?;
        let mut waiting = vec![Vec::new()];
        while let Some(folder) = waiting.pop() {
            // Below the top there are folders only, and no links, on the way.
            let there = if folder.is_empty() { top.clone() } else { [&top, &b"/"[..], &folder].concat() };
            let children = self.system.read_dir(there.as_slice()).map_err(|error| self.failed(error))?;
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
            let absent = Record::plain(Kind::Absent);
            let full = self.place_of(path).unwrap_or_default();
            match self.system.symlink_metadata(full.as_slice()).ok() {
                Some(facts) if facts.file_type() == FileType::Regular => {
                    let file = self.system.open(full.as_slice()).map_err(|error| self.failed(error))?;
                    each(number, &record(Vec::new(), &facts), &mut file.take(facts.len()))?;
                }
                Some(facts) if facts.is_symlink() => {
                    let target = self.target(&full, &facts).map_err(|error| self.failed(error))?;
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
            known: RefCell::default(),
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk that `mkfs.ext4` made, with one field of its superblock changed.
    fn load_with(at: usize, value: u32) -> std::result::Result<DiskTree, String> {
        let disk = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/disk/ext4");
        let mut bytes = std::fs::read(disk).expect("the corpus is there");
        bytes[1024 + at..1024 + at + 4].copy_from_slice(&value.to_le_bytes());
        let end = Instant::now() + std::time::Duration::from_secs(20);
        DiskTree::of_bytes(bytes, end).map_err(|error| {
            let source = std::error::Error::source(&error).expect("it has a cause");
            format!("{source}")
        })
    }

    fn check_refused(at: usize, value: u32, reason: &str) {
        let told = load_with(at, value).err().expect("it is refused");
        assert!(told.contains(reason), "{told}");
    }

    #[test]
    fn a_disk_that_counts_more_than_there_is_costs_no_memory() {
        // The magic number and the state that follows it, as they are.
        assert!(load_with(0x38, 0x0001_ef53).is_ok());
        check_refused(0x150, 1, "more groups");
        check_refused(0x20, 0, "more groups");
        check_refused(0x18, 21, "blocks are larger");
    }

    /// A disk with links on many ways, below a folder that goes with the value.
    fn with_links() -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        let tree = folder.path().join("tree");
        std::fs::create_dir_all(tree.join("a/b")).expect("folders");
        std::fs::write(tree.join("a/b/file"), "text").expect("a file");
        let long = "x/../".repeat(20) + "a";
        let links =
            [("near", "a"), ("far", "/a/b"), ("a/up", "../near/b"), ("loop", "loop"), ("long", &long), ("huge", &long)];
        for (name, target) in links {
            std::os::unix::fs::symlink(target, tree.join(name)).expect("a link");
        }
        std::fs::create_dir(tree.join("x")).expect("a folder");
        let disk = folder.path().join("disk");
        let run = |program: &str, words: &[&str]| {
            let done = program::command(program).args(words).arg(&disk).stdin(Stdio::null()).output().expect("it runs");
            assert!(done.status.success(), "{done:?}");
        };
        std::fs::File::create(&disk).and_then(|file| file.set_len(2 << 20)).expect("room");
        run("mkfs.ext4", &["-q", "-d", tree.to_str().expect("text")]);
        run("debugfs", &["-w", "-R", "set_inode_field /huge size 549755813894"]);
        folder
    }

    fn open(folder: &Path, place: &str) -> Result<DiskTree> {
        let end = Instant::now() + std::time::Duration::from_secs(20);
        DiskTree::open(&folder.join("disk"), "/root/repo", place, folder, end)
    }

    /// What lies at each of these paths.
    fn read(paths: &[&str]) -> Vec<Option<String>> {
        let folder = with_links();
        let mut tree = open(folder.path(), "").expect("a file system");
        let paths: Vec<Vec<u8>> = paths.iter().map(|path| path.as_bytes().to_vec()).collect();
        let mut found = vec![None; paths.len()];
        let read = tree.read(&paths, &mut |number, record, content| {
            let mut text = String::new();
            content.read_to_string(&mut text).expect("text");
            found[number] = (record.kind != Kind::Absent).then_some(text);
            Ok(())
        });
        read.expect("all of it can be read");
        found
    }

    #[test]
    fn links_on_the_way_are_followed_and_none_costs_memory() {
        let there = ["a/b/file", "near/b/file", "far/file", "a/up/file", "long/b/file", "far/../b/./file"];
        for (path, found) in there.iter().zip(read(&there)) {
            assert_eq!(found.as_deref(), Some("text"), "{path}");
        }
        let nowhere = ["loop/file", "huge/b/file", "a/b/file/x", "../../none", ""];
        for (path, found) in nowhere.iter().zip(read(&nowhere)) {
            assert_eq!(found, None, "{path}");
        }
        // Nothing there, and a way that cannot be gone, are two things: the one has no work to lose.
        let folder = with_links();
        for (place, is_nothing) in [("/none", true), ("/near/none", true), ("/loop", false), ("/huge/b", false)] {
            let told = open(folder.path(), place).err().expect("it is not there");
            assert_eq!(matches!(told, HomeError::Nothing { .. }), is_nothing, "{place}: {told:?}");
        }
        assert!(open(folder.path(), "/near/up").is_ok());
        assert_eq!(read(&["near", "far"]), [Some("a".to_owned()), Some("/a/b".to_owned())]);
    }
}
