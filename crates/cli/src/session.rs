//! One command in a guest: its WebSocket on one side, our stdin, stdout, stderr, signals and window on the other.
//!
//! ```text
//!  stdin ──thread──► frames (4) ──┐                        ┌──► output (8) ──thread──► stdout, stderr
//!  signals, resize ─► words ──────┴─► sender ═ socket ═ reader
//! ```
//! Every queue is bounded and every hand-over awaited, so that a slow reader on either side slows the other one down
//! instead of filling our memory. Streams are read and written by threads of their own: a terminal or a pipe cannot
//! be made non-blocking without changing it for everybody who shares it.

mod escape;
mod input;
mod output;
mod socket;

use crate::client::{Client, ClientError, Path, Socket};
use crate::failure::{Failure, Outcome};
use crate::interrupt::is_echo;
use crate::terminal::{self, RawMode};
use output::{Output, Stream};
use socket::{Incoming, Outgoing};
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind, signal};
use wire::control::exit;
use wire::guest::{ExecRequest, ExecStatus};
use wire::{Fault, FaultKind};

/// How our side of the conversation came to its end.
#[derive(Debug)]
pub enum Ended {
    /// The guest's command ended and said how.
    Status(ExecStatus),
    /// Nobody reads our stdout any more; the command was told with SIGPIPE.
    Unread,
    /// The person left it: a second Ctrl-C, `~.`, a closed terminal. Holds the signal's number.
    Left(u8),
}

/// Two signals within this time mean that the person no longer waits for the guest's command.
const TWICE_WITHIN: Duration = Duration::from_secs(2);

/// A command that the guest has been asked to run.
pub struct Session {
    vm: String,
    outgoing: Outgoing,
    incoming: Incoming,
    reads_stdin: bool,
    has_terminal: bool,
}

impl Session {
    pub async fn open(client: &Client, vm: &str, request: &ExecRequest) -> Outcome<Self> {
        let (socket, _) = client.exec(Path::vm(vm).then("exec")).await?;
        Session::begin(socket, vm, request).await
    }

    /// On a socket that is open already.
    pub async fn begin(socket: Socket, vm: &str, request: &ExecRequest) -> Outcome<Self> {
        let (outgoing, incoming) = socket::open(socket, request).await.map_err(|error| lost(vm, error))?;
        let (reads_stdin, has_terminal) = (request.stdin, request.tty.is_some());
        Ok(Session { vm: vm.to_owned(), outgoing, incoming, reads_stdin, has_terminal })
    }

    /// Returns when the command has ended and its last byte is written, or when the person has left it.
    pub async fn run(self) -> Outcome<Ended> {
        let Session { vm, outgoing, incoming, reads_stdin, has_terminal } = self;
        let raw = if has_terminal && terminal::is_interactive() { Some(raw_mode()?) } else { None };
        let left = if reads_stdin { Some(input::pump(outgoing.clone(), raw.is_some())) } else { None };
        let (output, unread) = output::pump();
        let reader = tokio::spawn(read(incoming, output));
        let ended = watch(outgoing, reader, unread, left, has_terminal).await;
        let was_raw = raw.is_some();
        drop(raw);
        if was_raw && matches!(ended, Ok(Ok(Ended::Left(_)))) {
            // The guest's prompt stands where our words would begin.
            crate::render::note("");
        }
        ended?.map_err(|error| lost(&vm, error))
    }
}

/// The exit code of `banger` for a command that ended; says what the guest could not say itself.
pub fn finish(vm: &str, ended: Ended) -> Outcome {
    match ended {
        Ended::Status(ExecStatus::Exited { code: 0 }) => Ok(()),
        Ended::Status(ExecStatus::Exited { code }) => Err(Failure::Status(code)),
        Ended::Status(ExecStatus::Signalled { signal }) => Err(Failure::Status(exit::SIGNALLED.saturating_add(signal))),
        Ended::Status(ExecStatus::NotStarted { fault }) => Err(not_started(fault)),
        Ended::Unread => Err(Failure::Unread),
        Ended::Left(signal) => {
            crate::render::note(&format!("left the command in `{vm}`; it was told to hang up"));
            Err(Failure::Status(exit::SIGNALLED.saturating_add(signal)))
        }
    }
}

fn not_started(fault: Fault) -> Failure {
    let code = match fault.kind {
        FaultKind::NotFound => exit::NOT_FOUND_IN_GUEST,
        _ => exit::NOT_EXECUTABLE,
    };
    crate::render::error::say(&fault);
    Failure::Status(code)
}

fn raw_mode() -> Outcome<RawMode> {
    RawMode::enter()
        .map_err(|error| Failure::new(FaultKind::Internal, format!("cannot switch the terminal to raw mode: {error}")))
}

type Reading = tokio::task::JoinHandle<Result<ExecStatus, ClientError>>;

/// Waits for the end and passes on what happens meanwhile.
async fn watch(
    outgoing: Outgoing,
    mut reader: Reading,
    mut unread: output::Unread,
    left: Option<input::Left>,
    has_terminal: bool,
) -> Outcome<Result<Ended, ClientError>> {
    let mut signals = Signals::listen()?;
    if has_terminal {
        // The window may have changed between the request and now.
        outgoing.resize(terminal::size());
    }
    let mut left = std::pin::pin!(input::wait(left));
    let mut last: Option<(u8, Instant)> = None;
    loop {
        tokio::select! {
            status = &mut reader => {
                let status = status.map_err(|error| Failure::new(FaultKind::Internal, error.to_string()))?;
                // The status may overtake the news that its output went nowhere.
                return match unread.has_come() {
                    Some(errno) => not_written(errno).map(Ok),
                    None => Ok(status.map(Ended::Status)),
                };
            }
            errno = unread.wait() => {
                outgoing.signal(SIGPIPE);
                outgoing.close().await;
                return not_written(errno).map(Ok);
            }
            () = &mut left => {
                outgoing.signal(SIGHUP);
                outgoing.close().await;
                return Ok(Ok(Ended::Left(SIGHUP)));
            }
            event = signals.next() => match event {
                Event::Resized if has_terminal => outgoing.resize(terminal::size()),
                Event::Resized => {}
                Event::Signal(number) if is_echo(number) => {}
                Event::Signal(number) => {
                    let again = last.is_some_and(|(_, at)| at.elapsed() < TWICE_WITHIN);
                    let gone = number == SIGHUP || (has_terminal && number == SIGTERM);
                    outgoing.signal(if gone || again { SIGHUP } else { number });
                    if gone || again {
                        outgoing.close().await;
                        return Ok(Ok(Ended::Left(number)));
                    }
                    last = Some((number, Instant::now()));
                }
            }
        }
    }
}

fn not_written(errno: rustix::io::Errno) -> Outcome<Ended> {
    match errno {
        rustix::io::Errno::PIPE => Ok(Ended::Unread),
        other => Err(Failure::new(FaultKind::Internal, format!("cannot write to stdout: {other}"))),
    }
}

/// From the socket to the output thread, until the status comes and everything before it is written.
async fn read(mut incoming: Incoming, output: Output) -> Result<ExecStatus, ClientError> {
    loop {
        match incoming.next().await? {
            socket::Word::Stdout(bytes) => output.write(Stream::Stdout, bytes).await,
            socket::Word::Stderr(bytes) => output.write(Stream::Stderr, bytes).await,
            socket::Word::Status(status) => {
                output.finish().await;
                return Ok(status);
            }
        }
    }
}

const SIGHUP: u8 = 1;
const SIGINT: u8 = 2;
const SIGQUIT: u8 = 3;
const SIGPIPE: u8 = 13;
const SIGTERM: u8 = 15;

enum Event {
    Signal(u8),
    Resized,
}

/// What a person or a parent process may send us while the command runs.
struct Signals {
    int: Signal,
    term: Signal,
    quit: Signal,
    hup: Signal,
    winch: Signal,
}

impl Signals {
    fn listen() -> Outcome<Self> {
        let open = |kind| {
            let cannot = |error| Failure::new(FaultKind::Internal, format!("cannot listen for signals: {error}"));
            signal(kind).map_err(cannot)
        };
        Ok(Signals {
            int: open(SignalKind::interrupt())?,
            term: open(SignalKind::terminate())?,
            quit: open(SignalKind::quit())?,
            hup: open(SignalKind::hangup())?,
            winch: open(SignalKind::window_change())?,
        })
    }

    async fn next(&mut self) -> Event {
        tokio::select! {
            _ = self.int.recv() => Event::Signal(SIGINT),
            _ = self.term.recv() => Event::Signal(SIGTERM),
            _ = self.quit.recv() => Event::Signal(SIGQUIT),
            _ = self.hup.recv() => Event::Signal(SIGHUP),
            _ = self.winch.recv() => Event::Resized,
        }
    }
}

/// The connection went before the status came: the guest or its VMM is gone, or the agent.
fn lost(vm: &str, error: ClientError) -> Failure {
    match error {
        // What was attempted stands in our sentence already.
        ClientError::Broken => gone(vm).into(),
        ClientError::Fault(fault) => fault.into(),
        other => gone(vm).with_cause(other.to_string()).with_sources(&other).into(),
    }
}

fn gone(vm: &str) -> Fault {
    let message = format!("lost the command in `{vm}`: the guest went away before the command ended");
    Fault::new(FaultKind::GuestSilent, message)
        .with_hint(format!("`banger vm show {vm}` tells what became of it, `banger vm logs {vm}` its last words"))
}
