//! How large an image must be for what it holds: blocks of contents and directories, inode tables, journal, group
//! descriptors, and the room that the caller wants free.

use super::contents::stretches;
use crate::tree::{Node, NodeKind};

const BLOCK: u64 = 4096;
/// ext4 with 4 KiB blocks: what one bitmap block can describe.
const BLOCKS_PER_GROUP: u64 = 32768;
const INODES_PER_GROUP: u64 = 32768;
const INODE_BYTES: u64 = 256;
/// Inodes 1 to 10 are the file system's own, 11 is `lost+found`.
const RESERVED_INODES: u64 = 11;
/// Images are multiples of this: keeps the last block group from being too short for its own tables.
const ROUND_BYTES: u64 = 4 << 20;
/// 16 MiB: below it the journal (4 MiB) would be more than a quarter, which `mkext4` refuses.
const MIN_BYTES: u64 = 16 << 20;
/// One inode per 16 KiB: what `mke2fs` gives by default.
const BYTES_PER_INODE: u64 = 16 << 10;
/// A directory entry: 8 bytes and the name padded to 4. Hash trees split full blocks, so at least half is used.
const ENTRY_BYTES: u64 = 8;

/// What the nodes of a volume need.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reckoning {
    pub(super) inodes: u64,
    pub(super) content_bytes: u64,
    blocks: u64,
    /// Of the directory being counted.
    names_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Geometry {
    pub(super) bytes: u64,
    pub(super) inodes: u32,
}

impl Reckoning {
    pub(super) fn add_node(&mut self, node: &Node) {
        self.inodes += 1;
        // Small attributes fit into the inode; reckoning a block for each file that has any is never too little.
        self.blocks += u64::from(!node.metadata.xattrs.is_empty());
        match &node.kind {
            NodeKind::Directory(_) => self.blocks += 1,
            NodeKind::File { contents, .. } => {
                let stretches = stretches(contents);
                self.content_bytes += stretches.iter().map(|s| s.end - s.start).sum::<u64>();
                self.blocks += stretches.iter().map(|s| (s.end - s.start).div_ceil(BLOCK)).sum::<u64>();
                // Four extents fit into the inode, a block holds 340 more.
                self.blocks += stretches.len() as u64 / 4;
            }
            // Up to 59 bytes stand in the inode.
            NodeKind::Symlink(target) => self.blocks += u64::from(target.len() > 59),
            NodeKind::CharDevice { .. } | NodeKind::BlockDevice { .. } | NodeKind::Fifo => {}
        }
    }

    pub(super) fn begin_directory(&mut self) {
        self.names_bytes = 0;
    }

    /// One more name in the current directory, whose first block [`Reckoning::add_node`] has counted.
    pub(super) fn add_name(&mut self, name: &str) {
        let blocks = |bytes: u64| 2 * bytes / BLOCK;
        let before = blocks(self.names_bytes);
        self.names_bytes += ENTRY_BYTES + (name.len() as u64).next_multiple_of(4);
        self.blocks += blocks(self.names_bytes) - before;
    }

    /// As [`Reckoning::geometry`], for an image that is made larger later. Growing adds groups like those that there are
    /// (fs/ext4/resize.c), so the first ones must have as many inodes as a large file system deserves.
    pub(super) fn geometry_to_grow(&self, free_bytes: u64, attempt: u32) -> Geometry {
        let tight = self.geometry(free_bytes, attempt);
        let bytes_per_group = BLOCKS_PER_GROUP * BLOCK;
        let bytes = (tight.bytes + bytes_per_group / BYTES_PER_INODE * INODE_BYTES).next_multiple_of(ROUND_BYTES);
        let inodes = bytes.div_ceil(bytes_per_group) * (bytes_per_group / BYTES_PER_INODE);
        Geometry { bytes, inodes: tight.inodes.max(u32::try_from(inodes).unwrap_or(u32::MAX)) }
    }

    /// Size of the image and its number of inodes, with room for `free_bytes` more and larger with every `attempt`.
    pub(super) fn geometry(&self, free_bytes: u64, attempt: u32) -> Geometry {
        let wanted = self.blocks * BLOCK + free_bytes;
        let inodes = RESERVED_INODES + self.inodes + (self.inodes / 16).max(64) + free_bytes / BYTES_PER_INODE;
        let groups_for_inodes = inodes.div_ceil(INODES_PER_GROUP);
        let tables = inodes.next_multiple_of(16) * INODE_BYTES;
        let mut bytes = wanted + tables;
        // Two bitmaps per group, copies of the superblock and descriptors, extent blocks of large files, `lost+found`.
        bytes += bytes / 512 + (1 << 20);
        bytes += journal_bytes(bytes);
        bytes = bytes.max((groups_for_inodes - 1) * BLOCKS_PER_GROUP * BLOCK + 1).max(MIN_BYTES);
        bytes += u64::from(attempt) * (ROUND_BYTES + bytes / 32);
        let bytes = bytes.next_multiple_of(ROUND_BYTES);
        Geometry { bytes, inodes: u32::try_from(inodes).unwrap_or(u32::MAX) }
    }
}

/// The journal that `mkext4` (and `mke2fs`) makes for a file system of about `bytes`; one tier more at most.
fn journal_bytes(bytes: u64) -> u64 {
    const MIB: u64 = 1 << 20;
    match bytes / MIB {
        0..96 => 4 * MIB,
        96..900 => 16 * MIB,
        900..1900 => 32 * MIB,
        1900..15_000 => 64 * MIB,
        15_000..30_000 => 128 * MIB,
        30_000..60_000 => 256 * MIB,
        60_000..120_000 => 512 * MIB,
        _ => 1024 * MIB,
    }
}
