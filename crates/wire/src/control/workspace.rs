//! Workspaces on the control API: code of the host inside a guest.

use super::WorkspaceFacts;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What to ship, and where to. Absent fields are filled in by the daemon.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct PrepareRequest {
    /// Absolute path on the host of a folder in a git work tree, or of any other folder.
    pub path: String,
    /// Absolute path in the guest; `/root/repo` where absent.
    pub guest_path: Option<String>,
    /// `shallow` (default), `full` or `files`.
    pub mode: Option<String>,
    /// Commits of history; 10 where absent. Not with `full` or `files`.
    pub depth: Option<u32>,
    /// Check out this branch in the guest alone.
    pub branch: Option<String>,
    /// Start the branch here instead of at what is checked out.
    pub from: Option<String>,
    pub include_untracked: bool,
    /// Take the write permission from the files; a reminder, since a guest's root may write anyway.
    pub readonly: bool,
    /// Replace what the guest changed since the last time, too.
    pub discard: bool,
}

/// What would travel; nothing has been done.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WorkspacePlan {
    pub guest_path: String,
    /// The top of the work tree, or the folder.
    pub host_path: String,
    /// False: a plain folder, copied as it is.
    pub git: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head_commit: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    pub file_count: u64,
    pub file_bytes: u64,
    /// Empty unless the list was asked for. A name that is no plain text is quoted as git quotes it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
    /// Untracked files among them that look like they hold a secret.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<String>,
    /// One sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// What a plan is asked for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct PlanRequest {
    pub prepare: PrepareRequest,
    /// The disk that it has to fit on, in bytes; the default size of a work disk where absent.
    pub disk_bytes: Option<u64>,
    /// Answer with the name of every file.
    pub list: bool,
}

/// A workspace that arrived.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Prepared {
    pub vm_name: String,
    pub workspace: WorkspaceFacts,
    pub files: u64,
    pub bytes: u64,
    /// What was left out and why, one sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}
