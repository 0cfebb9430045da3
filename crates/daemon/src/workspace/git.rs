//! The `git` program, run on a repository that may be hostile.
//!
//! What a repository's own configuration could make git execute is switched off on the command line, which wins over
//! every file: hooks, fsmonitor, the ssh and ext transports, external diffs, pagers, editors, and (by name, since the
//! names are the repository's) every filter and diff driver. Git's own rule already keeps `uploadpack.packObjectsHook` and
//! `safe.directory` to configuration that the person wrote (git-config(1), "protected configuration").

use super::{Result, WorkspaceError};
use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// 256 MiB: more than the paths of a million files; what answers more than this is no repository to work on.
const MAX_ANSWER_BYTES: usize = 256 << 20;
/// 8 KiB of git's own words are enough for a sentence.
const MAX_COMPLAINT_BYTES: usize = 8 << 10;

/// Options that no repository may override.
const SAFE: &[&str] = &[
    "core.fsmonitor=false",
    "core.hooksPath=/dev/null",
    "core.pager=cat",
    "core.editor=false",
    "core.askPass=true",
    "core.sshCommand=false",
    "core.untrackedCache=false",
    "core.quotePath=false",
    "diff.external=",
    "protocol.allow=never",
    "protocol.file.allow=always",
    "gc.auto=0",
    "maintenance.auto=false",
    "advice.detachedHead=false",
];

/// One repository, named by its work tree (or by its git folder, for one of ours).
#[derive(Debug, Clone)]
pub struct Git {
    folder: PathBuf,
    /// `name=value` pairs that disarm the drivers which this repository's configuration names.
    disarmed: Vec<String>,
    environment: Vec<(OsString, OsString)>,
}

impl Git {
    /// For a repository that somebody else wrote.
    pub fn hostile(folder: &Path) -> Result<Git> {
        let mut git = Git::own(folder);
        git.disarmed = git.drivers()?;
        // A partial clone fetches what it lacks from where its configuration says, by the program that it names.
        Ok(git.with_environment("GIT_ALLOW_PROTOCOL", "none").with_environment("GIT_SSH_COMMAND", "false"))
    }

    /// For a repository that we made ourselves, with our own configuration.
    pub fn own(folder: &Path) -> Git {
        Git { folder: folder.to_path_buf(), disarmed: Vec::new(), environment: Vec::new() }
    }

    pub fn with_environment(mut self, name: &str, value: impl Into<OsString>) -> Git {
        self.environment.push((name.into(), value.into()));
        self
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Every command of ours starts here: the safe options, no inherited repository, no prompt, no lock for reading.
    pub fn command<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = Command::new("git");
        for (name, _) in std::env::vars_os() {
            if name.as_bytes().starts_with(b"GIT_") {
                command.env_remove(name);
            }
        }
        command.arg("-C").arg(&self.folder);
        for option in SAFE {
            command.args(["-c", option]);
        }
        command.env("GIT_CONFIG_COUNT", self.disarmed.len().to_string());
        for (number, option) in self.disarmed.iter().enumerate() {
            let (name, value) = option.rsplit_once('=').expect("a disarmed key has a value");
            command.env(format!("GIT_CONFIG_KEY_{number}"), name).env(format!("GIT_CONFIG_VALUE_{number}"), value);
        }
        // The person who asks for this folder is the judge of its owner; nothing in it runs.
        command.args(["-c", "safe.directory=*"]);
        command.args(arguments);
        command.env("GIT_TERMINAL_PROMPT", "0").env("GIT_OPTIONAL_LOCKS", "0").env("LC_ALL", "C");
        command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_ATTR_NOSYSTEM", "1").env("GIT_NO_LAZY_FETCH", "1");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// The answer of a command that must succeed.
    pub fn ask<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Result<Vec<u8>> {
        self.finish(self.command(arguments), &[])
    }

    /// The answer of a command that reads `input`.
    pub fn ask_with_input<A: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = A>,
        input: &[u8],
    ) -> Result<Vec<u8>> {
        self.finish(self.command(arguments), input)
    }

    /// One line, without its end; `None` when git says no (a reference or key that is not there).
    pub fn line<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Result<Option<String>> {
        let output = self.command(arguments).output().map_err(|source| WorkspaceError::NoGit { source })?;
        let text = String::from_utf8_lossy(&output.stdout);
        let line = text.trim_end_matches('\n');
        Ok((output.status.success() && !line.is_empty()).then(|| line.to_owned()))
    }

    /// Pipes one git's answer into another's input; both must succeed.
    pub fn pipe<A: AsRef<OsStr>, B: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = A>,
        input: &[u8],
        other: &Git,
        into: impl IntoIterator<Item = B>,
    ) -> Result<()> {
        let mut source = self.spawn(self.command(arguments).stdin(Stdio::piped()))?;
        let stdout = source.stdout.take().expect("stdout is piped");
        let mut command = other.command(into);
        let sink = other.spawn(command.stdin(Stdio::from(stdout)))?;
        let feeder = feed(&mut source, input);
        let drained = other.judge(sink);
        let fed = self.judge(source);
        feeder.join().expect("the feeder of a pipe does not panic");
        drained.and(fed).map(|_| ())
    }

    fn finish(&self, mut command: Command, input: &[u8]) -> Result<Vec<u8>> {
        if !input.is_empty() {
            command.stdin(Stdio::piped());
        }
        let mut child = self.spawn(&mut command)?;
        let feeder = feed(&mut child, input);
        let answer = self.judge(child);
        feeder.join().expect("the feeder of a pipe does not panic");
        answer
    }

    fn spawn(&self, command: &mut Command) -> Result<Child> {
        command.spawn().map_err(|source| WorkspaceError::NoGit { source })
    }

    fn judge(&self, child: Child) -> Result<Vec<u8>> {
        let output = child.wait_with_output().map_err(|source| WorkspaceError::NoGit { source })?;
        let said = |bytes: &[u8]| {
            let text = String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_COMPLAINT_BYTES)]).into_owned();
            let line = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("nothing").trim().to_owned();
            WorkspaceError::Git { path: self.folder.clone(), said: line }
        };
        match output.status.success() {
            true if output.stdout.len() <= MAX_ANSWER_BYTES => Ok(output.stdout),
            true => Err(said(b"more than can be held in memory")),
            false => Err(said(&output.stderr)),
        }
    }

    /// Filter and diff drivers in the repository's reach, each set to nothing: git then treats them as absent.
    fn drivers(&self) -> Result<Vec<String>> {
        let keys = self.command(["config", "--name-only", "-z", "--get-regexp", "^(filter|diff)\\..*\\."]).output();
        let keys = keys.map_err(|source| WorkspaceError::NoGit { source })?.stdout;
        let keys = keys.split(|byte| *byte == 0).filter_map(|key| std::str::from_utf8(key).ok());
        // An empty command is no command (convert.c); a required filter without one would fail instead.
        let disarm = |key: &str| match key.rsplit('.').next() {
            Some("clean" | "smudge" | "process" | "command" | "textconv") => Some(format!("{key}=")),
            Some("required") => Some(format!("{key}=false")),
            _ => None,
        };
        // `-c` ends a name at the first `=`, so a driver whose name holds one goes by environment (GIT_CONFIG_COUNT).
        Ok(keys.filter_map(disarm).collect())
    }
}

/// Writes `input` to the child's stdin from a thread, so that neither side waits for the other. A child that stops reading is judged by its status.
fn feed(child: &mut Child, input: &[u8]) -> std::thread::JoinHandle<()> {
    let stdin = child.stdin.take();
    let input = input.to_vec();
    std::thread::spawn(move || {
        if let Some(mut stdin) = stdin {
            let _ = stdin.write_all(&input);
        }
    })
}
