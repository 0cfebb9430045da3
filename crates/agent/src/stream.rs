//! `GET /stream`: bytes to and from a TCP port on the guest's loopback, a Unix socket, or a connection that [`listen`] holds,
//! in frames, so that each direction ends by itself whatever the transport makes of a half-closed connection; and
//! [`datagrams`] of a UDP port.
//!
//! [`listen`]: crate::listen

mod datagrams;

use crate::http::{self, Answer, Request};
use crate::listen::Tickets;
use hyper::{Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::net::{TcpStream, UdpSocket, UnixStream};
use wire::guest::{STREAM_FRAME_LIMIT_BYTES, STREAM_UPGRADE};
use wire::{Fault, FaultKind};

/// 10 s: loopback answers at once, unless the listener's queue is full.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// The length before each frame.
const HEAD_BYTES: usize = 4;

/// A connection of the guest's.
pub trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {
    /// Its end, from here on, tells the peer that something broke.
    fn reset(&self) {}
}

impl Duplex for UnixStream {}

impl Duplex for TcpStream {
    fn reset(&self) {
        let _ = self.set_zero_linger();
    }
}

/// Connects first, so that a refusal is a fault and no stream.
pub async fn upgrade(tickets: &Tickets, mut request: Request) -> Answer {
    let target = tokio::time::timeout(CONNECT_DEADLINE, connect(tickets, &request))
        .await
        .map_err(|_| Fault::new(FaultKind::TimedOut, "the guest's socket did not take the connection"))??;
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgraded.await else { return };
        match target {
            Target::Bytes(guest) => carry(TokioIo::new(upgraded), guest).await,
            Target::Datagrams(socket) => datagrams::carry(TokioIo::new(upgraded), &socket).await,
        }
    });
    switching()
}

enum Target {
    Bytes(Box<dyn Duplex>),
    Datagrams(UdpSocket),
}

/// Why a direction ended before its end was said.
enum Broken {
    /// The host went, or the guest's connection was reset.
    Off,
    /// Its server closed; what it said before is still on its way.
    GuestTakesNoMore,
}

/// Each direction ends by itself; one that breaks off ends both, and its peers are told so.
async fn carry(host: impl AsyncRead + AsyncWrite, mut guest: Box<dyn Duplex>) {
    let (from_host, to_host) = split(host);
    let ended = {
        let (from_guest, to_guest) = split(&mut guest);
        let mut outward = pin!(outward(from_guest, to_host));
        let mut inward = pin!(inward(from_host, to_guest));
        tokio::select! {
            ended = &mut outward => match ended {
                Ok(()) => inward.await,
                broken => broken,
            },
            ended = &mut inward => match ended {
                Ok(()) => outward.await,
                Err(Broken::GuestTakesNoMore) => outward.await.and(Err(Broken::GuestTakesNoMore)),
                broken => broken,
            },
        }
    };
    if ended.is_err() {
        guest.reset();
    }
}

async fn outward(mut guest: impl AsyncRead + Unpin, mut host: impl AsyncWrite + Unpin) -> Result<(), Broken> {
    let mut frame = vec![0; HEAD_BYTES + STREAM_FRAME_LIMIT_BYTES];
    loop {
        let count = guest.read(&mut frame[HEAD_BYTES..]).await.map_err(|_| Broken::Off)?;
        frame[..HEAD_BYTES].copy_from_slice(&(count as u32).to_be_bytes());
        host.write_all(&frame[..HEAD_BYTES + count]).await.map_err(|_| Broken::Off)?;
        if count == 0 {
            return host.flush().await.map_err(|_| Broken::Off);
        }
    }
}

async fn inward(mut host: impl AsyncRead + Unpin, mut guest: impl AsyncWrite + Unpin) -> Result<(), Broken> {
    let mut frame = vec![0; STREAM_FRAME_LIMIT_BYTES];
    loop {
        let count = read_frame(&mut host, &mut frame).await.map_err(|_| Broken::Off)?;
        if count == 0 {
            return guest.shutdown().await.map_err(|_| Broken::GuestTakesNoMore);
        }
        guest.write_all(&frame[..count]).await.map_err(|_| Broken::GuestTakesNoMore)?;
    }
}

/// Answers how many bytes it has.
async fn read_frame(host: &mut (impl AsyncRead + Unpin), frame: &mut [u8]) -> io::Result<usize> {
    let count = host.read_u32().await? as usize;
    let payload = frame.get_mut(..count).ok_or(io::ErrorKind::InvalidData)?;
    host.read_exact(payload).await?;
    Ok(count)
}

/// From here on the connection carries bytes.
pub fn switching() -> Answer {
    Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "upgrade")
        .header(header::UPGRADE, STREAM_UPGRADE)
        .body(http::empty())
        .map_err(|error| Fault::new(FaultKind::Internal, "cannot answer").with_cause(error.to_string()))
}

async fn connect(tickets: &Tickets, request: &Request) -> Result<Target, Fault> {
    if let Some(ticket) = http::optional(request, "ticket") {
        return tickets.take(&ticket).map(Target::Bytes);
    }
    let [port, udp, path] = ["port", "udp", "path"].map(|name| http::optional(request, name));
    match (port, udp, path) {
        (Some(port), None, None) => {
            let stream = connect_port(number(&port)?).await.map_err(refused(&format!("port {port}")))?;
            Ok(Target::Bytes(Box::new(stream)))
        }
        (None, Some(port), None) => {
            let socket = datagrams::connect(number(&port)?).await.map_err(refused(&format!("UDP port {port}")))?;
            Ok(Target::Datagrams(socket))
        }
        (None, None, Some(path)) => {
            let stream = UnixStream::connect(&path).await.map_err(refused(&path))?;
            Ok(Target::Bytes(Box::new(stream)))
        }
        _ => Err(Fault::new(FaultKind::Invalid, "/stream needs one of ?port=, ?udp=, ?path=, ?ticket=")),
    }
}

fn number(port: &str) -> Result<u16, Fault> {
    port.parse().map_err(|_| {
        let port: String = port.chars().take(40).collect();
        Fault::new(FaultKind::Invalid, format!("{port} is no port: it is a number up to 65535"))
    })
}

/// IPv4's loopback first: servers that listen on both take either, the others are found by the next try. A server may also
/// listen on one of the guest's own addresses alone.
async fn connect_port(port: u16) -> io::Result<TcpStream> {
    let mut refusal = None;
    let loopbacks = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    let others = || crate::ports::addresses("tcp", port).into_iter().filter(|address| !address.is_unspecified());
    for address in loopbacks.into_iter().chain(std::iter::once_with(others).flatten()) {
        match TcpStream::connect(SocketAddr::from((address, port))).await {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => refusal = refusal.or(Some(error)),
        }
    }
    Err(refusal.unwrap_or_else(|| io::ErrorKind::ConnectionRefused.into()))
}

fn refused(target: &str) -> impl FnOnce(io::Error) -> Fault {
    let message = format!("nothing in the guest answers on {target}");
    move |error| Fault::new(FaultKind::NotFound, message).with_cause(error.to_string())
}
