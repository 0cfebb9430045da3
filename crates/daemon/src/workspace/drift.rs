//! How far host and guest have moved apart since a workspace was shipped: the host's side by its commits and the digest of
//! what would travel, the guest's by the agent's ledger. Looks, and changes nothing.

use super::inspect::{Repository, Source};
use super::{Preparation, Wish, WorkspaceError};
use model::workspace::Workspace;

/// What the host has now that the guest has not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostSide {
    Same,
    /// Another commit is checked out; so many lie between, where they follow one another.
    Commits(Option<u64>),
    /// The same commit with other files or another index.
    Edits,
    /// It cannot be looked at any more; says why.
    Gone(String),
}

pub fn host_side(workspace: &Workspace) -> HostSide {
    match Preparation::look(Wish::from(workspace)) {
        Ok(now) => compare(workspace, &now),
        // A commit that its branch was to start from may be gone; what is checked out is not.
        Err(error @ WorkspaceError::NoSuchReference { .. }) if workspace.from.is_none() => {
            HostSide::Gone(error.to_string())
        }
        Err(WorkspaceError::NoSuchReference { .. }) => HostSide::Edits,
        Err(error) => HostSide::Gone(error.to_string()),
    }
}

fn compare(workspace: &Workspace, now: &Preparation) -> HostSide {
    let head = match &now.source {
        Source::Git(repository) => repository.head.clone(),
        Source::Folder { .. } => None,
    };
    match (&now.source, &workspace.host_head) {
        (Source::Git(repository), before) if *before != head => {
            HostSide::Commits(before.as_deref().and_then(|before| between(repository, before)))
        }
        _ if workspace.host_state.as_ref().is_some_and(|before| *before != now.measured.digest) => HostSide::Edits,
        _ => HostSide::Same,
    }
}

/// Commits that came on top of `before`; none where it is no ancestor.
fn between(repository: &Repository, before: &str) -> Option<u64> {
    let range = format!("{before}..HEAD");
    let is_ancestor = ["merge-base", "--is-ancestor", "--end-of-options", before, "HEAD"];
    repository.git.ask(is_ancestor).ok()?;
    repository.git.line(["rev-list", "--count", "--end-of-options", &range]).ok()??.parse().ok()
}
