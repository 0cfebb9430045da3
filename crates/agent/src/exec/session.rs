//! The bytes of a running command, both ways, with nothing held but what is on its way.
//!
//! ```text
//!  host ─► receive ─► stdin queue (16 chunks) ─► feed ─► stdin        stdout ─► pump ─┐
//!             └─► signals, resize                                     stderr ─► pump ─┴► outgoing (4 frames) ─► send ─► host
//! ```
//! A pump reads its pipe only when it has a place in `outgoing`, and `send` flushes each frame before it takes the next: a
//! slow host stops the command through its full pipe. The stdin queue lets signals overtake up to 1 MiB of input.
//!
//! The end: once the command has exited, all that it wrote is in the pipes and is sent; a grandchild that still holds a pipe
//! gets [`DRAIN_IDLE`] of silence and [`DRAIN_LIMIT_BYTES`], then the status follows. A peer that is gone hangs up.

use super::child::{self, Group, Running};
use super::pipe::{Input, Output};
use super::{CLOSE_DEADLINE, Socket, status_frame};
use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use std::os::fd::OwnedFd;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;
use wire::guest::{
    CHANNEL_CLOSE, CHANNEL_RESIZE, CHANNEL_SIGNAL, CHANNEL_STDERR, CHANNEL_STDIN, CHANNEL_STDOUT, EXEC_CHUNK_BYTES,
    EXEC_HANGUP_GRACE_MS, EXEC_PING_SECONDS,
};

const OUTGOING_FRAMES: usize = 4;
const STDIN_CHUNKS: usize = 16;
/// 250 ms without output after the command's end: enough for `>(tee log)` to finish, short for a daemon it left behind.
const DRAIN_IDLE: Duration = Duration::from_millis(250);
/// 4 MiB: more than a command's pipes can hold (1 MiB each); only a grandchild that writes for ever passes it.
const DRAIN_LIMIT_BYTES: usize = 4 * 1024 * 1024;

/// A task that ends with its owner.
struct Task(JoinHandle<()>);

impl Task {
    fn start(work: impl Future<Output = ()> + Send + 'static) -> Task {
        Task(tokio::spawn(work))
    }

    async fn ended(&mut self) {
        let _ = (&mut self.0).await;
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Returns when the command has ended and the host knows, or when the host is gone and the command has ended.
pub async fn run(socket: Socket, running: Running) {
    let Running { mut process, group, stdin, stdout, stderr, terminal } = running;
    let (tell_exit, exited) = watch::channel(false);
    let (sink, stream) = socket.split();
    let (outgoing, frames) = mpsc::channel(OUTGOING_FRAMES);
    let (input, chunks) = mpsc::channel(STDIN_CHUNKS);
    let mut sender = Task::start(send(sink, frames));
    let feeder = Task::start(feed(stdin, chunks, terminal.is_some()));
    let host = Host { input: Some(input), group, terminal, exited: exited.clone() };
    let mut receiver = Task::start(host.receive(stream));
    let mut pumps = vec![Task::start(pump(CHANNEL_STDOUT, stdout, outgoing.clone(), exited.clone()))];
    pumps.extend(stderr.map(|pipe| Task::start(pump(CHANNEL_STDERR, pipe, outgoing.clone(), exited))));

    let status = tokio::select! {
        status = process.wait() => status,
        () = first(&mut sender, &mut receiver) => {
            // Closing the ends of its pipes and terminal is half of hanging up.
            drop((pumps, feeder, sender, receiver));
            hang_up(&mut process, group).await;
            return;
        }
    };
    let _ = tell_exit.send(true);
    drop(feeder);
    let finish = async {
        for pump in &mut pumps {
            pump.ended().await;
        }
        let _ = outgoing.send(status_frame(&child::status_of(status))).await;
        drop(outgoing);
        sender.ended().await;
    };
    tokio::select! {
        // The peer answers the closing frame; who closes a socket with unread input resets it and loses the status.
        () = finish => { let _ = tokio::time::timeout(CLOSE_DEADLINE, receiver.ended()).await; }
        () = receiver.ended() => {}
    }
}

async fn first(sender: &mut Task, receiver: &mut Task) {
    tokio::select! {
        () = sender.ended() => {}
        () = receiver.ended() => {}
    }
}

async fn hang_up(process: &mut tokio::process::Child, group: Group) {
    group.signal(rustix::process::Signal::HUP);
    group.signal(rustix::process::Signal::CONT);
    let grace = Duration::from_millis(EXEC_HANGUP_GRACE_MS);
    if tokio::time::timeout(grace, process.wait()).await.is_err() {
        group.signal(rustix::process::Signal::KILL);
        let _ = process.wait().await;
    }
}

/// From a pipe to the host, at the host's pace.
async fn pump(channel: u8, pipe: Output, outgoing: mpsc::Sender<Message>, mut exited: watch::Receiver<bool>) {
    let mut drained = 0;
    while drained < DRAIN_LIMIT_BYTES {
        let readable = tokio::select! {
            biased;
            readable = pipe.readable() => readable.is_ok(),
            () = silence(&mut exited) => false,
        };
        if !readable {
            return;
        }
        let Ok(place) = outgoing.reserve().await else { return };
        let mut frame = Vec::with_capacity(1 + EXEC_CHUNK_BYTES);
        frame.push(channel);
        match pipe.try_read(&mut frame) {
            Ok(Some(0)) | Err(_) => return,
            Ok(Some(count)) => {
                if *exited.borrow() {
                    drained += count;
                }
                place.send(Message::Binary(frame.into()));
            }
            Ok(None) => {}
        }
    }
}

/// The command has ended and nothing more comes.
async fn silence(exited: &mut watch::Receiver<bool>) {
    let _ = exited.wait_for(|exited| *exited).await;
    tokio::time::sleep(DRAIN_IDLE).await;
}

/// Frames to the host, one at a time; a ping where there is silence, so that a vanished peer is noticed.
async fn send(mut sink: SplitSink<Socket, Message>, mut frames: mpsc::Receiver<Message>) {
    let pause = Duration::from_secs(EXEC_PING_SECONDS);
    loop {
        let sent = match tokio::time::timeout(pause, frames.recv()).await {
            Ok(Some(frame)) => sink.send(frame).await,
            Err(_) => sink.send(Message::Ping(Bytes::new())).await,
            Ok(None) => {
                let _ = sink.close().await;
                return;
            }
        };
        if sent.is_err() {
            return;
        }
    }
}

/// What the host sent as input, at the command's pace.
async fn feed(stdin: Option<Input>, mut chunks: mpsc::Receiver<Bytes>, terminal: bool) {
    let Some(stdin) = stdin else { return };
    while let Some(chunk) = chunks.recv().await {
        if stdin.write_all(&chunk).await.is_err() {
            return;
        }
    }
    // A terminal has no end of its own: Ctrl-D says it.
    if terminal {
        let _ = stdin.write_all(&[4]).await;
    }
}

/// The host's side of the conversation.
struct Host {
    /// `None` once the input is at its end, or nobody reads it.
    input: Option<mpsc::Sender<Bytes>>,
    group: Group,
    terminal: Option<OwnedFd>,
    exited: watch::Receiver<bool>,
}

impl Host {
    /// Until the connection ends, whoever ends it.
    async fn receive(mut self, mut stream: SplitStream<Socket>) {
        while let Some(Ok(message)) = stream.next().await {
            match message {
                Message::Binary(frame) => self.take(frame).await,
                Message::Close(_) => return,
                _ => {}
            }
        }
    }

    /// One frame. What a later host may say on other channels is passed over.
    async fn take(&mut self, mut frame: Bytes) {
        if frame.is_empty() {
            return;
        }
        let channel = frame.split_to(1)[0];
        match channel {
            CHANNEL_STDIN => {
                if let Some(input) = &self.input
                    && input.send(frame).await.is_err()
                {
                    self.input = None;
                }
            }
            CHANNEL_CLOSE if frame.first() == Some(&CHANNEL_STDIN) => self.input = None,
            CHANNEL_RESIZE => self.resize(&frame),
            CHANNEL_SIGNAL => self.signal(&frame),
            _ => {}
        }
    }

    fn resize(&self, size: &[u8]) {
        if let Some(terminal) = &self.terminal
            && let Ok(size) = serde_json::from_slice(size)
        {
            child::resize(terminal, size);
        }
    }

    /// Not after the end: the number may belong to somebody else by then.
    fn signal(&self, number: &[u8]) {
        let signal = number.first().and_then(|&number| rustix::process::Signal::from_named_raw(number.into()));
        if let Some(signal) = signal
            && !*self.exited.borrow()
        {
            self.group.signal(signal);
        }
    }
}
