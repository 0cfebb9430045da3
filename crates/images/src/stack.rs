//! Layers together with the tree they make: an archive in which files can be looked up and read, without unpacking
//! it anywhere.

use crate::layer::{Layer, LayerError};
use crate::limits::Limits;
use crate::positioned::{Range, ReadAt};
use crate::tree::{NodeId, NodeKind, Tree};
use std::io;
use std::ops::ControlFlow;

#[derive(Debug)]
pub struct Stack {
    layers: Vec<Layer>,
    tree: Tree,
}

#[derive(Debug, thiserror::Error)]
pub enum StackError {
    #[error("the archive holds no file {path}")]
    Missing { path: String },
    #[error("{path} is larger than {limit} bytes")]
    TooLarge { path: String, limit: u64 },
    #[error("cannot read {path} from the archive")]
    Read { path: String, source: io::Error },
}

impl Stack {
    pub fn new(layers: Vec<Layer>, limits: &Limits) -> Result<Self, LayerError> {
        Stack::with_implied_time(layers, limits, 0)
    }

    /// Like [`Stack::new`], with a time (seconds since 1970) for directories that no layer describes.
    pub fn with_implied_time(layers: Vec<Layer>, limits: &Limits, seconds: i64) -> Result<Self, LayerError> {
        let mut tree = Tree::new(limits.clone(), seconds);
        for layer in &layers {
            tree.apply_layer(layer, limits, &mut || ControlFlow::Continue(()))?;
        }
        Ok(Stack { layers, tree })
    }

    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// The contents of the file that `path` names, symbolic links followed.
    pub fn read(&self, path: &str, limit: u64) -> Result<Vec<u8>, StackError> {
        let id = self.tree.lookup(path).ok_or_else(|| StackError::Missing { path: path.to_owned() })?;
        self.read_node(id, path, limit)
    }

    pub(crate) fn read_node(&self, id: NodeId, path: &str, limit: u64) -> Result<Vec<u8>, StackError> {
        let path = || path.to_owned();
        let NodeKind::File { layer, contents } = &self.tree.node(id).kind else {
            return Err(StackError::Missing { path: path() });
        };
        if contents.size > limit {
            return Err(StackError::TooLarge { path: path(), limit });
        }
        let mut bytes = vec![0; contents.size as usize];
        for piece in &contents.pieces {
            let place = &mut bytes[piece.at as usize..][..piece.length as usize];
            let read = self.layers[*layer].read_exact_at(place, piece.stored_at);
            read.map_err(|source| StackError::Read { path: path(), source })?;
        }
        Ok(bytes)
    }

    /// A stretch of a layer as a stream, for what is too large for memory. `None` unless `path` names a file that is
    /// stored in one piece.
    pub fn stream(&self, path: &str) -> Option<Range<&Layer>> {
        let NodeKind::File { layer, contents } = &self.tree.node(self.tree.lookup(path)?).kind else { return None };
        match &*contents.pieces {
            [] if contents.size == 0 => Some(Range::new(&self.layers[*layer], 0, 0)),
            [piece] if piece.length == contents.size => {
                Some(Range::new(&self.layers[*layer], piece.stored_at, piece.length))
            }
            _ => None,
        }
    }
}
