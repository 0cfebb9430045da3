//! A tree into an archive: one file system, in name order, so that one tree is always one archive. What vanishes meanwhile is
//! left out, sockets are, too; a file that shrinks is filled up with zeros, since its size is already written.

use crate::write::{Facts, Writer};
use rustix::fs::{FileType, OFlags, SeekFrom, fgetxattr, flistxattr, lgetxattr, llistxattr, major, minor, seek};
use rustix::io::Errno;
use std::collections::HashMap;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// 64 KiB: the longest list of names and the longest value (xattr(7)).
const XATTR_BYTES: usize = 64 * 1024;
/// A file in more pieces than this is sent whole: its map would be longer than its holes are worth.
const MAX_EXTENTS: usize = 100_000;

#[derive(Debug, Clone, Default)]
pub struct PackOptions {
    /// What the tree is called in the archive; its own last part where absent. `.` for what is in it without itself.
    pub name: Option<PathBuf>,
    /// Take what a link leads to, if the path is one.
    pub follow: bool,
    /// The permission bits of the path itself, where it is a file, instead of its own.
    pub mode: Option<u32>,
    pub links: Links,
}

/// What becomes of symbolic links on the way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Links {
    #[default]
    Keep,
    /// Left out, with a note.
    Skip,
}

/// Hears how many bytes of contents were read, each time some were.
pub type Progress<'a> = &'a mut dyn FnMut(u64);

/// Writes an archive of one tree; when that cannot be read it says so in place of an end, and answers the error as well.
pub fn pack(path: &Path, options: &PackOptions, output: impl Write, progress: Progress) -> io::Result<()> {
    let mut packer = Packer::new(output, progress);
    packer.add(path, options)?;
    packer.finish().map(drop)
}

/// How much [`pack`] will write, roughly: the data of all files.
pub fn measure(path: &Path, follow: bool) -> io::Result<u64> {
    let facts = if follow { fs::metadata(path) } else { fs::symlink_metadata(path) }?;
    if !facts.is_dir() {
        return Ok(weight(&facts));
    }
    let mut sum = 0;
    for child in fs::read_dir(path)? {
        let child = child?;
        let kind = child.file_type()?;
        sum += match () {
            () if kind.is_dir() => measure(&child.path(), false).unwrap_or_default(),
            () if kind.is_file() => child.metadata().map_or(0, |facts| weight(&facts)),
            () => 0,
        };
    }
    Ok(sum)
}

fn weight(facts: &Metadata) -> u64 {
    if facts.is_file() { facts.len().min(facts.blocks() * 512) } else { 0 }
}

/// An archive of one tree after the other.
pub struct Packer<'a, W> {
    archive: Writer<W>,
    device: u64,
    links: Links,
    mode: Option<u32>,
    /// Files with several names, by device and number: the second name becomes a link to the first.
    linked: HashMap<(u64, u64), PathBuf>,
    progress: Progress<'a>,
    /// Nobody takes the archive any more.
    lost: bool,
    notes: Vec<String>,
}

impl<'a, W: Write> Packer<'a, W> {
    pub fn new(output: W, progress: Progress<'a>) -> Self {
        Packer {
            archive: Writer::new(output),
            device: 0,
            links: Links::Keep,
            mode: None,
            linked: HashMap::new(),
            progress,
            lost: false,
            notes: Vec::new(),
        }
    }

    pub fn add(&mut self, path: &Path, options: &PackOptions) -> io::Result<()> {
        let added = self.tree(path, options);
        if let Err(error) = &added
            && !self.lost
        {
            let _ = self.archive.fault(&error.to_string());
        }
        added
    }

    /// What was left out and why, a line each.
    pub fn finish(self) -> io::Result<Vec<String>> {
        self.archive.finish()?;
        Ok(self.notes)
    }

    fn tree(&mut self, path: &Path, options: &PackOptions) -> io::Result<()> {
        let own = || path.file_name().map_or_else(|| PathBuf::from("."), PathBuf::from);
        let name = options.name.clone().unwrap_or_else(own);
        let read = |path: &Path| if options.follow { fs::metadata(path) } else { fs::symlink_metadata(path) };
        let facts = read(path).map_err(|error| naming(path, &error))?;
        let path = if options.follow { &path.canonicalize()? } else { path };
        (self.device, self.links, self.mode) = (facts.dev(), options.links, options.mode);
        self.entry(path, &name, &facts)
    }

    fn entry(&mut self, path: &Path, name: &Path, facts: &Metadata) -> io::Result<()> {
        let kind = facts.file_type();
        // Only a folder can lead to another file system, and on an overlay only folders show its own number.
        if kind.is_socket() || kind.is_dir() && facts.dev() != self.device {
            return Ok(());
        }
        if kind.is_symlink() && self.links == Links::Skip {
            self.notes.push(format!("{}: a link is not copied", path.display()));
            return Ok(());
        }
        if !kind.is_dir() && facts.nlink() > 1 {
            if let Some(first) = self.linked.get(&(facts.dev(), facts.ino())).cloned() {
                let written = self.archive.hard_link(name, &first, &told(facts));
                return self.written(written);
            }
            self.linked.insert((facts.dev(), facts.ino()), name.to_owned());
        }
        if kind.is_file() {
            return self.file(path, name);
        }
        let own = Facts { xattrs: attributes_of_path(path), ..told(facts) };
        let written = match () {
            () if kind.is_dir() => {
                // A mode that was given is a file's.
                self.mode = None;
                let written = self.archive.folder(name, &own);
                self.written(written)?;
                return self.children(path, name);
            }
            () if kind.is_symlink() => {
                let target = fs::read_link(path).map_err(|error| naming(path, &error))?;
                self.archive.symlink(name, &target, &told(facts))
            }
            () if kind.is_fifo() => self.archive.fifo(name, &own),
            () => {
                let numbers = (major(facts.rdev()), minor(facts.rdev()));
                self.archive.device(name, kind.is_block_device(), numbers, &own)
            }
        };
        self.written(written)
    }

    /// Opened without following a link or waiting for a FIFO: what lies there may have changed since it was looked at.
    fn file(&mut self, path: &Path, name: &Path) -> io::Result<()> {
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY).bits() as i32;
        let mut file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            opened => opened.map_err(|error| naming(path, &error))?,
        };
        let facts = file.metadata().map_err(|error| naming(path, &error))?;
        if FileType::from_raw_mode(facts.mode()) != FileType::RegularFile {
            return Ok(());
        }
        let extents = extents(&file, &facts).map_err(|error| naming(path, &error))?;
        let mut own = Facts { xattrs: attributes_of_file(&file), ..told(&facts) };
        own.mode = self.mode.unwrap_or(own.mode);
        file.rewind()?;
        let mut data = Data { file: &file, extents: &extents, at: 0, progress: self.progress };
        let written = self.archive.file(name, &own, facts.len(), &extents, &mut data);
        self.written(written)
    }

    fn children(&mut self, path: &Path, name: &Path) -> io::Result<()> {
        let listed = fs::read_dir(path).and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect());
        let mut children: Vec<_> = match listed {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(naming(path, &error)),
            Ok(children) => children,
        };
        children.sort();
        for child in children {
            let path = path.join(&child);
            match fs::symlink_metadata(&path) {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(naming(&path, &error)),
                Ok(facts) => self.entry(&path, &name.join(child), &facts)?,
            }
        }
        Ok(())
    }

    fn written(&mut self, written: io::Result<()>) -> io::Result<()> {
        self.lost |= written.is_err();
        written
    }
}

/// The data of a file without its holes.
struct Data<'a, 'b> {
    file: &'a File,
    extents: &'a [(u64, u64)],
    /// Within the first extent.
    at: u64,
    progress: &'a mut (dyn FnMut(u64) + 'b),
}

impl Read for Data<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        use std::os::unix::fs::FileExt;
        let Some((offset, length)) = self.extents.first() else { return Ok(0) };
        let wanted = buffer.len().min((length - self.at) as usize);
        let count = self.file.read_at(&mut buffer[..wanted], offset + self.at)?;
        if count == 0 && wanted > 0 {
            // It shrank meanwhile.
            buffer[..wanted].fill(0);
        }
        let count = if count == 0 { wanted } else { count };
        self.at += count as u64;
        if self.at == *length {
            (self.extents, self.at) = (&self.extents[1..], 0);
        }
        (self.progress)(count as u64);
        Ok(count)
    }
}

/// Where the file has data (lseek(2), SEEK_DATA). All of it where it has no holes, too many, or its file system cannot tell.
fn extents(file: &File, facts: &Metadata) -> io::Result<Vec<(u64, u64)>> {
    let size = facts.len();
    let whole = if size > 0 { vec![(0, size)] } else { Vec::new() };
    if facts.blocks() * 512 >= size {
        return Ok(whole);
    }
    let (mut extents, mut at) = (Vec::new(), 0);
    while at < size {
        let data = match seek(file, SeekFrom::Data(at)) {
            Ok(data) => data.min(size),
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(whole),
            Err(error) => return Err(error.into()),
        };
        let hole = seek(file, SeekFrom::Hole(data)).map_or(size, |hole| hole.min(size));
        if hole <= data {
            break;
        }
        extents.push((data, hole - data));
        if extents.len() > MAX_EXTENTS {
            return Ok(whole);
        }
        at = hole;
    }
    Ok(extents)
}

fn told(facts: &Metadata) -> Facts {
    Facts {
        mode: facts.mode(),
        uid: facts.uid(),
        gid: facts.gid(),
        mtime: (facts.mtime(), facts.mtime_nsec() as u32),
        xattrs: Vec::new(),
    }
}

fn attributes_of_file(file: &File) -> Vec<(Vec<u8>, Vec<u8>)> {
    let file = file.as_fd();
    attributes(|list| flistxattr(file, list), |key, value| fgetxattr(file, key, value))
}

fn attributes_of_path(path: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    if fs::symlink_metadata(path).is_ok_and(|facts| facts.file_type().is_symlink()) {
        return Vec::new();
    }
    attributes(|list| llistxattr(path, list), |key, value| lgetxattr(path, key, value))
}

/// Those that can be read; what a file system does not know or we may not see is not there.
fn attributes(
    list: impl Fn(&mut [u8]) -> rustix::io::Result<usize>,
    get: impl Fn(&[u8], &mut [u8]) -> rustix::io::Result<usize>,
) -> Vec<(Vec<u8>, Vec<u8>)> {
    // Most files have none or few; the rest gets what the kernel allows.
    let mut few = [0; 1024];
    let names = match list(&mut few) {
        Ok(0) => return Vec::new(),
        Ok(count) => few[..count].to_vec(),
        Err(Errno::RANGE) => {
            let mut many = vec![0; XATTR_BYTES];
            let count = list(&mut many).unwrap_or_default();
            many.truncate(count);
            many
        }
        Err(_) => return Vec::new(),
    };
    let mut value = vec![0; XATTR_BYTES];
    let names = names.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let mut read = |name: &[u8]| {
        let count = get(name, &mut value).ok()?;
        Some((name.to_vec(), value[..count].to_vec()))
    };
    names.filter_map(&mut read).collect()
}

fn naming(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot read {}: {error}", path.display()))
}
