//! Answers: a JSON document, lines of NDJSON, or plain bytes. All bounded.

use super::ClientError;
use bytes::{Buf, Bytes, BytesMut};
use http_body_util::{BodyExt, Limited};
use hyper::Response;
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use serde::de::DeserializeOwned;
use wire::{Fault, FaultKind};

/// 64 MiB: ten thousand sandboxes with every field filled take about a fifth of it.
const MAX_DOCUMENT_BYTES: usize = 64 * 1024 * 1024;
/// 4 MiB: one event carries at most one sandbox; a longer line is not from a daemon of ours.
const MAX_LINE_BYTES: usize = 4 * 1024 * 1024;

pub fn is_stream<B>(response: &Response<B>) -> bool {
    let kind = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    kind.is_some_and(|kind| kind.starts_with("application/x-ndjson"))
}

pub async fn json<T: DeserializeOwned>(response: Response<Incoming>) -> Result<T, ClientError> {
    let document = whole(response).await?;
    serde_json::from_slice(&document).map_err(ClientError::Json)
}

/// The fault in an answer that is no success; a peer that is not ours gets quoted.
pub async fn fault(response: Response<Incoming>) -> ClientError {
    let status = response.status();
    let document = match whole(response).await {
        Ok(document) => document,
        Err(error) => return error,
    };
    match serde_json::from_slice::<Fault>(&document) {
        Ok(fault) => ClientError::Fault(fault),
        Err(_) => {
            let quote: String = String::from_utf8_lossy(&document).trim().chars().take(200).collect();
            let message = format!("bangerd answered {status} to a request of ours");
            let fault = Fault::new(FaultKind::Internal, message)
                .with_hint("`banger version` shows whether banger and bangerd fit each other");
            ClientError::Fault(if quote.is_empty() { fault } else { fault.with_cause(quote) })
        }
    }
}

async fn whole(response: Response<Incoming>) -> Result<Bytes, ClientError> {
    let body = Limited::new(response.into_body(), MAX_DOCUMENT_BYTES);
    let collected = body.collect().await.map_err(|error| ClientError::Http(error.to_string()))?;
    Ok(collected.to_bytes())
}

/// A body that comes piece by piece.
pub struct Lines {
    body: Incoming,
    pending: BytesMut,
}

impl Lines {
    pub fn new(response: Response<Incoming>) -> Self {
        Lines { body: response.into_body(), pending: BytesMut::new() }
    }

    /// The next line as JSON; none at the end of the stream.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, ClientError> {
        loop {
            if let Some(end) = self.pending.iter().position(|&byte| byte == b'\n') {
                let line = self.pending.split_to(end);
                self.pending.advance(1);
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                return serde_json::from_slice(&line).map(Some).map_err(ClientError::Json);
            }
            if self.pending.len() > MAX_LINE_BYTES {
                return Err(ClientError::Http(format!("a line of more than {MAX_LINE_BYTES} bytes")));
            }
            match self.chunk().await? {
                Some(chunk) => self.pending.extend_from_slice(&chunk),
                None => return Ok(None),
            }
        }
    }

    /// The next bytes as they come; none at the end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(ClientError::Transport(error)),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if data.is_empty() => continue,
                    Ok(data) => return Ok(Some(data)),
                    Err(_trailers) => continue,
                },
            }
        }
    }
}
