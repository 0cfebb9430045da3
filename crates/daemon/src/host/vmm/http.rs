//! HTTP/1.1 over a Unix socket, as much of it as Firecracker's API speaks: JSON in, a status and JSON out.
//!
//! Bounded: an answer's head is at most 16 KiB, its body 1 MiB, the whole exchange ends at the deadline.

use serde_json::Value;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

const MAX_HEAD_BYTES: usize = 16 * 1024;
const MAX_BODY_BYTES: usize = 1024 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error("cannot reach the VMM's API socket")]
    Connect(#[source] io::Error),
    #[error("cannot ask the VMM for {call}")]
    Exchange { call: String, source: io::Error },
    #[error("the VMM's answer to {call} is no HTTP: {reason}")]
    Malformed { call: String, reason: &'static str },
    #[error("the VMM refused {call}: {fault} (HTTP {status})")]
    Refused { call: String, status: u16, fault: String },
}

/// One connection, used for one call after the other.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    /// What was read beyond the last answer.
    ahead: Vec<u8>,
    patience: Duration,
}

impl Client {
    pub fn connect(socket: &Path, patience: Duration) -> Result<Client, HttpError> {
        let stream = UnixStream::connect(socket).map_err(HttpError::Connect)?;
        Ok(Client { stream, ahead: Vec::new(), patience })
    }

    /// Answers the body of a 2xx, `Null` where it is empty; anything else is [`HttpError::Refused`].
    pub fn call(&mut self, method: &str, path: &str, body: Option<&Value>) -> Result<Value, HttpError> {
        let call = format!("{method} {path}");
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = format!(
            "{call} HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let deadline = Instant::now() + self.patience;
        let exchanged = |source| HttpError::Exchange { call: call.clone(), source };
        self.stream.set_write_timeout(Some(self.patience)).map_err(exchanged)?;
        self.stream.write_all(request.as_bytes()).map_err(exchanged)?;
        self.answer(&call, deadline)
    }

    fn answer(&mut self, call: &str, deadline: Instant) -> Result<Value, HttpError> {
        let malformed = |reason| HttpError::Malformed { call: call.to_owned(), reason };
        let head_end = loop {
            if let Some(at) = self.ahead.windows(4).position(|window| window == b"\r\n\r\n") {
                break at;
            }
            if self.ahead.len() > MAX_HEAD_BYTES {
                return Err(malformed("its head is too long"));
            }
            self.read_more(call, deadline)?;
        };
        let head = String::from_utf8_lossy(&self.ahead[..head_end]).into_owned();
        self.ahead.drain(..head_end + 4);
        let (status, length) = parse_head(&head).map_err(malformed)?;
        // An interim answer (100 Continue) is followed by the real one.
        if (100..200).contains(&status) {
            return self.answer(call, deadline);
        }
        if length > MAX_BODY_BYTES {
            return Err(malformed("its body is too long"));
        }
        while self.ahead.len() < length {
            self.read_more(call, deadline)?;
        }
        let body: Vec<u8> = self.ahead.drain(..length).collect();
        interpret(call, status, &body)
    }

    fn read_more(&mut self, call: &str, deadline: Instant) -> Result<(), HttpError> {
        let failed = |source| HttpError::Exchange { call: call.to_owned(), source };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(failed(io::ErrorKind::TimedOut.into()));
        }
        self.stream.set_read_timeout(Some(left)).map_err(failed)?;
        let mut buffer = [0; 4096];
        match self.stream.read(&mut buffer) {
            Ok(0) => Err(failed(io::ErrorKind::UnexpectedEof.into())),
            Ok(count) => {
                self.ahead.extend_from_slice(&buffer[..count]);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(failed(io::ErrorKind::TimedOut.into())),
            Err(error) => Err(failed(error)),
        }
    }
}

/// Status and length of the body.
fn parse_head(head: &str) -> Result<(u16, usize), &'static str> {
    let mut lines = head.split("\r\n");
    let mut status_line = lines.next().unwrap_or_default().splitn(3, ' ');
    let version = status_line.next().unwrap_or_default();
    if !version.starts_with("HTTP/1.") {
        return Err("it has no status line");
    }
    let status = status_line.next().and_then(|status| status.parse().ok()).ok_or("its status is no number")?;
    let mut length = 0;
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().map_err(|_| "its length is no number")?;
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            return Err("it comes in chunks");
        }
    }
    // 204 has no body, whatever its head says (RFC 9110, 15.3.5).
    Ok((status, if status == 204 { 0 } else { length }))
}

fn interpret(call: &str, status: u16, body: &[u8]) -> Result<Value, HttpError> {
    let value = serde_json::from_slice(body).unwrap_or(Value::Null);
    if (200..300).contains(&status) {
        return Ok(value);
    }
    let fault = match value.get("fault_message").and_then(Value::as_str) {
        Some(fault) => fault.trim().chars().take(1000).collect(),
        None => String::from_utf8_lossy(body).trim().chars().take(200).collect(),
    };
    Err(HttpError::Refused { call: call.to_owned(), status, fault })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Answers these bytes to whatever comes first, then closes; gives back what the client sent.
    fn exchange(answer: &[u8]) -> (Result<Value, HttpError>, String) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut client = Client { stream: ours, ahead: Vec::new(), patience: Duration::from_secs(10) };
        let answer = answer.to_owned();
        let server = std::thread::spawn(move || {
            let mut request = vec![0; 4096];
            let count = theirs.read(&mut request).unwrap();
            // One byte at a time: an answer may arrive in any pieces.
            answer.chunks(1).for_each(|byte| drop(theirs.write_all(byte)));
            String::from_utf8_lossy(&request[..count]).into_owned()
        });
        let answer = client.call("PUT", "/x", Some(&json!({"a": 1})));
        drop(client);
        (answer, server.join().unwrap())
    }

    #[test]
    fn a_call_carries_its_body_and_an_empty_answer_is_null() {
        let (answer, request) = exchange(b"HTTP/1.1 204 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\r\n");
        assert_eq!(answer.unwrap(), Value::Null);
        assert!(request.starts_with("PUT /x HTTP/1.1\r\n") && request.ends_with("\r\n\r\n{\"a\":1}"), "{request}");
        assert!(request.contains("Content-Length: 7\r\n"));
    }

    #[test]
    fn a_refusal_carries_the_vmms_own_words() {
        let body = r#"{"fault_message":"Invalid Elf magic number"}"#;
        let text = format!("HTTP/1.1 400 \r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let error = exchange(text.as_bytes()).0.unwrap_err();
        assert_eq!(error.to_string(), "the VMM refused PUT /x: Invalid Elf magic number (HTTP 400)");
    }

    #[test]
    fn an_interim_answer_is_passed_over() {
        let (answer, _) = exchange(b"HTTP/1.1 100 \r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}");
        assert_eq!(answer.unwrap(), json!({}));
    }

    #[test]
    fn malformed_answers_end_in_a_sentence() {
        let long = format!("HTTP/1.1 200 OK\r\nX: {}", "y".repeat(2 * MAX_HEAD_BYTES));
        let cases: [(&[u8], &str); 6] = [
            (b"SSH-2.0\r\n\r\n", "no status line"),
            (b"HTTP/1.1 xx\r\n\r\n", "status is no number"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "length is no number"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n", "body is too long"),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "in chunks"),
            (long.as_bytes(), "head is too long"),
        ];
        for (bytes, expected) in cases {
            let error = exchange(bytes).0.unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
        assert!(matches!(exchange(b"HTTP/1.1 200").0, Err(HttpError::Exchange { .. })));
        assert!(matches!(exchange(b"").0, Err(HttpError::Exchange { .. })));
    }
}
