//! A host for the tests: starts the real agent on a Unix socket and speaks `wire::guest` to it.

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Full};
use hyper::upgrade::Upgraded;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tokio::net::UnixStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use wire::guest::{
    CHANNEL_CLOSE, CHANNEL_STATUS, CHANNEL_STDERR, CHANNEL_STDIN, CHANNEL_STDOUT, ExecRequest, ExecStatus,
};

/// 60 s: a loaded machine is slow, a hanging agent never ends.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// An agent of our own; it ends with this value.
pub struct Agent {
    process: Child,
    pub folder: tempfile::TempDir,
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Agent {
    pub async fn start() -> Agent {
        let folder = tempfile::tempdir().expect("temp dir");
        let socket = folder.path().join("agent.sock");
        let process = Command::new(env!("CARGO_BIN_EXE_banger-vsock-agent"))
            .args(["serve", "--listen", &format!("unix:{}", socket.display())])
            .arg("--service")
            .arg(folder.path().join("service"))
            .stdin(Stdio::null())
            .spawn()
            .expect("the agent starts");
        let agent = Agent { process, folder };
        let end = Instant::now() + DEADLINE;
        while UnixStream::connect(agent.socket()).await.is_err() {
            assert!(Instant::now() < end, "the agent does not listen");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        agent
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("agent.sock")
    }

    /// What the agent's process holds in memory now.
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).expect("status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
    }

    pub async fn send(&self, request: Request<Full<Bytes>>) -> Response<hyper::body::Incoming> {
        let stream = UnixStream::connect(self.socket()).await.expect("connect");
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("handshake");
        tokio::spawn(connection.with_upgrades());
        tokio::time::timeout(DEADLINE, sender.send_request(request)).await.expect("in time").expect("an answer")
    }

    pub async fn call(&self, method: &str, path: &str, body: impl Into<Bytes>) -> (StatusCode, Bytes) {
        let request = Request::builder().method(method).uri(path).header("host", "guest").body(Full::new(body.into()));
        let response = self.send(request.expect("a request")).await;
        let status = response.status();
        (status, response.into_body().collect().await.expect("a body").to_bytes())
    }

    /// The bytes after `101 Switching Protocols`.
    pub async fn stream(&self, query: &str) -> Result<TokioIo<Upgraded>, StatusCode> {
        let request = Request::builder()
            .uri(format!("/stream?{query}"))
            .header("host", "guest")
            .header("connection", "upgrade")
            .header("upgrade", wire::guest::STREAM_UPGRADE)
            .body(Full::default());
        let response = self.send(request.expect("a request")).await;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(response.status());
        }
        Ok(TokioIo::new(hyper::upgrade::on(response).await.expect("an upgrade")))
    }

    pub async fn exec(&self, request: &ExecRequest) -> Session {
        let stream = UnixStream::connect(self.socket()).await.expect("connect");
        let (socket, _) = tokio_tungstenite::client_async("ws://guest/exec", stream).await.expect("a WebSocket");
        let mut session = Session { socket, stdout: Vec::new(), stderr: Vec::new() };
        let request = serde_json::to_string(request).expect("a request");
        session.socket.send(Message::Text(request.into())).await.expect("sent");
        session
    }

    /// Runs `sh -c line` to its end.
    pub async fn shell(&self, line: &str) -> Outcome {
        self.exec(&shell(line)).await.finish().await
    }
}

pub fn shell(line: &str) -> ExecRequest {
    ExecRequest { argv: ["sh", "-c", line].map(str::to_owned).to_vec(), ..ExecRequest::default() }
}

pub struct Session {
    socket: WebSocketStream<UnixStream>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

#[derive(Debug)]
pub struct Outcome {
    pub stdout: String,
    pub stderr: String,
    pub status: ExecStatus,
}

impl Session {
    pub async fn say(&mut self, channel: u8, payload: &[u8]) {
        let frame = [&[channel], payload].concat();
        tokio::time::timeout(DEADLINE, self.socket.send(Message::Binary(frame.into())))
            .await
            .expect("in time")
            .expect("sent");
    }

    pub async fn input(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(wire::guest::EXEC_CHUNK_BYTES) {
            self.say(CHANNEL_STDIN, chunk).await;
        }
    }

    pub async fn end_input(&mut self) {
        self.say(CHANNEL_CLOSE, &[CHANNEL_STDIN]).await;
    }

    /// The next frame with its channel; `None` at the end.
    pub async fn frame(&mut self) -> Option<(u8, Bytes)> {
        loop {
            match tokio::time::timeout(DEADLINE, self.socket.next()).await.expect("in time")? {
                Ok(Message::Binary(mut frame)) => {
                    let channel = frame.split_to(1)[0];
                    return Some((channel, frame));
                }
                Ok(Message::Close(_)) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// Reads on until stdout ends with `text`.
    pub async fn wait_for(&mut self, text: &str) {
        while !String::from_utf8_lossy(&self.stdout).ends_with(text) {
            let (channel, bytes) = self.frame().await.expect("more output");
            assert_eq!(channel, CHANNEL_STDOUT);
            self.stdout.extend_from_slice(&bytes);
        }
    }

    pub async fn finish(mut self) -> Outcome {
        let mut status = None;
        while let Some((channel, bytes)) = self.frame().await {
            match channel {
                CHANNEL_STDOUT => self.stdout.extend_from_slice(&bytes),
                CHANNEL_STDERR => self.stderr.extend_from_slice(&bytes),
                CHANNEL_STATUS => status = Some(serde_json::from_slice(&bytes).expect("a status")),
                other => panic!("a frame on channel {other}"),
            }
        }
        Outcome {
            stdout: String::from_utf8_lossy(&self.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&self.stderr).into_owned(),
            status: status.expect("a status before the end"),
        }
    }
}
