//! A command as a process: its user, environment, folder, streams and process group, made between fork and exec.

// Opened for one `pre_exec`, which the standard library has no safe form of.
#![allow(unsafe_code)]

use super::pipe::{Input, Output};
use super::user::{self, User};
use crate::http::io_fault;
use nix::sys::signal::SigSet;
use rustix::io::Errno;
use rustix::process::{Pid, Resource, Rlimit, Signal};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use tokio::process::{Child, Command};
use wire::guest::{ExecRequest, ExecStatus, WindowSize};
use wire::{Fault, FaultKind};

/// What systemd gives a login: 1024 descriptors, more on request. The agent's own limit is higher.
const DESCRIPTORS: u64 = 1024;

/// A started command and our ends of its streams.
pub struct Running {
    pub process: Child,
    pub group: Group,
    pub stdin: Option<Input>,
    pub stdout: Output,
    pub stderr: Option<Output>,
    /// Present with a terminal: the one that `stdin` and `stdout` are, for its size.
    pub terminal: Option<OwnedFd>,
}

/// The command's process group, which is also its session's number.
#[derive(Debug, Clone, Copy)]
pub struct Group(Pid);

impl Group {
    /// Nobody there is as good as delivered.
    pub fn signal(self, signal: Signal) {
        let _ = rustix::process::kill_process_group(self.0, signal);
    }
}

/// Both sides' ends of the streams.
struct Streams {
    stdin: Option<Input>,
    stdout: Output,
    stderr: Option<Output>,
    terminal: Option<OwnedFd>,
    child: [Stdio; 3],
}

pub async fn start(request: &ExecRequest) -> Result<Running, Fault> {
    let user = user::find(request.user.as_deref())?;
    let folder = working_folder(request, &user)?;
    let words = command_words(request, &user.shell);
    let program = words.program.clone();
    let streams = match request.tty {
        Some(size) => terminal_streams(size),
        None => pipe_streams(request.stdin),
    };
    let Streams { stdin, stdout, stderr, terminal, child } = streams.map_err(io_fault("make the command's streams"))?;
    let mut command = Command::new(&words.program);
    if let Some(name) = &words.name {
        command.arg0(name);
    }
    command.args(&words.arguments).env_clear().envs(environment(request, &user));
    let [input, output, errors] = child;
    command.stdin(input).stdout(output).stderr(errors);
    settle(&mut command, &user, folder, terminal.is_some());
    let process = command.spawn().map_err(|error| not_started(&program, &error))?;
    let pid = process.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    let group = Group(pid.ok_or_else(|| Fault::new(FaultKind::Internal, "the command has no process id"))?);
    // `command` ends here and closes our copies of the child's ends: else the streams would never end.
    Ok(Running { process, group, stdin, stdout, stderr, terminal })
}

pub fn status_of(status: io::Result<ExitStatus>) -> ExecStatus {
    match status {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => ExecStatus::Exited { code: code as u8 },
            (None, signal) => ExecStatus::Signalled { signal: signal.unwrap_or(0) as u8 },
        },
        Err(error) => ExecStatus::NotStarted { fault: io_fault("wait for the command")(error) },
    }
}

pub fn resize(terminal: &OwnedFd, size: WindowSize) {
    let _ = tcsetwinsize(terminal, window(size));
}

fn window(size: WindowSize) -> Winsize {
    Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 }
}

/// The program, what it sees as its name, and its arguments.
#[derive(Debug, PartialEq, Eq)]
struct Words {
    program: String,
    name: Option<String>,
    arguments: Vec<String>,
}

fn command_words(request: &ExecRequest, shell: &str) -> Words {
    if let Some(line) = &request.line {
        return Words { program: shell.to_owned(), name: None, arguments: vec!["-c".to_owned(), line.clone()] };
    }
    match request.argv.split_first() {
        // A leading dash is how a shell learns that it is a login shell.
        None => {
            let name = shell.rsplit('/').next().unwrap_or(shell);
            Words { program: shell.to_owned(), name: Some(format!("-{name}")), arguments: Vec::new() }
        }
        Some(_) if request.login_shell && request.with_tools => {
            let words = request.argv.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" ");
            let line = format!("if command -v mise >/dev/null 2>&1; then exec mise exec -- {words}; fi; exec {words}");
            through_shell(shell, line)
        }
        Some((first, [])) if request.login_shell => through_shell(shell, first.clone()),
        Some(_) if request.login_shell => {
            through_shell(shell, request.argv.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" "))
        }
        Some((program, rest)) => Words { program: program.clone(), name: None, arguments: rest.to_vec() },
    }
}

fn through_shell(shell: &str, line: String) -> Words {
    Words { program: shell.to_owned(), name: None, arguments: vec!["-l".to_owned(), "-c".to_owned(), line] }
}

fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// What was asked for must exist; a home that does not is `/`, as with login(1).
fn working_folder(request: &ExecRequest, user: &User) -> Result<CString, Fault> {
    let folder = match &request.cwd {
        Some(folder) if Path::new(folder).is_dir() => folder.as_str(),
        Some(folder) => return Err(Fault::new(FaultKind::NotFound, format!("the guest has no folder {folder}"))),
        None if Path::new(&user.home).is_dir() => &user.home,
        None => "/",
    };
    CString::new(folder).map_err(|_| Fault::new(FaultKind::Invalid, "the folder's name holds a NUL byte"))
}

fn environment(request: &ExecRequest, user: &User) -> BTreeMap<String, String> {
    let mut environment: BTreeMap<String, String> = [
        ("HOME", user.home.as_str()),
        ("USER", &user.name),
        ("LOGNAME", &user.name),
        ("SHELL", &user.shell),
        ("PATH", crate::machine::PATH),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .collect();
    environment.extend(user::machine_environment());
    if request.tty.is_some() || request.term.is_some() {
        environment.insert("TERM".to_owned(), request.term.clone().unwrap_or_else(|| "xterm-256color".to_owned()));
    }
    environment.extend(request.env.clone());
    environment
}

fn pipe_streams(with_stdin: bool) -> io::Result<Streams> {
    let (stdin, child_stdin) = if with_stdin {
        let (reader, writer) = io::pipe()?;
        (Some(Input::new(writer.into())?), Stdio::from(reader))
    } else {
        (None, Stdio::null())
    };
    let (stdout, child_stdout) = io::pipe()?;
    let (stderr, child_stderr) = io::pipe()?;
    Ok(Streams {
        stdin,
        stdout: Output::new(stdout.into())?,
        stderr: Some(Output::new(stderr.into())?),
        terminal: None,
        child: [child_stdin, child_stdout.into(), child_stderr.into()],
    })
}

/// The terminal's own ioctl opens the other side: it works where /dev/pts is not mounted in this namespace.
fn terminal_streams(size: WindowSize) -> io::Result<Streams> {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&ours)?;
    unlockpt(&ours)?;
    tcsetwinsize(&ours, window(size))?;
    let theirs = ioctl_tiocgptpeer(&ours, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    let child = [Stdio::from(theirs.try_clone()?), Stdio::from(theirs.try_clone()?), Stdio::from(theirs)];
    Ok(Streams {
        stdin: Some(Input::new(ours.try_clone()?)?),
        stdout: Output::new(ours.try_clone()?)?,
        stderr: None,
        terminal: Some(ours),
        child,
    })
}

/// What must happen in the child, in this order: the session before its terminal, groups before the user, the folder as the
/// user who may or may not enter it.
fn settle(command: &mut Command, user: &User, folder: CString, terminal: bool) {
    let change_user = rustix::process::geteuid().is_root();
    let (uid, gid, groups) = (user.uid, user.gid, user.groups.clone());
    let in_child = move || -> Result<(), Errno> {
        // PID 1 waits for its signals with a mask, which every child inherits: a command would be deaf to Ctrl-C.
        let _ = SigSet::empty().thread_set_mask();
        rustix::process::setsid()?;
        if terminal {
            // The standard library has put the terminal there before this runs.
            rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
        }
        reset_limits();
        if change_user {
            rustix::thread::set_thread_groups(&groups)?;
            rustix::thread::set_thread_gid(gid)?;
            rustix::thread::set_thread_uid(uid)?;
        }
        rustix::process::chdir(&*folder)
    };
    // SAFETY: between fork and exec only system calls are made, directly and without allocation; what they need was made
    // before. The child has one thread, so the per-thread calls change the process.
    unsafe {
        command.pre_exec(move || in_child().map_err(io::Error::from));
    }
}

/// The agent's own privileges with the kernel (many descriptors, spared by the OOM killer) are not for commands.
fn reset_limits() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let current = Some(limit.maximum.map_or(DESCRIPTORS, |maximum| maximum.min(DESCRIPTORS)));
    let _ = rustix::process::setrlimit(Resource::Nofile, Rlimit { current, maximum: limit.maximum });
    rustix::process::umask(rustix::fs::Mode::WGRP | rustix::fs::Mode::WOTH);
    let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CLOEXEC;
    if let Ok(file) = rustix::fs::open(c"/proc/self/oom_score_adj", flags, rustix::fs::Mode::empty()) {
        let _ = rustix::io::write(file.as_fd(), b"0");
    }
}

/// As a shell tells: 127 is "not found", 126 "found but not run"; here the fault's kind makes the difference.
fn not_started(program: &str, error: &io::Error) -> Fault {
    let (kind, cause) = match error.kind() {
        io::ErrorKind::NotFound => (FaultKind::NotFound, "no such file, or its interpreter is missing".to_owned()),
        io::ErrorKind::PermissionDenied => (FaultKind::Refused, "no permission to run it".to_owned()),
        _ => (FaultKind::Refused, error.to_string()),
    };
    Fault::new(kind, format!("cannot run {program}")).with_cause(cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(argv: &[&str], login_shell: bool) -> (String, Option<String>, Vec<String>) {
        let argv = argv.iter().map(|word| (*word).to_owned()).collect();
        let words = command_words(&ExecRequest { argv, login_shell, ..ExecRequest::default() }, "/bin/bash");
        (words.program, words.name, words.arguments)
    }

    #[test]
    fn nothing_to_run_is_a_login_shell() {
        assert_eq!(words(&[], false), ("/bin/bash".to_owned(), Some("-bash".to_owned()), vec![]));
    }

    #[test]
    fn a_line_goes_to_the_users_own_shell_whatever_else_was_said() {
        let argv = vec!["/bin/sh".to_owned()];
        let request = ExecRequest { argv, line: Some("a; b".to_owned()), ..ExecRequest::default() };
        let words = command_words(&request, "/bin/zsh");
        assert_eq!(
            (words.program.as_str(), words.name, words.arguments),
            ("/bin/zsh", None, vec!["-c".into(), "a; b".into()])
        );
    }

    #[test]
    fn with_tools_a_command_goes_through_mise_where_there_is_one() {
        let argv = vec!["make".to_owned(), "a b".to_owned()];
        let request = ExecRequest { argv, login_shell: true, with_tools: true, ..ExecRequest::default() };
        let line = "if command -v mise >/dev/null 2>&1; then exec mise exec -- 'make' 'a b'; fi; exec 'make' 'a b'";
        assert_eq!(command_words(&request, "/bin/sh").arguments, ["-l", "-c", line]);
    }

    #[test]
    fn through_the_login_shell_one_word_is_a_line_and_several_are_quoted() {
        assert_eq!(words(&["a; b"], true).2, ["-l", "-c", "a; b"]);
        assert_eq!(words(&["echo", "it's", "$x"], true).2, ["-l", "-c", r"'echo' 'it'\''s' '$x'"]);
        assert_eq!(words(&["echo", "$x"], false), ("echo".to_owned(), None, vec!["$x".to_owned()]));
    }
}
