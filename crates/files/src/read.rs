//! Reads entries as they come: ustar, GNU and PAX headers, long names of both kinds, GNU's sparse maps. Everything an
//! archive says has a limit.

use crate::{FAULT, HEADER_LIMIT_BYTES, XATTR, pax};
use std::ffi::OsString;
use std::io::{self, ErrorKind, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use tar::{EntryType, GnuExtSparseHeader, GnuSparseHeader, Header};

const BLOCK: usize = 512;
/// 64 KiB at a time of contents.
const CHUNK_BYTES: usize = 64 * 1024;
/// More pieces than a file of ours has that is worth sending; 24 bytes each.
const MAX_EXTENTS: usize = 1_000_000;

pub struct Archive<R> {
    input: R,
    /// Of the current entry, with what fills its last block.
    left: u64,
    chunk: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// As the archive has it: it may be absolute or hold `..`.
    pub path: PathBuf,
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: (i64, u32),
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// With its holes.
    pub size: u64,
    /// Where data lies: offset and length, ascending.
    pub extents: Vec<(u64, u64)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    File,
    Folder,
    Symlink(PathBuf),
    HardLink(PathBuf),
    Fifo,
    Device { block: bool, major: u32, minor: u32 },
}

/// What the headers before an entry's own said about it.
#[derive(Default)]
struct Pending {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

fn malformed(why: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("the archive is malformed: {why}"))
}

impl<R: Read> Archive<R> {
    pub fn new(input: R) -> Self {
        Archive { input, left: 0, chunk: vec![0; CHUNK_BYTES] }
    }

    /// The next entry, past whatever of the last one was not read; absent at the archive's end.
    pub fn next_entry(&mut self) -> io::Result<Option<Entry>> {
        let mut pending = Pending::default();
        loop {
            self.skip()?;
            let Some(header) = self.header()? else { return Ok(None) };
            let size = header.entry_size()?;
            match header.entry_type() {
                EntryType::XHeader => pending.take(&self.text(size)?)?,
                EntryType::GNULongName => pending.path = Some(without_nul(self.text(size)?)),
                EntryType::GNULongLink => pending.link = Some(without_nul(self.text(size)?)),
                EntryType::XGlobalHeader => self.left = padded(size)?,
                _ => return self.entry(&header, pending).map(Some),
            }
        }
    }

    /// Hands out the contents of the entry just read, piece by piece with the offset of each.
    pub fn contents(&mut self, entry: &Entry, mut sink: impl FnMut(u64, &[u8]) -> io::Result<()>) -> io::Result<()> {
        for (offset, length) in &entry.extents {
            let mut done = 0;
            while done < *length {
                let count = (*length - done).min(CHUNK_BYTES as u64) as usize;
                self.input.read_exact(&mut self.chunk[..count]).map_err(cut_short)?;
                self.left -= count as u64;
                sink(offset + done, &self.chunk[..count])?;
                done += count as u64;
            }
        }
        Ok(())
    }

    /// The stream behind the archive.
    pub fn into_inner(self) -> R {
        self.input
    }

    fn skip(&mut self) -> io::Result<()> {
        while self.left > 0 {
            let count = self.left.min(CHUNK_BYTES as u64) as usize;
            self.input.read_exact(&mut self.chunk[..count]).map_err(cut_short)?;
            self.left -= count as u64;
        }
        Ok(())
    }

    fn block(&mut self) -> io::Result<[u8; BLOCK]> {
        let mut block = [0; BLOCK];
        self.input.read_exact(&mut block).map_err(cut_short)?;
        Ok(block)
    }

    /// Absent: the empty block that ends an archive.
    fn header(&mut self) -> io::Result<Option<Header>> {
        let block = self.block()?;
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let mut header = Header::new_old();
        header.as_mut_bytes().copy_from_slice(&block);
        let sum =
            block.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) });
        match header.cksum() {
            Ok(told) if told == sum.sum::<u32>() => Ok(Some(header)),
            _ => Err(malformed("a header's sum is wrong")),
        }
    }

    fn text(&mut self, size: u64) -> io::Result<Vec<u8>> {
        if size > HEADER_LIMIT_BYTES {
            return Err(malformed("a name or an attribute is too long"));
        }
        let mut text = vec![0; size as usize];
        self.input.read_exact(&mut text).map_err(cut_short)?;
        self.left = padded(size)? - size;
        Ok(text)
    }

    fn entry(&mut self, header: &Header, pending: Pending) -> io::Result<Entry> {
        let stored = pending.size.map_or_else(|| header.entry_size(), Ok)?;
        let path = pending.path.unwrap_or_else(|| header.path_bytes().into_owned());
        let link = || {
            let link = pending.link.clone().or_else(|| Some(header.link_name_bytes()?.into_owned()));
            link.map(|link| PathBuf::from(OsString::from_vec(link))).ok_or_else(|| malformed("a link leads nowhere"))
        };
        let mut extents = Vec::new();
        let mut size = 0;
        let kind = match header.entry_type() {
            // An old archive says by a slash that it means a folder.
            EntryType::Directory => Kind::Folder,
            EntryType::Regular | EntryType::Continuous if path.last() == Some(&b'/') => Kind::Folder,
            EntryType::Regular | EntryType::Continuous => {
                size = stored;
                extents.extend((size > 0).then_some((0, size)));
                Kind::File
            }
            EntryType::GNUSparse => {
                (size, extents) = self.sparse_map(header)?;
                if extents.iter().map(|(_, length)| length).sum::<u64>() != stored {
                    return Err(malformed("a sparse file's map does not fit its contents"));
                }
                Kind::File
            }
            EntryType::Symlink => Kind::Symlink(link()?),
            EntryType::Link => Kind::HardLink(link()?),
            EntryType::Fifo => Kind::Fifo,
            kind @ (EntryType::Char | EntryType::Block) => Kind::Device {
                block: kind == EntryType::Block,
                major: header.device_major()?.unwrap_or_default(),
                minor: header.device_minor()?.unwrap_or_default(),
            },
            _ => return Err(malformed("an entry is of an unknown kind")),
        };
        // Links and folders have no contents, whatever their size says.
        self.left = if kind == Kind::File { padded(stored)? } else { 0 };
        // A field that holds no number is empty, as the links of some archives have theirs.
        let narrow = |number: u64| u32::try_from(number).map_err(|_| malformed("an owner is no number of a user"));
        Ok(Entry {
            path: PathBuf::from(OsString::from_vec(path)),
            kind,
            mode: header.mode().unwrap_or_default() & 0o7777,
            uid: pending.uid.map_or_else(|| narrow(header.uid().unwrap_or_default()), Ok)?,
            gid: pending.gid.map_or_else(|| narrow(header.gid().unwrap_or_default()), Ok)?,
            mtime: pending.mtime.unwrap_or_else(|| (header.mtime().unwrap_or_default() as i64, 0)),
            xattrs: pending.xattrs,
            size,
            extents,
        })
    }

    fn sparse_map(&mut self, header: &Header) -> io::Result<(u64, Vec<(u64, u64)>)> {
        let gnu = header.as_gnu().ok_or_else(|| malformed("a sparse file has no map"))?;
        let (size, mut extents, mut end) = (gnu.real_size()?, Vec::new(), 0);
        let mut add = |entries: &[GnuSparseHeader]| -> io::Result<()> {
            for entry in entries.iter().filter(|entry| !entry.is_empty()) {
                let (offset, length) = (entry.offset()?, entry.length()?);
                let until = offset.checked_add(length).filter(|until| *until <= size && offset >= end);
                end = until.ok_or_else(|| malformed("a sparse file's map is out of order"))?;
                if length > 0 {
                    extents.push((offset, length));
                }
                if extents.len() > MAX_EXTENTS {
                    return Err(malformed("a sparse file has too many pieces"));
                }
            }
            Ok(())
        };
        add(&gnu.sparse)?;
        let mut extended = gnu.is_extended();
        while extended {
            let mut more = GnuExtSparseHeader::new();
            self.input.read_exact(more.as_mut_bytes()).map_err(cut_short)?;
            add(&more.sparse)?;
            extended = more.is_extended();
        }
        Ok((size, extents))
    }
}

impl Pending {
    fn take(&mut self, text: &[u8]) -> io::Result<()> {
        for (key, value) in pax::parse(text)? {
            match key {
                b"path" => self.path = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"size" => self.size = pax::number(value),
                b"uid" => self.uid = pax::number(value),
                b"gid" => self.gid = pax::number(value),
                b"mtime" => self.mtime = pax::time(value),
                _ if key == FAULT.as_bytes() => return Err(io::Error::other(String::from_utf8_lossy(value))),
                _ if key.starts_with(b"GNU.sparse.") => return Err(malformed("it holds sparse files of PAX's kind")),
                _ => match key.strip_prefix(XATTR) {
                    Some(name) if !name.is_empty() => self.xattrs.push((name.to_vec(), value.to_vec())),
                    _ => {}
                },
            }
        }
        Ok(())
    }
}

fn without_nul(mut text: Vec<u8>) -> Vec<u8> {
    while text.last() == Some(&0) {
        text.pop();
    }
    text
}

fn padded(size: u64) -> io::Result<u64> {
    size.checked_next_multiple_of(BLOCK as u64).ok_or_else(|| malformed("an entry is too long"))
}

fn cut_short(error: io::Error) -> io::Error {
    match error.kind() {
        ErrorKind::UnexpectedEof => io::Error::new(ErrorKind::UnexpectedEof, "the archive was cut short"),
        _ => error,
    }
}
