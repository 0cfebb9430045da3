//! The WebSocket of `exec`. The upgrade goes through the same HTTP client as everything else, so that a refusal
//! arrives as the fault it is.

use super::{Client, ClientError, Path, body, exchange};
use bytes::Bytes;
use http_body_util::Full;
use hyper::upgrade::Upgraded;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use wire::control::{WORKSPACE_HEADER, WorkspaceStatus};
use wire::guest::EXEC_FRAME_LIMIT_BYTES;

pub type Socket = WebSocketStream<TokioIo<Upgraded>>;

impl Client {
    /// Opens the conversation with the agent of a sandbox; the first frame is the caller's. Answers the workspace that the
    /// path asks for besides.
    pub async fn exec(&self, path: Path) -> Result<(Socket, Option<WorkspaceStatus>), ClientError> {
        let key = generate_key();
        if path.is_void() {
            return Err(ClientError::Nameless);
        }
        let request = Request::get(path.as_str())
            .header("host", "bangerd")
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", &key)
            .body(Full::new(Bytes::new()))
            .map_err(|error| ClientError::Http(error.to_string()))?;
        let response = exchange(self.connect().await?, request).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(body::fault(response).await);
        }
        let accept = response.headers().get("sec-websocket-accept").map(|value| value.as_bytes().to_vec());
        if accept.as_deref() != Some(derive_accept_key(key.as_bytes()).as_bytes()) {
            return Err(ClientError::Http("its handshake for `exec` is not a WebSocket's".into()));
        }
        let told = response.headers().get(WORKSPACE_HEADER).map(|told| serde_json::from_slice(told.as_bytes()));
        let workspace = told.transpose().map_err(ClientError::Json)?;
        let upgraded = hyper::upgrade::on(response).await.map_err(ClientError::Transport)?;
        let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, Some(limits())).await;
        Ok((socket, workspace))
    }
}

/// A peer's frame is bounded by the protocol. Ours leave at once: an empty write buffer keeps memory flat and hands
/// the guest's slowness on to whoever feeds our stdin.
fn limits() -> WebSocketConfig {
    WebSocketConfig::default()
        .max_message_size(Some(EXEC_FRAME_LIMIT_BYTES))
        .max_frame_size(Some(EXEC_FRAME_LIMIT_BYTES))
        .write_buffer_size(0)
}
