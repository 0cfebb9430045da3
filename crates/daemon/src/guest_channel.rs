//! Owns the calls that turn one connection to a guest's agent into a byte stream or a command: `/stream`, `/exec`,
//! `/listen`, `/ports`. Each call dials a connection of its own, so that a slow one slows nothing but itself.
//!
//! How a connection is made (vsock of Firecracker, of QEMU, a Unix socket in tests) is behind [`GuestChannel`]; what
//! the bytes mean stands in `wire::guest`. Every call has [`CALL_TIMEOUT`] until its answer; a stream that runs has none.

mod call;
mod command;
pub mod frames;
mod vsock;

pub use call::Lines;
pub use command::{Command, CommandEvent, CommandInput, CommandOutput};
pub use vsock::Vsock;

use model::SandboxId;
use serde::de::DeserializeOwned;
use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, BufReader};
use wire::guest::{ExecRequest, ListenEvent, Ports};

/// 10 s from the dial to the agent's answer: a guest under full load still answers in one or two.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// 1 MiB: the longest JSON answer or line that is read from an agent; it is not trusted. A listening socket takes 100 bytes.
const ANSWER_LIMIT_BYTES: usize = 1024 * 1024;

pub trait ByteStream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> ByteStream for T {}

pub type GuestStream = Box<dyn ByteStream>;
pub type Dialling<'a> = Pin<Box<dyn Future<Output = io::Result<GuestStream>> + Send + 'a>>;

/// Connects to the agent of a sandbox.
pub trait GuestChannel: Send + Sync + 'static {
    fn dial<'a>(&'a self, id: &'a SandboxId) -> Dialling<'a>;
}

#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    #[error("cannot reach the agent of {id}")]
    Unreachable { id: SandboxId, source: io::Error },
    #[error("the agent of {id} did not answer within {} s", CALL_TIMEOUT.as_secs())]
    Silent { id: SandboxId },
    #[error("{}", fault.message)]
    Refused { fault: wire::Fault },
    #[error("the agent of {id} broke off its answer to `{call}`")]
    Broken { id: SandboxId, call: &'static str, source: Box<dyn std::error::Error + Send + Sync> },
}

/// What `/stream` connects to inside the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// A port on the guest's loopback.
    Port(u16),
    /// A Unix socket.
    Socket(String),
    /// A connection that [`Listening`] announced.
    Ticket(String),
}

/// What `/listen` binds inside the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAt {
    /// 0: any free port. `everywhere`: on all addresses, not only loopback.
    Port { port: u16, everywhere: bool },
    /// A Unix socket in a fresh folder that only `user` may enter; absent: the agent chooses the path.
    Socket { path: Option<String>, user: Option<String> },
}

/// One sandbox's agent.
#[derive(Clone)]
pub struct Guest {
    channel: Arc<dyn GuestChannel>,
    id: SandboxId,
}

impl Guest {
    pub fn new(channel: Arc<dyn GuestChannel>, id: SandboxId) -> Self {
        Guest { channel, id }
    }

    pub fn id(&self) -> &SandboxId {
        &self.id
    }

    /// Bytes to and from a socket in the guest. Each direction ends by itself.
    pub async fn stream(&self, to: &Destination) -> Result<GuestStream, GuestError> {
        let query = match to {
            Destination::Port(port) => format!("port={port}"),
            Destination::Socket(path) => format!("path={}", crate::guest::percent_encode(path)),
            Destination::Ticket(ticket) => format!("ticket={}", crate::guest::percent_encode(ticket)),
        };
        let transport = self.in_time(call::upgrade(self, &format!("/stream?{query}"))).await?;
        Ok(Box::new(frames::Framed::new(transport)))
    }

    /// Datagrams to and from a UDP port in the guest, see [`frames`].
    pub async fn datagrams(&self, port: u16) -> Result<GuestStream, GuestError> {
        self.in_time(call::upgrade(self, &format!("/stream?udp={port}"))).await
    }

    /// Starts a command.
    pub async fn exec(&self, request: &ExecRequest) -> Result<Command, GuestError> {
        self.in_time(command::start(self, request)).await
    }

    pub async fn ports(&self) -> Result<Ports, GuestError> {
        self.in_time(call::get(self, "ports", "/ports")).await
    }

    /// What listens in the guest, now and after each change.
    pub async fn watch_ports(&self) -> Result<Lines<Ports>, GuestError> {
        self.in_time(call::lines(self, "ports", "/ports?watch=true")).await
    }

    /// Listens in the guest until the answer is dropped.
    pub async fn listen(&self, at: &ListenAt) -> Result<Listening, GuestError> {
        let query = match at {
            ListenAt::Port { port, everywhere } => format!("port={port}&everywhere={everywhere}"),
            ListenAt::Socket { path, user } => {
                let path = path.as_deref().map(|path| format!("&path={}", crate::guest::percent_encode(path)));
                let user = user.as_deref().map(|user| format!("&user={}", crate::guest::percent_encode(user)));
                format!("socket=true{}{}", path.unwrap_or_default(), user.unwrap_or_default())
            }
        };
        let stream = self.in_time(call::upgrade(self, &format!("/listen?{query}"))).await?;
        let mut listening = Listening { guest: self.clone(), lines: BufReader::new(stream), bound: None };
        match self.in_time(listening.event()).await? {
            Some(ListenEvent::Bound { port, path }) => listening.bound = Some((port, path)),
            _ => return Err(self.broken("listen", io::Error::other("it did not say what it bound"))),
        }
        Ok(listening)
    }

    async fn connect(&self) -> Result<GuestStream, GuestError> {
        self.channel.dial(&self.id).await.map_err(|source| GuestError::Unreachable { id: self.id.clone(), source })
    }

    async fn in_time<T>(&self, call: impl Future<Output = Result<T, GuestError>>) -> Result<T, GuestError> {
        match tokio::time::timeout(CALL_TIMEOUT, call).await {
            Ok(answer) => answer,
            Err(_) => Err(GuestError::Silent { id: self.id.clone() }),
        }
    }

    fn broken(&self, call: &'static str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> GuestError {
        GuestError::Broken { id: self.id.clone(), call, source: source.into() }
    }
}

/// A socket in the guest on which the agent accepts for us.
pub struct Listening {
    guest: Guest,
    lines: BufReader<GuestStream>,
    bound: Option<(Option<u16>, Option<String>)>,
}

impl Listening {
    pub fn port(&self) -> Option<u16> {
        self.bound.as_ref().and_then(|(port, _)| *port)
    }

    pub fn path(&self) -> Option<&Path> {
        self.bound.as_ref().and_then(|(_, path)| path.as_deref()).map(Path::new)
    }

    /// The next connection: a ticket for [`Guest::stream`] and the peer's address. Absent once the guest is gone.
    pub async fn accept(&mut self) -> Result<Option<(Destination, String)>, GuestError> {
        loop {
            match self.event().await? {
                Some(ListenEvent::Accepted { ticket, peer }) => return Ok(Some((Destination::Ticket(ticket), peer))),
                Some(ListenEvent::Bound { .. } | ListenEvent::Unknown) => {}
                None => return Ok(None),
            }
        }
    }

    async fn event(&mut self) -> Result<Option<ListenEvent>, GuestError> {
        read_line(&mut self.lines).await.map_err(|source| self.guest.broken("listen", source))
    }
}

/// One line of JSON; absent at the end.
async fn read_line<T: DeserializeOwned>(lines: &mut BufReader<GuestStream>) -> io::Result<Option<T>> {
    let mut line = Vec::new();
    loop {
        let seen = lines.fill_buf().await?;
        if seen.is_empty() {
            return Ok(None);
        }
        let end = seen.iter().position(|byte| *byte == b'\n');
        let taken = end.map_or(seen.len(), |end| end + 1);
        line.extend_from_slice(&seen[..taken]);
        lines.consume(taken);
        if line.len() > ANSWER_LIMIT_BYTES {
            return Err(io::Error::other("a line is too long"));
        }
        if end.is_some() {
            return serde_json::from_slice(&line).map(Some).map_err(io::Error::other);
        }
    }
}
