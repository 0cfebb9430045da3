//! Code inside a guest: where it lies, where it came from, what the host had when it was shipped.

use serde::{Deserialize, Serialize};

/// Where a repository lands unless told otherwise.
pub const DEFAULT_GUEST_PATH: &str = "/root/repo";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workspace {
    pub guest_path: String,
    pub host_path: String,
    /// The commit that was checked out on the host; none outside a git repository.
    pub head_commit: Option<String>,
}
