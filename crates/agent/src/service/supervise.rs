//! `banger-vsock-agent supervise FOLDER`: keeps one command running until it has ended for good or is told to stop.
//!
//! A process of its own, child of the server or a unit of systemd: it survives the server's restart and is asked to stop
//! by SIGTERM, upon which the command gets its own stop signal, and after [`STOP_GRACE`] SIGKILL with all its children.

use super::log::Log;
use super::place::{Lock, Place, State};
use crate::console;
use crate::exec::child::{self, Group, Running};
use crate::exec::pipe::Output;
use rustix::process::Signal;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::Instant;
use wire::guest::{ExecRequest, ExecStatus, Service, ServiceFacts, ServicePhase};

/// 10 s between the stop signal and SIGKILL, as Docker.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// Pauses before a new start: 100 ms, doubled up to a minute, small again after a life of 10 s.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
const GOOD_LIFE: Duration = Duration::from_secs(10);
/// 250 ms without output after the command's end, for what it left behind.
const DRAIN_IDLE: Duration = Duration::from_millis(250);
/// 1 s for a look of the server at our lock to pass.
const LOCK_WITHIN: Duration = Duration::from_secs(1);
const CHUNK_BYTES: usize = 64 * 1024;

pub fn run(folder: &str) -> ExitCode {
    // PID 1 waits for its signals with a mask, which every child inherits: we would be deaf to SIGTERM.
    let _ = nix::sys::signal::SigSet::empty().thread_set_mask();
    let place = Place::at(Path::new(folder));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = runtime.and_then(|runtime| runtime.block_on(supervise(place)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            console::say(&format!("banger-service: cannot supervise the image's command: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Why the command is not started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    Again,
    Ended,
}

struct Supervisor {
    place: Place,
    service: Service,
    log: Log,
    stop: tokio::signal::unix::Signal,
    facts: ServiceFacts,
    _lock: Lock,
}

async fn supervise(place: Place) -> std::io::Result<()> {
    let stop = signal(SignalKind::terminate())?;
    let Some(lock) = lock(&place).await? else { return Ok(()) };
    let Some(service) = place.wanted().filter(|service| service.starts) else { return Ok(()) };
    let facts =
        ServiceFacts { argv: super::argv(&service), phase: ServicePhase::Waiting, pid: None, ended: None, restarts: 0 };
    let log = Log::open(&place);
    Supervisor { place, service, log, stop, facts, _lock: lock }.keep_running().await;
    Ok(())
}

async fn lock(place: &Place) -> std::io::Result<Option<Lock>> {
    let end = Instant::now() + LOCK_WITHIN;
    loop {
        match place.lock()? {
            None if Instant::now() < end => tokio::time::sleep(Duration::from_millis(20)).await,
            answer => return Ok(answer),
        }
    }
}

impl Supervisor {
    async fn keep_running(mut self) {
        let mut pause = FIRST_PAUSE;
        loop {
            let began = Instant::now();
            let (ended, stopped) = self.live().await;
            let after = if stopped { After::Ended } else { after(&self.service.restart, &ended) };
            self.say_end(&ended, stopped);
            self.facts.pid = None;
            self.facts.ended = Some(ended);
            if after == After::Ended {
                return self.tell(ServicePhase::Ended);
            }
            self.tell(ServicePhase::Restarting);
            pause = if began.elapsed() >= GOOD_LIFE { FIRST_PAUSE } else { pause };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = self.stop.recv() => return self.tell(ServicePhase::Ended),
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
            self.facts.restarts = self.facts.restarts.saturating_add(1);
        }
    }

    /// One life of the command, from start to end; true if it was told to stop.
    async fn live(&mut self) -> (ExecStatus, bool) {
        super::ensure_folder(self.service.cwd.as_deref());
        let running = match child::start(&request(&self.service)).await {
            Ok(running) => running,
            Err(fault) => return (ExecStatus::NotStarted { fault }, false),
        };
        let Running { mut process, group, stdout, stderr, .. } = running;
        self.facts.pid = process.id();
        self.tell(ServicePhase::Running);
        console::say(&format!("banger-service: started {}", self.facts.argv.join(" ")));
        let (chunks, mut written) = mpsc::channel(4);
        tokio::spawn(pump(stdout, chunks.clone()));
        tokio::spawn(pump(stderr.expect("a command without a terminal has both streams"), chunks));
        let mut deadline: Option<Instant> = None;
        let mut stopped = false;
        let status = loop {
            tokio::select! {
                status = process.wait() => break status,
                Some(chunk) = written.recv() => self.log.write(&chunk),
                _ = self.stop.recv() => {
                    stopped = true;
                    ask_to_stop(process.id(), self.service.stop_signal);
                    deadline = deadline.or(Some(Instant::now() + STOP_GRACE));
                }
                () = until(deadline) => {
                    group.signal(Signal::KILL);
                    deadline = None;
                }
            }
        };
        while let Ok(Some(chunk)) = tokio::time::timeout(DRAIN_IDLE, written.recv()).await {
            self.log.write(&chunk);
        }
        end_children(group, stopped);
        (child::status_of(status), stopped)
    }

    fn tell(&mut self, phase: ServicePhase) {
        self.facts.phase = phase;
        let state = State { service: self.service.clone(), facts: self.facts.clone() };
        if let Err(error) = self.place.tell(&state) {
            console::say(&format!("banger-service: cannot tell how the command fares: {error}"));
        }
    }

    fn say_end(&mut self, ended: &ExecStatus, stopped: bool) {
        let name = self.facts.argv.first().map_or("the command", String::as_str);
        let line = match ended {
            ExecStatus::Exited { code } => format!("{name} ended with status {code}"),
            ExecStatus::Signalled { signal } => format!("{name} was ended by signal {signal}"),
            ExecStatus::NotStarted { fault } => format!("{fault}: {}", fault.causes.join(": ")),
        };
        let line = if stopped { format!("{line} after it was told to stop") } else { line };
        console::say(&format!("banger-service: {line}"));
    }
}

fn request(service: &Service) -> ExecRequest {
    ExecRequest {
        argv: super::argv(service),
        env: service.env.clone(),
        // The agent's own default is the user's home; an image's is the root.
        cwd: Some(service.cwd.clone().unwrap_or_else(|| "/".to_owned())),
        user: service.user.clone(),
        ..ExecRequest::default()
    }
}

/// A command that could not be started will not be able to the next time either.
fn after(restart: &str, ended: &ExecStatus) -> After {
    let failed = !matches!(ended, ExecStatus::Exited { code: 0 });
    match (restart, ended) {
        (_, ExecStatus::NotStarted { .. }) => After::Ended,
        ("always", _) => After::Again,
        ("on-failure", _) if failed => After::Again,
        _ => After::Ended,
    }
}

/// To the command alone, as Docker does it: what it started is its own affair.
fn ask_to_stop(pid: Option<u32>, number: u8) {
    let pid = pid.and_then(|pid| rustix::process::Pid::from_raw(i32::try_from(pid).ok()?));
    let Some(pid) = pid else { return };
    // A real-time signal, which only inits ask for, has no name here: SIGTERM in its place.
    let _ = rustix::process::kill_process(pid, Signal::from_named_raw(i32::from(number)).unwrap_or(Signal::TERM));
}

/// What a stopped command left in its session goes with it; what one left that ended by itself (a daemon) stays.
fn end_children(group: Group, stopped: bool) {
    if stopped {
        group.signal(Signal::KILL);
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

async fn pump(pipe: Output, chunks: mpsc::Sender<Vec<u8>>) {
    loop {
        if pipe.readable().await.is_err() {
            return;
        }
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        match pipe.try_read(&mut chunk) {
            Ok(Some(0)) | Err(_) => return,
            Ok(None) => {}
            Ok(Some(_)) => {
                if chunks.send(chunk).await.is_err() {
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::{Fault, FaultKind};

    #[test]
    fn a_policy_decides_what_follows_an_end() {
        let fine = ExecStatus::Exited { code: 0 };
        let failed = ExecStatus::Exited { code: 1 };
        let killed = ExecStatus::Signalled { signal: 9 };
        let never = ExecStatus::NotStarted { fault: Fault::new(FaultKind::NotFound, "x") };
        for (restart, ended, expected) in [
            ("no", &failed, After::Ended),
            ("on-failure", &fine, After::Ended),
            ("on-failure", &failed, After::Again),
            ("on-failure", &killed, After::Again),
            ("always", &fine, After::Again),
            ("always", &never, After::Ended),
            ("whenever", &failed, After::Ended),
        ] {
            assert_eq!(after(restart, ended), expected, "{restart} {ended:?}");
        }
    }
}
