//! Ctrl-C and its relatives while we wait for the daemon: the wait ends, the caller says what becomes of the work.

use crate::failure::{Failure, Outcome};
use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind, signal};
use wire::FaultKind;

/// SIGINT, SIGTERM and SIGHUP, listened to from construction on.
pub struct Interrupt {
    int: Signal,
    term: Signal,
    hup: Signal,
}

impl Interrupt {
    pub fn listen() -> Outcome<Self> {
        let open = |kind| signal(kind).map_err(|error| cannot_listen(&error));
        Ok(Interrupt {
            int: open(SignalKind::interrupt())?,
            term: open(SignalKind::terminate())?,
            hup: open(SignalKind::hangup())?,
        })
    }

    /// The next signal's number.
    pub async fn next(&mut self) -> u8 {
        loop {
            let number = tokio::select! {
                _ = self.int.recv() => 2,
                _ = self.term.recv() => 15,
                _ = self.hup.recv() => 1,
            };
            if !is_echo(number) {
                return number;
            }
        }
    }

    /// Waits for `work`; a signal drops it, which closes its connection and thereby cancels it in the daemon.
    pub async fn or<T>(&mut self, work: impl Future<Output = T>) -> Result<T, u8> {
        tokio::select! {
            biased;
            number = self.next() => Err(number),
            done = work => Ok(done),
        }
    }
}

/// 100 ms: no person presses Ctrl-C twice as fast, but `timeout` and the like signal a process and then its group.
const ECHO_WITHIN: Duration = Duration::from_millis(100);

/// The last signal that counted, for the whole process: an echo may reach another listener than the first did.
static LAST: Mutex<Option<(u8, Instant)>> = Mutex::new(None);

/// The same signal once more, sooner than anybody could mean it.
pub fn is_echo(number: u8) -> bool {
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    let echo = last.is_some_and(|(before, at)| before == number && at.elapsed() < ECHO_WITHIN);
    if !echo {
        *last = Some((number, Instant::now()));
    }
    echo
}

/// For a command that needs nothing after a Ctrl-C but a word about it.
pub async fn or_cancel<T>(work: impl Future<Output = Outcome<T>>) -> Outcome<T> {
    match Interrupt::listen()?.or(work).await {
        Ok(outcome) => outcome,
        Err(_) => Err(cancelled("cancelled")),
    }
}

pub fn cancelled(message: impl Into<String>) -> Failure {
    Failure::new(FaultKind::Cancelled, message)
}

fn cannot_listen(error: &std::io::Error) -> Failure {
    Failure::new(FaultKind::Internal, format!("cannot listen for signals: {error}"))
}
