//! What a path is, before any machine is made: a git work tree with its commit, or a plain folder.

use super::git::Git;
use super::settings::{self, Settings};
use super::{Result, WorkspaceError};
use crate::home::refs::shown;
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
    /// Those that travel.
    pub settings: Settings,
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
    check_git_folder(&path)?;
    let git = Git::hostile(&path)?;
    if let Some(top) = git.line(["rev-parse", "--show-toplevel"])? {
        let top = PathBuf::from(top);
        // A repository may claim any folder for its own (`core.worktree`): its files would be the host's secrets. The folder
        // has to know of it, too.
        let from_top = |git: Git| git.line(["rev-parse", "--absolute-git-dir"]);
        let (own, known) = (from_top(git)?, from_top(Git::hostile(&top)?)?);
        if own.is_none() || own != known || !path.starts_with(&top) {
            return Err(WorkspaceError::Claimed { path });
        }
        let found = repository(top)?;
        return match is_its_own(&found) {
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
            false => Err(WorkspaceError::NoBranchName { path: self.top.clone(), branch: shown(name) }),
        }
    }
}

/// The commit that `reference` names; a name that looks like an option is one that is not there.
pub fn resolve(repository: &Repository, reference: &str) -> Result<String> {
    let wanted = format!("{reference}^{{commit}}");
    let arguments = ["rev-parse", "--verify", "--quiet", "--end-of-options", &wanted];
    repository
        .git
        .line(arguments)?
        .ok_or_else(|| WorkspaceError::NoSuchReference { path: repository.top.clone(), reference: shown(reference) })
}

/// What git opens in every git folder.
const GIT_FILES: &[&str] = &[
    "HEAD",
    "config",
    "config.worktree",
    "index",
    "packed-refs",
    "shallow",
    "commondir",
    "info/exclude",
    "info/attributes",
    "info/sparse-checkout",
    "info/grafts",
    "objects/info/alternates",
];

/// A pipe in the place of a file would hold git up until its time is over.
fn check_git_folder(path: &Path) -> Result<()> {
    let Some(top) = path.ancestors().find(|top| top.join(".git").symlink_metadata().is_ok()) else { return Ok(()) };
    let is_plain = |name: &PathBuf| match top.join(name).metadata() {
        Ok(facts) => facts.is_file() || facts.is_dir(),
        Err(_) => true,
    };
    let names = GIT_FILES.iter().map(|name| Path::new(".git").join(name));
    match names.chain([".git".into()]).find(|name| !is_plain(name)) {
        Some(name) => Err(WorkspaceError::Special { path: path.to_path_buf(), name }),
        None => Ok(()),
    }
}

fn repository(top: PathBuf) -> Result<Repository> {
    let git = Git::hostile(&top)?;
    let folder = |question: &str| -> Result<PathBuf> {
        let answer = git.line(["rev-parse", "--path-format=absolute", question])?;
        answer.map(PathBuf::from).ok_or_else(|| WorkspaceError::BrokenWorktree { path: top.clone() })
    };
    let reference = git.line(["symbolic-ref", "--quiet", "HEAD"])?;
    let common_folder = folder("--git-common-dir")?;
    let head = git.line(["rev-parse", "--verify", "--quiet", "HEAD^{commit}"])?;
    if head.is_none() && !is_unborn(&git, &common_folder, reference.as_deref())? {
        return Err(WorkspaceError::BrokenHead { path: top });
    }
    Ok(Repository {
        git_folder: folder("--git-dir")?,
        common_folder,
        branch: reference.and_then(|name| name.strip_prefix("refs/heads/").map(str::to_owned)),
        head,
        object_format: git.line(["rev-parse", "--show-object-format"])?.unwrap_or_else(|| "sha1".to_owned()),
        settings: settings::read(&git)?,
        top,
        git,
    })
}

/// Whether HEAD names a branch that has no commit yet, rather than one that is broken.
fn is_unborn(git: &Git, common_folder: &Path, reference: Option<&str>) -> Result<bool> {
    let Some(reference) = reference.filter(|name| name.starts_with("refs/heads/")) else { return Ok(false) };
    let names_something = git.line(["rev-parse", "--verify", "--quiet", "HEAD"])?.is_some();
    Ok(!names_something && common_folder.join(reference).symlink_metadata().is_err())
}

/// What a repository is made of lies in it, or in a git folder that knows of this work tree: else a stranger's folder could
/// show us any repository of the host.
fn is_its_own(found: &Repository) -> bool {
    let (own, common) = (&found.git_folder, &found.common_folder);
    let is_link = |path: PathBuf| path.symlink_metadata().is_ok_and(|facts| facts.is_symlink());
    if ["objects", "refs", "packed-refs", "config"].into_iter().any(|name| is_link(common.join(name)))
        || ["HEAD", "index", "commondir"].into_iter().any(|name| is_link(own.join(name)))
    {
        return false;
    }
    let dot = found.top.join(".git");
    let same = |a: &Path, b: &Path| matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b);
    match dot.symlink_metadata() {
        Ok(facts) if facts.is_dir() => own == common,
        // A work tree of `git worktree`: its git folder names it, and lies where the repository keeps such.
        Ok(facts) if facts.is_file() && own != common => {
            let back = std::fs::read_to_string(own.join("gitdir")).unwrap_or_default();
            own.parent() == Some(&common.join("worktrees")) && same(Path::new(back.trim_end()), &dot)
        }
        // A submodule: its own configuration names where it is checked out.
        Ok(facts) if facts.is_file() => {
            let config = own.join("config").to_string_lossy().into_owned();
            let named = Git::own(&found.top).line(["config", "--file", &config, "--get", "core.worktree"]);
            named.ok().flatten().is_some_and(|named| same(&own.join(named), &found.top))
        }
        _ => false,
    }
}
