//! `GET /exec`: one command on one WebSocket, its streams kept apart, nothing held but what is on its way.
//!
//! Here: the upgrade, the first message, the refusal. [`child`] makes the process, [`session`] moves its bytes, [`user`] reads
//! /etc/passwd, [`pipe`] waits for descriptors. The frames are those of [`wire::guest`].

pub mod child;
pub mod pipe;
mod session;
pub mod user;

use crate::http::{Answer, Request};
use crate::serve::Server;
use crate::service;
use futures_util::{SinkExt, StreamExt};
use hyper::upgrade::Upgraded;
use hyper::{Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use wire::guest::{CHANNEL_STATUS, EXEC_FRAME_LIMIT_BYTES, ExecRequest, ExecStatus};
use wire::{Fault, FaultKind};

/// 30 s for the first message to say what to run.
const REQUEST_DEADLINE: Duration = Duration::from_secs(30);
/// 5 s for the last frames to reach a peer that reads.
const CLOSE_DEADLINE: Duration = Duration::from_secs(5);

type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// Answers 101 and leaves a session behind.
pub fn upgrade(server: &Arc<Server>, mut request: Request) -> Answer {
    let key = request.headers().get(header::SEC_WEBSOCKET_KEY).map(|key| derive_accept_key(key.as_bytes()));
    let Some(accept) = key else {
        return Err(Fault::new(FaultKind::Invalid, "exec is spoken over a WebSocket"));
    };
    let upgraded = hyper::upgrade::on(&mut request);
    let server = Arc::clone(server);
    tokio::spawn(async move {
        if let Ok(upgraded) = upgraded.await {
            server.sessions.fetch_add(1, Ordering::Relaxed);
            converse(&server, TokioIo::new(upgraded)).await;
            server.sessions.fetch_sub(1, Ordering::Relaxed);
        }
    });
    let response = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_ACCEPT, accept)
        .body(crate::http::empty());
    response.map_err(|error| Fault::new(FaultKind::Internal, "cannot answer").with_cause(error.to_string()))
}

async fn converse(server: &Server, stream: TokioIo<Upgraded>) {
    let config = WebSocketConfig::default()
        .max_message_size(Some(EXEC_FRAME_LIMIT_BYTES))
        .max_frame_size(Some(EXEC_FRAME_LIMIT_BYTES))
        .write_buffer_size(0);
    let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await;
    let started = match first_message(&mut socket).await {
        Ok(request) => child::start(&service::dress(&server.service, request)).await,
        Err(fault) => Err(fault),
    };
    match started {
        Ok(running) => session::run(socket, running).await,
        Err(fault) => {
            let _ = tokio::time::timeout(CLOSE_DEADLINE, refuse(&mut socket, fault)).await;
        }
    }
}

async fn first_message(socket: &mut Socket) -> Result<ExecRequest, Fault> {
    let invalid = |cause: &str| Fault::new(FaultKind::Invalid, "cannot read what to run").with_cause(cause);
    let message = tokio::time::timeout(REQUEST_DEADLINE, socket.next()).await;
    match message.map_err(|_| invalid("nothing was said in time"))? {
        Some(Ok(Message::Text(text))) => serde_json::from_str(&text).map_err(|error| invalid(&error.to_string())),
        Some(Ok(_)) => Err(invalid("the first message is no text")),
        Some(Err(error)) => Err(invalid(&error.to_string())),
        None => Err(invalid("the connection was closed")),
    }
}

async fn refuse(socket: &mut Socket, fault: Fault) {
    let _ = socket.send(status_frame(&ExecStatus::NotStarted { fault })).await;
    close(socket).await;
}

/// Says good-bye and waits for the peer to say it too: who closes a socket with unread input resets it, and the peer may
/// lose the status.
async fn close(socket: &mut Socket) {
    let _ = socket.close(None).await;
    while let Some(Ok(_)) = socket.next().await {}
}

fn status_frame(status: &ExecStatus) -> Message {
    let mut frame = vec![CHANNEL_STATUS];
    let _ = serde_json::to_writer(&mut frame, status);
    Message::Binary(frame.into())
}
