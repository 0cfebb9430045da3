//! Reads the headers of a tar archive without touching its contents: every entry says where its bytes lie.
//!
//! Ustar, old GNU and PAX headers, long names, sparse files. Where archives are ambiguous this reads what Go's
//! `archive/tar` reads, since images are built and checked with it: links and directories have no contents whatever
//! their size field says, a PAX value wins over the header, global headers are skipped, an archive may end without
//! its two empty blocks. Own code instead of the `tar` crate because that reads long names of any length into
//! memory, refuses binary PAX values and hides where sparse pieces lie.

use crate::limits::{Exceeded, Limits};
use crate::positioned::{ReadAt, Window};
use crate::sparse::{self, Contents};
use crate::{pax, text};
use std::collections::BTreeMap;
use std::io;

pub const BLOCK: u64 = 512;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// As the archive has it: may be absolute, hold `..`, end in a slash.
    pub path: Vec<u8>,
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    /// Seconds and nanoseconds since the epoch.
    pub mtime: (i64, u32),
    pub xattrs: Xattrs,
}

/// Extended attributes by full name, values as tar carries them.
pub type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    File(Contents),
    Directory,
    Symlink(Vec<u8>),
    HardLink(Vec<u8>),
    CharDevice { major: u32, minor: u32 },
    BlockDevice { major: u32, minor: u32 },
    Fifo,
}

#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error("cannot read the archive at byte {offset}")]
    Read { offset: u64, source: io::Error },
    #[error("the archive ends in the middle of an entry at byte {offset}")]
    Truncated { offset: u64 },
    #[error("the header at byte {offset} is malformed: {reason}")]
    Malformed { offset: u64, reason: &'static str },
    #[error("the entry {path} has the unknown type {kind:?}")]
    UnknownKind { path: String, kind: char },
    #[error(transparent)]
    Exceeded(#[from] Exceeded),
}

/// The entries of one archive, in order. Ends after the first error.
#[derive(Debug)]
pub struct Entries<'a, S> {
    window: Window<S>,
    /// Length of the archive.
    length: u64,
    /// Where the next header stands.
    offset: u64,
    limits: &'a Limits,
    done: bool,
}

/// What the special headers before an entry said about it.
#[derive(Debug, Default)]
struct Pending {
    long_path: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    pax: Option<Vec<u8>>,
}

type Header = [u8; BLOCK as usize];

impl<'a, S: ReadAt> Entries<'a, S> {
    pub fn new(source: S, length: u64, limits: &'a Limits) -> Self {
        Entries { window: Window::new(source), length, offset: 0, limits, done: false }
    }

    fn next_entry(&mut self) -> Result<Option<Entry>, ArchiveError> {
        let mut pending = Pending::default();
        loop {
            let at = self.offset;
            let Some(header) = self.header()? else { return Ok(None) };
            match header[156] {
                b'x' => pending.pax = Some(self.special(at, &header)?),
                b'g' => drop(self.special(at, &header)?),
                b'L' => pending.long_path = Some(cut_at_nul(self.special(at, &header)?)),
                b'K' => pending.long_link = Some(cut_at_nul(self.special(at, &header)?)),
                _ => return self.entry(at, &header, pending).map(Some),
            }
        }
    }

    /// The next header block, verified; `None` at the end of the archive.
    fn header(&mut self) -> Result<Option<Header>, ArchiveError> {
        let at = self.offset;
        let Some(header) = self.block()? else { return Ok(None) };
        if header.iter().all(|&byte| byte == 0) {
            return match self.block()? {
                Some(second) if second.iter().any(|&byte| byte != 0) => {
                    Err(ArchiveError::Malformed { offset: at, reason: "an empty block stands between entries" })
                }
                _ => Ok(None),
            };
        }
        verify_checksum(&header).map_err(|reason| ArchiveError::Malformed { offset: at, reason })?;
        Ok(Some(header))
    }

    fn block(&mut self) -> Result<Option<Header>, ArchiveError> {
        let mut block = [0; BLOCK as usize];
        match self.read(&mut block, self.offset)? {
            0 => Ok(None),
            512 => {
                self.offset += BLOCK;
                Ok(Some(block))
            }
            _ => Err(ArchiveError::Truncated { offset: self.offset }),
        }
    }

    fn read(&mut self, buffer: &mut [u8], offset: u64) -> Result<usize, ArchiveError> {
        self.window.read(buffer, offset).map_err(|source| ArchiveError::Read { offset, source })
    }

    /// The contents of a header that describes the next one.
    fn special(&mut self, at: u64, header: &Header) -> Result<Vec<u8>, ArchiveError> {
        let size = size_field(at, header)?;
        if size > self.limits.header_bytes {
            return Err(Exceeded::Header { limit: self.limits.header_bytes }.into());
        }
        let mut contents = vec![0; size as usize];
        if self.read(&mut contents, self.offset)? < contents.len() {
            return Err(ArchiveError::Truncated { offset: at });
        }
        self.skip(size, at)?;
        Ok(contents)
    }

    /// Moves behind `size` bytes of contents and their padding.
    fn skip(&mut self, size: u64, at: u64) -> Result<(), ArchiveError> {
        let end = self.offset.checked_add(size).filter(|end| *end <= self.length);
        let end = end.ok_or(ArchiveError::Truncated { offset: at })?;
        // The padding of the last entry may be missing.
        self.offset = end.next_multiple_of(BLOCK);
        Ok(())
    }

    fn entry(&mut self, at: u64, header: &Header, pending: Pending) -> Result<Entry, ArchiveError> {
        let malformed = |reason| ArchiveError::Malformed { offset: at, reason };
        let pax = PaxFields::parse(pending.pax.as_deref().unwrap_or_default(), self.limits).map_err(malformed)?;
        let path = pax.path.clone().or(pending.long_path).unwrap_or_else(|| path_field(header));
        let link = pax.link.clone().or(pending.long_link).unwrap_or_else(|| text_field(&header[157..257]));
        if path.contains(&0) || link.contains(&0) {
            return Err(malformed("a name holds a NUL"));
        }
        let kind = self.kind(at, header, &pax, &path, link)?;
        let id = |field: Option<u64>, bytes: &[u8], reason| match field {
            Some(id) => u32::try_from(id).map_err(|_| malformed(reason)),
            None => number(bytes).and_then(|id| u32::try_from(id).ok()).ok_or_else(|| malformed(reason)),
        };
        Ok(Entry {
            kind,
            mode: number(&header[100..108]).ok_or_else(|| malformed("the mode is no number"))? as u16 & 0o7777,
            uid: id(pax.uid, &header[108..116], "the owner is no 32-bit number")?,
            gid: id(pax.gid, &header[116..124], "the group is no 32-bit number")?,
            mtime: match pax.mtime {
                Some(mtime) => mtime,
                None => (number(&header[136..148]).ok_or_else(|| malformed("the time is no number"))?, 0),
            },
            path: pax.sparse.name.clone().unwrap_or(path),
            xattrs: pax.xattrs,
        })
    }

    fn kind(
        &mut self,
        at: u64,
        header: &Header,
        pax: &PaxFields,
        path: &[u8],
        link: Vec<u8>,
    ) -> Result<Kind, ArchiveError> {
        let device = |range: std::ops::Range<usize>| {
            let number = number(&header[range]).and_then(|n| u32::try_from(n).ok());
            number.ok_or(ArchiveError::Malformed { offset: at, reason: "a device number is no 32-bit number" })
        };
        Ok(match header[156] {
            0 | b'0' | b'7' if path.ends_with(b"/") && header[156] == 0 => Kind::Directory,
            0 | b'0' | b'7' | b'S' => Kind::File(self.contents(at, header, pax, path)?),
            b'1' => Kind::HardLink(link),
            b'2' => Kind::Symlink(link),
            b'3' => Kind::CharDevice { major: device(329..337)?, minor: device(337..345)? },
            b'4' => Kind::BlockDevice { major: device(329..337)?, minor: device(337..345)? },
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => return Err(ArchiveError::UnknownKind { path: text::show(path), kind: char::from(other) }),
        })
    }

    fn contents(&mut self, at: u64, header: &Header, pax: &PaxFields, path: &[u8]) -> Result<Contents, ArchiveError> {
        let malformed = |reason| ArchiveError::Malformed { offset: at, reason };
        let stored = match pax.size {
            Some(size) => size,
            None => size_field(at, header)?,
        };
        let contents = if header[156] == b'S' {
            let map = self.gnu_map(at, header, path)?;
            let size = number(&header[483..495]).and_then(|size| u64::try_from(size).ok());
            let size = size.ok_or_else(|| malformed("the size of a sparse file is no number"))?;
            Contents::sparse(size, &map, self.offset, stored).map_err(malformed)?
        } else if let Some(size) = pax.sparse.size {
            let (map, map_bytes) = match &pax.sparse.map {
                Some(map) => (sparse::pax_map(map).map_err(malformed)?, 0),
                None => self.leading_map(at, stored, path)?,
            };
            self.check_pieces(map.len(), path)?;
            Contents::sparse(size, &map, self.offset + map_bytes, stored - map_bytes).map_err(malformed)?
        } else {
            Contents::whole(stored, self.offset)
        };
        self.skip(stored, at)?;
        if contents.size > self.limits.file_bytes {
            return Err(Exceeded::File { path: text::show(path), limit: self.limits.file_bytes }.into());
        }
        Ok(contents)
    }

    fn check_pieces(&self, pieces: usize, path: &[u8]) -> Result<(), Exceeded> {
        let limit = self.limits.sparse_pieces;
        if pieces > limit { Err(Exceeded::SparsePieces { path: text::show(path), limit }) } else { Ok(()) }
    }

    /// The map of an old GNU sparse header and its continuation blocks.
    fn gnu_map(&mut self, at: u64, header: &Header, path: &[u8]) -> Result<Vec<(u64, u64)>, ArchiveError> {
        let malformed = |reason| ArchiveError::Malformed { offset: at, reason };
        let mut map = Vec::new();
        sparse::gnu_map(&header[386..482], &mut map).map_err(malformed)?;
        let mut continued = header[482] != 0;
        while continued {
            let block = self.block()?.ok_or(ArchiveError::Truncated { offset: at })?;
            sparse::gnu_map(&block[..504], &mut map).map_err(malformed)?;
            self.check_pieces(map.len(), path)?;
            continued = block[504] != 0;
        }
        Ok(map)
    }

    /// The map of a PAX 1.0 sparse file, which stands before its contents as decimal numbers, one a line, padded
    /// to a block. Answers the map and how many bytes it takes.
    fn leading_map(&mut self, at: u64, stored: u64, path: &[u8]) -> Result<(Vec<(u64, u64)>, u64), ArchiveError> {
        let malformed = |reason| ArchiveError::Malformed { offset: at, reason };
        let (mut numbers, mut line, mut read) = (Vec::new(), Vec::new(), 0);
        loop {
            let mut block = [0; BLOCK as usize];
            if read + BLOCK > stored || self.read(&mut block, self.offset + read)? < block.len() {
                return Err(ArchiveError::Truncated { offset: at });
            }
            read += BLOCK;
            for byte in block {
                if byte != b'\n' {
                    line.push(byte);
                    if line.len() > 20 {
                        return Err(malformed("a number of a sparse map is too long"));
                    }
                    continue;
                }
                let number: u64 = pax::decimal(&line).ok_or_else(|| malformed("a sparse map holds no number"))?;
                line.clear();
                numbers.push(number);
                self.check_pieces(numbers.len() / 2, path)?;
                self.check_pieces(usize::try_from(numbers[0]).unwrap_or(usize::MAX), path)?;
                if numbers.len() as u64 == 1 + 2 * numbers[0] {
                    return Ok((numbers[1..].chunks_exact(2).map(|pair| (pair[0], pair[1])).collect(), read));
                }
            }
        }
    }
}

impl<S: ReadAt> Iterator for Entries<'_, S> {
    type Item = Result<Entry, ArchiveError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let item = self.next_entry().transpose();
        self.done = !matches!(item, Some(Ok(_)));
        item
    }
}

/// The PAX records that matter for one entry.
#[derive(Debug, Default)]
struct PaxFields {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    xattrs: Xattrs,
    sparse: PaxSparse,
}

#[derive(Debug, Default)]
struct PaxSparse {
    name: Option<Vec<u8>>,
    size: Option<u64>,
    /// Offsets and lengths joined by commas. A 1.0 file has none here.
    map: Option<Vec<u8>>,
}

impl PaxFields {
    fn parse(header: &[u8], limits: &Limits) -> Result<Self, &'static str> {
        let mut fields = PaxFields::default();
        for record in pax::records(header) {
            let (key, value) = record?;
            // An empty value takes back a global one, and those are not read.
            if !value.is_empty() {
                fields.take(key, value, limits)?;
            }
        }
        Ok(fields)
    }

    fn take(&mut self, key: &[u8], value: &[u8], limits: &Limits) -> Result<(), &'static str> {
        let number = |value| pax::decimal(value).ok_or("a PAX record should hold a number and does not");
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(number(value)?),
            b"uid" => self.uid = Some(number(value)?),
            b"gid" => self.gid = Some(number(value)?),
            b"mtime" => self.mtime = Some(pax::time(value).ok_or("a PAX time is no time")?),
            b"GNU.sparse.name" => self.sparse.name = Some(value.to_vec()),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => self.sparse.size = Some(number(value)?),
            b"GNU.sparse.map" => self.sparse.map = Some(value.to_vec()),
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                let map = self.sparse.map.get_or_insert_default();
                if map.len() as u64 > limits.header_bytes {
                    return Err("a sparse map is too long");
                }
                if !map.is_empty() {
                    map.push(b',');
                }
                map.extend_from_slice(value);
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.insert(name.to_vec(), value.to_vec());
                }
            }
        }
        Ok(())
    }
}

/// Sum of the header's bytes with the checksum field taken as spaces, unsigned or, by some old tars, signed.
fn verify_checksum(header: &Header) -> Result<(), &'static str> {
    let stored = number(&header[148..156]).ok_or("the checksum is no number")?;
    let byte_at = |i| if (148..156).contains(&i) { b' ' } else { header[i] };
    let unsigned: i64 = (0..512).map(|i| i64::from(byte_at(i))).sum();
    let signed: i64 = (0..512).map(|i| i64::from(byte_at(i) as i8)).sum();
    if stored == unsigned || stored == signed { Ok(()) } else { Err("the checksum is wrong") }
}

fn size_field(at: u64, header: &Header) -> Result<u64, ArchiveError> {
    let size = number(&header[124..136]).and_then(|size| u64::try_from(size).ok());
    size.ok_or(ArchiveError::Malformed { offset: at, reason: "the size is no number" })
}

/// Name with, in ustar headers, its prefix. GNU headers keep other things there.
fn path_field(header: &Header) -> Vec<u8> {
    let name = text_field(&header[..100]);
    let ustar = &header[257..265] == b"ustar\x0000";
    match text_field(&header[345..500]) {
        prefix if ustar && !prefix.is_empty() => [&prefix[..], b"/", &name].concat(),
        _ => name,
    }
}

fn text_field(field: &[u8]) -> Vec<u8> {
    field.split(|&byte| byte == 0).next().unwrap_or_default().to_vec()
}

fn cut_at_nul(bytes: Vec<u8>) -> Vec<u8> {
    text_field(&bytes)
}

/// A number of a header: octal between blanks and NULs, empty for zero, or, with the first bit set, base 256 in
/// two's complement.
pub(crate) fn number(field: &[u8]) -> Option<i64> {
    match field.first()? {
        first if first & 0x80 != 0 => base256(field),
        _ => {
            let digits = field.trim_ascii_start();
            let end = digits.iter().position(|b| matches!(b, 0 | b' ')).unwrap_or(digits.len());
            octal(&digits[..end])
        }
    }
}

fn octal(digits: &[u8]) -> Option<i64> {
    digits.iter().try_fold(0i64, |sum, digit| match digit {
        b'0'..=b'7' => sum.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
        _ => None,
    })
}

fn base256(field: &[u8]) -> Option<i64> {
    let negative = field[0] & 0x40 != 0;
    let first = if negative { field[0] } else { field[0] & 0x7f };
    let start = if negative { -1i128 } else { 0 };
    let value = std::iter::once(first).chain(field[1..].iter().copied());
    i64::try_from(value.fold(start, |sum, byte| (sum << 8) | i128::from(byte))).ok()
}

#[cfg(test)]
mod tests;
