//! Workspaces on the control API: code of the host inside a guest.

use super::WorkspaceFacts;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::{IntoParams, ToSchema};

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
    /// Install what the repository pins, in the `background` or before the answer (`wait`); only run `setup` and wait for it
    /// (`setup`); nothing of this where absent.
    pub bootstrap: Option<String>,
    /// Commands of a person's own that belong to it, run by the guest's shell in the workspace.
    pub setup: Vec<String>,
    /// Variables for commands that run in the workspace.
    pub env: BTreeMap<String, String>,
    /// Ship the workspace at `guest_path` again as it was shipped before; nothing else is read.
    pub again: bool,
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
    /// The tools that it pins.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<ToolFacts>,
    /// What its `.banger.toml` asks for; nothing of it has been done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<RepositoryConfig>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ToolFacts {
    pub name: String,
    pub version: String,
    /// The file that pins it.
    pub source: String,
}

/// What a repository asks for itself. It is a stranger's wish: nothing of it counts before its owner has agreed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct RepositoryConfig {
    /// Names this very wish of this very folder.
    pub digest: String,
    /// The person agreed to it before.
    pub accepted: bool,
    pub image: Option<String>,
    pub vcpus: Option<u8>,
    pub memory_bytes: Option<u64>,
    pub disk_bytes: Option<u64>,
    /// Always on loopback: `8080:80`.
    pub ports: Vec<String>,
    pub env: BTreeMap<String, String>,
    /// Commands for the guest's shell, run once the workspace is there.
    pub setup: Vec<String>,
    /// False: its tools are not to be installed.
    pub bootstrap: Option<bool>,
}

/// The person's word that a repository may have what it asks for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ConsentRequest {
    /// Absolute path on the host.
    pub path: String,
    pub digest: String,
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
    /// Do not read what the repository asks for itself.
    pub ignore_config: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WorkspaceList {
    pub workspaces: Vec<WorkspaceStatus>,
}

/// What is asked of the list.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema, IntoParams)]
#[serde(default)]
pub struct WorkspaceListRequest {
    /// Ask the guest, too, what it did.
    pub guest: bool,
}

/// The header of the answer to `exec` that tells of the workspace which was asked for: a [`WorkspaceStatus`] as JSON. It is
/// absent where the sandbox has no such workspace.
pub const WORKSPACE_HEADER: &str = "banger-workspace";
/// The first workspace of a sandbox, whatever its folder is.
pub const FIRST_WORKSPACE: &str = "first";

/// What an `exec` wants to know of the workspace that its command belongs in, before the command starts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema, IntoParams)]
#[serde(default)]
pub struct ExecQuery {
    /// Tell of this workspace: a folder of the guest, or `first`.
    pub workspace: Option<String>,
    /// Look what the host did since, too; else nothing is told of that.
    pub host: bool,
}

/// A workspace, and how far host and guest have moved apart since it was shipped.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WorkspaceStatus {
    pub workspace: WorkspaceFacts,
    /// `same`, `commits`, `edits` or `gone`; empty where nobody looked.
    pub host: String,
    /// Commits that the host has on top, where they follow one another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_commits: Option<u64>,
    /// Why the host's side cannot be looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_error: Option<String>,
    /// Absent unless the guest was asked and answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest: Option<GuestSide>,
}

/// What the guest did since.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct GuestSide {
    /// False: shipping again could lose something.
    pub untouched: bool,
    /// References of git that moved: commits, branches, a checkout.
    pub history: u64,
    pub changed: u64,
    pub removed: u64,
    pub added: u64,
}

/// A workspace that arrived.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Prepared {
    pub vm_name: String,
    pub workspace: WorkspaceFacts,
    pub files: u64,
    pub bytes: u64,
    /// What is being installed, or was with `wait`; one line each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bootstrap: Vec<String>,
    /// What was left out and why, one sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}
