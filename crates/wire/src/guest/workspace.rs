//! Code of the host in a guest: how it is put in place, and what became of it since.

use serde::{Deserialize, Serialize};

/// The answer to `PUT /workspace`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    /// Paths that were written, of any kind but folders.
    pub written: u64,
    /// Paths that lay there already, byte for byte.
    pub kept: u64,
    /// Paths that the host had before and has no more.
    pub removed: u64,
}

/// What the guest did to a workspace since it was put in place.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkspaceState {
    /// False: the agent knows nothing of what was put there, and counts nothing.
    pub known: bool,
    /// HEAD and references that are not as they were: commits, branches, a checkout.
    pub history: u64,
    pub changed: u64,
    pub removed: u64,
    /// Paths of the guest's own: new files, build output.
    pub added: u64,
    /// At most [`MAX_EXAMPLES`] of the paths that changed or went, quoted where they are no plain text.
    #[serde(default)]
    pub examples: Vec<String>,
}

/// The name of the first entry of an archive that holds only changes.
pub const REMOVED_LIST: &str = ".banger-removed";

/// What an archive may be packed in: `encoding=lz4`.
pub const LZ4: &str = "lz4";

/// Enough for a sentence.
pub const MAX_EXAMPLES: usize = 8;

impl WorkspaceState {
    /// Nothing that was shipped differs: shipping again loses nothing. What the guest added stays where it is.
    pub fn is_untouched(&self) -> bool {
        self.known && self.history == 0 && self.changed == 0 && self.removed == 0
    }
}
