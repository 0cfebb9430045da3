//! The git folder that a guest gets: made from the host's objects, references and index, never a copy of the host's.

use super::delta::{self, Delta};
use super::git::Git;
use super::inspect::Repository;
use super::ship::ShipOptions;
use super::{Result, WorkspaceError, settings};
use crate::home::quarantine::Hash;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{File, FileTimes};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Makes `<staged>/.git`: what the guest gets instead of the host's git folder.
pub(super) fn stage(repository: &Repository, options: &ShipOptions, staged: &Path) -> Result<()> {
    std::fs::create_dir_all(staged).map_err(|source| copy_failed(staged, source))?;
    let git = Git::own(staged);
    let format = format!("--object-format={}", repository.object_format);
    git.ask(["init", "--quiet", "--template=", &format, "--initial-branch=main"])?;
    let commit = options.from.as_ref().or(repository.head.as_ref());
    if let Some(commit) = commit {
        fetch(repository, &git, commit, options.depth)?;
    }
    point_head(repository, options, &git, commit)?;
    settings::configure(repository, &git)?;
    info(repository, &git)?;
    // A branch from another commit starts with that commit's tree; otherwise the host's index is the truth.
    match options.from.is_some() && options.from != repository.head {
        true => git.ask(["read-tree", "HEAD"]).map(|_| ()),
        false => index(repository, &git, staged),
    }
}

/// Makes what joins the guest's `.git`: its references as they shall be, the host's index, one pack of what it lacks, and its
/// configuration if settings of the host changed.
pub(super) fn stage_changes(
    repository: &Repository,
    options: &ShipOptions,
    delta: &Delta,
    known: &str,
    staged: &Path,
) -> Result<()> {
    let failed = |source: io::Error| WorkspaceError::Write { path: staged.to_path_buf(), source };
    std::fs::create_dir_all(staged).map_err(failed)?;
    let git = Git::own(staged);
    let format = format!("--object-format={}", repository.object_format);
    git.ask(["init", "--quiet", "--template=", &format, "--initial-branch=main"])?;
    let head = repository.head.as_deref().unwrap_or(known);
    delta::pack(repository, &git, known, head)?;
    info(repository, &git)?;
    index_file(repository, &git, staged)?;
    // By hand: git refuses a reference to a commit that it has not.
    let folder = staged.join(".git");
    let write = |name: &str, text: String| -> Result<()> {
        let path = folder.join(name);
        let made = path.parent().map_or(Ok(()), std::fs::create_dir_all);
        made.and_then(|()| std::fs::write(path, text)).map_err(failed)
    };
    write("refs/banger/base", format!("{head}\n"))?;
    match options.branch.as_ref().or(repository.branch.as_ref()) {
        Some(branch) => {
            write(&format!("refs/heads/{branch}"), format!("{head}\n"))?;
            write("HEAD", format!("ref: refs/heads/{branch}\n"))?;
        }
        None => write("HEAD", format!("{head}\n"))?,
    }
    let config = folder.join("config");
    if delta.settings.is_empty() {
        return std::fs::remove_file(config).map_err(failed);
    }
    if let Some(text) = &delta.guest_config {
        let own = staged.join("config");
        std::fs::write(&own, text).map_err(failed)?;
        if settings::apply(&git, &own, &delta.settings).is_ok() {
            return std::fs::rename(own, config).map_err(failed);
        }
    }
    // One that is not there, or that git cannot read, is made anew.
    settings::configure(repository, &git)
}

/// Exactly the commits that `depth` allows, from the host's own objects, by the protocol git itself uses for strangers.
fn fetch(repository: &Repository, into: &Git, commit: &str, depth: Option<u32>) -> Result<()> {
    // The environment wins over what the repository says of missing objects: nothing is fetched from anywhere else.
    let upload = "GIT_ALLOW_PROTOCOL=none GIT_SSH_COMMAND=false GIT_NO_REPLACE_OBJECTS=1 GIT_GRAFT_FILE=/dev/null git -c safe.directory=* -c uploadpack.allowAnySHA1InWant=true -c core.fsmonitor=false upload-pack";
    let words = ["fetch", "--quiet", "--no-tags", "--no-write-fetch-head"];
    let mut arguments: Vec<OsString> = words.into_iter().map(OsString::from).collect();
    arguments.push(format!("--upload-pack={upload}").into());
    arguments.extend(depth.map(|depth| format!("--depth={depth}").into()));
    arguments.extend([repository.top.clone().into(), format!("{commit}:refs/banger/base").into()]);
    into.patient().ask(&arguments).map(|_| ())
}

fn point_head(repository: &Repository, options: &ShipOptions, git: &Git, commit: Option<&String>) -> Result<()> {
    let branch = options.branch.as_ref().or(repository.branch.as_ref());
    match (branch, commit) {
        (Some(branch), Some(commit)) => {
            let reference = format!("refs/heads/{branch}");
            git.ask(["update-ref", &reference, commit])?;
            git.ask(["symbolic-ref", "HEAD", &reference])?;
        }
        (Some(branch), None) => drop(git.ask(["symbolic-ref", "HEAD", &format!("refs/heads/{branch}")])?),
        (None, Some(commit)) => drop(git.ask(["update-ref", "--no-deref", "HEAD", commit])?),
        (None, None) => {}
    }
    Ok(())
}

fn info(repository: &Repository, git: &Git) -> Result<()> {
    let info = repository.common_folder.join("info");
    let own = repository.git_folder.join("info");
    for (from, name) in [(&info, "exclude"), (&info, "attributes"), (&own, "sparse-checkout")] {
        copy_small(&from.join(name), &git.folder().join(".git/info").join(name))?;
    }
    Ok(())
}

/// The host's index as it is, and the objects it names that the shipped history does not hold.
fn index(repository: &Repository, git: &Git, staged: &Path) -> Result<()> {
    index_file(repository, git, staged)?;
    let missing = missing_objects(git)?;
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<u8> = missing.iter().flat_map(|name| [name.as_bytes(), b"\n"].concat()).collect();
    repository.git.patient().pipe(["pack-objects", "--stdout", "-q"], &names, git, ["unpack-objects", "-q"])
}

fn index_file(repository: &Repository, git: &Git, staged: &Path) -> Result<()> {
    let from = repository.git_folder.join("index");
    if !from.symlink_metadata().is_ok_and(|found| found.is_file()) {
        return Ok(());
    }
    let read = |source: io::Error| copy_failed(&from, source);
    std::fs::copy(&from, staged.join(".git/index")).map_err(read)?;
    for shared in std::fs::read_dir(&repository.git_folder).map_err(read)?.flatten() {
        let is_file = shared.file_type().is_ok_and(|kind| kind.is_file());
        if is_file && shared.file_name().as_bytes().starts_with(b"sharedindex.") {
            std::fs::copy(shared.path(), staged.join(".git").join(shared.file_name())).map_err(read)?;
        }
    }
    git.ask(["update-index", "--no-split-index", "--no-untracked-cache", "--no-fsmonitor"])?;
    without_trees(repository, &staged.join(".git/index")).map_err(read)?;
    // By the index's time git tells which files it has to read after all (racy-git(7)): it stays the host's.
    let times = from.metadata().and_then(|facts| Ok(FileTimes::new().set_modified(facts.modified()?))).map_err(read)?;
    File::options().write(true).open(staged.join(".git/index")).and_then(|file| file.set_times(times)).map_err(read)
}

/// An index remembers trees that it once wrote; one that is in no commit would be missing in the guest.
fn without_trees(repository: &Repository, file: &Path) -> io::Result<()> {
    // Of this very index and this very commit: the host's may be others by now.
    let git = repository.git.clone().with_environment("GIT_INDEX_FILE", file);
    let head = repository.head.as_deref();
    if head.is_some_and(|head| git.ask(["diff-index", "--cached", "--quiet", head]).is_ok()) {
        return Ok(());
    }
    let hash = Hash::of_format(&repository.object_format);
    match crate::home::index::without_trees(&std::fs::read(file)?, hash) {
        Some(index) => std::fs::write(file, index),
        None => Ok(()),
    }
}

/// Blobs of the index that the staged repository lacks: what was added and not yet committed.
fn missing_objects(git: &Git) -> Result<Vec<String>> {
    let staged = git.ask(["ls-files", "-z", "--stage"])?;
    let lines = staged.split(|byte| *byte == 0).filter(|line| !line.is_empty() && !line.starts_with(b"160000 "));
    let names: BTreeSet<&[u8]> = lines.filter_map(|line| line.split(|byte| *byte == b' ').nth(1)).collect();
    let asked: Vec<u8> = names.iter().flat_map(|name| [name, &b"\n"[..]].concat()).collect();
    if asked.is_empty() {
        return Ok(Vec::new());
    }
    let answer = git.ask_with_input(["cat-file", "--batch-check"], &asked)?;
    let answer = String::from_utf8_lossy(&answer);
    let missing = answer.lines().filter_map(|line| line.strip_suffix(" missing"));
    Ok(missing.map(str::to_owned).collect())
}

/// Copies a regular file of at most 1 MiB; anything else is passed over.
fn copy_small(from: &Path, to: &Path) -> Result<()> {
    const LIMIT: u64 = 1 << 20;
    let fits = from.symlink_metadata().is_ok_and(|found| found.is_file() && found.len() <= LIMIT);
    if !fits {
        return Ok(());
    }
    let copy = || -> io::Result<()> {
        std::fs::create_dir_all(to.parent().expect("a file lies in a folder"))?;
        std::fs::copy(from, to).map(|_| ())
    };
    copy().map_err(|source| copy_failed(from, source))
}

/// Which side of a copy it was.
fn copy_failed(path: &Path, source: io::Error) -> WorkspaceError {
    let path = path.to_path_buf();
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => WorkspaceError::Write { path, source },
        _ => WorkspaceError::Read { path, source },
    }
}
