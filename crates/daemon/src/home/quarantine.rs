//! A bare repository of ours, one for each workspace, in which a guest's objects are held until they are proven.
//!
//! Its configuration is written here, every time; no hook, no filter, no person's configuration reaches it. It borrows
//! the host repository's objects (gitrepository-layout(5), alternates) and never writes there. Every git that reads
//! what a guest sent has bounds on memory, time and the size of files.

use super::{HomeError, Result, limits};
use crate::workspace::WorkspaceError;
use crate::workspace::git::{Git, NO_ROOM};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use sha2::Digest;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// 8 GiB of address space for a git that reads hostile bytes: what it maps of the host's packs (bounded in its settings) and
/// several files of [`limits::FILE_BYTES`].
const GIT_MEMORY_BYTES: u64 = 8 << 30;
/// 10 minutes of one CPU.
const GIT_CPU_SECONDS: u64 = 600;

/// How objects are named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hash {
    Sha1,
    Sha256,
}

impl Hash {
    pub fn of_format(format: &str) -> Hash {
        if format == "sha256" { Hash::Sha256 } else { Hash::Sha1 }
    }

    pub fn bytes(self) -> usize {
        match self {
            Hash::Sha1 => 20,
            Hash::Sha256 => 32,
        }
    }

    pub fn digits(self) -> usize {
        2 * self.bytes()
    }

    pub fn begin(self) -> Hasher {
        match self {
            Hash::Sha1 => Hasher::Sha1(sha1::Sha1::new()),
            Hash::Sha256 => Hasher::Sha256(sha2::Sha256::new()),
        }
    }

    fn word(self) -> &'static str {
        match self {
            Hash::Sha1 => "sha1",
            Hash::Sha256 => "sha256",
        }
    }
}

pub enum Hasher {
    Sha1(sha1::Sha1),
    Sha256(sha2::Sha256),
}

impl Hasher {
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Sha1(hasher) => hasher.update(bytes),
            Hasher::Sha256(hasher) => hasher.update(bytes),
        }
    }

    pub fn finish(self) -> String {
        match self {
            Hasher::Sha1(hasher) => super::index::hex(&hasher.finalize()),
            Hasher::Sha256(hasher) => super::index::hex(&hasher.finalize()),
        }
    }
}

pub struct Quarantine {
    folder: PathBuf,
    git: Git,
    hash: Hash,
}

impl Quarantine {
    /// Makes it where it is missing and writes its settings anew. `objects` is the host repository's object folder.
    pub fn open(folder: &Path, objects: &Path, shallow: Option<&[u8]>, hash: Hash) -> Result<Quarantine> {
        let quarantine = Quarantine { folder: folder.to_owned(), git: own_git(folder), hash };
        quarantine.write_settings(objects, shallow).map_err(|source| quarantine.store_error(source))?;
        Ok(quarantine)
    }

    fn write_settings(&self, objects: &Path, shallow: Option<&[u8]>) -> std::io::Result<()> {
        for name in ["objects/info", "objects/pack", "refs/heads", "incoming"] {
            std::fs::create_dir_all(self.folder.join(name))?;
        }
        let mut config = "[core]\n\tbare = true\n\tlogAllRefUpdates = false\n\thooksPath = /dev/null\n".to_owned();
        config += "\tpackedGitLimit = 1g\n\tpackedGitWindowSize = 32m\n";
        // Soon rather than small: what stays on the host is packed again by its own gc.
        config += "\tcompression = 1\n";
        config += match self.hash {
            Hash::Sha1 => "\trepositoryFormatVersion = 0\n",
            Hash::Sha256 => "\trepositoryFormatVersion = 1\n[extensions]\n\tobjectFormat = sha256\n",
        };
        config += "[pack]\n\tcompression = 1\n\twindow = 0\n";
        std::fs::write(self.folder.join("config"), config)?;
        std::fs::write(self.folder.join("HEAD"), "ref: refs/heads/none\n")?;
        let mut borrowed = quoted(objects);
        borrowed.push(b'\n');
        std::fs::write(self.folder.join("objects/info/alternates"), borrowed)?;
        let place = self.folder.join("shallow");
        match shallow {
            Some(text) => std::fs::write(place, text),
            None if place.exists() => std::fs::remove_file(place),
            None => Ok(()),
        }
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn git(&self) -> &Git {
        &self.git
    }

    pub fn hash(&self) -> Hash {
        self.hash
    }

    pub fn store_error(&self, source: std::io::Error) -> HomeError {
        HomeError::Store { path: self.folder.clone(), source }
    }

    /// Which of these objects are neither here nor on the host.
    pub fn missing(&self, names: &[String]) -> Result<HashSet<String>> {
        if names.is_empty() {
            return Ok(HashSet::new());
        }
        let asked: Vec<u8> = names.iter().flat_map(|name| [name.as_bytes(), b"\n"].concat()).collect();
        let answer = self.git.ask_with_input(["cat-file", "--batch-check", "--buffer"], &asked)?;
        let answer = String::from_utf8_lossy(&answer);
        Ok(answer.lines().filter_map(|line| line.strip_suffix(" missing")).map(str::to_owned).collect())
    }

    /// The types of these objects, where they are there: `commit`, `tag`, …
    pub fn types(&self, names: &[String]) -> Result<Vec<Option<String>>> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let asked: Vec<u8> = names.iter().flat_map(|name| [name.as_bytes(), b"\n"].concat()).collect();
        let answer = self.git.ask_with_input(["cat-file", "--batch-check=%(objecttype)"], &asked)?;
        let answer = String::from_utf8_lossy(&answer);
        Ok(answer.lines().map(|line| Some(line.to_owned()).filter(|word| !word.ends_with(" missing"))).collect())
    }
}

/// Git in a repository of ours, which takes nothing from anybody's configuration.
pub fn own_git(folder: &Path) -> Git {
    Git::own(folder).with_environment("GIT_DIR", folder).with_environment("GIT_CONFIG_GLOBAL", "/dev/null")
}

/// Starts a git with bounds: on memory, time, and what it may write.
pub fn spawn_bounded(command: &mut Command) -> Result<Child> {
    let child = command.spawn().map_err(|source| HomeError::from(WorkspaceError::NoGit { source }))?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let bounds =
        [(Resource::As, GIT_MEMORY_BYTES), (Resource::Cpu, GIT_CPU_SECONDS), (Resource::Fsize, limits::PACK_BYTES * 2)];
    for (resource, bound) in bounds {
        // A child that is gone already has done no harm.
        let _ = prlimit(pid, resource, Rlimit { current: Some(bound), maximum: Some(bound) });
    }
    Ok(child)
}

/// Runs a git with bounds to its end; `input` is fed from a thread.
pub fn run_bounded(git: &Git, mut command: Command, input: &[u8]) -> Result<Vec<u8>> {
    let mut child = spawn_bounded(command.stdin(Stdio::piped()))?;
    let mut stdin = child.stdin.take().expect("stdin is piped");
    let output = std::thread::scope(|scope| {
        // A git that ends early does not read on; its status tells why.
        scope.spawn(move || drop(stdin.write_all(input)));
        child.wait_with_output()
    });
    judge(git, output.map_err(|source| HomeError::from(WorkspaceError::NoGit { source }))?)
}

pub fn judge(git: &Git, output: Output) -> Result<Vec<u8>> {
    if output.status.success() {
        return Ok(output.stdout);
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let mut lines = text.lines().rev().filter(|line| !line.trim().is_empty());
    let full = lines.clone().find(|line| line.contains(NO_ROOM));
    let line = full.or_else(|| lines.next()).unwrap_or("nothing");
    let said = super::refs::shown(line.trim());
    Err(WorkspaceError::Git { path: git.folder().to_owned(), said }.into())
}

/// A digest of ours, for comparing.
pub fn digest<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hasher = sha2::Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    super::index::hex(&hasher.finalize())
}

/// A path in `alternates`: one that begins with a quote, or holds a newline, is written as C would.
fn quoted(path: &Path) -> Vec<u8> {
    let bytes = path.as_os_str().as_bytes();
    match bytes.iter().any(|byte| matches!(byte, b'"' | b'\n' | b'\\' | b'#')) {
        true => quote(bytes),
        false => bytes.to_vec(),
    }
}

/// As git quotes names (quote.c): between double quotes, what is not plain in octal.
pub fn quote(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![b'"'];
    for byte in bytes {
        match byte {
            b'"' | b'\\' => out.extend([b'\\', *byte]),
            b' '..=b'~' => out.push(*byte),
            _ => out.extend(format!("\\{byte:03o}").bytes()),
        }
    }
    out.push(b'"');
    out
}

impl Quarantine {
    /// A scratch repository that borrows from the same place, holding nothing itself; made anew each time.
    pub fn scratch(&self, name: &str, objects: &Path, shallow: Option<&[u8]>) -> Result<Quarantine> {
        let folder = self.folder.join("incoming").join(OsStr::new(name));
        match std::fs::remove_dir_all(&folder) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(self.store_error(source)),
            _ => Quarantine::open(&folder, objects, shallow, self.hash),
        }
    }
}

/// What git and we begin and a kill, a full disk or a refusal leaves undone.
const UNDONE: [&str; 2] = ["tmp_", "fast_import_crash_"];

/// While it lives somebody works here; nothing half-done is there before, and none is left after.
pub struct Swept<'a>(&'a Quarantine);

impl Quarantine {
    /// For whoever is alone here.
    pub fn sweep(&self) -> Swept<'_> {
        self.clear();
        Swept(self)
    }

    fn clear(&self) {
        let incoming = self.folder.join("incoming");
        let cleared = std::fs::remove_dir_all(&incoming).and_then(|()| std::fs::create_dir(&incoming));
        if let Err(error) = cleared {
            tracing::warn!(%error, path = %incoming.display(), "cannot clear what is half-done");
        }
        for folder in [self.folder.clone(), self.folder.join("objects/pack")] {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                let name = entry.file_name();
                if UNDONE.iter().any(|begin| name.as_bytes().starts_with(begin.as_bytes())) {
                    let _ = std::fs::remove_file(entry.path());
                }
            }
        }
    }
}

impl Drop for Swept<'_> {
    fn drop(&mut self) {
        self.0.clear();
    }
}

impl std::fmt::Display for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.word())
    }
}
