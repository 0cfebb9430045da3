//! A guest's agent, spoken to as a client without a manager would: over its vsock, with the few frames of WebSocket
//! (RFC 6455) that one command needs.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// A line for root's shell, as it goes to the agent for whoever comes by ssh.
pub fn line(line: &str) -> Value {
    json!({ "argv": ["/bin/sh", "-c", line], "line": line, "user": "root", "stdin": true })
}

pub fn words(argv: &[&str]) -> Value {
    json!({ "argv": argv })
}

/// Dial, handshake, the request, frames until the status; the command must end well.
pub fn exec(socket: &Path, request: &Value) -> Result<()> {
    let mut stream = UnixStream::connect(socket).context("cannot reach the vsock")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"CONNECT 5000\n")?;
    read_until(&mut stream, b"\n")?;
    stream.write_all(
        b"GET /exec HTTP/1.1\r\nHost: guest\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
          Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
    )?;
    read_until(&mut stream, b"\r\n\r\n")?;
    let request = serde_json::to_vec(request).context("words are plain data")?;
    // A text frame with its length in 16 bits, masked with zeros (RFC 6455, 5.2).
    let length = u16::try_from(request.len()).context("the command is short")?;
    stream.write_all(&[&[0x81, 0x80 | 126][..], &length.to_be_bytes(), &[0; 4], &request].concat())?;
    loop {
        let mut head = [0; 2];
        stream.read_exact(&mut head)?;
        let mut payload = vec![0; usize::from(head[1])];
        stream.read_exact(&mut payload)?;
        match (head[0] & 0x0f, payload.first()) {
            (2, Some(3)) if payload.ends_with(br#"{"exited":{"code":0}}"#) => return Ok(()),
            (2, Some(3)) => bail!("the command ended otherwise: {}", String::from_utf8_lossy(&payload)),
            (8, _) => bail!("the agent closed before the end"),
            _ => {}
        }
    }
}

fn read_until(stream: &mut UnixStream, end: &[u8]) -> Result<()> {
    let mut seen = Vec::new();
    while !seen.ends_with(end) {
        let mut byte = [0];
        stream.read_exact(&mut byte).context("the agent closed the connection")?;
        seen.push(byte[0]);
    }
    Ok(())
}
