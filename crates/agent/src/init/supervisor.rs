//! PID 1 of a guest without systemd: keeps the server running, reaps whatever ends, and ends the machine when told.
//!
//! The server is a child of its own, so PID 1 may wait for every process without taking an exit status from the server,
//! which waits for the commands that it started.

use super::{InitError, fstab, mounts, provision, systemd};
use crate::{console, power};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A server that ends this often within [`CRASH_WINDOW`] will not get better by itself.
const CRASH_LIMIT: usize = 10;
const CRASH_WINDOW: Duration = Duration::from_secs(60);
/// What processes get when PID 1 is told to end the machine by a signal, which carries no grace of its own.
const SIGNAL_GRACE: Duration = Duration::from_secs(10);

/// Signals and what they mean, as busybox' and sysvinit's tools send them; SIGINT is Ctrl-Alt-Del.
const ENDINGS: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGUSR1, Signal::SIGUSR2];

pub fn run() -> Result<std::convert::Infallible, InitError> {
    prepare();
    let mut watched = SigSet::empty();
    watched.extend(ENDINGS);
    watched.add(Signal::SIGCHLD);
    watched.add(Signal::SIGHUP);
    watched.thread_block().map_err(InitError::step("block signals"))?;
    let mut crashes = Vec::new();
    let mut server = start_server()?;
    loop {
        match watched.wait() {
            Ok(Signal::SIGCHLD) => {}
            Ok(Signal::SIGHUP) if provision::is_ready() => return Err(become_systemd(server)),
            Ok(Signal::SIGHUP) => {}
            Ok(Signal::SIGTERM) => power::end(SIGNAL_GRACE, power::Ending::Reboot),
            Ok(_) => power::end(SIGNAL_GRACE, power::Ending::PowerOff),
            Err(_) => continue,
        }
        if reap(server) {
            note_crash(&mut crashes)?;
            server = start_server()?;
        }
    }
}

/// The server goes first: systemd starts it again, as a service. Comes back only with the reason why not.
fn become_systemd(server: Pid) -> InitError {
    let root = Path::new("/");
    let Some(program) = systemd::find(root) else {
        let reason = std::io::Error::other("it is gone again");
        return InitError::Step { attempt: "find systemd".to_owned(), source: reason };
    };
    if let Err(error) = systemd::install_agent(root).and_then(|()| fstab::install(root)) {
        return error;
    }
    // It inherited our mask and would not hear SIGTERM; all that it knows lies in files.
    let _ = nix::sys::signal::kill(server, Signal::SIGKILL);
    let _ = waitpid(server, None);
    systemd::start(&program)
}

fn prepare() {
    // Ctrl-Alt-Del (Firecracker's SendCtrlAltDel) comes as SIGINT instead of resetting the machine.
    let _ = rustix::system::reboot(rustix::system::RebootCommand::CadOff);
    mounts::set("/proc/self/oom_score_adj", "-1000");
}

fn start_server() -> Result<Pid, InitError> {
    let child = Command::new("/proc/self/exe")
        .arg0("banger-vsock-agent")
        .args(["serve", "--init", "agent"])
        .stdin(Stdio::null())
        .env("PATH", crate::machine::PATH)
        .current_dir("/")
        .spawn()
        .map_err(InitError::step("start the server"))?;
    Ok(Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX)))
}

/// Waits for all that ended; true if the server is among them.
fn reap(server: Pid) -> bool {
    let mut server_ended = false;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(_) => return server_ended,
            Ok(status) if status.pid() == Some(server) => {
                console::boot(&format!("the agent's server ended: {status:?}"));
                server_ended = true;
            }
            Ok(_) => {}
        }
    }
}

fn note_crash(crashes: &mut Vec<Instant>) -> Result<(), InitError> {
    crashes.retain(|crash| crash.elapsed() < CRASH_WINDOW);
    crashes.push(Instant::now());
    if crashes.len() < CRASH_LIMIT {
        std::thread::sleep(Duration::from_millis(100));
        return Ok(());
    }
    let reason = std::io::Error::other(format!("it ended {CRASH_LIMIT} times within {} s", CRASH_WINDOW.as_secs()));
    Err(InitError::Step { attempt: "keep the server running".to_owned(), source: reason })
}
