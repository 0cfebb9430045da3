//! The guest of `--host sim`: speaks the exec protocol of `wire::guest` and runs nothing.
//!
//! It knows the handful of commands that conversations of the CLI need ([`COMMANDS`]), computes them itself and refuses
//! every other one as a guest without that program would: `NotStarted`, not found. No process is ever started, no file
//! touched. `sh -c` takes simple commands joined by `;`, `&&` or newlines, with `>&2` and quotes.

mod commands;
mod words;

use axum::body::Bytes;
use commands::Ended;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Message, Role, WebSocketConfig};
use wire::guest::{self, ExecRequest, ExecStatus};

pub use commands::COMMANDS;

/// 10 s: a client that upgraded and then says nothing.
const REQUEST_WITHIN: Duration = Duration::from_secs(10);

/// One command, from the client's request to its status.
pub async fn session<S: AsyncRead + AsyncWrite + Unpin>(stream: S, hostname: String) {
    let config = WebSocketConfig::default()
        .max_message_size(Some(guest::EXEC_FRAME_LIMIT_BYTES))
        .max_frame_size(Some(guest::EXEC_FRAME_LIMIT_BYTES));
    let socket = WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await;
    let (sink, source) = socket.split();
    let mut terminal = Terminal { sink, source, stdin_open: true, signal: None, gone: false };
    let Ok(Some(request)) = tokio::time::timeout(REQUEST_WITHIN, terminal.request()).await else {
        return;
    };
    terminal.stdin_open = request.stdin;
    let status = match commands::run(&request, &hostname, &mut terminal).await {
        Ended::Code(code) => ExecStatus::Exited { code },
        Ended::Signal(signal) => ExecStatus::Signalled { signal },
        Ended::Refused(fault) => ExecStatus::NotStarted { fault },
    };
    let status = serde_json::to_vec(&status).expect("a status is always valid JSON");
    terminal.write(guest::CHANNEL_STATUS, &status).await;
    let _ = terminal.sink.close().await;
}

/// The client's end: its stdin, its signals, our output.
struct Terminal<S> {
    sink: SplitSink<WebSocketStream<S>, Message>,
    source: SplitStream<WebSocketStream<S>>,
    stdin_open: bool,
    signal: Option<u8>,
    gone: bool,
}

enum Input {
    Data(Bytes),
    End,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Terminal<S> {
    async fn request(&mut self) -> Option<ExecRequest> {
        loop {
            match self.source.next().await? {
                Ok(Message::Text(text)) => return serde_json::from_str(text.as_str()).ok(),
                Ok(Message::Ping(_) | Message::Pong(_)) => {}
                _ => return None,
            }
        }
    }

    async fn write(&mut self, channel: u8, payload: &[u8]) {
        for chunk in payload.chunks(guest::EXEC_CHUNK_BYTES) {
            let mut frame = Vec::with_capacity(chunk.len() + 1);
            frame.push(channel);
            frame.extend_from_slice(chunk);
            if self.sink.send(Message::Binary(frame.into())).await.is_err() {
                self.gone = true;
                return;
            }
        }
    }

    /// What the client sends next on stdin; its end, too, after a signal or when the client has gone.
    async fn read(&mut self) -> Input {
        while self.stdin_open && !self.interrupted() {
            if let Some(data) = self.next_frame().await {
                return Input::Data(data);
            }
        }
        Input::End
    }

    /// Waits until a signal comes or the client goes.
    async fn interruption(&mut self) {
        while !self.interrupted() {
            self.next_frame().await;
        }
    }

    fn interrupted(&self) -> bool {
        self.gone || self.signal.is_some()
    }

    async fn next_frame(&mut self) -> Option<Bytes> {
        let frame = match self.source.next().await {
            Some(Ok(Message::Binary(frame))) => frame,
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Text(_))) => return None,
            _ => {
                self.gone = true;
                return None;
            }
        };
        match frame.first() {
            Some(&guest::CHANNEL_STDIN) if self.stdin_open => return Some(frame.slice(1..)),
            Some(&guest::CHANNEL_CLOSE) if frame.get(1) == Some(&guest::CHANNEL_STDIN) => self.stdin_open = false,
            Some(&guest::CHANNEL_SIGNAL) => self.signal = frame.get(1).copied(),
            _ => {}
        }
        None
    }
}
