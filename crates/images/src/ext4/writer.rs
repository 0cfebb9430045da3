//! Writing one volume: a seam with two implementations. `mkext4`, here, needs no privilege, no processes and no unpacked
//! tree; `mkfs.ext4 -d` needs all three, so it lives with whoever may start processes, and is what this one is compared with.
//!
//! Images have no `resize_inode`: they grow while they are not mounted (`resize2fs` moves the descriptors), not
//! while a guest uses them.

use super::contents::{Stream, segments, stretches};
use super::names::{self, NameRepair, Repairs, TargetRepair};
use super::sink::SparseSink;
use super::{ImageError, Progress, size};
use crate::layer::Layer;
use crate::text;
use crate::tree::{Metadata, NodeId, NodeKind, Tree};
use mkext4::{FsBuilder, InodeCount, InodeHandle, Meta, Options, SpecialKind};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::ops::ControlFlow;

/// A file system to be written.
#[derive(Debug)]
pub struct Volume<'a> {
    pub tree: &'a Tree,
    /// In the order in which they were applied to the tree.
    pub layers: &'a [Layer],
    /// The directory that becomes the root of the file system.
    pub root: NodeId,
    /// A directory that stays, but empty.
    pub emptied: Option<NodeId>,
    pub uuid: [u8; 16],
    /// Seconds since 1970 that the file system says it was made at.
    pub epoch: u32,
    /// At most 16 bytes.
    pub label: &'a str,
    /// Room beyond the contents.
    pub free_bytes: u64,
    /// It is made larger later, many times over.
    pub grows: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    pub bytes: u64,
    pub inodes: u64,
}

pub trait RootfsWriter {
    /// Writes `volume` into `out`, an empty file. The same volume gives the same bytes.
    fn write(
        &self,
        volume: &Volume<'_>,
        out: &File,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Written, ImageError>;
}

#[derive(Debug, Clone, Copy, Default)]
pub struct Mkext4;

/// An image that turns out too small is laid out again, larger. The reckoning in [`size`] is right the first time but
/// for pathological trees.
const LAYOUT_ATTEMPTS: u32 = 6;

impl RootfsWriter for Mkext4 {
    fn write(
        &self,
        volume: &Volume<'_>,
        out: &File,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Written, ImageError> {
        let plan = Plan::of(volume)?;
        let mut attempt = 0;
        let (layout, handles) = loop {
            let mut builder = FsBuilder::new(plan.options(volume, attempt)).map_err(ImageError::layout)?;
            let handles = plan.declare(volume, &mut builder)?;
            match builder.seal() {
                Ok(layout) => break (layout, handles),
                Err(error) if attempt == LAYOUT_ATTEMPTS => return Err(ImageError::layout(error)),
                Err(_) => attempt += 1,
            }
        };
        let mut sink = SparseSink::new(out, layout.image_len()).map_err(ImageError::Write)?;
        let mut writer = layout.writer(&mut sink).map_err(ImageError::write)?;
        let mut progress = Progressing { done: 0, of: plan.size.content_bytes, report: progress, cancelled: false };
        for (file, handle) in plan.files.iter().zip(handles).filter(|(file, _)| !file.empty) {
            let filled = writer.fill(handle, &mut Reporting { source: file.stream(volume), progress: &mut progress });
            if progress.cancelled {
                return Err(ImageError::Cancelled);
            }
            filled.map_err(ImageError::write)?;
        }
        let summary = writer.finish().map_err(ImageError::write)?;
        sink.flush().map_err(ImageError::Write)?;
        plan.repairs(volume).carry_out(out).map_err(ImageError::Write)?;
        Ok(Written { bytes: summary.image_len, inodes: plan.size.inodes })
    }
}

/// What is written in which order: directories and small nodes by path, then files by their place in the layers, so
/// that layers are read and the image is written from front to back.
struct Plan {
    /// Directories with the names in them that are no directories, parents first.
    directories: Vec<(NodeId, Option<NodeId>, String)>,
    others: Vec<(NodeId, NodeId, String)>,
    files: Vec<PlannedFile>,
    /// Names that were written as something else: in which directory, as what, and what they are.
    stood_in: Vec<(NodeId, String, Vec<u8>)>,
    size: size::Reckoning,
}

struct PlannedFile {
    node: NodeId,
    layer: usize,
    stored_at: u64,
    names: Vec<(NodeId, String)>,
    empty: bool,
}

impl PlannedFile {
    fn stream<'a>(&self, volume: &'a Volume<'_>) -> Stream<'a, Layer> {
        match &volume.tree.node(self.node).kind {
            NodeKind::File { layer, contents } => Stream::new(&volume.layers[*layer], contents),
            _ => unreachable!("only files are planned as files"),
        }
    }
}

impl Plan {
    fn of(volume: &Volume<'_>) -> Result<Self, ImageError> {
        let mut plan = Plan {
            directories: vec![(volume.root, None, String::new())],
            others: Vec::new(),
            files: Vec::new(),
            stood_in: Vec::new(),
            size: size::Reckoning::default(),
        };
        let mut files: HashMap<NodeId, usize> = HashMap::new();
        let mut next = 0;
        while let Some(&(directory, ..)) = plan.directories.get(next) {
            next += 1;
            plan.size.add_node(volume.tree.node(directory));
            if volume.emptied != Some(directory) {
                plan.take_children(volume, directory, &mut files)?;
            }
        }
        plan.files.sort_by_key(|file| (file.layer, file.stored_at, file.node));
        Ok(plan)
    }

    fn take_children(
        &mut self,
        volume: &Volume<'_>,
        directory: NodeId,
        files: &mut HashMap<NodeId, usize>,
    ) -> Result<(), ImageError> {
        self.size.begin_directory();
        let names = || volume.tree.children(directory).map(|(name, _)| name);
        let mut stand_ins =
            names::stand_ins(&names, &volume.uuid).map_err(|name| ImageError::NotUtf8 { name: text::show(name) })?;
        for (name, id) in volume.tree.children(directory) {
            let node = volume.tree.node(id);
            if directory == volume.root && name == b"lost+found" {
                check_lost_found(volume.tree, id)?;
                continue;
            }
            let name = match str::from_utf8(name) {
                Ok(name) => name.to_owned(),
                Err(_) => {
                    let written = stand_ins.remove(name).expect("each such name got a stand-in");
                    self.stood_in.push((directory, written.clone(), name.to_vec()));
                    written
                }
            };
            self.size.add_name(&name);
            match &node.kind {
                NodeKind::Directory(_) => self.directories.push((id, Some(directory), name)),
                NodeKind::File { layer, contents } => {
                    let index = *files.entry(id).or_insert_with(|| {
                        self.size.add_node(node);
                        let first = contents.pieces.first();
                        self.files.push(PlannedFile {
                            node: id,
                            layer: *layer,
                            stored_at: first.map_or(0, |piece| piece.stored_at),
                            names: Vec::new(),
                            empty: first.is_none(),
                        });
                        self.files.len() - 1
                    });
                    self.files[index].names.push((directory, name));
                }
                _ => {
                    self.size.add_node(node);
                    self.others.push((id, directory, name));
                }
            }
        }
        Ok(())
    }

    /// What was written as something else, with the paths as they were written.
    fn repairs(&self, volume: &Volume<'_>) -> Repairs {
        let parents: HashMap<NodeId, (NodeId, &str)> =
            self.directories.iter().filter_map(|(id, parent, name)| Some((*id, ((*parent)?, name.as_str())))).collect();
        let path = |mut directory: NodeId| {
            let mut path = Vec::new();
            while let Some((parent, name)) = parents.get(&directory) {
                path.push((*name).to_owned());
                directory = *parent;
            }
            path.reverse();
            path
        };
        let names = self.stood_in.iter().map(|(directory, written, real)| NameRepair {
            directory: path(*directory),
            written: written.clone(),
            real: real.clone(),
        });
        let targets = self.others.iter().filter_map(|(id, directory, name)| match &volume.tree.node(*id).kind {
            NodeKind::Symlink(target) if str::from_utf8(target).is_err() => {
                Some(TargetRepair { directory: path(*directory), written: name.clone(), real: target.to_vec() })
            }
            _ => None,
        });
        Repairs { names: names.collect(), targets: targets.collect() }
    }

    fn options(&self, volume: &Volume<'_>, attempt: u32) -> Options {
        let geometry = match volume.grows {
            true => self.size.geometry_to_grow(volume.free_bytes, attempt),
            false => self.size.geometry(volume.free_bytes, attempt),
        };
        let mut options = Options::new(geometry.bytes, volume.uuid, i64::from(volume.epoch));
        options.inodes = InodeCount::Exact(geometry.inodes);
        options.label = Some(volume.label.to_owned());
        options.reserved_percent = 0;
        options
    }

    /// Declares everything; answers the handles of `files`, in order.
    fn declare(&self, volume: &Volume<'_>, builder: &mut FsBuilder) -> Result<Vec<InodeHandle>, ImageError> {
        let mut declare = Declare { tree: volume.tree, builder, handles: HashMap::new() };
        for (id, parent, name) in &self.directories {
            declare.directory(*id, *parent, name).map_err(ImageError::layout)?;
        }
        for (id, parent, name) in &self.others {
            declare.other(*id, *parent, name).map_err(ImageError::layout)?;
        }
        self.files.iter().map(|file| declare.file(file).map_err(ImageError::layout)).collect()
    }
}

/// Every ext4 makes its own `lost+found`; an archive of one brings it along, empty.
fn check_lost_found(tree: &Tree, id: NodeId) -> Result<(), ImageError> {
    let empty_directory = matches!(tree.node(id).kind, NodeKind::Directory(_)) && tree.children(id).next().is_none();
    if empty_directory { Ok(()) } else { Err(ImageError::LostFound) }
}

struct Declare<'a> {
    tree: &'a Tree,
    builder: &'a mut FsBuilder,
    handles: HashMap<NodeId, InodeHandle>,
}

impl Declare<'_> {
    fn directory(&mut self, id: NodeId, parent: Option<NodeId>, name: &str) -> mkext4::Result<()> {
        let metadata = &self.tree.node(id).metadata;
        let handle = match parent {
            Some(parent) => self.builder.mkdir(self.handles[&parent], name, meta(metadata))?,
            None => {
                self.builder.set_meta(mkext4::ROOT, meta(metadata))?;
                mkext4::ROOT
            }
        };
        self.handles.insert(id, handle);
        self.set_xattrs(handle, metadata)
    }

    fn other(&mut self, id: NodeId, parent: NodeId, name: &str) -> mkext4::Result<()> {
        let parent = self.handles[&parent];
        if let Some(&handle) = self.handles.get(&id) {
            return self.builder.hardlink(parent, name, handle);
        }
        let node = self.tree.node(id);
        let meta = meta(&node.metadata);
        let mut special = |kind| self.builder.mknod(parent, name, meta, kind);
        let handle = match &node.kind {
            NodeKind::CharDevice { major, minor } => special(SpecialKind::Char { major: *major, minor: *minor })?,
            NodeKind::BlockDevice { major, minor } => special(SpecialKind::Block { major: *major, minor: *minor })?,
            NodeKind::Fifo => special(SpecialKind::Fifo)?,
            NodeKind::Symlink(target) => {
                let target = match str::from_utf8(target) {
                    Ok(target) => target.to_owned(),
                    Err(_) => names::target_stand_in(target),
                };
                self.builder.symlink(parent, name, &target, meta)?
            }
            NodeKind::Directory(_) | NodeKind::File { .. } => unreachable!("they are declared apart"),
        };
        self.handles.insert(id, handle);
        self.set_xattrs(handle, &node.metadata)
    }

    fn file(&mut self, file: &PlannedFile) -> mkext4::Result<InodeHandle> {
        let node = self.tree.node(file.node);
        let NodeKind::File { contents, .. } = &node.kind else { unreachable!("only files are planned as files") };
        let ((parent, name), more) = file.names.split_first().expect("a file is planned by its first name");
        let (parent, meta) = (self.handles[parent], meta(&node.metadata));
        let handle = match segments(contents, &stretches(contents)) {
            None => self.builder.file(parent, name, meta, contents.size)?,
            Some(segments) => self.builder.file_sparse(parent, name, meta, &segments)?,
        };
        for (parent, name) in more {
            self.builder.hardlink(self.handles[parent], name, handle)?;
        }
        self.set_xattrs(handle, &node.metadata)?;
        Ok(handle)
    }

    fn set_xattrs(&mut self, handle: InodeHandle, metadata: &Metadata) -> mkext4::Result<()> {
        metadata.xattrs.iter().try_for_each(|(name, value)| self.builder.set_xattr(handle, name, value))
    }
}

fn meta(metadata: &Metadata) -> Meta {
    Meta::new(metadata.mode, metadata.uid, metadata.gid, metadata.mtime)
}

/// How far the writing is.
struct Progressing<'p> {
    done: u64,
    of: u64,
    report: &'p mut dyn FnMut(Progress) -> ControlFlow<()>,
    cancelled: bool,
}

/// Reports what is read through it and fails when told to stop.
struct Reporting<'a, 'p, R> {
    source: R,
    progress: &'a mut Progressing<'p>,
}

impl<R: Read> Read for Reporting<'_, '_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buffer)?;
        let progress = &mut *self.progress;
        progress.done += read as u64;
        if (progress.report)(Progress::Writing { bytes: progress.done, of: progress.of }).is_break() {
            progress.cancelled = true;
            return Err(io::Error::other("cancelled"));
        }
        Ok(read)
    }
}
