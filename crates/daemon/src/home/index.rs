//! A guest's `.git/index`, read here and not by git: what tells which files of its tree are as they were staged.
//!
//! Versions 2 to 4 of gitformat-index(5). Extensions are passed over; one that would change what the entries mean (a
//! split index) makes the whole unreadable, and then every file is looked at.

use super::limits;
use super::quarantine::Hash;
use wire::guest::work::PATH_LIMIT_BYTES;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexEntry {
    pub path: Vec<u8>,
    pub mode: u32,
    /// In hexadecimal.
    pub object: String,
    /// 0, or one side of a conflict.
    pub stage: u8,
    pub size: u32,
    pub mtime_s: u32,
    pub mtime_ns: u32,
    pub ctime_s: u32,
    pub inode: u32,
    /// Not in the tree on purpose (sparse checkout).
    pub skipped: bool,
    /// `git add -N`: nothing is staged.
    pub intended: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    #[error("it is no index of git")]
    Magic,
    #[error("its version {0} is not known")]
    Version(u32),
    #[error("it is cut short")]
    Short,
    #[error("it names more files than {}", limits::ENTRIES)]
    TooMany,
    #[error("its names take more than {} bytes", limits::NAMES_BYTES)]
    TooLong,
    #[error("it is split")]
    Split,
}

/// `object_bytes`: 20 for SHA-1, 32 for SHA-256.
pub fn parse(bytes: &[u8], object_bytes: usize) -> Result<Vec<IndexEntry>, IndexError> {
    let mut rest = Cursor { bytes, at: 0 };
    if rest.take(4)? != b"DIRC" {
        return Err(IndexError::Magic);
    }
    let version = rest.word()?;
    if !(2..=4).contains(&version) {
        return Err(IndexError::Version(version));
    }
    let count = rest.word()? as usize;
    if count > limits::ENTRIES {
        return Err(IndexError::TooMany);
    }
    let mut entries: Vec<IndexEntry> = Vec::with_capacity(count.min(bytes.len() / 62 + 1));
    // Version 4 says how much of the name before is kept: a small file may name very much.
    let mut name_bytes = 0;
    for _ in 0..count {
        let before = entries.last().map_or(&b""[..], |entry| entry.path.as_slice());
        let entry = entry(&mut rest, version, object_bytes, before)?;
        name_bytes += entry.path.len();
        if entry.path.len() > PATH_LIMIT_BYTES || name_bytes > limits::NAMES_BYTES {
            return Err(IndexError::TooLong);
        }
        entries.push(entry);
    }
    extensions(&mut rest, object_bytes)?;
    Ok(entries)
}

/// The same index without what it remembers of trees, and so without what says where such memories lie; none where it
/// cannot be read. Version and entries stay.
pub fn without_trees(bytes: &[u8], hash: Hash) -> Option<Vec<u8>> {
    let mut rest = Cursor { bytes, at: 8 };
    let version = u32::from_be_bytes(bytes.get(4..8)?.try_into().ok()?);
    let mut before = Vec::new();
    for _ in 0..rest.word().ok()? {
        before = entry(&mut rest, version, hash.bytes(), &before).ok()?.path;
    }
    let mut kept = bytes.get(..rest.at)?.to_vec();
    while bytes.len() - rest.at > hash.bytes() {
        let start = rest.at;
        let name = rest.take(4).ok()?.to_vec();
        let length = rest.word().ok()? as usize;
        rest.take(length).ok()?;
        if !matches!(name.as_slice(), b"TREE" | b"EOIE" | b"IEOT") {
            kept.extend(&bytes[start..rest.at]);
        }
    }
    let mut hasher = hash.begin();
    hasher.update(&kept);
    let sum = hasher.finish();
    let byte = |at: usize| u8::from_str_radix(&sum[2 * at..2 * at + 2], 16).ok();
    let sum: Option<Vec<u8>> = (0..hash.bytes()).map(byte).collect();
    kept.extend(sum?);
    Some(kept)
}

fn entry(rest: &mut Cursor, version: u32, object_bytes: usize, before: &[u8]) -> Result<IndexEntry, IndexError> {
    let start = rest.at;
    let ctime_s = rest.word()?;
    rest.take(4)?;
    let (mtime_s, mtime_ns) = (rest.word()?, rest.word()?);
    rest.take(4)?;
    let (inode, mode) = (rest.word()?, rest.word()?);
    rest.take(8)?;
    let size = rest.word()?;
    let object = hex(rest.take(object_bytes)?);
    let flags = rest.half()?;
    let extended = if version >= 3 && flags & 0x4000 != 0 { rest.half()? } else { 0 };
    let path = if version == 4 {
        let cut = rest.offset()?;
        let kept = before.len().checked_sub(cut).ok_or(IndexError::Short)?;
        [&before[..kept], rest.until_nul()?].concat()
    } else {
        let path = rest.until_nul()?.to_vec();
        // One NUL is read; the entry is filled up to a multiple of eight.
        rest.take((8 - (rest.at - start) % 8) % 8)?;
        path
    };
    Ok(IndexEntry {
        path,
        mode,
        object,
        stage: ((flags >> 12) & 3) as u8,
        size,
        mtime_s,
        mtime_ns,
        ctime_s,
        inode,
        skipped: extended & 0x4000 != 0,
        intended: extended & 0x2000 != 0,
    })
}

fn extensions(rest: &mut Cursor, object_bytes: usize) -> Result<(), IndexError> {
    while rest.bytes.len() - rest.at > object_bytes {
        let name = rest.take(4)?.to_vec();
        let length = rest.word()? as usize;
        if name == b"link" {
            return Err(IndexError::Split);
        }
        rest.take(length)?;
    }
    Ok(())
}

pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    digits.map(char::from).collect()
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], IndexError> {
        let end = self.at.checked_add(count).ok_or(IndexError::Short)?;
        let taken = self.bytes.get(self.at..end).ok_or(IndexError::Short)?;
        self.at = end;
        Ok(taken)
    }

    fn word(&mut self) -> Result<u32, IndexError> {
        Ok(u32::from_be_bytes(self.take(4)?.try_into().expect("four bytes")))
    }

    fn half(&mut self) -> Result<u16, IndexError> {
        Ok(u16::from_be_bytes(self.take(2)?.try_into().expect("two bytes")))
    }

    fn until_nul(&mut self) -> Result<&'a [u8], IndexError> {
        let length = self.bytes[self.at..].iter().position(|byte| *byte == 0).ok_or(IndexError::Short)?;
        let taken = self.take(length)?;
        self.take(1)?;
        Ok(taken)
    }

    /// A number as in pack files (gitformat-pack(5), offset encoding).
    fn offset(&mut self) -> Result<usize, IndexError> {
        let mut value = 0_usize;
        let mut first = true;
        loop {
            let byte = self.take(1)?[0];
            if !first {
                value = value.checked_add(1).ok_or(IndexError::Short)?;
            }
            first = false;
            value = value.checked_mul(128).ok_or(IndexError::Short)? + usize::from(byte & 127);
            if byte & 128 == 0 {
                return Ok(value);
            }
        }
    }
}
