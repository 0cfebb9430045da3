//! The `git` program, run on a repository that may be hostile.
//!
//! What a repository's own configuration could make git execute is switched off on the command line, which wins over
//! every file: hooks, fsmonitor, the ssh and ext transports, external diffs, pagers, editors, and (by name, since the
//! names are the repository's) every filter and diff driver. Git's own rule already keeps `uploadpack.packObjectsHook` and
//! `safe.directory` to configuration that the person wrote (git-config(1), "protected configuration").

use super::{Result, WorkspaceError};
use rustix::process::{Pid, Signal, kill_process_group};
use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// 256 MiB: more than the paths of a million files; what answers more than this is no repository to work on.
const MAX_ANSWER_BYTES: usize = 256 << 20;
/// 8 KiB of git's own words are enough for a sentence.
const MAX_COMPLAINT_BYTES: usize = 8 << 10;

/// 10 min for one answer, of a million files on a slow disk: a pipe in the place of a file holds git up for ever.
const WITHIN: Duration = Duration::from_secs(600);
/// 2 h for a pack of a whole history.
const PACK_WITHIN: Duration = Duration::from_secs(7200);

/// strerror(3) of ENOSPC, in the language that every git of ours speaks.
pub const NO_ROOM: &str = "No space left on device";
/// 300 characters are a long sentence.
const MAX_SAID: usize = 300;

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
    within: Duration,
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
        Git { folder: folder.to_path_buf(), disarmed: Vec::new(), environment: Vec::new(), within: WITHIN }
    }

    /// For work that takes as long as a history is large.
    pub fn patient(&self) -> Git {
        Git { within: PACK_WITHIN, ..self.clone() }
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
        // What is shipped is what the objects say; neither is any part of them.
        command.env("GIT_NO_REPLACE_OBJECTS", "1").env("GIT_GRAFT_FILE", "/dev/null");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // With whatever it starts, so that all of it can be ended.
        command.process_group(0);
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
        let child = self.spawn(&mut self.command(arguments))?;
        let output = self.wait(child)?;
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
        let output = self.wait(child)?;
        let said = |bytes: &[u8]| {
            let text = String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_COMPLAINT_BYTES)]).into_owned();
            let mut lines = text.lines().rev().filter(|line| !line.trim().is_empty());
            // What came last, unless the reason for it stands before.
            let full = lines.clone().find(|line| line.contains(NO_ROOM));
            let line = full.or_else(|| lines.next()).unwrap_or("nothing").trim();
            // It may hold names of the repository's choosing.
            let said = line.chars().map(|c| if c.is_control() { '?' } else { c }).take(MAX_SAID).collect();
            WorkspaceError::Git { path: self.folder.clone(), said }
        };
        match output.status.success() {
            true if output.stdout.len() <= MAX_ANSWER_BYTES => Ok(output.stdout),
            true => Err(said(b"more than can be held in memory")),
            false => Err(said(&output.stderr)),
        }
    }

    /// To its end, which comes by force when it takes too long.
    fn wait(&self, child: Child) -> Result<Output> {
        let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let (ended, end) = channel::<()>();
        let within = self.within;
        let watcher = std::thread::spawn(move || {
            let late = end.recv_timeout(within) == Err(RecvTimeoutError::Timeout);
            if let Some(group) = group.filter(|_| late) {
                // One that is gone needs no ending.
                let _ = kill_process_group(group, Signal::KILL);
            }
            late
        });
        let output = child.wait_with_output();
        drop(ended);
        match watcher.join().expect("a watcher does not panic") {
            true => Err(WorkspaceError::Late { path: self.folder.clone(), within }),
            false => output.map_err(|source| WorkspaceError::NoGit { source }),
        }
    }

    /// Filter and diff drivers in the repository's reach, each set to nothing: git then treats them as absent.
    fn drivers(&self) -> Result<Vec<String>> {
        let mut asked = self.command(["config", "--name-only", "-z", "--get-regexp", "^(filter|diff)\\..*\\."]);
        let keys = self.wait(self.spawn(&mut asked)?)?.stdout;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_git_that_waits_for_ever_is_ended_with_what_it_started() {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let mut git = Git::own(folder.path());
        git.ask(["init", "--quiet"]).expect("git runs");
        let pipe = folder.path().join(".git/config");
        std::fs::remove_file(&pipe).expect("it is there");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).expect("a pipe can be made");
        git.within = Duration::from_millis(300);
        for ended in [git.ask(["status"]).map(drop), git.line(["fetch", "."]).map(drop)] {
            assert!(matches!(ended, Err(WorkspaceError::Late { .. })), "{ended:?}");
        }
    }
}
