//! The other writer of images: `mkfs.ext4 -d` over an unpacked tree. It needs root, room for a second copy and a program, and
//! it stores whatever ext4 can; so it stands in where `mkext4` says that it cannot lay an image out, and it is what
//! `mkext4`'s images are compared with.
//!
//! The tree is made in a fresh folder, name by name below open directories' paths that no archive chose: a node's parent is
//! a directory that was made here, never a link. Left out: POSIX ACLs, whose form on the disk mkfs would not take. The
//! root itself, of which mkfs takes nothing over, is set by debugfs afterwards.

use crate::program;
use ::images::ext4::{ImageError, Progress, RootfsWriter, Volume, Written};
use ::images::positioned::ReadAt;
use ::images::tree::{Metadata, Node, NodeId, NodeKind};
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;

const PROGRAM: &str = "mkfs.ext4";
const COPY_BYTES: usize = 1 << 20;
/// 12 % and 16 MiB beyond the contents: inode tables, journal, what mkfs keeps for itself.
const SPARE_BYTES: u64 = 16 << 20;

/// Unpacks below `scratch`, a folder on a disk with room.
pub struct MkfsExt4 {
    pub scratch: PathBuf,
}

impl MkfsExt4 {
    /// Whether this writer can work here at all.
    pub fn is_possible() -> bool {
        rustix::process::geteuid().is_root()
            && program::command(PROGRAM).arg("-V").stderr(Stdio::null()).status().is_ok()
    }
}

impl RootfsWriter for MkfsExt4 {
    fn write(
        &self,
        volume: &Volume<'_>,
        out: &File,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Written, ImageError> {
        let tree = Unpacked(self.scratch.join("tree"));
        let root = &tree.0;
        fs::create_dir(root).map_err(ImageError::Write)?;
        let mut unpack = Unpack { volume, made: HashMap::new(), bytes: 0, nodes: 0, progress, cancelled: false };
        match unpack.directory(volume.root, root) {
            _ if unpack.cancelled => return Err(ImageError::Cancelled),
            outcome => outcome.map_err(ImageError::Write)?,
        }
        let (content, inodes) = (unpack.bytes, unpack.nodes);
        let bytes = size(content, inodes, volume.free_bytes);
        out.set_len(bytes).map_err(ImageError::Write)?;
        make(volume, root, out, inodes).and_then(|()| settle_root(volume, out)).map_err(ImageError::Write)?;
        Ok(Written { bytes, inodes })
    }
}

/// Gone with its owner.
struct Unpacked(PathBuf);

impl Drop for Unpacked {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// 4 KiB for each node that is a file or directory, 256 bytes for its inode.
fn size(content: u64, inodes: u64, free: u64) -> u64 {
    let raw = content + inodes * (4096 + 256) + free;
    (raw + raw / 8 + SPARE_BYTES).next_multiple_of(1 << 20)
}

fn make(volume: &Volume<'_>, root: &Path, out: &File, inodes: u64) -> io::Result<()> {
    let uuid: String = volume.uuid.iter().enumerate().map(|(at, byte)| hyphen(at) + &format!("{byte:02x}")).collect();
    let mut command = program::command(PROGRAM);
    command.args(["-q", "-F", "-m", "0", "-b", "4096", "-I", "256", "-L", volume.label, "-U", &uuid]);
    command.args(["-E", &format!("hash_seed={uuid},lazy_itable_init=0,lazy_journal_init=0")]);
    command.args(["-N", &(inodes + inodes / 8 + 64).to_string()]).arg("-d").arg(root);
    command.arg(path_of(out));
    let made = command.stdin(Stdio::null()).output()?;
    if made.status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("{PROGRAM}: {}", String::from_utf8_lossy(&made.stderr).trim())))
}

/// Of this process, which outlives the command: a path that names the open file itself.
fn path_of(out: &File) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), out.as_raw_fd())
}

/// Mode, owner and time of the root, with its checksum (debugfs(8)).
fn settle_root(volume: &Volume<'_>, out: &File) -> io::Result<()> {
    let Metadata { mode, uid, gid, mtime, .. } = &volume.tree.node(volume.root).metadata;
    let fields = [
        format!("mode 04{mode:04o}"),
        format!("uid {uid}"),
        format!("gid {gid}"),
        format!("mtime @{}", mtime.0.max(0)),
    ];
    let script: String = fields.iter().map(|field| format!("set_inode_field / {field}\n")).collect();
    let mut command = program::command("debugfs");
    command.args(["-w", "-f", "-"]).arg(path_of(out)).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut child = command.stderr(Stdio::null()).spawn()?;
    let said = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(script.as_bytes()));
    match child.wait()? {
        status if status.success() => said,
        status => Err(io::Error::other(format!("debugfs ended with {status}"))),
    }
}

/// 8-4-4-4-12.
fn hyphen(at: usize) -> String {
    if matches!(at, 4 | 6 | 8 | 10) { "-".to_owned() } else { String::new() }
}

struct Unpack<'a, 'v, 'p> {
    volume: &'a Volume<'v>,
    /// Files and small nodes by their first path, for hard links.
    made: HashMap<NodeId, PathBuf>,
    bytes: u64,
    nodes: u64,
    progress: &'p mut dyn FnMut(Progress) -> ControlFlow<()>,
    cancelled: bool,
}

impl Unpack<'_, '_, '_> {
    fn directory(&mut self, id: NodeId, path: &Path) -> io::Result<()> {
        self.nodes += 1;
        if self.volume.emptied != Some(id) {
            let children: Vec<(Vec<u8>, NodeId)> =
                self.volume.tree.children(id).map(|(name, child)| (name.to_vec(), child)).collect();
            for (name, child) in children {
                self.child(child, &path.join(OsStr::from_bytes(&name)))?;
            }
        }
        // Last: what was made in it changed its time, and its mode may forbid making anything.
        settle(path, self.volume.tree.node(id), true)
    }

    fn child(&mut self, id: NodeId, path: &Path) -> io::Result<()> {
        if (self.progress)(Progress::Writing { bytes: self.bytes, of: self.bytes }).is_break() {
            self.cancelled = true;
            return Err(io::Error::other("cancelled"));
        }
        let node = self.volume.tree.node(id);
        if let NodeKind::Directory(_) = node.kind {
            fs::create_dir(path)?;
            return self.directory(id, path);
        }
        if let Some(first) = self.made.get(&id) {
            return fs::hard_link(first, path);
        }
        self.nodes += 1;
        self.made.insert(id, path.to_owned());
        self.make(node, path)?;
        settle(path, node, !matches!(node.kind, NodeKind::Symlink(_)))
    }

    fn make(&mut self, node: &Node, path: &Path) -> io::Result<()> {
        let device = |kind, major, minor| {
            Ok(rustix::fs::mknodat(CWD, path, kind, Mode::empty(), rustix::fs::makedev(major, minor))?)
        };
        match &node.kind {
            NodeKind::File { layer, contents } => {
                let file = File::create_new(path)?;
                file.set_len(contents.size)?;
                let layer = &self.volume.layers[*layer];
                for piece in &contents.pieces {
                    copy(layer, piece.stored_at, &file, piece.at, piece.length)?;
                    self.bytes += piece.length.next_multiple_of(4096);
                }
                Ok(())
            }
            NodeKind::Symlink(target) => symlink(OsStr::from_bytes(target), path),
            NodeKind::CharDevice { major, minor } => device(FileType::CharacterDevice, *major, *minor),
            NodeKind::BlockDevice { major, minor } => device(FileType::BlockDevice, *major, *minor),
            NodeKind::Fifo => device(FileType::Fifo, 0, 0),
            NodeKind::Directory(_) => unreachable!("directories are made apart"),
        }
    }
}

fn copy(layer: &impl ReadAt, from: u64, file: &File, to: u64, length: u64) -> io::Result<()> {
    let mut buffer = vec![0; COPY_BYTES.min(length as usize)];
    let mut done = 0;
    while done < length {
        let wanted = (length - done).min(COPY_BYTES as u64) as usize;
        layer.read_exact_at(&mut buffer[..wanted], from + done)?;
        file.write_all_at(&buffer[..wanted], to + done)?;
        done += wanted as u64;
    }
    Ok(())
}

/// Owner before mode, which a change of owner would take bits from; attributes before the time.
fn settle(path: &Path, node: &Node, has_mode: bool) -> io::Result<()> {
    let Metadata { mode, uid, gid, mtime, xattrs } = &node.metadata;
    std::os::unix::fs::lchown(path, Some(*uid), Some(*gid))?;
    if has_mode {
        fs::set_permissions(path, Permissions::from_mode(u32::from(*mode)))?;
    }
    for (name, value) in xattrs.iter().filter(|(name, _)| !name.starts_with("system.posix_acl")) {
        rustix::fs::lsetxattr(path, name.as_ref(), value, XattrFlags::empty())?;
    }
    let time = Timespec { tv_sec: mtime.0, tv_nsec: i64::from(mtime.1) };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

#[cfg(test)]
mod tests;
