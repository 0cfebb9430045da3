//! The client of the root helper: one short connection per question, a deadline on each, and a start of the helper
//! when `bangerd` itself is root and nobody answers.

use engine::host::{HostError, HostErrorKind};
use std::io::{self, BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use wire::privilege::{Ask, varlink};
use wire::{Fault, FaultKind};

/// Where the packaged units put it.
pub const SOCKET: &str = "/run/banger-root/socket";
/// Longer than the helper gives `nft` twice over.
const ANSWER_DEADLINE: Duration = Duration::from_secs(40);
/// A helper that we started ends by itself when nobody asked for so long.
const IDLE_EXIT_S: u32 = 60;

#[derive(Debug, thiserror::Error)]
pub enum HelperError {
    #[error("no root helper answers on `{socket}`")]
    Absent { socket: PathBuf },
    #[error("cannot speak with the root helper on `{socket}`")]
    Broken { socket: PathBuf, source: io::Error },
    #[error("the root helper refused")]
    Refused(#[source] Fault),
}

impl HelperError {
    /// What the engine hears, with the helper's own words and hint where it spoke.
    pub fn into_host_error(self, attempt: String) -> HostError {
        match self {
            HelperError::Refused(fault) => {
                let error = HostError::new(kind(fault.kind), attempt);
                let error = match fault.hint.clone() {
                    Some(hint) => error.with_hint(hint),
                    None => error,
                };
                error.with_source(fault_chain(fault))
            }
            absent @ HelperError::Absent { .. } => {
                HostError::new(HostErrorKind::Unfit, attempt).with_source(absent).with_hint("run `banger doctor`")
            }
            broken => HostError::new(HostErrorKind::Broken, attempt).with_source(broken),
        }
    }
}

fn kind(kind: FaultKind) -> HostErrorKind {
    match kind {
        FaultKind::NotFound => HostErrorKind::NotFound,
        FaultKind::Conflict => HostErrorKind::Busy,
        FaultKind::Invalid => HostErrorKind::Invalid,
        FaultKind::Refused | FaultKind::HostUnfit => HostErrorKind::Unfit,
        FaultKind::TimedOut => HostErrorKind::TimedOut,
        FaultKind::GuestSilent | FaultKind::Cancelled | FaultKind::Internal => HostErrorKind::Broken,
    }
}

/// A fault's causes travel as text; joined they are one cause.
fn fault_chain(fault: Fault) -> String {
    [vec![fault.message], fault.causes].concat().join(": ")
}

/// How to start it, for a `bangerd` that runs as root without systemd.
#[derive(Debug, Clone)]
pub struct Starter {
    pub program: PathBuf,
    pub ledger: PathBuf,
    /// The user whose VMMs open the taps.
    pub owner: u32,
}

#[derive(Debug)]
pub struct Helper {
    socket: PathBuf,
    starter: Option<Starter>,
    /// One start at a time.
    starting: Mutex<()>,
}

impl Helper {
    pub fn new(socket: PathBuf, starter: Option<Starter>) -> Helper {
        Helper { socket, starter, starting: Mutex::default() }
    }

    /// Whether somebody listens, without starting anybody.
    pub fn answers(&self) -> bool {
        UnixStream::connect(&self.socket).is_ok()
    }

    /// False where only a start of ours would bring a helper, and no earlier one has left anything to look after.
    pub fn may_know_something(&self) -> bool {
        match &self.starter {
            Some(starter) => starter.ledger.join("ledger.json").exists() || self.answers(),
            None => true,
        }
    }

    pub fn ask<A: Ask>(&self, ask: &A) -> Result<A::Reply, HelperError> {
        let broken = |source| HelperError::Broken { socket: self.socket.clone(), source };
        let mut stream = self.connect()?;
        stream.set_read_timeout(Some(ANSWER_DEADLINE)).map_err(broken)?;
        stream.set_write_timeout(Some(ANSWER_DEADLINE)).map_err(broken)?;
        varlink::converse(&mut stream, ask).map_err(broken)?.map_err(HelperError::Refused)
    }

    fn connect(&self) -> Result<UnixStream, HelperError> {
        match (UnixStream::connect(&self.socket), &self.starter) {
            (Ok(stream), _) => Ok(stream),
            (Err(error), Some(starter)) if is_absence(&error) => {
                let _one = self.starting.lock().unwrap_or_else(PoisonError::into_inner);
                // Whoever had the turn before may have started it.
                if let Ok(stream) = UnixStream::connect(&self.socket) {
                    return Ok(stream);
                }
                let broken = |source| HelperError::Broken { socket: self.socket.clone(), source };
                self.start(starter).map_err(broken)?;
                UnixStream::connect(&self.socket).map_err(broken)
            }
            (Err(error), None) if is_absence(&error) => Err(HelperError::Absent { socket: self.socket.clone() }),
            (Err(source), _) => Err(HelperError::Broken { socket: self.socket.clone(), source }),
        }
    }

    /// In a process group of its own, so that a Ctrl-C for `bangerd` does not reach it. Returns when the socket answers.
    fn start(&self, starter: &Starter) -> io::Result<()> {
        let mut command = Command::new(&starter.program);
        command.env_clear();
        // Tests end it at a chosen place; a release build of the helper knows nothing of it.
        #[cfg(debug_assertions)]
        command.envs(std::env::var("BANGER_ROOT_DIE_AT").map(|place| ("BANGER_ROOT_DIE_AT", place)));
        let mut child = command
            .args(["--owner", &starter.owner.to_string(), "--idle-exit", &IDLE_EXIT_S.to_string(), "--ready-fd", "1"])
            .arg("--socket")
            .arg(&self.socket)
            .arg("--ledger")
            .arg(&starter.ledger)
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut said = String::new();
        BufReader::new(child.stdout.take().expect("standard output is piped")).read_line(&mut said)?;
        if said == "ready\n" {
            std::thread::spawn(move || child.wait());
            return Ok(());
        }
        let mut complaint = String::new();
        BufReader::new(child.stderr.take().expect("standard error is piped")).read_line(&mut complaint)?;
        child.wait()?;
        Err(io::Error::other(complaint.trim().trim_start_matches("error: ").to_owned()))
    }
}

/// Nobody listens: no socket, or one that a dead helper left.
fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}
