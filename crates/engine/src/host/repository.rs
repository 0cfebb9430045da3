//! The repository seam: what the engine asks about code on the host. Shipping and fetching are streams and stay in the daemon.

use super::Result;
use model::workspace::Workspace;

pub trait Repository: Send + Sync {
    /// The commit the host has checked out where this workspace came from; none outside git.
    fn head_commit(&self, workspace: &Workspace) -> Result<Option<String>>;
}
