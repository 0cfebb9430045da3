//! Work in a guest on its way back to the host, on the control API.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::{IntoParams, ToSchema};

/// How to look at what a guest did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WorkView {
    /// One binary patch of everything since the shipped commit, for `git apply`.
    #[default]
    Patch,
    /// A mail for each commit, what is not committed as the last one, for `git am`.
    Mbox,
    /// A git bundle with `refs/banger/export/head` and `refs/banger/export/wip`.
    Bundle,
    /// The patch with a summary, for reading.
    Diff,
    /// The files that are not committed, one a line.
    Status,
    /// The commits.
    Log,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema, IntoParams)]
#[serde(default)]
pub struct WorkRequest {
    /// `patch` where absent.
    pub view: Option<WorkView>,
    /// The workspace; the only one where absent.
    pub guest_path: Option<String>,
    /// Since this commit; the one that was shipped where absent.
    pub base_commit: Option<String>,
}

/// Where a guest's workspace stands, as of the last look.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct WorkFacts {
    /// Nanoseconds since 1970-01-01 UTC.
    pub looked_at_ns: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head_commit: Option<String>,
    /// The commit that holds everything in the guest's tree.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wip_commit: Option<String>,
    /// The guest is not as it was shipped.
    pub moved: bool,
    /// Commits that the guest made.
    pub commits: u64,
    /// Files that differ from the guest's last commit.
    pub changed_files: u64,
    /// References on the host and the commits they name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub references: BTreeMap<String, String>,
    /// What is in the guest and not on the host, one sentence each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub left: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct PullRequest {
    pub guest_path: Option<String>,
    /// Make this branch of the guest's commits instead of moving the one that is checked out.
    pub branch: Option<String>,
}

/// What a pull did on the host.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Pulled {
    pub host_path: String,
    /// The branch that moved, or was made; absent where HEAD was detached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_commit: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_commit: Option<String>,
    /// Files that were left uncommitted in the checkout, as they are in the guest.
    pub uncommitted_files: u64,
}
