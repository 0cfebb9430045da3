//! Writes entries: a GNU header each, before it a PAX header with what does not fit (long names, parts of a second,
//! attributes), behind it a sparse map where the file has holes.

use crate::{FAULT, XATTR, pax};
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use tar::{EntryType, GnuExtSparseHeader, GnuSparseHeader, Header};

const BLOCK: u64 = 512;
const ZEROS: [u8; BLOCK as usize] = [0; BLOCK as usize];
/// What a GNU header's name and link fields hold.
const NAME_BYTES: usize = 100;

pub struct Writer<W> {
    output: W,
}

/// What an entry says of itself besides its name and its contents.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: (i64, u32),
    /// Full names (`user.note`) and values.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl<W: Write> Writer<W> {
    pub fn new(output: W) -> Self {
        Writer { output }
    }

    pub fn folder(&mut self, name: &Path, facts: &Facts) -> io::Result<()> {
        let mut name = name.as_os_str().as_bytes().to_vec();
        name.push(b'/');
        self.head(EntryType::Directory, &name, None, facts, 0, |_| {})
    }

    pub fn symlink(&mut self, name: &Path, target: &Path, facts: &Facts) -> io::Result<()> {
        self.head(EntryType::Symlink, bytes(name), Some(bytes(target)), facts, 0, |_| {})
    }

    /// Another name of a file that the archive has already.
    pub fn hard_link(&mut self, name: &Path, first: &Path, facts: &Facts) -> io::Result<()> {
        self.head(EntryType::Link, bytes(name), Some(bytes(first)), facts, 0, |_| {})
    }

    pub fn fifo(&mut self, name: &Path, facts: &Facts) -> io::Result<()> {
        self.head(EntryType::Fifo, bytes(name), None, facts, 0, |_| {})
    }

    pub fn device(&mut self, name: &Path, block: bool, numbers: (u32, u32), facts: &Facts) -> io::Result<()> {
        let kind = if block { EntryType::Block } else { EntryType::Char };
        self.head(kind, bytes(name), None, facts, 0, |header| {
            // A GNU header has room for both.
            let _ = header.set_device_major(numbers.0).and_then(|()| header.set_device_minor(numbers.1));
        })
    }

    /// A file of `size` bytes whose data lies in `extents` (offset and length, ascending), all else being holes; `contents`
    /// is the data without the holes, filled up with zeros where it is too short.
    pub fn file(
        &mut self,
        name: &Path,
        facts: &Facts,
        size: u64,
        extents: &[(u64, u64)],
        contents: impl Read,
    ) -> io::Result<()> {
        let stored: u64 = extents.iter().map(|(_, length)| length).sum();
        if stored == size {
            self.head(EntryType::Regular, bytes(name), None, facts, size, |_| {})?;
        } else {
            self.sparse_head(name, facts, size, stored, extents)?;
        }
        let copied = io::copy(&mut contents.chain(io::repeat(0)).take(stored), &mut self.output)?;
        debug_assert_eq!(copied, stored);
        self.pad(stored)
    }

    fn sparse_head(
        &mut self,
        name: &Path,
        facts: &Facts,
        size: u64,
        stored: u64,
        extents: &[(u64, u64)],
    ) -> io::Result<()> {
        // The last entry tells where the file ends, as GNU tar writes it.
        let end = (extents.last().map(|(offset, length)| offset + length) != Some(size)).then_some((size, 0));
        let map: Vec<(u64, u64)> = extents.iter().copied().chain(end).collect();
        let (first, rest) = map.split_at(map.len().min(4));
        self.head(EntryType::GNUSparse, bytes(name), None, facts, stored, |header| {
            let Some(gnu) = header.as_gnu_mut() else { return };
            gnu.set_real_size(size);
            fill(&mut gnu.sparse, first);
            gnu.set_is_extended(!rest.is_empty());
        })?;
        let mut parts = rest.chunks(21).peekable();
        while let Some(part) = parts.next() {
            let mut more = GnuExtSparseHeader::new();
            fill(&mut more.sparse, part);
            more.set_is_extended(parts.peek().is_some());
            self.output.write_all(more.as_bytes())?;
        }
        Ok(())
    }

    /// Why there will be no end.
    pub fn fault(&mut self, sentence: &str) -> io::Result<()> {
        self.pax(&[(FAULT.as_bytes().to_vec(), sentence.as_bytes().to_vec())])?;
        self.output.flush()
    }

    pub fn finish(mut self) -> io::Result<W> {
        self.output.write_all(&ZEROS)?;
        self.output.write_all(&ZEROS)?;
        self.output.flush()?;
        Ok(self.output)
    }

    fn head(
        &mut self,
        kind: EntryType,
        name: &[u8],
        link: Option<&[u8]>,
        facts: &Facts,
        size: u64,
        more: impl FnOnce(&mut Header),
    ) -> io::Result<()> {
        let mut records = Vec::new();
        let mut record = |key: &str, value: &[u8]| records.push((key.as_bytes().to_vec(), value.to_vec()));
        if name.len() > NAME_BYTES {
            record("path", name);
        }
        if let Some(link) = link.filter(|link| link.len() > NAME_BYTES) {
            record("linkpath", link);
        }
        let (seconds, nanos) = facts.mtime;
        if nanos != 0 && seconds >= 0 {
            record("mtime", format!("{seconds}.{nanos:09}").as_bytes());
        }
        for (key, value) in &facts.xattrs {
            records.push(([XATTR, key.as_slice()].concat(), value.clone()));
        }
        if !records.is_empty() {
            self.pax(&records)?;
        }
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(facts.mode & 0o7777);
        header.set_uid(facts.uid.into());
        header.set_gid(facts.gid.into());
        header.set_mtime(seconds.max(0) as u64);
        header.set_size(size);
        put(&mut header, name, link);
        more(&mut header);
        header.set_cksum();
        self.output.write_all(header.as_bytes())
    }

    fn pax(&mut self, records: &[(Vec<u8>, Vec<u8>)]) -> io::Result<()> {
        let text = pax::render(records);
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::XHeader);
        header.set_mode(0o644);
        header.set_size(text.len() as u64);
        put(&mut header, b"././@PaxHeader", None);
        header.set_cksum();
        self.output.write_all(header.as_bytes())?;
        self.output.write_all(&text)?;
        self.pad(text.len() as u64)
    }

    fn pad(&mut self, written: u64) -> io::Result<()> {
        let missing = (BLOCK - written % BLOCK) % BLOCK;
        self.output.write_all(&ZEROS[..missing as usize])
    }
}

/// As much of them as the fields hold; a PAX record before the header has the whole.
fn put(header: &mut Header, name: &[u8], link: Option<&[u8]>) {
    let Some(gnu) = header.as_gnu_mut() else { return };
    let count = name.len().min(NAME_BYTES);
    gnu.name[..count].copy_from_slice(&name[..count]);
    if let Some(link) = link {
        let count = link.len().min(NAME_BYTES);
        gnu.linkname[..count].copy_from_slice(&link[..count]);
    }
}

fn fill(entries: &mut [GnuSparseHeader], extents: &[(u64, u64)]) {
    for (entry, (offset, length)) in entries.iter_mut().zip(extents) {
        entry.set_offset(*offset);
        entry.set_length(*length);
    }
}

fn bytes(path: &Path) -> &[u8] {
    OsStr::as_bytes(path.as_os_str())
}
