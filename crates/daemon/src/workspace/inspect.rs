//! What a path is, before any machine is made: a git work tree with its commit, or a plain folder.

use super::git::Git;
use super::{Result, WorkspaceError};
use std::path::{Path, PathBuf};

/// What will be shipped from.
#[derive(Debug, Clone)]
pub enum Source {
    Git(Box<Repository>),
    Folder { path: PathBuf },
}

#[derive(Debug, Clone)]
pub struct Repository {
    /// The top of the work tree.
    pub top: PathBuf,
    pub git: Git,
    /// The git folder of this work tree, and the one it shares with others (the same but for `git worktree`).
    pub git_folder: PathBuf,
    pub common_folder: PathBuf,
    /// The branch that is checked out; none when HEAD is detached.
    pub branch: Option<String>,
    /// What is checked out; none before the first commit.
    pub head: Option<String>,
    pub object_format: String,
    /// The URL of `origin`, without a password.
    pub origin: Option<String>,
    pub identity: Identity,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    pub name: Option<String>,
    pub email: Option<String>,
}

impl Source {
    pub fn path(&self) -> &Path {
        match self {
            Source::Git(repository) => &repository.top,
            Source::Folder { path } => path,
        }
    }
}

/// Looks at `path` without changing anything; everything that can be refused is refused here.
pub fn inspect(path: &Path) -> Result<Source> {
    let metadata = std::fs::metadata(path).map_err(|_| WorkspaceError::Missing { path: path.to_path_buf() })?;
    if !metadata.is_dir() {
        return Err(WorkspaceError::NoFolder { path: path.to_path_buf() });
    }
    let path = path.canonicalize().map_err(|source| WorkspaceError::Read { path: path.to_path_buf(), source })?;
    if path.to_str().is_none_or(|text| text.chars().any(char::is_control)) {
        return Err(WorkspaceError::NoText { path });
    }
    let git = Git::hostile(&path)?;
    if let Some(top) = git.line(["rev-parse", "--show-toplevel"])? {
        let top = PathBuf::from(top);
        let own = git.line(["rev-parse", "--absolute-git-dir"])?;
        let found = repository(top)?;
        // A repository may claim any folder for its own (`core.worktree`): its files would be the host's secrets. The
        // folder has to know of it, too.
        return match own.is_some_and(|own| Path::new(&own) == found.git_folder) && path.starts_with(&found.top) {
            true => Ok(Source::Git(Box::new(found))),
            false => Err(WorkspaceError::Claimed { path }),
        };
    }
    match git.line(["rev-parse", "--is-bare-repository"])?.as_deref() {
        Some("true") => Err(WorkspaceError::Bare { path }),
        _ if path.join(".git").symlink_metadata().is_ok() => Err(WorkspaceError::BrokenWorktree { path }),
        _ => Ok(Source::Folder { path }),
    }
}

impl Repository {
    /// A name that git would take for a branch, and that is no option to anything.
    pub fn check_branch(&self, name: &str) -> Result<()> {
        let is_name =
            self.git.line(["check-ref-format", "--allow-onelevel", "--normalize", &format!("refs/heads/{name}")])?;
        match is_name.is_some_and(|normal| normal == format!("refs/heads/{name}")) && !name.starts_with('-') {
            true => Ok(()),
            false => {
                Err(WorkspaceError::NoBranchName { path: self.top.clone(), branch: name.chars().take(120).collect() })
            }
        }
    }
}

/// The commit that `reference` names; a name that looks like an option is one that is not there.
pub fn resolve(repository: &Repository, reference: &str) -> Result<String> {
    let wanted = format!("{reference}^{{commit}}");
    let arguments = ["rev-parse", "--verify", "--quiet", "--end-of-options", &wanted];
    repository.git.line(arguments)?.ok_or_else(|| WorkspaceError::NoSuchReference {
        path: repository.top.clone(),
        reference: reference.chars().take(120).collect(),
    })
}

fn repository(top: PathBuf) -> Result<Repository> {
    let git = Git::hostile(&top)?;
    let folder = |question: &str| -> Result<PathBuf> {
        let answer = git.line(["rev-parse", "--path-format=absolute", question])?;
        answer.map(PathBuf::from).ok_or_else(|| WorkspaceError::BrokenWorktree { path: top.clone() })
    };
    let branch = git.line(["symbolic-ref", "--quiet", "HEAD"])?;
    Ok(Repository {
        git_folder: folder("--git-dir")?,
        common_folder: folder("--git-common-dir")?,
        branch: branch.and_then(|name| name.strip_prefix("refs/heads/").map(str::to_owned)),
        head: git.line(["rev-parse", "--verify", "--quiet", "HEAD^{commit}"])?,
        object_format: git.line(["rev-parse", "--show-object-format"])?.unwrap_or_else(|| "sha1".to_owned()),
        origin: git.line(["config", "--get", "remote.origin.url"])?.map(|url| without_password(&url)),
        identity: Identity {
            name: git.line(["config", "--get", "user.name"])?,
            email: git.line(["config", "--get", "user.email"])?,
        },
        top,
        git,
    })
}

/// `https://user:secret@host/x` becomes `https://user@host/x`: a guest has no business with the host's secrets.
fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (authority, path) = rest.split_once('/').map_or((rest, None), |(authority, path)| (authority, Some(path)));
    let Some((user, host)) = authority.rsplit_once('@') else { return url.to_owned() };
    let user = user.split(':').next().unwrap_or_default();
    let path = path.map(|path| format!("/{path}")).unwrap_or_default();
    format!("{scheme}://{user}@{host}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_stays_on_the_host() {
        for (url, shipped) in [
            ("https://me:secret@example.org/a/b", "https://me@example.org/a/b"),
            ("https://example.org/a@b", "https://example.org/a@b"),
            ("git@example.org:a/b.git", "git@example.org:a/b.git"),
            ("ssh://git@example.org/a", "ssh://git@example.org/a"),
            ("/srv/a", "/srv/a"),
        ] {
            assert_eq!(without_password(url), shipped);
        }
    }
}
