//! What a tree consists of, and which entries of an archive can become a part of it.

use super::{NodeId, TreeError};
use crate::archive::{Entry, Kind};
use crate::sparse::Contents;
use crate::text;
use crate::xattr::{self, Stored};
use std::collections::BTreeMap;

#[derive(Debug)]
pub struct Node {
    pub metadata: Metadata,
    pub kind: NodeKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    /// Seconds and nanoseconds since the epoch.
    pub mtime: (i64, u32),
    pub xattrs: Stored,
}

#[derive(Debug)]
pub enum NodeKind {
    Directory(Directory),
    /// `layer` counts from 0, in the order in which layers were applied.
    File {
        layer: usize,
        contents: Contents,
    },
    Symlink(Box<[u8]>),
    CharDevice {
        major: u32,
        minor: u32,
    },
    BlockDevice {
        major: u32,
        minor: u32,
    },
    Fifo,
}

#[derive(Debug, Default)]
pub struct Directory {
    pub(super) entries: BTreeMap<Box<[u8]>, Name>,
    /// Length of this directory's path without its leading slash.
    pub(super) path_bytes: usize,
    /// The last layer that brought this directory or something below it.
    pub(super) touched: u32,
}

/// A name in a directory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Name {
    pub(super) id: NodeId,
    /// The layer that brought this name. Kept with the name, not with the node: a hard link to a file of a lower
    /// layer does not save that file's other names from a whiteout.
    pub(super) touched: u32,
}

/// 4095: a longer target does not fit a block of ext4 with its NUL.
const MAX_TARGET_BYTES: usize = 4095;
/// dev_t has 12 bits of major and 20 of minor number.
const MAX_MAJOR: u32 = 0xfff;
const MAX_MINOR: u32 = 0xf_ffff;
/// What ext4 with 256-byte inodes can say: 34 bits of seconds from 1901 on.
const MIN_SECONDS: i64 = -(1 << 31);
const MAX_SECONDS: i64 = (1 << 34) - (1 << 31) - 1;

impl Metadata {
    /// Of a directory that no layer describes.
    pub(super) fn implied(mtime_seconds: i64) -> Self {
        let mtime = (clamp_seconds(mtime_seconds), 0);
        Metadata { mode: 0o755, uid: 0, gid: 0, mtime, xattrs: Stored::new() }
    }

    /// Metadata of an entry and how many of its attributes were dropped.
    pub(super) fn of(entry: &mut Entry) -> Result<(Self, u32), TreeError> {
        let xattrs = std::mem::take(&mut entry.xattrs);
        let converted = xattr::convert(xattrs, entry.kind == Kind::Directory)
            .map_err(|_| unstorable(&entry.path, "its extended attributes are larger than a block"))?;
        let mode = match (&entry.kind, converted.mode) {
            // Linux knows no other mode of a symbolic link.
            (Kind::Symlink(_), _) => 0o777,
            (_, Some(acl)) => entry.mode & !0o777 | acl,
            (_, None) => entry.mode,
        };
        let mtime = (clamp_seconds(entry.mtime.0), entry.mtime.1);
        let metadata = Metadata { mode, uid: entry.uid, gid: entry.gid, mtime, xattrs: converted.stored };
        Ok((metadata, converted.dropped))
    }
}

impl NodeKind {
    /// The node for an entry that is no hard link.
    pub(super) fn of(kind: Kind, layer: usize, path: &[u8]) -> Result<Self, TreeError> {
        Ok(match kind {
            Kind::File(contents) => NodeKind::File { layer, contents },
            Kind::Directory => NodeKind::Directory(Directory::default()),
            Kind::Symlink(target) => NodeKind::Symlink(check_target(target, path)?),
            Kind::CharDevice { major, minor } => {
                check_device(major, minor, path)?;
                NodeKind::CharDevice { major, minor }
            }
            Kind::BlockDevice { major, minor } => {
                check_device(major, minor, path)?;
                NodeKind::BlockDevice { major, minor }
            }
            Kind::Fifo => NodeKind::Fifo,
            Kind::HardLink(_) => unreachable!("a hard link is a name, not a node"),
        })
    }
}

fn check_target(target: Vec<u8>, path: &[u8]) -> Result<Box<[u8]>, TreeError> {
    match target.len() {
        0 => Err(unstorable(path, "the symbolic link points nowhere")),
        1..=MAX_TARGET_BYTES => Ok(target.into()),
        _ => Err(unstorable(path, "the target of the symbolic link is longer than 4095 bytes")),
    }
}

fn check_device(major: u32, minor: u32, path: &[u8]) -> Result<(), TreeError> {
    if major <= MAX_MAJOR && minor <= MAX_MINOR {
        Ok(())
    } else {
        Err(unstorable(path, "its device number is too large"))
    }
}

pub(super) fn unstorable(path: &[u8], reason: &'static str) -> TreeError {
    TreeError::Unstorable { path: text::show(path), reason }
}

fn clamp_seconds(seconds: i64) -> i64 {
    seconds.clamp(MIN_SECONDS, MAX_SECONDS)
}
