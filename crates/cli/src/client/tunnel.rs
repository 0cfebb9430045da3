//! A connection of the control socket that becomes a stream of bytes: the way of ssh.

use super::{Client, ClientError, Path, body, exchange};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use std::os::unix::net::UnixStream;

/// The socket, as the kernel knows it, and what has been read of it already.
pub struct Tunnel {
    pub stream: UnixStream,
    pub read: Bytes,
}

impl Client {
    /// A refusal arrives as the fault it is.
    pub async fn tunnel(&self, path: Path, protocol: &str) -> Result<Tunnel, ClientError> {
        if path.is_void() {
            return Err(ClientError::Nameless);
        }
        let request = Request::get(path.as_str())
            .header("host", "bangerd")
            .header("connection", "upgrade")
            .header("upgrade", protocol)
            .body(Full::new(Bytes::new()))
            .map_err(|error| ClientError::Http(error.to_string()))?;
        let response = exchange(self.connect().await?, request).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(body::fault(response).await);
        }
        let upgraded = hyper::upgrade::on(response).await.map_err(ClientError::Transport)?;
        let parts = upgraded
            .downcast::<TokioIo<tokio::net::UnixStream>>()
            .map_err(|_| ClientError::Http("its connection is no socket".into()))?;
        let failed = |error: std::io::Error| ClientError::Conversation(error.to_string());
        let stream = parts.io.into_inner().into_std().map_err(failed)?;
        stream.set_nonblocking(false).map_err(failed)?;
        Ok(Tunnel { stream, read: parts.read_buf })
    }
}
