//! Code in, work out: a folder of the host, as it is right now, becomes one tar stream that a guest unpacks.
//!
//! ```text
//!  path ─► inspect ─► Source (git or plain folder; refused here: bare, broken, no such ref)
//!                        │
//!                        ▼
//!                      list ─► what travels ─► --dry-run prints exactly this
//!                        │
//!                        ▼
//!                      ship ─► staged .git (shallow history, the host's own index) + the tracked files as they are ─► tar
//! ```
//! The whole repository is built on the host, so a guest needs no git to receive it and nothing of the image is asked.
//! The repository is hostile input: no hook, filter, fsmonitor or external diff named in its configuration ever runs
//! ([`git`]), and no symbolic link leads a read out of the tree ([`ship`]). The host's branches, index and files are
//! only read.

pub mod git;
pub mod inspect;
pub mod list;
pub mod ship;

pub use inspect::{Source, inspect};
pub use list::{Entry, Selection, list};
pub use ship::{Shipped, ship};

use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum WorkspaceError {
    #[error("cannot ship `{path}`: it is not there")]
    Missing { path: PathBuf },
    #[error("cannot ship `{path}`: it is no folder")]
    NoFolder { path: PathBuf },
    #[error("cannot ship `{path}`: it is a bare repository, which has no files to work on")]
    Bare { path: PathBuf },
    #[error("cannot ship `{path}`: its `.git` leads to no repository")]
    BrokenWorktree { path: PathBuf },
    #[error("cannot ship `{path}`: there is no `{reference}` in it")]
    NoSuchReference { path: PathBuf, reference: String },
    #[error("cannot ship `{path}`: git said: {said}")]
    Git { path: PathBuf, said: String },
    #[error("cannot run git")]
    NoGit { source: std::io::Error },
    #[error("cannot read `{path}`")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("cannot write the archive of `{path}`")]
    Write { path: PathBuf, source: std::io::Error },
}

pub type Result<T> = std::result::Result<T, WorkspaceError>;
