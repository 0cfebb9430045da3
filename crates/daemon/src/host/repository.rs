//! What the engine asks about code on the host, answered by `git` itself.

use engine::host::repository::Repository;
use engine::host::{HostError, HostErrorKind, Result};
use model::workspace::Workspace;
use std::path::Path;
use std::process::{Command, Stdio};

pub struct HostRepository;

impl Repository for HostRepository {
    fn head_commit(&self, workspace: &Workspace) -> Result<Option<String>> {
        let folder = Path::new(&workspace.host_path);
        let answer = Command::new("git")
            .arg("-C")
            .arg(folder)
            .args(["rev-parse", "--verify", "--quiet", "HEAD"])
            .envs([("GIT_TERMINAL_PROMPT", "0"), ("GIT_OPTIONAL_LOCKS", "0"), ("LC_ALL", "C")])
            .stdin(Stdio::null())
            .output()
            .map_err(|error| {
                let attempt = format!("cannot ask git about {}", folder.display());
                HostError::new(HostErrorKind::Unfit, attempt).with_source(error).with_hint("install `git`")
            })?;
        let commit = String::from_utf8_lossy(&answer.stdout).trim().to_owned();
        Ok((answer.status.success() && !commit.is_empty()).then_some(commit))
    }
}
