//! Starts `bangerd` for who needs it, and waits for its word on a pipe (`wire::control`, "Finding and starting").
//!
//! The daemon gets a session of its own, so that neither Ctrl-C nor the end of the terminal reaches it, and none of
//! our streams, so that `banger ps | cat` ends when we do.
#![allow(unsafe_code)]

use super::ClientError;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::ffi::OsString;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// 10 seconds: opening the store, adopting what runs. A daemon that needs longer hangs.
const READY_WITHIN: Duration = Duration::from_secs(10);
/// 16 KiB: the sentence why it cannot serve.
const MAX_WORD_BYTES: u64 = 16 * 1024;
const PROGRAM: &str = "bangerd";

/// Blocks until the daemon serves or has failed.
pub fn start() -> Result<(), ClientError> {
    let program = program();
    // Inheritable on purpose: this is the one descriptor that the daemon shall get.
    let (ours, theirs) = rustix::pipe::pipe().map_err(|error| cannot(&error.into()))?;
    rustix::io::fcntl_setfd(&ours, rustix::io::FdFlags::CLOEXEC).map_err(|error| cannot(&error.into()))?;
    // Not waited for: it outlives us, and whoever adopts orphans reaps it.
    spawn(&program, &theirs).map_err(|error| not_spawned(&program, &error))?;
    drop(theirs);
    judge(&read_word(ours)?)
}

/// `$BANGER_BANGERD`, else the one beside us, else whatever `PATH` holds.
pub fn program() -> PathBuf {
    let chosen = std::env::var_os("BANGER_BANGERD").filter(|path: &OsString| !path.is_empty());
    if let Some(chosen) = chosen {
        return chosen.into();
    }
    let beside = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.join(PROGRAM)));
    beside.filter(|path| path.is_file()).unwrap_or_else(|| PROGRAM.into())
}

fn spawn(program: &PathBuf, word: &OwnedFd) -> io::Result<Child> {
    let mut command = Command::new(program);
    command.arg("--ready-fd").arg(word.as_raw_fd().to_string());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // The folder we stand in may be unmounted or deleted while the daemon lives.
    command.current_dir("/");
    // SAFETY: the closure runs between fork and exec and calls setsid(2) alone, which is async-signal-safe and
    // allocates nothing.
    unsafe {
        command.pre_exec(|| rustix::process::setsid().map(drop).map_err(io::Error::from));
    }
    command.spawn()
}

/// One line, or all there is until the daemon closes its end.
fn read_word(pipe: OwnedFd) -> Result<String, ClientError> {
    let deadline = Instant::now() + READY_WITHIN;
    let mut pipe = std::fs::File::from(pipe);
    let mut word = Vec::new();
    loop {
        wait_readable(&pipe, deadline)?;
        let mut chunk = [0; 1024];
        let count = pipe.read(&mut chunk).map_err(|error| cannot(&error))?;
        word.extend_from_slice(&chunk[..count]);
        let ended = count == 0 || word.contains(&b'\n') || word.len() as u64 > MAX_WORD_BYTES;
        if ended {
            return Ok(String::from_utf8_lossy(&word).trim().to_owned());
        }
    }
}

fn wait_readable(pipe: &std::fs::File, deadline: Instant) -> Result<(), ClientError> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).expect("ten seconds fit in a timespec");
        match poll(&mut [PollFd::new(pipe, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => {
                let reason = format!("it did not say that it serves within {} s", READY_WITHIN.as_secs());
                return Err(ClientError::Start { reason });
            }
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(cannot(&error.into())),
        }
    }
}

/// Only a hint for the error message: the caller tries to connect whatever the word is.
fn judge(word: &str) -> Result<(), ClientError> {
    match word {
        "ready" => Ok(()),
        "" => Err(ClientError::Start { reason: "it ended without a word".into() }),
        reason => Err(ClientError::Start { reason: reason.to_owned() }),
    }
}

fn not_spawned(program: &std::path::Path, error: &io::Error) -> ClientError {
    let reason = match error.kind() {
        io::ErrorKind::NotFound if program.is_absolute() => format!("`{}` is not there", program.display()),
        io::ErrorKind::NotFound => {
            format!("`{}` is not there: neither beside `banger` nor on PATH", program.display())
        }
        _ => format!("cannot run `{}`: {error}", program.display()),
    };
    ClientError::Start { reason }
}

fn cannot(error: &io::Error) -> ClientError {
    ClientError::Start { reason: error.to_string() }
}
