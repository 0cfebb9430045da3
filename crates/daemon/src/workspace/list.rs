//! What travels: every tracked path that is there, and untracked ones when asked; ignored ones never.
//! `--dry-run` prints this list, and [`super::ship`] ships this list: there is no other.

use super::inspect::{Repository, Source};
use super::{Result, WorkspaceError};
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Selection {
    pub include_untracked: bool,
}

/// A path below the top, in bytes: git knows names that are no UTF-8.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    pub path: PathBuf,
    pub tracked: bool,
    /// Looks like it holds a secret; worth a warning when it was not tracked.
    pub secret: bool,
}

/// Names under which people keep secrets.
const SECRET_NAMES: &[&str] =
    &[".env", ".netrc", ".npmrc", ".pypirc", "credentials", "credentials.json", "id_rsa", "id_ed25519"];
const SECRET_ENDINGS: &[&str] = &[".pem", ".key", ".p12", ".pfx", ".kdbx"];

pub fn list(source: &Source, selection: Selection) -> Result<Vec<Entry>> {
    let mut entries = match source {
        Source::Git(repository) => git_entries(repository, selection)?,
        Source::Folder { path } => folder_entries(path)?,
    };
    entries.sort();
    entries.dedup_by(|a, b| a.path == b.path);
    Ok(entries)
}

/// What travels from the submodules of a repository, by its path from the top; [`super::ship`] ships each as a repository of its own.
pub fn list_submodules(repository: &Repository, selection: Selection) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    inner(repository, selection, Path::new(""), 1, &mut entries)?;
    entries.sort();
    Ok(entries)
}

fn inner(
    parent: &Repository,
    selection: Selection,
    below: &Path,
    nesting: u32,
    entries: &mut Vec<Entry>,
) -> Result<()> {
    for link in submodules(parent)? {
        let Some(child) = super::ship::initialized(parent, &link, nesting)? else { continue };
        let place = below.join(&link);
        let own = git_entries(&child, selection)?;
        entries.extend(own.into_iter().map(|entry| Entry { path: place.join(&entry.path), ..entry }));
        inner(&child, selection, &place, nesting + 1, entries)?;
    }
    Ok(())
}

fn git_entries(repository: &Repository, selection: Selection) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let links: BTreeSet<PathBuf> = submodules(repository)?.into_iter().collect();
    for path in paths(&repository.git.ask(["ls-files", "-z", "--cached"])?) {
        if !is_below(&path) {
            return Err(WorkspaceError::OddName { path: repository.top.clone(), name: path });
        }
        if !links.contains(&path) && exists(&repository.top, &path) {
            entries.push(entry(path, true));
        }
    }
    if selection.include_untracked {
        let untracked = repository.git.ask(["ls-files", "-z", "--others", "--exclude-standard"])?;
        // A path that ends in `/` is a repository of its own, which is not ours to ship.
        let files = paths(&untracked).filter(|path| !path.as_os_str().as_bytes().ends_with(b"/"));
        entries.extend(files.map(|path| entry(path, false)));
    }
    Ok(entries)
}

/// Paths of the index that are commits of other repositories (mode 160000).
pub fn submodules(repository: &Repository) -> Result<Vec<PathBuf>> {
    let staged = repository.git.ask(["ls-files", "-z", "--stage"])?;
    let links = staged.split(|byte| *byte == 0).filter(|line| line.starts_with(b"160000 "));
    Ok(links.filter_map(|line| line.splitn(2, |byte| *byte == b'\t').nth(1)).map(bytes_path).collect())
}

/// Outside git: everything that `.gitignore` and `.bangerignore` do not leave out, links as links.
fn folder_entries(top: &Path) -> Result<Vec<Entry>> {
    let mut walk = ignore::WalkBuilder::new(top);
    walk.hidden(false).git_global(false).git_exclude(false).parents(false).require_git(false).follow_links(false);
    walk.add_custom_ignore_filename(".bangerignore");
    let mut entries = Vec::new();
    for found in walk.build() {
        let found = found.map_err(|error| WorkspaceError::Read {
            path: top.to_path_buf(),
            source: error.into_io_error().unwrap_or_else(|| std::io::Error::other("an ignore file cannot be read")),
        })?;
        let path = found.path().strip_prefix(top).unwrap_or(found.path());
        let is_folder = found.file_type().is_some_and(|kind| kind.is_dir());
        if !path.as_os_str().is_empty() && !is_folder {
            entries.push(entry(path.to_path_buf(), true));
        }
    }
    Ok(entries)
}

fn entry(path: PathBuf, tracked: bool) -> Entry {
    let secret = path.file_name().is_some_and(looks_secret);
    Entry { path, tracked, secret }
}

fn looks_secret(name: &OsStr) -> bool {
    let name = name.to_string_lossy().to_lowercase();
    SECRET_NAMES.contains(&name.as_str())
        || name.starts_with(".env.")
        || SECRET_ENDINGS.iter().any(|ending| name.ends_with(ending))
}

/// Git never writes an index that names its own folder or leads out of the tree; somebody else may.
fn is_below(path: &Path) -> bool {
    !path.as_os_str().as_bytes().split(|byte| *byte == b'/').any(|part| matches!(part, b"" | b"." | b".." | b".git"))
}

fn exists(top: &Path, path: &Path) -> bool {
    top.join(path).symlink_metadata().is_ok()
}

pub(super) fn paths(answer: &[u8]) -> impl Iterator<Item = PathBuf> {
    answer.split(|byte| *byte == 0).filter(|path| !path.is_empty()).map(bytes_path)
}

pub(super) fn bytes_path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes.to_vec()))
}
