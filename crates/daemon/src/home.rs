//! Work out: what was done in a guest comes home, and none of it is lost on the way.
//!
//! ```text
//!  guest ─► Tree (agent over vsock, or the work disk itself) ─► scan: facts of every file
//!                                                                │  which of them are new?
//!                                                                ▼
//!            objects, references, changed files ─► Quarantine (a bare repository of ours) ─► wip commit
//!                                                                │  git index-pack --strict, connectivity
//!                                                                ▼
//!                                             host repository: objects and refs/banger/<vm>/… alone
//! ```
//! A guest is hostile: what it sends lands in the [`quarantine`] and is named again by the hash of what it is; only what
//! git's own rules accept goes on to the host's repository ([`land`]), where nothing but `refs/banger/` ever changes:
//! no branch, no index, no file, no HEAD, no configuration. One look at a workspace is [`sync`], whether its guest runs
//! ([`live`]) or is gone and only its disk is left ([`disk`]).

mod answer;
pub mod disk;
mod excluded;
#[doc(hidden)]
pub mod fuzzing;
pub mod index;
mod land;
pub mod live;
mod manifest;
mod objects;
mod pattern;
pub mod pull;
pub mod quarantine;
pub mod recall;
pub mod refs;
pub mod state;
pub mod sync;
pub mod tree;
pub mod view;
mod wip;

pub use state::{Report, State};
pub use sync::{Place, sync};
pub use tree::Tree;

use crate::workspace::WorkspaceError;
use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    #[error("cannot look at `{path}` in the guest")]
    Guest { path: String, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("cannot read the work disk `{path}`")]
    Disk { path: PathBuf, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("the repository `{path}` of the host cannot be used")]
    Host { path: PathBuf, source: Box<WorkspaceError> },
    #[error("`{path}` in the guest {what}")]
    Unfit { path: String, what: String },
    /// No repository is there (any more), so nothing is to be brought home.
    #[error("`{path}` in the guest holds no repository (any more)")]
    Nothing { path: String },
    #[error("cannot write `{path}`")]
    Store { path: PathBuf, source: io::Error },
    #[error("git cannot work on what the guest sent")]
    Git { source: Box<WorkspaceError> },
    #[error("`{path}` in the guest was not looked through in time")]
    Late { path: String },
}

pub type Result<T> = std::result::Result<T, HomeError>;

/// A short name for anything, in hexadecimal.
pub fn digest_of(bytes: &[u8]) -> String {
    quarantine::digest([bytes])
}

impl From<WorkspaceError> for HomeError {
    fn from(source: WorkspaceError) -> HomeError {
        HomeError::Git { source: Box::new(source) }
    }
}

/// What a guest may make us hold; each is far beyond honest use.
pub mod limits {
    /// 2 million files and folders, and 256 MiB of their names.
    pub const ENTRIES: usize = 2_000_000;
    pub const NAMES_BYTES: usize = 256 << 20;
    /// 512 MiB: a larger file or object stays in the guest, and is told of.
    pub const FILE_BYTES: u64 = 512 << 20;
    /// 4 GiB: the largest pack.
    pub const PACK_BYTES: u64 = 4 << 30;
    /// 8 GiB: everything that one look fetches.
    pub const LOOK_BYTES: u64 = 8 << 30;
    /// 16 GiB: a quarantine that took more is emptied, since what is on the host need not be held.
    pub const HELD_BYTES: u64 = 16 << 30;
    /// 2000 branches and tags.
    pub const REFERENCES: usize = 2000;
    /// 256 MiB: the index of 2 million files.
    pub const INDEX_BYTES: u64 = 256 << 20;
    /// 1 MiB: a log, a configuration, an ignore file; 4 KiB: a reference; 16 MiB: all packed references.
    pub const SMALL_BYTES: u64 = 1 << 20;
    pub const REFERENCE_BYTES: u64 = 4 << 10;
    pub const PACKED_REFERENCES_BYTES: u64 = 16 << 20;
    /// 4000 ignore files with 50000 patterns in 8 MiB; the rest excludes nothing.
    pub const IGNORE_FILES: usize = 4000;
    pub const IGNORE_LINES: usize = 50_000;
    pub const IGNORE_BYTES: u64 = 8 << 20;
    /// 200 sentences about what could not be brought home.
    pub const COMPLAINTS: usize = 200;
}
