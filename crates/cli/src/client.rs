//! The other end of the control socket: HTTP/1.1 + JSON, one connection per call.
//!
//! | file | what |
//! |---|---|
//! | `connect` | finds the socket, checks who listens |
//! | `autostart` | starts `bangerd` where nobody listens |
//! | `path` | paths and queries, escaped |
//! | `body` | answers: JSON, lines of NDJSON, raw bytes |
//! | `upgrade` | the WebSocket of `exec` |
//! | `tunnel` | the bytes of `ssh` |
//!
//! Dropping a future of this module closes its connection, which cancels the work behind it.

mod autostart;
mod body;
mod connect;
mod error;
mod path;
mod tunnel;
mod upgrade;

pub use autostart::program as daemon_program;
pub use body::Lines;
pub use connect::Client;
pub use error::ClientError;
pub use path::Path;
pub use tunnel::Tunnel;
pub use upgrade::Socket;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use wire::control::Event;

/// 30 seconds: an answer that is no stream comes from memory or from one round trip to a guest.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

impl Client {
    pub async fn get<T: DeserializeOwned>(&self, path: Path) -> Result<T, ClientError> {
        self.call(Method::GET, path, &()).await
    }

    /// A question with one answer.
    pub async fn call<B: Serialize, T: DeserializeOwned>(
        &self,
        method: Method,
        path: Path,
        body: &B,
    ) -> Result<T, ClientError> {
        let answer = async {
            let response = self.send(method, path, body).await?;
            body::json(response).await
        };
        tokio::time::timeout(ANSWER_WITHIN, answer)
            .await
            .map_err(|_| ClientError::NoAnswer { within: ANSWER_WITHIN })?
    }

    /// A question whose answer has no body.
    pub async fn order(&self, method: Method, path: Path) -> Result<(), ClientError> {
        self.order_with(method, path, &()).await
    }

    pub async fn order_with<B: Serialize>(&self, method: Method, path: Path, body: &B) -> Result<(), ClientError> {
        let answer = async { self.send(method, path, body).await.map(|_| ()) };
        tokio::time::timeout(ANSWER_WITHIN, answer)
            .await
            .map_err(|_| ClientError::NoAnswer { within: ANSWER_WITHIN })?
    }

    /// Long work: every event goes to `watch`, the result comes back. No deadline of ours: the daemon has one for
    /// each step, and the person has Ctrl-C.
    pub async fn work<B: Serialize, T: DeserializeOwned>(
        &self,
        method: Method,
        path: Path,
        body: &B,
        mut watch: impl FnMut(&Event<T>),
    ) -> Result<T, ClientError> {
        let response = self.send(method, path, body).await?;
        if !body::is_stream(&response) {
            return body::json(response).await;
        }
        let mut lines = Lines::new(response);
        while let Some(event) = lines.next::<Event<T>>().await? {
            watch(&event);
            match event {
                Event::Result { value } => return Ok(value),
                Event::Fault { fault } => return Err(ClientError::Fault(fault)),
                _ => {}
            }
        }
        Err(ClientError::Broken)
    }

    /// An answer that is read piece by piece: a log, the stream of events.
    pub async fn open(&self, path: Path) -> Result<Lines, ClientError> {
        self.send(Method::GET, path, &()).await.map(Lines::new)
    }

    /// Sends what comes out of `pieces`, in full or up to an early answer.
    pub async fn upload(&self, path: Path, pieces: mpsc::Receiver<io::Result<Bytes>>) -> Result<(), ClientError> {
        if path.is_void() {
            return Err(ClientError::Nameless);
        }
        let frames = stream::unfold(pieces, async |mut pieces| {
            let piece = pieces.recv().await?;
            Some((piece.map(Frame::data), pieces))
        });
        let request = Request::put(path.as_str()).header("host", "bangerd").body(StreamBody::new(Box::pin(frames)));
        let request = request.map_err(|error| ClientError::Http(error.to_string()))?;
        let response = exchange(self.connect().await?, request).await?;
        if response.status().is_success() { Ok(()) } else { Err(body::fault(response).await) }
    }

    /// One request on a connection of its own; a fault in the answer is an error here. A question may be put twice:
    /// the daemon that took the connection may just have been ending.
    async fn send<B: Serialize>(
        &self,
        method: Method,
        path: Path,
        body: &B,
    ) -> Result<Response<Incoming>, ClientError> {
        if path.is_void() {
            return Err(ClientError::Nameless);
        }
        let may_repeat = method == Method::GET;
        let question = request(method, &path, body)?;
        let response = match exchange(self.connect().await?, question.clone()).await {
            Err(ClientError::Transport(_)) if may_repeat => exchange(self.connect().await?, question).await?,
            answered => answered?,
        };
        if response.status().is_success() { Ok(response) } else { Err(body::fault(response).await) }
    }
}

fn request<B: Serialize>(method: Method, path: &Path, body: &B) -> Result<Request<Full<Bytes>>, ClientError> {
    let mut request = Request::builder().method(method).uri(path.as_str()).header("host", "bangerd");
    let json = serde_json::to_vec(body).map_err(ClientError::Json)?;
    let body = match json.as_slice() {
        b"null" => Bytes::new(),
        _ => {
            request = request.header("content-type", "application/json");
            Bytes::from(json)
        }
    };
    request.body(Full::new(body)).map_err(|error| ClientError::Http(error.to_string()))
}

async fn exchange<B>(stream: UnixStream, request: Request<B>) -> Result<Response<Incoming>, ClientError>
where
    B: hyper::body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(ClientError::Transport)?;
    // Ends with the connection; an error reaches us through the response, too.
    tokio::spawn(connection.with_upgrades());
    sender.send_request(request).await.map_err(ClientError::Transport)
}
