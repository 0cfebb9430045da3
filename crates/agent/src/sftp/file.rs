//! Open handles: files and folders that a client has named and will name again by number.

use std::collections::HashMap;
use std::fs::{DirEntry, File, ReadDir};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// 256 open files and folders of one client.
pub const MAX_HANDLES: usize = 256;
/// 100 entries per answer, as OpenSSH gives them.
const ENTRIES: usize = 100;

pub enum Handle {
    File { file: File, append: bool },
    Folder { path: PathBuf, entries: ReadDir },
}

#[derive(Default)]
pub struct Handles {
    open: HashMap<u32, Handle>,
    next: u32,
}

impl Handles {
    pub fn add(&mut self, handle: Handle) -> io::Result<u32> {
        if self.open.len() >= MAX_HANDLES {
            return Err(io::Error::other("too many open files"));
        }
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        self.open.insert(number, handle);
        Ok(number)
    }

    pub fn get(&mut self, name: &[u8]) -> io::Result<&mut Handle> {
        let number = name.try_into().map(u32::from_be_bytes).ok();
        number.and_then(|number| self.open.get_mut(&number)).ok_or_else(unknown)
    }

    pub fn file(&mut self, name: &[u8]) -> io::Result<&File> {
        match self.get(name)? {
            Handle::File { file, .. } => Ok(file),
            Handle::Folder { .. } => Err(unknown()),
        }
    }

    pub fn close(&mut self, name: &[u8]) -> io::Result<()> {
        let number = name.try_into().map(u32::from_be_bytes).ok();
        number.and_then(|number| self.open.remove(&number)).map(drop).ok_or_else(unknown)
    }

    pub fn read(&mut self, name: &[u8], offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.file(name)?.read_at(buffer, offset)
    }

    pub fn write(&mut self, name: &[u8], offset: u64, data: &[u8]) -> io::Result<()> {
        match self.get(name)? {
            Handle::File { file, append: false } => file.write_all_at(data, offset),
            // The kernel puts it at the end, whatever the client counts.
            Handle::File { file, append: true } => io::Write::write_all(file, data),
            Handle::Folder { .. } => Err(unknown()),
        }
    }

    /// The next entries of a folder and its path; none at its end.
    pub fn entries(&mut self, name: &[u8]) -> io::Result<(PathBuf, Vec<DirEntry>)> {
        match self.get(name)? {
            Handle::Folder { path, entries } => {
                let some = entries.take(ENTRIES).collect::<io::Result<Vec<_>>>()?;
                Ok((path.clone(), some))
            }
            Handle::File { .. } => Err(unknown()),
        }
    }
}

fn unknown() -> io::Error {
    io::Error::from_raw_os_error(rustix::io::Errno::BADF.raw_os_error())
}
