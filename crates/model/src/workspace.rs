//! Code inside a guest: where it lies, where it came from, what the host had when it was shipped.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// Where a repository lands unless told otherwise.
pub const DEFAULT_GUEST_PATH: &str = "/root/repo";
/// Commits of history that travel unless told otherwise: enough for daily `git log`, a fraction of the bytes.
pub const DEFAULT_DEPTH: u32 = 10;
/// A longer path is no folder that a person works in, and Linux ends paths at 4096 bytes.
const MAX_GUEST_PATH_BYTES: usize = 1024;

/// One workspace per guest path. It is stored as JSON with its sandbox, so every field added later has a default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workspace {
    pub guest_path: String,
    pub host_path: String,
    /// The commit that is checked out in the guest, as it was shipped; none outside a git repository.
    pub head_commit: Option<String>,
    /// The branch the guest is on; none when its HEAD is detached.
    #[serde(default)]
    pub branch: Option<String>,
    #[serde(default)]
    pub mode: WorkspaceMode,
    /// Commits of history that were shipped; none means all of it.
    #[serde(default)]
    pub depth: Option<u32>,
    #[serde(default)]
    pub include_untracked: bool,
    #[serde(default)]
    pub readonly: bool,
    /// The branch is the guest's own (`--branch`) and no branch of the host.
    #[serde(default)]
    pub own_branch: bool,
    /// Where that branch was to start (`--from`), as a commit; none means at what the host had checked out.
    #[serde(default)]
    pub from: Option<String>,
    /// What was checked out on the host when it was shipped; differs from `head_commit` with `--from`.
    #[serde(default)]
    pub host_head: Option<String>,
    /// A digest over the host's index and the facts of every shipped file (hexadecimal): tells whether the host moved on.
    #[serde(default)]
    pub host_state: Option<String>,
    /// Variables for commands that run in it.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Nanoseconds since 1970-01-01 UTC.
    #[serde(default)]
    pub prepared_at: u64,
}

/// How much of a repository a guest gets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkspaceMode {
    /// The last commits and the work tree.
    #[default]
    Shallow,
    /// All history and the work tree.
    Full,
    /// The files alone.
    Files,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is no workspace mode: it is one of `shallow`, `full`, `files`")]
pub struct WorkspaceModeError {
    pub given: String,
}

impl WorkspaceMode {
    pub const ALL: &'static [WorkspaceMode] = &[WorkspaceMode::Shallow, WorkspaceMode::Full, WorkspaceMode::Files];

    pub const fn word(self) -> &'static str {
        match self {
            WorkspaceMode::Shallow => "shallow",
            WorkspaceMode::Full => "full",
            WorkspaceMode::Files => "files",
        }
    }
}

impl FromStr for WorkspaceMode {
    type Err = WorkspaceModeError;
    fn from_str(given: &str) -> Result<Self, WorkspaceModeError> {
        let found = WorkspaceMode::ALL.iter().find(|mode| mode.word() == given);
        found.copied().ok_or_else(|| WorkspaceModeError { given: given.chars().take(40).collect() })
    }
}

impl fmt::Display for WorkspaceMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// A folder of a guest that may be made, filled and replaced: absolute, without detours, and nothing the machine needs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct GuestPath(String);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GuestPathError {
    #[error("`{given}` is no folder for a workspace: it does not begin with `/`")]
    Relative { given: String },
    #[error("`{given}` is no folder for a workspace: it has empty parts, `.`, `..` or control characters")]
    Detour { given: String },
    #[error("a workspace's folder of {bytes} bytes is too long: {MAX_GUEST_PATH_BYTES} are allowed")]
    TooLong { bytes: usize },
    #[error("`{given}` is no folder for a workspace: the guest needs it itself")]
    System { given: String },
}

/// Replacing one of these would break the guest; what lies below `/root`, `/home`, `/srv`, `/opt` and the like is fine.
const SYSTEM_FOLDERS: &[&str] = &[
    "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib64", "/media", "/mnt", "/opt", "/proc", "/root", "/run",
    "/sbin", "/srv", "/sys", "/tmp", "/usr", "/var",
];
/// Nothing below these is a disk that holds code.
const SYSTEM_TREES: &[&str] = &["/boot/", "/dev/", "/etc/", "/proc/", "/sys/"];

impl GuestPath {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for GuestPath {
    fn default() -> Self {
        GuestPath(DEFAULT_GUEST_PATH.to_owned())
    }
}

impl FromStr for GuestPath {
    type Err = GuestPathError;
    fn from_str(given: &str) -> Result<Self, GuestPathError> {
        let shown = || given.chars().take(120).collect::<String>();
        if given.len() > MAX_GUEST_PATH_BYTES {
            return Err(GuestPathError::TooLong { bytes: given.len() });
        }
        let Some(below) = given.strip_prefix('/') else { return Err(GuestPathError::Relative { given: shown() }) };
        let path = given.strip_suffix('/').unwrap_or(given);
        let detour = |part: &str| matches!(part, "" | "." | "..") || part.chars().any(char::is_control);
        if below.is_empty() || SYSTEM_FOLDERS.contains(&path) || SYSTEM_TREES.iter().any(|tree| path.starts_with(tree))
        {
            return Err(GuestPathError::System { given: shown() });
        }
        match path[1..].split('/').any(detour) {
            true => Err(GuestPathError::Detour { given: shown() }),
            false => Ok(GuestPath(path.to_owned())),
        }
    }
}

impl fmt::Display for GuestPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_path_is_a_folder_that_may_be_replaced() {
        for given in ["/root/repo", "/srv/a b", "/repo", "/tmp/x", "/root/ä"] {
            assert_eq!(given.parse::<GuestPath>().map(|path| path.to_string()).as_deref(), Ok(given));
        }
        assert_eq!("/root/repo/".parse::<GuestPath>().map(|path| path.to_string()).as_deref(), Ok("/root/repo"));
        let long = format!("/{}", "a".repeat(2000));
        for given in ["", "repo", "/", "/root", "/root/", "/etc/x", "/a/../b", "/a//b", "/a/./b", "//", "/a\nb", &long]
        {
            assert!(given.parse::<GuestPath>().is_err(), "{given:?}");
        }
    }

    #[test]
    fn a_record_of_the_first_release_is_read() {
        let old = r#"{"guest_path":"/root/repo","host_path":"/home/ada/shop","head_commit":null}"#;
        let read: Workspace = serde_json::from_str(old).unwrap();
        assert_eq!(read.mode, WorkspaceMode::Shallow);
        assert_eq!(read.guest_path, "/root/repo");
    }

    #[test]
    fn every_mode_reads_back() {
        for mode in WorkspaceMode::ALL {
            assert_eq!(mode.word().parse::<WorkspaceMode>().as_ref(), Ok(mode));
        }
        assert!("deep".parse::<WorkspaceMode>().is_err());
    }
}
