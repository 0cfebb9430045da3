//! Layers become an ext4 image: unprivileged, without unpacking anything, sparse on the host, the same layers always
//! to the same bytes, and clean for `e2fsck -fn`.
//!
//! ```text
//! layers ─► tree ─► plan ─► layout (mkext4) ─► metadata, then contents front to back ─► image file
//! ```
//! The image's UUID is derived from the layers' diff ids and the options; times come from the caller. Images grow
//! only while they are not mounted, see [`writer`]. A half-written image is removed; renaming a whole one into
//! place is the caller's.

mod contents;
mod facts;
mod names;
mod sink;
mod size;
mod work_disk;
mod writer;

#[cfg(test)]
mod tests;

pub use facts::{Init, SystemFacts};
pub use work_disk::{WorkDisk, write_work_disk};
pub use writer::{Mkext4, RootfsWriter, Volume, Written};

use crate::layer::{Layer, LayerError};
use crate::limits::Limits;
use crate::tree::{self, Tree};
use model::{ByteSize, Digest};
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

#[derive(Debug, Clone)]
pub struct WriteOptions {
    pub limits: Limits,
    /// Seconds since 1970 at which the file system says it was made; also the time of directories that no layer
    /// describes.
    pub epoch: u32,
    /// Volume label, at most 16 bytes.
    pub label: String,
    /// Room beyond the contents. A base image that is only read needs none.
    pub free: ByteSize,
    /// Where to put what is below `/root`, as a file system of its own. `/root` is then empty in the image.
    pub work_seed: Option<PathBuf>,
}

impl Default for WriteOptions {
    fn default() -> Self {
        let free = ByteSize::from_bytes(0);
        WriteOptions { limits: Limits::default(), epoch: 0, label: "rootfs".into(), free, work_seed: None }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The headers of a layer are being read.
    Reading { layer: usize, of: usize },
    /// Contents are being written.
    Writing { bytes: u64, of: u64 },
}

/// What was written and what is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootfsFacts {
    /// Size of the image file, holes counted.
    pub size: ByteSize,
    /// Files, directories and other nodes in it.
    pub inodes: u64,
    /// Identifies the content: digest of the layers' diff ids, the options and the version of this format.
    pub digest: Digest,
    pub system: SystemFacts,
    /// Path and size of the work-seed, if one was asked for.
    pub work_seed: Option<(PathBuf, ByteSize)>,
    /// Extended attributes that were left out, see [`crate::xattr`].
    pub dropped_xattrs: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("cannot read layer {number} of the image")]
    Layer { number: usize, source: LayerError },
    #[error("cannot create {path}")]
    Create { path: PathBuf, source: io::Error },
    #[error("cannot write the image")]
    Write(#[source] io::Error),
    #[error("cannot lay out the image")]
    Layout(#[source] mkext4::Error),
    /// Only in a directory of millions of names.
    #[error("the file name {name} is not UTF-8, and there is no stand-in left to write it with")]
    NotUtf8 { name: String },
    #[error("the image brings its own `/lost+found`, which ext4 keeps for itself")]
    LostFound,
    #[error("writing the image was cancelled")]
    Cancelled,
}

impl ImageError {
    fn layout(error: mkext4::Error) -> Self {
        ImageError::Layout(error)
    }

    fn write(error: mkext4::Error) -> Self {
        match error {
            mkext4::Error::Io(error) => ImageError::Write(error),
            other => ImageError::Layout(other),
        }
    }
}

/// Changes whenever the same layers give other bytes: this code's choices, or the version of `mkext4`.
const FORMAT: &str = "banger rootfs 2, mkext4 0.0.3";

/// Writes the image of `layers`, lowest first, to `out`, which must not exist yet.
pub fn write_rootfs(
    layers: &[Layer],
    out: &Path,
    options: &WriteOptions,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<RootfsFacts, ImageError> {
    write_rootfs_with(&Mkext4, layers, out, options, progress)
}

/// The same by a writer of one's choice.
pub fn write_rootfs_with(
    writer: &dyn RootfsWriter,
    layers: &[Layer],
    out: &Path,
    options: &WriteOptions,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<RootfsFacts, ImageError> {
    let tree = read_tree(layers, options, progress)?;
    let digest = digest(layers, options);
    let home = tree.child(tree::ROOT, b"root").filter(|id| tree.is_directory(*id));
    let volume = |root, emptied, label, role| Volume {
        tree: &tree,
        layers,
        root,
        emptied,
        uuid: uuid(&digest, role),
        epoch: options.epoch,
        label,
        free_bytes: options.free.bytes(),
        grows: role == WORK_SEED,
    };
    let emptied = options.work_seed.as_ref().and(home);
    let written = write_volume(writer, &volume(tree::ROOT, emptied, &options.label, "rootfs"), out, progress)?;
    let work_seed = match &options.work_seed {
        None => None,
        Some(path) => {
            let empty = Tree::new(options.limits.clone(), options.epoch.into());
            let seed = match home {
                Some(home) => volume(home, None, WORK_LABEL, WORK_SEED),
                None => Volume { tree: &empty, ..volume(tree::ROOT, None, WORK_LABEL, WORK_SEED) },
            };
            // Both images or none.
            let seed = write_volume(writer, &seed, path, progress).inspect_err(|_| drop(std::fs::remove_file(out)))?;
            Some((path.clone(), ByteSize::from_bytes(seed.bytes)))
        }
    };
    Ok(RootfsFacts {
        size: ByteSize::from_bytes(written.bytes),
        inodes: written.inodes,
        digest,
        system: SystemFacts::of(&tree, layers),
        work_seed,
        dropped_xattrs: tree.dropped_xattrs(),
    })
}

/// What the seed's UUID is made from, beside the image's digest.
const WORK_SEED: &str = "work-seed";

/// Volume label of work disks and their seeds.
pub const WORK_LABEL: &str = "work";

/// Makes an empty file system of `size` at `path`, which must not exist yet. Takes milliseconds and a few hundred KiB
/// whatever the size: 8 KiB are written per 128 MiB, the rest are holes.
pub fn format_empty(path: &Path, size: ByteSize, label: &str, uuid: [u8; 16], epoch: u32) -> Result<(), ImageError> {
    let output = Output::create(path)?;
    let mut options = mkext4::Options::new(size.bytes() & !4095, uuid, i64::from(epoch));
    options.label = Some(label.to_owned());
    options.reserved_percent = 0;
    let layout = mkext4::FsBuilder::new(options).and_then(mkext4::FsBuilder::seal).map_err(ImageError::layout)?;
    let mut sink = sink::SparseSink::new(&output.file, layout.image_len()).map_err(ImageError::Write)?;
    layout.writer(&mut sink).and_then(|writer| writer.finish()).map_err(ImageError::write)?;
    sink.flush().map_err(ImageError::Write)?;
    output.keep();
    Ok(())
}

fn read_tree(
    layers: &[Layer],
    options: &WriteOptions,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Tree, ImageError> {
    let mut tree = Tree::new(options.limits.clone(), options.epoch.into());
    for (index, layer) in layers.iter().enumerate() {
        let mut go_on = || progress(Progress::Reading { layer: index, of: layers.len() });
        tree.apply_layer(layer, &options.limits, &mut go_on).map_err(|source| match source {
            LayerError::Cancelled => ImageError::Cancelled,
            source => ImageError::Layer { number: index + 1, source },
        })?;
    }
    Ok(tree)
}

fn write_volume(
    writer: &dyn RootfsWriter,
    volume: &Volume<'_>,
    out: &Path,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Written, ImageError> {
    let output = Output::create(out)?;
    let written = writer.write(volume, &output.file, progress)?;
    output.keep();
    Ok(written)
}

/// A file in the making: removed unless it is kept.
#[derive(Debug)]
struct Output<'a> {
    file: File,
    path: &'a Path,
    kept: bool,
}

impl<'a> Output<'a> {
    fn create(path: &'a Path) -> Result<Self, ImageError> {
        let file = File::options().read(true).write(true).create_new(true).open(path);
        let file = file.map_err(|source| ImageError::Create { path: path.to_owned(), source })?;
        Ok(Output { file, path, kept: false })
    }

    fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Output<'_> {
    fn drop(&mut self) {
        if !self.kept {
            // Nothing is left to tell it to: the error that got us here is on its way.
            drop(std::fs::remove_file(self.path));
        }
    }
}

fn digest(layers: &[Layer], options: &WriteOptions) -> Digest {
    let mut hasher = Sha256::new();
    let seed = options.work_seed.is_some();
    hasher.update(format!("{FORMAT}\n{}\n{}\n{}\n{seed}\n", options.epoch, options.label, options.free.bytes()));
    for layer in layers {
        hasher.update(layer.diff_id().as_str());
        hasher.update("\n");
    }
    Digest::from_sha256(hasher.finalize().into())
}

/// A UUID of version 8 (RFC 9562): bits of a digest.
fn uuid(digest: &Digest, role: &str) -> [u8; 16] {
    let hash: [u8; 32] = Sha256::digest(format!("{digest}\n{role}")).into();
    let mut uuid: [u8; 16] = hash[..16].try_into().expect("16 of 32 bytes");
    uuid[6] = uuid[6] & 0x0f | 0x80;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    uuid
}
