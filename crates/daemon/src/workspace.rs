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
//! [`prepare`] holds the first three together before any machine is made, [`deliver`] streams the last to the agent.
//! The whole repository is built on the host, so a guest needs no git to receive it and nothing of the image is asked.
//! The repository is hostile input: no hook, filter, fsmonitor or external diff named in its configuration ever runs
//! ([`git`]), and no symbolic link leads a read out of the tree ([`ship`]). The host's branches, index and files are
//! only read.

pub mod bootstrap;
pub mod deliver;
pub mod delta;
pub mod drift;
pub mod git;
pub mod inspect;
pub mod list;
pub mod locks;
pub mod prepare;
pub mod quote;
pub mod repository_config;
pub mod settings;
pub mod ship;
mod stage;
pub mod state;
pub mod template;
pub mod tools;

pub use inspect::{Source, inspect};
pub use list::{Entry, Selection, list};
pub use prepare::{Preparation, Wish};
pub use ship::{Shipped, ship};

use inspect::Repository;
use model::ByteSize;
use std::path::PathBuf;
use wire::{Fault, FaultKind};

#[derive(Debug, thiserror::Error)]
pub enum WorkspaceError {
    #[error("cannot ship `{}`: it is not there", quote::quote(path))]
    Missing { path: PathBuf },
    #[error("cannot ship `{}`: it is no folder", quote::quote(path))]
    NoFolder { path: PathBuf },
    #[error("cannot ship `{path}`: it is a bare repository, which has no files to work on")]
    Bare { path: PathBuf },
    #[error("cannot ship `{path}`: its `.git` leads to no repository")]
    BrokenWorktree { path: PathBuf },
    #[error("cannot ship `{path}`: its `{name}` is no file")]
    Special { path: PathBuf, name: PathBuf },
    #[error("cannot ship `{path}`: its index names `{}`, which is no file of a work tree", quote::quote(name))]
    OddName { path: PathBuf, name: PathBuf },
    #[error("cannot ship `{path}`: its HEAD leads to no commit, and is not that of a fresh repository")]
    BrokenHead { path: PathBuf },
    #[error("cannot ship `{path}`: git took more than {} s", within.as_secs())]
    Late { path: PathBuf, within: std::time::Duration },
    #[error("cannot ship `{path}`: another folder's repository claims it")]
    Claimed { path: PathBuf },
    #[error("cannot ship `{}`: its name is no plain text", quote::quote(path))]
    NoText { path: PathBuf },
    #[error("cannot make a branch of `{path}`: it is no git repository")]
    NoRepository { path: PathBuf },
    #[error("cannot ship `{path}`: `{branch}` is no name for a branch")]
    NoBranchName { path: PathBuf, branch: String },
    #[error("cannot use `{path}`: {reason}")]
    Config { path: PathBuf, reason: String },
    #[error("cannot ship `{path}`: its files take {} and the disk has {}", ByteSize::from_bytes(*bytes), ByteSize::from_bytes(*disk_bytes))]
    TooLarge { path: PathBuf, bytes: u64, disk_bytes: u64 },
    #[error("cannot ship `{path}`: there is no `{reference}` in it")]
    NoSuchReference { path: PathBuf, reference: String },
    #[error("cannot ship `{path}`: git said: {said}")]
    Git { path: PathBuf, said: String },
    #[error("cannot run git")]
    NoGit { source: std::io::Error },
    #[error("cannot read `{}`", quote::quote(path))]
    Read { path: PathBuf, source: std::io::Error },
    #[error("cannot write the archive of `{path}`")]
    Write { path: PathBuf, source: std::io::Error },
}

/// For whoever finds the host's disk full.
pub const MAKE_ROOM: &str = "make room on this machine; `banger system df` shows what takes it";

pub type Result<T> = std::result::Result<T, WorkspaceError>;

/// The index, entry by entry, as `git ls-files` writes it.
fn git_stage(repository: &Repository) -> Result<Vec<u8>> {
    repository.git.ask(["ls-files", "-z", "--stage"])
}

impl From<WorkspaceError> for Fault {
    fn from(error: WorkspaceError) -> Fault {
        use WorkspaceError as E;
        let (kind, hint) = match &error {
            E::Missing { .. } => (FaultKind::NotFound, None),
            E::NoFolder { .. } => (FaultKind::Invalid, Some("name the folder that it lies in")),
            E::Bare { .. } => (FaultKind::Invalid, Some("`git worktree add` makes one that has files")),
            E::BrokenWorktree { .. } => (FaultKind::Invalid, Some("`git worktree repair` may mend it")),
            E::Special { .. } => (FaultKind::Refused, Some("a git folder holds files and folders alone")),
            E::OddName { .. } => (FaultKind::Refused, Some("`git read-tree HEAD` makes an index of what is committed")),
            E::BrokenHead { .. } => (FaultKind::Invalid, Some("`git fsck` and `git reflog` there tell more")),
            E::Late { .. } => (FaultKind::TimedOut, Some("`git status` there shows what holds it up")),
            E::Claimed { .. } => {
                (FaultKind::Refused, Some("`core.worktree` in its git folder has to name this very folder"))
            }
            E::NoText { .. } => (FaultKind::Invalid, Some("another name for that folder helps")),
            E::NoBranchName { .. } => {
                (FaultKind::Invalid, Some("`git check-ref-format --branch NAME` tells what is one"))
            }
            E::Config { .. } => (FaultKind::Invalid, Some("`--ignore-config` goes without it")),
            E::NoRepository { .. } => (FaultKind::Invalid, Some("leave `--branch` and `--from` out")),
            E::TooLarge { .. } => {
                (FaultKind::Refused, Some("give it a larger disk, or leave files out with `.bangerignore`"))
            }
            E::NoSuchReference { .. } => (FaultKind::NotFound, Some("`git rev-parse --verify` tells what there is")),
            E::NoGit { .. } => (FaultKind::HostUnfit, Some("install `git`")),
            E::Git { said, .. } if said.contains(git::NO_ROOM) => (FaultKind::HostUnfit, Some(MAKE_ROOM)),
            E::Git { .. } => (FaultKind::HostUnfit, Some("`git fsck` there tells more")),
            E::Read { .. } => (FaultKind::HostUnfit, Some("whoever runs `bangerd` has to be able to read all of it")),
            E::Write { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
                (FaultKind::HostUnfit, Some(MAKE_ROOM))
            }
            E::Write { .. } => (FaultKind::Internal, None),
        };
        let fault = Fault::new(kind, error.to_string()).with_sources(&error);
        match hint {
            Some(hint) => fault.with_hint(hint),
            None => fault,
        }
    }
}
