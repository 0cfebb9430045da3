//! The file tree that a stack of layers describes, held in memory: names and metadata here, contents still in the
//! layers.
//!
//! Invariants: every path is resolved inside the tree ([`walk`]), so nothing that an archive says can point outside;
//! a directory has one parent; a path is no longer than [`Limits::path_bytes`]. What a layer brought carries that
//! layer's number, since a whiteout hides lower layers only.

mod node;
mod walk;

#[cfg(test)]
mod tests;

pub use node::{Directory, Metadata, Node, NodeKind};

use crate::archive::{Entry, Kind};
use crate::limits::{Exceeded, Limits};
use crate::text;
use crate::whiteout::{self, Name as Meaning};
use node::{Name, unstorable};
use walk::{Stop, Walk, WalkError};

/// A node of a [`Tree`]; a hard link is a second name for the same node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u32);

pub const ROOT: NodeId = NodeId(0);

#[derive(Debug)]
pub struct Tree {
    nodes: Vec<Node>,
    limits: Limits,
    /// Number of the layer being applied, from 1 on.
    layer: u32,
    /// Entries applied and directories implied.
    entries: u64,
    content_bytes: u64,
    dropped_xattrs: u64,
    implied: Metadata,
}

#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    #[error("{path} lies below something that is no directory")]
    NotADirectory { path: String },
    #[error("{path} lies behind too many symbolic links")]
    SymlinkLoop { path: String },
    #[error("the hard link {path} points to {target}, which {reason}")]
    HardLink { path: String, target: String, reason: &'static str },
    #[error("{path} cannot be stored: {reason}")]
    Unstorable { path: String, reason: &'static str },
    #[error(transparent)]
    Exceeded(#[from] Exceeded),
}

/// 255: `EXT4_NAME_LEN`.
const MAX_NAME_BYTES: usize = 255;

impl Tree {
    /// A tree with nothing but its root. `implied_mtime` is the time of directories that no layer describes.
    pub fn new(limits: Limits, implied_mtime: i64) -> Self {
        let implied = Metadata::implied(implied_mtime);
        let root = Node { metadata: implied.clone(), kind: NodeKind::Directory(Directory::default()) };
        Tree { nodes: vec![root], limits, layer: 0, entries: 0, content_bytes: 0, dropped_xattrs: 0, implied }
    }

    /// What is applied from now on belongs to the next layer.
    pub fn begin_layer(&mut self) {
        self.layer += 1;
    }

    /// Applies one entry of the current layer.
    pub fn apply(&mut self, mut entry: Entry) -> Result<(), TreeError> {
        assert!(self.layer > 0, "begin_layer comes before the first entry");
        self.count_entry()?;
        let path = std::mem::take(&mut entry.path);
        let components = self.components(&path)?;
        let Some((last, parents)) = components.split_last() else { return self.apply_root(entry) };
        match whiteout::classify(last) {
            Meaning::Plain(name) => self.insert(parents, name, entry, &path),
            Meaning::Whiteout(name) => self.hide(parents, name, &path),
            Meaning::Opaque => self.hide_all(parents, &path),
            Meaning::Meaningless => Ok(()),
        }
    }

    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }

    /// Names below a directory, in byte order; nothing for other nodes.
    pub fn children(&self, id: NodeId) -> impl Iterator<Item = (&[u8], NodeId)> {
        let entries = self.directory(id).into_iter().flat_map(|directory| &directory.entries);
        entries.map(|(name, entry)| (&**name, entry.id))
    }

    pub fn is_directory(&self, id: NodeId) -> bool {
        self.directory(id).is_some()
    }

    pub fn child(&self, id: NodeId, name: &[u8]) -> Option<NodeId> {
        self.directory(id)?.entries.get(name).map(|entry| entry.id)
    }

    /// What a process in the guest would open under `path`: symbolic links are followed, the last one too.
    pub fn lookup(&self, path: &str) -> Option<NodeId> {
        let mut walk = Walk::new(path.as_bytes().split(|&byte| byte == b'/'));
        match walk.advance(self).ok()? {
            Stop::Directory => Some(walk.directory()),
            Stop::Other(id) => Some(id),
            Stop::Missing(_) => None,
        }
    }

    /// Every name with its path (no leading slash), parents first, in byte order; the root has the empty path.
    pub fn paths(&self) -> impl Iterator<Item = (Vec<u8>, NodeId)> {
        let mut todo = vec![(Vec::new(), ROOT)];
        std::iter::from_fn(move || {
            let (path, id) = todo.pop()?;
            let children: Vec<_> = self.children(id).collect();
            todo.extend(children.into_iter().rev().map(|(name, child)| (join(&path, name), child)));
            Some((path, id))
        })
    }

    /// Attributes of archives that were left out, see [`crate::xattr`].
    pub fn dropped_xattrs(&self) -> u64 {
        self.dropped_xattrs
    }

    fn count_entry(&mut self) -> Result<(), Exceeded> {
        self.entries += 1;
        if self.entries > self.limits.entries { Err(Exceeded::Entries { limit: self.limits.entries }) } else { Ok(()) }
    }

    /// The components of an entry's path, cleaned as text: `..` takes away the component before it and is lost at
    /// the root.
    fn components<'a>(&self, path: &'a [u8]) -> Result<Vec<&'a [u8]>, Exceeded> {
        let slack = b"./".len() + b"/".len();
        if path.len() > self.limits.path_bytes + slack {
            return Err(Exceeded::Path { path: text::show(path), limit: self.limits.path_bytes });
        }
        let mut components = Vec::new();
        for component in path.split(|&byte| byte == b'/') {
            match component {
                b"" | b"." => {}
                b".." => drop(components.pop()),
                name => components.push(name),
            }
        }
        Ok(components)
    }

    fn apply_root(&mut self, mut entry: Entry) -> Result<(), TreeError> {
        if entry.kind != Kind::Directory {
            return Err(unstorable(b"/", "the root must be a directory"));
        }
        self.nodes[0].metadata = self.metadata(&mut entry)?;
        Ok(())
    }

    fn insert(&mut self, parents: &[&[u8]], name: &[u8], mut entry: Entry, path: &[u8]) -> Result<(), TreeError> {
        let trail = self.make_directories(parents, path)?;
        let parent = *trail.last().expect("a trail starts at the root");
        let existing = self.child(parent, name).filter(|id| self.directory(*id).is_some());
        let id = match (&entry.kind, existing) {
            (Kind::HardLink(target), _) => {
                // What had the name goes first, as everywhere: a link to itself, or into a directory that it
                // replaces, points nowhere.
                self.directory_mut(parent).entries.remove(name);
                self.hard_link_target(target, path)?
            }
            (Kind::Directory, Some(id)) => {
                self.nodes[id.0 as usize].metadata = self.metadata(&mut entry)?;
                id
            }
            _ => self.new_node(entry, path)?,
        };
        self.link(parent, name, id, path)?;
        for directory in trail {
            self.directory_mut(directory).touched = self.layer;
        }
        Ok(())
    }

    fn new_node(&mut self, mut entry: Entry, path: &[u8]) -> Result<NodeId, TreeError> {
        let metadata = self.metadata(&mut entry)?;
        if let Kind::File(contents) = &entry.kind {
            self.content_bytes = self.content_bytes.saturating_add(contents.stored_bytes());
            if self.content_bytes > self.limits.content_bytes {
                return Err(Exceeded::Content { limit: self.limits.content_bytes }.into());
            }
        }
        let kind = NodeKind::of(entry.kind, self.layer as usize - 1, path)?;
        Ok(self.add_node(Node { metadata, kind }))
    }

    fn hide(&mut self, parents: &[&[u8]], name: &[u8], path: &[u8]) -> Result<(), TreeError> {
        let Some(parent) = self.existing_directory(parents, path)? else { return Ok(()) };
        let Some(entry) = self.directory_mut(parent).entries.get(name).copied() else { return Ok(()) };
        if self.is_touched(entry) {
            self.purge_below(entry.id);
        } else {
            self.directory_mut(parent).entries.remove(name);
        }
        Ok(())
    }

    fn hide_all(&mut self, parents: &[&[u8]], path: &[u8]) -> Result<(), TreeError> {
        if let Some(directory) = self.existing_directory(parents, path)? {
            self.purge_below(directory);
        }
        Ok(())
    }

    /// Takes away everything below `top` that the current layer did not bring.
    fn purge_below(&mut self, top: NodeId) {
        let mut todo = vec![top];
        while let Some(id) = todo.pop() {
            let NodeKind::Directory(directory) = &mut self.nodes[id.0 as usize].kind else { continue };
            let mut entries = std::mem::take(&mut directory.entries);
            entries.retain(|_, entry| self.is_touched(*entry));
            todo.extend(entries.values().map(|entry| entry.id));
            self.directory_mut(id).entries = entries;
        }
    }

    fn is_touched(&self, entry: Name) -> bool {
        entry.touched == self.layer || self.directory(entry.id).is_some_and(|d| d.touched == self.layer)
    }

    fn hard_link_target(&self, target: &[u8], path: &[u8]) -> Result<NodeId, TreeError> {
        let refuse = |reason| TreeError::HardLink { path: text::show(path), target: text::show(target), reason };
        let components = self.components(target)?;
        let (last, parents) = components.split_last().ok_or_else(|| refuse("is the root"))?;
        let parent = self.existing_directory(parents, target)?;
        let id = parent.and_then(|parent| self.child(parent, last)).ok_or_else(|| refuse("does not exist"))?;
        if self.directory(id).is_some() { Err(refuse("is a directory")) } else { Ok(id) }
    }

    fn metadata(&mut self, entry: &mut Entry) -> Result<Metadata, TreeError> {
        let (metadata, dropped) = Metadata::of(entry)?;
        self.dropped_xattrs += u64::from(dropped);
        Ok(metadata)
    }

    fn add_node(&mut self, node: Node) -> NodeId {
        let id = u32::try_from(self.nodes.len()).expect("the limit on entries keeps nodes far below 2^32");
        self.nodes.push(node);
        NodeId(id)
    }

    /// Gives `id` a name, in place of what had it before.
    fn link(&mut self, parent: NodeId, name: &[u8], id: NodeId, path: &[u8]) -> Result<(), TreeError> {
        if name.len() > MAX_NAME_BYTES {
            return Err(unstorable(path, "a name is longer than 255 bytes"));
        }
        let path_bytes = match self.directory_mut(parent).path_bytes {
            0 => name.len(),
            parent => parent + 1 + name.len(),
        };
        if path_bytes > self.limits.path_bytes {
            return Err(Exceeded::Path { path: text::show(path), limit: self.limits.path_bytes }.into());
        }
        let touched = self.layer;
        if let NodeKind::Directory(directory) = &mut self.nodes[id.0 as usize].kind {
            (directory.path_bytes, directory.touched) = (path_bytes, touched);
        }
        self.directory_mut(parent).entries.insert(name.into(), Name { id, touched });
        Ok(())
    }

    fn directory(&self, id: NodeId) -> Option<&Directory> {
        match &self.node(id).kind {
            NodeKind::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    fn directory_mut(&mut self, id: NodeId) -> &mut Directory {
        match &mut self.nodes[id.0 as usize].kind {
            NodeKind::Directory(directory) => directory,
            _ => unreachable!("only directories are walked into"),
        }
    }

    /// The directory that `parents` names, if it exists.
    fn existing_directory(&self, parents: &[&[u8]], path: &[u8]) -> Result<Option<NodeId>, TreeError> {
        let mut walk = Walk::new(parents.iter().copied());
        match walk.advance(self) {
            Ok(Stop::Directory) => Ok(Some(walk.directory())),
            Ok(Stop::Other(_) | Stop::Missing(_)) | Err(WalkError::NotADirectory) => Ok(None),
            Err(error @ WalkError::TooLong) => Err(error.at(path)),
        }
    }

    /// Directories from the root to the one that `parents` names; those that are missing are made, behind dangling
    /// symbolic links too.
    fn make_directories(&mut self, parents: &[&[u8]], path: &[u8]) -> Result<Vec<NodeId>, TreeError> {
        let mut walk = Walk::new(parents.iter().copied());
        loop {
            match walk.advance(self).map_err(|error| error.at(path))? {
                Stop::Directory => return Ok(walk.trail),
                Stop::Other(_) => return Err(TreeError::NotADirectory { path: text::show(path) }),
                Stop::Missing(name) => {
                    let id = self.make_directory(walk.directory(), &name, path)?;
                    walk.trail.push(id);
                }
            }
        }
    }

    fn make_directory(&mut self, parent: NodeId, name: &[u8], path: &[u8]) -> Result<NodeId, TreeError> {
        self.count_entry()?;
        let node = Node { metadata: self.implied.clone(), kind: NodeKind::Directory(Directory::default()) };
        let id = self.add_node(node);
        self.link(parent, name, id, path)?;
        Ok(id)
    }
}

fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    match parent {
        [] => name.to_vec(),
        parent => [parent, b"/", name].concat(),
    }
}
