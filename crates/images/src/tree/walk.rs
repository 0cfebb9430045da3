//! Path resolution inside a tree: component by component, symbolic links and `..` as the guest's kernel would take
//! them with this tree as its root. There is no host path here, so nothing can escape to one.

use super::node::NodeKind;
use super::{NodeId, ROOT, Tree, TreeError};
use crate::text;
use std::borrow::Cow;

/// 40, as the kernel allows (`MAXSYMLINKS`, path_resolution(7)).
const MAX_SYMLINKS: usize = 40;
/// Twice the components of the longest path. The kernel has no such limit, but its caller does not wait for
/// millions of entries behind the same long chain of links.
const MAX_STEPS: usize = 4096;

/// A walk on its way.
#[derive(Debug)]
pub(super) struct Walk<'p> {
    /// The directories from the root to where the walk stands.
    pub(super) trail: Vec<NodeId>,
    /// Components still to go, last one first.
    todo: Vec<Cow<'p, [u8]>>,
    symlinks: usize,
    steps: usize,
}

/// Where a walk stopped.
#[derive(Debug)]
pub(super) enum Stop {
    /// At the directory on top of the trail.
    Directory,
    /// At something else, below the directory on top of the trail.
    Other(NodeId),
    /// The directory on top of the trail has no such name.
    Missing(Vec<u8>),
}

#[derive(Debug)]
pub(super) enum WalkError {
    NotADirectory,
    TooLong,
}

impl<'p> Walk<'p> {
    pub(super) fn new(path: impl DoubleEndedIterator<Item = &'p [u8]>) -> Self {
        Walk { trail: vec![ROOT], todo: path.rev().map(Cow::Borrowed).collect(), symlinks: 0, steps: 0 }
    }

    pub(super) fn directory(&self) -> NodeId {
        *self.trail.last().expect("a trail starts at the root")
    }

    /// Walks on until the path ends or a name is missing.
    pub(super) fn advance(&mut self, tree: &Tree) -> Result<Stop, WalkError> {
        while let Some(name) = self.todo.pop() {
            self.steps += 1;
            if self.steps > MAX_STEPS {
                return Err(WalkError::TooLong);
            }
            match &*name {
                b"" | b"." => {}
                b".." if self.trail.len() > 1 => drop(self.trail.pop()),
                b".." => {}
                _ => match tree.child(self.directory(), &name) {
                    None => return Ok(Stop::Missing(name.into_owned())),
                    Some(id) => match &tree.node(id).kind {
                        NodeKind::Directory(_) => self.trail.push(id),
                        NodeKind::Symlink(target) => self.follow(target)?,
                        _ if self.todo.iter().all(|rest| rest.is_empty()) => return Ok(Stop::Other(id)),
                        _ => return Err(WalkError::NotADirectory),
                    },
                },
            }
        }
        Ok(Stop::Directory)
    }

    fn follow(&mut self, target: &[u8]) -> Result<(), WalkError> {
        self.symlinks += 1;
        if self.symlinks > MAX_SYMLINKS {
            return Err(WalkError::TooLong);
        }
        if target.starts_with(b"/") {
            self.trail.truncate(1);
        }
        self.todo.extend(target.split(|&byte| byte == b'/').rev().map(|part| Cow::Owned(part.to_vec())));
        Ok(())
    }
}

impl WalkError {
    pub(super) fn at(self, path: &[u8]) -> TreeError {
        let path = text::show(path);
        match self {
            WalkError::NotADirectory => TreeError::NotADirectory { path },
            WalkError::TooLong => TreeError::SymlinkLoop { path },
        }
    }
}
