//! What was asked for, looked at before anything is made: source, commit, branch, size and the list of what travels.

use super::bootstrap::Bootstrap;
use super::inspect::{Source, inspect, resolve};
use super::list::{Entry, Selection, list, list_submodules};
use super::ship::ShipOptions;
use super::state::{self, Measured};
use super::tools::pinned;
use super::{Result, WorkspaceError};
use model::workspace::{DEFAULT_DEPTH, GuestPath, Workspace, WorkspaceMode};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

#[derive(Debug, Clone, Default)]
pub struct Wish {
    /// Absolute.
    pub path: PathBuf,
    pub guest_path: GuestPath,
    pub mode: WorkspaceMode,
    pub depth: Option<u32>,
    pub branch: Option<String>,
    pub from: Option<String>,
    pub include_untracked: bool,
    pub readonly: bool,
    pub discard: bool,
    pub bootstrap: Install,
    pub setup: Vec<String>,
    pub env: BTreeMap<String, String>,
}

/// What becomes of the tools that a repository pins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Install {
    #[default]
    Nothing,
    /// The set-up commands alone, waited for.
    Setup,
    Background,
    Wait,
}

/// Everything that is known before the first byte travels.
#[derive(Debug)]
pub struct Preparation {
    pub wish: Wish,
    pub source: Source,
    pub options: ShipOptions,
    pub entries: Vec<Entry>,
    /// Those of submodules, by their path from the top.
    pub inner: Vec<Entry>,
    pub measured: Measured,
}

impl Preparation {
    /// Looks, and refuses what cannot work. The host's files are only read.
    pub fn look(wish: Wish) -> Result<Preparation> {
        let source = inspect(&wish.path)?;
        let from = match &source {
            Source::Git(repository) => {
                if let Some(branch) = &wish.branch {
                    repository.check_branch(branch)?;
                }
                wish.from.as_deref().map(|from| resolve(repository, from)).transpose()?
            }
            Source::Folder { path } if wish.branch.is_some() || wish.from.is_some() => {
                return Err(WorkspaceError::NoRepository { path: path.clone() });
            }
            Source::Folder { .. } => None,
        };
        let selection = Selection { include_untracked: wish.include_untracked };
        let entries = list(&source, selection)?;
        let inner = match &source {
            Source::Git(repository) => list_submodules(repository, selection)?,
            Source::Folder { .. } => Vec::new(),
        };
        let measured = state::measure(&source, entries.iter().chain(&inner))?;
        let depth = match wish.mode {
            WorkspaceMode::Shallow => Some(wish.depth.unwrap_or(DEFAULT_DEPTH)),
            WorkspaceMode::Full | WorkspaceMode::Files => None,
        };
        let options = ShipOptions {
            selection,
            depth,
            branch: wish.branch.clone(),
            from,
            readonly: wish.readonly,
            files_only: wish.mode == WorkspaceMode::Files,
        };
        Ok(Preparation { wish, source, options, entries, inner, measured })
    }

    /// Refuses what cannot fit, before a machine is made for it.
    pub fn check_size(&self, disk_bytes: u64) -> Result<()> {
        match self.measured.bytes > disk_bytes {
            true => Err(WorkspaceError::TooLarge {
                path: self.source.path().to_path_buf(),
                bytes: self.measured.bytes,
                disk_bytes,
            }),
            false => Ok(()),
        }
    }

    pub fn host_path(&self) -> &Path {
        self.source.path()
    }

    /// What is checked out in the guest.
    pub fn head_commit(&self) -> Option<String> {
        match &self.source {
            Source::Git(repository) if !self.options.files_only => {
                self.options.from.clone().or_else(|| repository.head.clone())
            }
            _ => None,
        }
    }

    pub fn branch(&self) -> Option<String> {
        match &self.source {
            Source::Git(repository) if !self.options.files_only => {
                self.wish.branch.clone().or_else(|| repository.branch.clone())
            }
            _ => None,
        }
    }

    /// Untracked files that look like they hold a secret and travel all the same.
    pub fn secrets(&self) -> impl Iterator<Item = &Entry> {
        self.travels().filter(|entry| entry.secret && !entry.tracked)
    }

    /// Every path, that of a submodule last.
    pub fn travels(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().chain(&self.inner)
    }

    /// What is to be installed once it is there.
    pub fn bootstrap(&self) -> Result<Bootstrap> {
        let tools = match self.wish.bootstrap {
            Install::Background | Install::Wait => pinned(&self.source, &self.entries)?,
            Install::Setup | Install::Nothing => Vec::new(),
        };
        let setup = if self.wish.bootstrap == Install::Nothing { Vec::new() } else { self.wish.setup.clone() };
        Ok(Bootstrap { folder: self.wish.guest_path.to_string(), tools, setup, env: self.wish.env.clone() })
    }

    pub fn record(&self, now: u64) -> Workspace {
        let host_head = match &self.source {
            Source::Git(repository) => repository.head.clone(),
            Source::Folder { .. } => None,
        };
        Workspace {
            guest_path: self.wish.guest_path.to_string(),
            host_path: self.host_path().display().to_string(),
            head_commit: self.head_commit(),
            branch: self.branch(),
            mode: self.wish.mode,
            depth: self.options.depth,
            include_untracked: self.wish.include_untracked,
            readonly: self.wish.readonly,
            own_branch: self.wish.branch.is_some(),
            from: self.options.from.clone(),
            env: self.wish.env.clone(),
            host_head,
            host_state: Some(self.measured.digest.clone()),
            prepared_at: now,
        }
    }
}

/// The wish that made this workspace, so that it can be shipped again as it was.
impl From<&Workspace> for Wish {
    fn from(workspace: &Workspace) -> Wish {
        Wish {
            path: PathBuf::from(&workspace.host_path),
            guest_path: workspace.guest_path.parse().unwrap_or_default(),
            mode: workspace.mode,
            depth: workspace.depth.filter(|_| workspace.mode == WorkspaceMode::Shallow),
            branch: workspace.branch.clone().filter(|_| workspace.own_branch),
            from: workspace.from.clone(),
            include_untracked: workspace.include_untracked,
            readonly: workspace.readonly,
            discard: false,
            bootstrap: Install::Nothing,
            setup: Vec::new(),
            env: workspace.env.clone(),
        }
    }
}
