//! A running command in a guest: the `/exec` WebSocket as two halves that know the channels and nothing else.

use super::{Guest, GuestError, GuestStream};
use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::sync::watch;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{self, Message, protocol::WebSocketConfig};
use wire::guest::window::{InputWindow, read_bytes};
use wire::guest::{self, ExecRequest, ExecStatus, WindowSize};
use wire::{Fault, FaultKind};

pub struct Command {
    pub input: CommandInput,
    pub output: CommandOutput,
}

pub struct CommandInput {
    sink: SplitSink<WebSocketStream<GuestStream>, Message>,
    window: InputWindow,
    read: watch::Receiver<u64>,
}

pub struct CommandOutput {
    stream: SplitStream<WebSocketStream<GuestStream>>,
    /// How much of the input the guest has read.
    read: watch::Sender<u64>,
}

#[derive(Debug)]
pub enum CommandEvent {
    Stdout(Bytes),
    Stderr(Bytes),
    /// The last one.
    Ended(ExecStatus),
}

pub(super) async fn start(guest: &Guest, request: &ExecRequest) -> Result<Command, GuestError> {
    let connection = guest.connect().await?;
    let config = WebSocketConfig::default()
        .max_message_size(Some(guest::EXEC_FRAME_LIMIT_BYTES))
        .max_frame_size(Some(guest::EXEC_FRAME_LIMIT_BYTES));
    let opening = tokio_tungstenite::client_async_with_config("ws://guest/exec", connection, Some(config));
    let (mut socket, _) = opening.await.map_err(|source| refusal(guest, source))?;
    let request = serde_json::to_string(request).expect("a request is plain data");
    socket.send(Message::text(request)).await.map_err(|source| guest.broken("exec", source))?;
    let (sink, stream) = socket.split();
    let (read, told) = watch::channel(0);
    let input = CommandInput { sink, window: InputWindow::default(), read: told };
    Ok(Command { input, output: CommandOutput { stream, read } })
}

fn refusal(guest: &Guest, error: tungstenite::Error) -> GuestError {
    if let tungstenite::Error::Http(response) = &error
        && let Some(body) = response.body()
        && let Ok(fault) = serde_json::from_slice::<Fault>(body)
    {
        return GuestError::Refused { fault };
    }
    guest.broken("exec", error)
}

impl CommandInput {
    /// Waits while the command does not read. Its output has to be taken meanwhile: what it has read is told there.
    pub async fn stdin(&mut self, data: &[u8]) -> Result<(), tungstenite::Error> {
        for chunk in data.chunks(guest::EXEC_CHUNK_BYTES) {
            while !self.window.has_room() {
                self.read.changed().await.map_err(|_| tungstenite::Error::ConnectionClosed)?;
                self.window.note_read(*self.read.borrow_and_update());
            }
            self.send(guest::CHANNEL_STDIN, chunk).await?;
            if let Some(payload) = self.window.note_sent(chunk.len()) {
                self.sink.send(Message::Ping(payload.to_vec().into())).await?;
            }
        }
        Ok(())
    }

    pub async fn end_stdin(&mut self) -> Result<(), tungstenite::Error> {
        self.send(guest::CHANNEL_CLOSE, &[guest::CHANNEL_STDIN]).await
    }

    pub async fn resize(&mut self, size: WindowSize) -> Result<(), tungstenite::Error> {
        let size = serde_json::to_vec(&size).expect("a size is plain data");
        self.send(guest::CHANNEL_RESIZE, &size).await
    }

    pub async fn signal(&mut self, number: u8) -> Result<(), tungstenite::Error> {
        self.send(guest::CHANNEL_SIGNAL, &[number]).await
    }

    async fn send(&mut self, channel: u8, payload: &[u8]) -> Result<(), tungstenite::Error> {
        let mut frame = Vec::with_capacity(payload.len() + 1);
        frame.push(channel);
        frame.extend_from_slice(payload);
        self.sink.send(Message::binary(frame)).await
    }
}

impl CommandOutput {
    /// A connection that ends without a status is a guest that went away.
    pub async fn next(&mut self) -> CommandEvent {
        loop {
            let frame = match self.stream.next().await {
                Some(Ok(Message::Binary(frame))) => frame,
                Some(Ok(Message::Pong(told))) => {
                    // Nobody sends any more: then nobody waits for room.
                    let _ = self.read.send(read_bytes(&told));
                    continue;
                }
                Some(Ok(Message::Close(_))) | None => return lost("the guest went away"),
                Some(Ok(_)) => continue,
                Some(Err(error)) => return lost(&format!("the connection to the guest broke: {error}")),
            };
            match frame.first() {
                Some(&guest::CHANNEL_STDOUT) => return CommandEvent::Stdout(frame.slice(1..)),
                Some(&guest::CHANNEL_STDERR) => return CommandEvent::Stderr(frame.slice(1..)),
                Some(&guest::CHANNEL_STATUS) => {
                    let status = serde_json::from_slice(&frame[1..]);
                    return status.map_or_else(|_| lost("the guest's status makes no sense"), CommandEvent::Ended);
                }
                _ => {}
            }
        }
    }
}

fn lost(why: &str) -> CommandEvent {
    CommandEvent::Ended(ExecStatus::NotStarted { fault: Fault::new(FaultKind::GuestSilent, why) })
}
