//! The WebSocket of `exec` as channels (`wire::guest`): what may be said, and what may be heard.

use crate::client::{ClientError, Socket};
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::{Error, Message};
use wire::guest::window::{InputWindow, read_bytes};
use wire::guest::{
    CHANNEL_CLOSE, CHANNEL_RESIZE, CHANNEL_SIGNAL, CHANNEL_STATUS, CHANNEL_STDERR, CHANNEL_STDIN, CHANNEL_STDOUT,
    ExecRequest, ExecStatus, WindowSize,
};

/// 4 chunks of 64 KiB of stdin on their way; enough to keep the socket busy.
const FRAMES: usize = 4;
/// Signals and resizes waiting for the socket; a person cannot type faster than it drains, a storm may be dropped.
const WORDS: usize = 32;
/// 1 second for the farewell: the guest may no longer read.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);

/// Says the first word and splits the conversation.
pub async fn open(mut socket: Socket, request: &ExecRequest) -> Result<(Outgoing, Incoming), ClientError> {
    let first = serde_json::to_string(request).map_err(ClientError::Json)?;
    socket.send(Message::text(first)).await.map_err(broken)?;
    let (sink, stream) = socket.split();
    let (frames, next_frame) = mpsc::channel(FRAMES);
    let (words, next_word) = mpsc::channel(WORDS);
    let (read, told) = watch::channel(0);
    tokio::spawn(send(sink, next_frame, next_word, told));
    Ok((Outgoing { frames, words }, Incoming { stream, read }))
}

/// Our half; whoever drops it last closes the socket.
#[derive(Clone)]
pub struct Outgoing {
    frames: mpsc::Sender<Bytes>,
    words: mpsc::Sender<Bytes>,
}

impl Outgoing {
    /// From the input thread: waits until there is room. False once nobody listens.
    pub fn stdin(&self, bytes: &[u8]) -> bool {
        self.frames.blocking_send(frame(CHANNEL_STDIN, bytes)).is_ok()
    }

    pub fn stdin_ended(&self) {
        // Nobody listens any more: then nobody needs to know.
        let _ = self.frames.blocking_send(frame(CHANNEL_CLOSE, &[CHANNEL_STDIN]));
    }

    pub fn signal(&self, number: u8) {
        self.word(frame(CHANNEL_SIGNAL, &[number]));
    }

    pub fn resize(&self, size: WindowSize) {
        let json = serde_json::to_vec(&size).expect("a window size is two numbers");
        self.word(frame(CHANNEL_RESIZE, &json));
    }

    /// Signals overtake what stdin has queued.
    fn word(&self, word: Bytes) {
        // Full: the guest has not taken the last 32; one more would not tell it more.
        let _ = self.words.try_send(word);
    }

    /// Ends the conversation from our side once what was said has left, or after a second.
    pub async fn close(self) {
        // An empty word is the sender's sign to leave.
        if self.words.try_send(Bytes::new()).is_ok() {
            let _ = tokio::time::timeout(CLOSE_WITHIN, self.words.closed()).await;
        }
    }
}

async fn send(
    mut sink: SplitSink<Socket, Message>,
    mut frames: mpsc::Receiver<Bytes>,
    mut words: mpsc::Receiver<Bytes>,
    mut read: watch::Receiver<u64>,
) {
    let mut window = InputWindow::default();
    loop {
        let next = tokio::select! {
            biased;
            word = words.recv() => word,
            Ok(()) = read.changed() => {
                window.note_read(*read.borrow_and_update());
                continue;
            }
            Some(frame) = frames.recv(), if window.has_room() => Some(frame),
        };
        match next {
            Some(bytes) if !bytes.is_empty() => {
                let ping = window.note_sent(bytes.len()).map(|payload| Message::Ping(payload.to_vec().into()));
                for message in [Message::Binary(bytes)].into_iter().chain(ping) {
                    // The reader sees the broken connection, too, and says so.
                    if sink.send(message).await.is_err() {
                        return;
                    }
                }
            }
            _ => {
                let _ = tokio::time::timeout(CLOSE_WITHIN, sink.close()).await;
                return;
            }
        }
    }
}

fn frame(channel: u8, payload: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(1 + payload.len());
    frame.put_u8(channel);
    frame.put_slice(payload);
    frame.freeze()
}

pub enum Word {
    Stdout(Bytes),
    Stderr(Bytes),
    Status(ExecStatus),
}

/// The guest's half.
pub struct Incoming {
    stream: SplitStream<Socket>,
    /// How much of our input it has read.
    read: watch::Sender<u64>,
}

impl Incoming {
    /// The next word; channels of a newer guest are skipped.
    pub async fn next(&mut self) -> Result<Word, ClientError> {
        loop {
            let message = match self.stream.next().await {
                None => return Err(ClientError::Broken),
                Some(message) => message.map_err(broken)?,
            };
            let mut frame = match message {
                Message::Binary(frame) if !frame.is_empty() => frame,
                Message::Close(_) => return Err(ClientError::Broken),
                Message::Pong(told) => {
                    // Nobody sends any more: then nobody waits for room.
                    let _ = self.read.send(read_bytes(&told));
                    continue;
                }
                _ => continue,
            };
            let payload = frame.split_off(1);
            match frame[0] {
                CHANNEL_STDOUT => return Ok(Word::Stdout(payload)),
                CHANNEL_STDERR => return Ok(Word::Stderr(payload)),
                CHANNEL_STATUS => {
                    return serde_json::from_slice(&payload).map(Word::Status).map_err(ClientError::Json);
                }
                _ => continue,
            }
        }
    }
}

fn broken(error: Error) -> ClientError {
    match error {
        Error::ConnectionClosed
        | Error::AlreadyClosed
        | Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => ClientError::Broken,
        other => ClientError::Conversation(other.to_string()),
    }
}
