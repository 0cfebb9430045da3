//! A running command in a guest: the `/exec` WebSocket as two halves that know the channels and nothing else.

use super::{Guest, GuestError, GuestStream};
use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{self, Message, protocol::WebSocketConfig};
use wire::guest::{self, ExecRequest, ExecStatus, WindowSize};
use wire::{Fault, FaultKind};

pub struct Command {
    pub input: CommandInput,
    pub output: CommandOutput,
}

pub struct CommandInput(SplitSink<WebSocketStream<GuestStream>, Message>);
pub struct CommandOutput(SplitStream<WebSocketStream<GuestStream>>);

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
    let (input, output) = socket.split();
    Ok(Command { input: CommandInput(input), output: CommandOutput(output) })
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
    /// Waits while the command does not read.
    pub async fn stdin(&mut self, data: &[u8]) -> Result<(), tungstenite::Error> {
        for chunk in data.chunks(guest::EXEC_CHUNK_BYTES) {
            self.send(guest::CHANNEL_STDIN, chunk).await?;
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
        self.0.send(Message::binary(frame)).await
    }
}

impl CommandOutput {
    /// A connection that ends without a status is a guest that went away.
    pub async fn next(&mut self) -> CommandEvent {
        loop {
            let frame = match self.0.next().await {
                Some(Ok(Message::Binary(frame))) => frame,
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
