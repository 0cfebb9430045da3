//! Calls to the agent in a guest: HTTP/1.1 over the Unix socket of its vsock, one connection per call.
//!
//! The guest is not trusted: an answer has a limit on its size, a call has a deadline, and nothing it says is taken for
//! more than words. The way in is the protocol of Firecracker's vsock device, which `vhost-device-vsock` speaks, too:
//! `CONNECT <port>\n`, then `OK <any number>\n`, then the guest's bytes; a closed port ends the stream without a word.

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use wire::{Fault, FaultKind};

/// 1 MiB: the longest document an agent of ours sends (a list of sockets) is a tenth of it.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;
/// 32 bytes: `OK 4294967295\n` has 14.
const MAX_GREETING_BYTES: usize = 32;
/// 5 s: an agent answers in milliseconds, a guest under emulation that was just woken in one second.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    #[error("cannot reach the guest: nothing listens on {path}")]
    NoSocket { path: PathBuf, source: io::Error },
    #[error("the guest's agent does not listen")]
    NotListening,
    #[error("the guest's agent did not answer `{call}` within {} ms", within.as_millis())]
    Silent { call: String, within: Duration },
    #[error("the guest's agent broke off during `{call}`")]
    Broken { call: String, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("the guest's agent refused `{call}`")]
    Refused { call: String, source: Box<Fault> },
}

/// A stream to `port` in the guest whose vsock lies at `socket`.
pub async fn dial(socket: &Path, port: u32) -> Result<UnixStream, GuestError> {
    let mut stream =
        UnixStream::connect(socket).await.map_err(|source| GuestError::NoSocket { path: socket.to_owned(), source })?;
    greet(&mut stream, port).await.map_err(|_| GuestError::NotListening)?;
    Ok(stream)
}

async fn greet(stream: &mut UnixStream, port: u32) -> io::Result<()> {
    stream.write_all(format!("CONNECT {port}\n").as_bytes()).await?;
    // Byte by byte: whatever follows the line belongs to the guest's protocol.
    let mut greeting = Vec::with_capacity(MAX_GREETING_BYTES);
    loop {
        match stream.read_u8().await? {
            b'\n' => break,
            byte if greeting.len() < MAX_GREETING_BYTES => greeting.push(byte),
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
    let number = greeting.strip_prefix(b"OK ").unwrap_or_default();
    if number.is_empty() || !number.iter().all(u8::is_ascii_digit) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(())
}

/// Sends `request` as it is and hands out the answer unread: for streams and upgrades.
pub async fn send<B>(socket: &Path, request: Request<B>) -> Result<Response<Incoming>, GuestError>
where
    B: hyper::body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let call = format!("{} {}", request.method(), request.uri().path());
    let broken = |error: hyper::Error| GuestError::Broken { call: call.clone(), source: error.into() };
    let stream = dial(socket, wire::guest::AGENT_PORT).await?;
    let (mut sender, connection) =
        http1::Builder::new().max_buf_size(64 * 1024).handshake(TokioIo::new(stream)).await.map_err(broken)?;
    // Ends with the stream; its error reaches the caller through the response or its body.
    tokio::spawn(connection.with_upgrades());
    sender.send_request(request).await.map_err(broken)
}

/// A question with a JSON answer.
pub async fn get<T: DeserializeOwned>(socket: &Path, path: &str) -> Result<T, GuestError> {
    let body = call(socket, Method::GET, path, Bytes::new(), CALL_TIMEOUT).await?;
    serde_json::from_slice(&body)
        .map_err(|error| GuestError::Broken { call: format!("GET {path}"), source: error.into() })
}

/// An order whose answer says nothing but yes.
pub async fn post<T: Serialize>(socket: &Path, path: &str, body: &T) -> Result<(), GuestError> {
    post_within(socket, path, body, CALL_TIMEOUT).await
}

/// One that takes its time.
pub async fn post_within<T: Serialize>(
    socket: &Path,
    path: &str,
    body: &T,
    within: Duration,
) -> Result<(), GuestError> {
    let body = serde_json::to_vec(body).expect("the types of wire::guest are always valid JSON");
    call(socket, Method::POST, path, body.into(), within).await.map(|_| ())
}

/// A stream into the guest, and its JSON answer. No deadline here: whoever feeds the stream knows how long it may take.
pub async fn put<T: DeserializeOwned>(
    socket: &Path,
    target: &str,
    pieces: mpsc::Receiver<io::Result<Bytes>>,
) -> Result<T, GuestError> {
    let call = format!("PUT {}", target.split('?').next().unwrap_or(target));
    let frames = futures_util::stream::unfold(pieces, async |mut pieces| {
        let piece: io::Result<Bytes> = pieces.recv().await?;
        Some((piece.map(Frame::data), pieces))
    });
    let request = Request::put(target).header("host", "guest").header("content-type", "application/x-tar");
    let request = request.body(BodyExt::boxed_unsync(StreamBody::new(frames))).expect("our own targets are valid");
    let response = send(socket, request).await?;
    let status = response.status();
    let broken = |source| GuestError::Broken { call: call.clone(), source };
    let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await.map_err(broken)?.to_bytes();
    match status.is_success() {
        true => serde_json::from_slice(&body).map_err(|error| broken(error.into())),
        false => Err(refused(&call, status, &body)),
    }
}

/// Everything but the unreserved characters of RFC 3986 and `/`, which a query may carry.
pub fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => encoded.push(byte as char),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

async fn call(socket: &Path, method: Method, path: &str, body: Bytes, within: Duration) -> Result<Bytes, GuestError> {
    let call = format!("{method} {path}");
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "guest")
        .header("content-type", "application/json")
        .body(Full::new(body))
        .expect("our own paths are valid");
    let answer = async {
        let response = send(socket, request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
        let body = body.map_err(|source| GuestError::Broken { call: call.clone(), source })?.to_bytes();
        if status.is_success() { Ok(body) } else { Err(refused(&call, status, &body)) }
    };
    match tokio::time::timeout(within, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(GuestError::Silent { call: call.clone(), within }),
    }
}

fn refused(call: &str, status: StatusCode, body: &[u8]) -> GuestError {
    let fault = serde_json::from_slice(body)
        .unwrap_or_else(|_| Fault::new(FaultKind::GuestSilent, format!("the agent answered with status {status}")));
    GuestError::Refused { call: call.to_owned(), source: Box::new(fault) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixListener;

    /// A guest that answers the first connection with these bytes, whatever it is asked.
    async fn ask(answer: &'static [u8]) -> Result<wire::guest::Clock, GuestError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vsock.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let guest = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 13];
            stream.read_exact(&mut request).await.unwrap();
            assert_eq!(&request, b"CONNECT 5000\n");
            let greeting = answer.iter().position(|&byte| byte == b'\n').map_or(answer.len(), |end| end + 1);
            let (greeting, answer) = answer.split_at(greeting);
            let _ = stream.write_all(greeting).await;
            let mut head = [0; 4];
            while !answer.is_empty() && head != *b"\r\n\r\n" {
                head.rotate_left(1);
                head[3] = stream.read_u8().await.unwrap();
            }
            let _ = stream.write_all(answer).await;
        });
        let result = get(&path, "/clock").await;
        guest.abort();
        result
    }

    #[tokio::test]
    async fn any_number_may_follow_the_ok() {
        for answer in [
            &b"OK 5000\nHTTP/1.1 200 OK\r\ncontent-length: 14\r\n\r\n{\"clock_ns\":7}"[..],
            &b"OK 1073741824\nHTTP/1.1 200 OK\r\ncontent-length: 14\r\n\r\n{\"clock_ns\":7}"[..],
        ] {
            assert_eq!(ask(answer).await.unwrap().clock_ns, 7);
        }
    }

    #[tokio::test]
    async fn a_closed_port_is_no_answer() {
        assert!(matches!(ask(b"").await, Err(GuestError::NotListening)));
        assert!(matches!(ask(b"NO\n").await, Err(GuestError::NotListening)));
        assert!(matches!(ask(&[b'x'; 100]).await, Err(GuestError::NotListening)));
    }

    #[tokio::test]
    async fn a_guest_cannot_fill_our_memory() {
        let mut answer = b"OK 1\nHTTP/1.1 200 OK\r\n\r\n".to_vec();
        answer.resize(4 * 1024 * 1024, b' ');
        let error = ask(answer.leak()).await.unwrap_err();
        assert!(matches!(error, GuestError::Broken { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_fault_of_the_agent_arrives_as_it_is() {
        let answer =
            b"OK 1\nHTTP/1.1 409 Conflict\r\ncontent-length: 39\r\n\r\n{\"kind\":\"conflict\",\"message\":\"not now\"}";
        match ask(answer).await.unwrap_err() {
            GuestError::Refused { source, .. } => assert_eq!(source.message, "not now"),
            other => panic!("{other}"),
        }
    }

    #[tokio::test]
    async fn nonsense_is_no_answer() {
        for answer in [&b"OK 1\n\0\0\0\0\r\n\r\n"[..], b"OK 1\nHTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n{{{"] {
            assert!(matches!(ask(answer).await, Err(GuestError::Broken { .. })));
        }
    }
}
