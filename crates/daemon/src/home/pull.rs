//! A guest's work into the person's own checkout, when they ask for it: after a dirty check, forward only, nothing forced.
//!
//! Hooks and filters of the repository stay off, as everywhere here. What is refused is refused before anything changed.

use super::refs;
use super::state::Report;
use crate::workspace::WorkspaceError;
use crate::workspace::inspect::Repository;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use wire::control::Pulled;

#[derive(Debug, thiserror::Error)]
pub enum PullError {
    #[error("the guest has no commit yet")]
    NoCommit,
    #[error("not everything of the guest is on the host: {line}")]
    Left { line: String },
    #[error("`{name}` is no name for a branch")]
    Name { name: String },
    #[error("the branch `{name}` is there already")]
    Exists { name: String },
    #[error("the checkout has changes of its own: {paths}")]
    Dirty { paths: String },
    #[error("the guest's commit {commit} does not follow on what is checked out here")]
    Diverged { commit: String },
    #[error("`{path}` is here, too, and git does not know it")]
    InTheWay { path: String },
    #[error("git refused")]
    Git { source: WorkspaceError },
}

impl PullError {
    /// What to do next, for the sandbox of this name.
    pub fn hint(&self, vm: &str) -> String {
        match self {
            PullError::Diverged { .. } | PullError::Dirty { .. } | PullError::InTheWay { .. } => {
                format!(
                    "`banger vm workspace pull --branch NAME {vm}` makes a branch of it and leaves the checkout alone"
                )
            }
            PullError::Exists { .. } | PullError::Name { .. } => "choose another name".to_owned(),
            PullError::NoCommit | PullError::Left { .. } | PullError::Git { .. } => {
                format!("`banger vm workspace status {vm}` shows where it stands")
            }
        }
    }
}

impl From<WorkspaceError> for PullError {
    fn from(source: WorkspaceError) -> PullError {
        PullError::Git { source }
    }
}

type Result<T> = std::result::Result<T, PullError>;

/// Makes `branch` of the guest's commits; the checkout stays as it is.
pub fn into_branch(host: &Repository, report: &Report, branch: &str) -> Result<Pulled> {
    let head = report.head.as_deref().ok_or(PullError::NoCommit)?;
    if !refs::is_valid(branch) {
        return Err(PullError::Name { name: refs::shown(branch) });
    }
    let name = format!("refs/heads/{branch}");
    if host.git.line(["rev-parse", "--verify", "--quiet", &name])?.is_some() {
        return Err(PullError::Exists { name: branch.to_owned() });
    }
    // The empty old value: it must not be there, also now.
    host.git.ask(["update-ref", "-m", "banger: pulled from a guest", &name, head, ""])?;
    Ok(Pulled {
        host_path: host.top.display().to_string(),
        branch: Some(branch.to_owned()),
        from_commit: None,
        to_commit: Some(head.to_owned()),
        uncommitted_files: 0,
    })
}

/// Moves what is checked out forward to the guest's commit, and leaves uncommitted there what is uncommitted in the guest.
pub fn forward(host: &Repository, report: &Report) -> Result<Pulled> {
    let head = report.head.as_deref().ok_or(PullError::NoCommit)?;
    let wip = report.wip.as_deref().unwrap_or(head);
    check_clean(host)?;
    if let Some(own) = &host.head {
        let follows = host.git.command(["merge-base", "--is-ancestor", own, head]).output();
        if !follows.is_ok_and(|answer| answer.status.success()) {
            return Err(PullError::Diverged { commit: head.to_owned() });
        }
        check_room(host, own, wip)?;
    }
    if host.head.as_deref() != Some(head) {
        host.git.ask(["merge", "--ff-only", "--quiet", "--no-stat", "--no-autostash", head])?;
    }
    let uncommitted_files = if wip == head { 0 } else { apply(host, head, wip)? };
    Ok(Pulled {
        host_path: host.top.display().to_string(),
        branch: host.branch.clone(),
        from_commit: host.head.clone(),
        to_commit: Some(head.to_owned()),
        uncommitted_files,
    })
}

fn check_clean(host: &Repository) -> Result<()> {
    let status =
        host.git.ask(["status", "--porcelain=v1", "-z", "--untracked-files=no", "--ignore-submodules=none"])?;
    let paths: Vec<String> =
        status.split(|byte| *byte == 0).filter_map(|line| line.get(3..)).map(refs::shown_path).take(4).collect();
    match paths.as_slice() {
        [] => Ok(()),
        [a, b, c, _] => Err(PullError::Dirty { paths: format!("{a}, {b}, {c}, …") }),
        few => Err(PullError::Dirty { paths: few.join(", ") }),
    }
}

/// What the guest added must not be here already under git's eyes.
fn check_room(host: &Repository, from: &str, to: &str) -> Result<()> {
    let added = host.git.ask(["diff-tree", "-r", "-z", "--name-only", "--diff-filter=A", from, to])?;
    for path in added.split(|byte| *byte == 0).filter(|path| !path.is_empty()) {
        if host.top.join(OsStr::from_bytes(path)).symlink_metadata().is_ok() {
            return Err(PullError::InTheWay { path: refs::shown_path(path) });
        }
    }
    Ok(())
}

fn apply(host: &Repository, head: &str, wip: &str) -> Result<u64> {
    let diff = ["diff-tree", "-r", "-p", "--binary", "--full-index", "--no-ext-diff", "--no-textconv", head, wip];
    let patch = host.git.ask(diff)?;
    host.git.ask_with_input(["apply", "--whitespace=nowarn", "-"], &patch)?;
    let names = host.git.ask(["diff-tree", "-r", "-z", "--name-only", head, wip])?;
    Ok(names.split(|byte| *byte == 0).filter(|name| !name.is_empty()).count() as u64)
}
