//! `GET /stream`: bytes to and from a TCP port on the guest's loopback, a Unix socket, or a connection that [`listen`] holds;
//! each direction ends by itself.
//!
//! [`listen`]: crate::listen

use crate::http::{self, Answer, Request};
use crate::listen::Tickets;
use hyper::{Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy, split};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;
use wire::guest::STREAM_UPGRADE;
use wire::{Fault, FaultKind};

/// 10 s: loopback answers at once, unless the listener's queue is full.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// 1 s: how long a client may stay silent once the guest's side has said all it will. Some vsock devices (vhost-device-vsock
/// 0.3) do not pass a half-closed connection on: their client would wait for an end that only a closed one tells.
const LAST_WORDS: Duration = Duration::from_secs(1);
const CHUNK_BYTES: usize = 64 * 1024;

pub trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

/// Connects first, so that a refusal is a fault and no stream.
pub async fn upgrade(tickets: &Tickets, mut request: Request) -> Answer {
    let target = tokio::time::timeout(CONNECT_DEADLINE, connect(tickets, &request))
        .await
        .map_err(|_| Fault::new(FaultKind::TimedOut, "the guest's socket did not take the connection"))??;
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        if let Ok(upgraded) = upgraded.await {
            carry(TokioIo::new(upgraded), target).await;
        }
    });
    switching()
}

/// Each direction ends by itself; after the guest's end the client has [`LAST_WORDS`] between its own.
async fn carry(host: impl AsyncRead + AsyncWrite, guest: impl AsyncRead + AsyncWrite) {
    let (mut from_host, mut to_host) = split(host);
    let (mut from_guest, mut to_guest) = split(guest);
    let (ended, told) = watch::channel(false);
    let outward = async {
        let _ = copy(&mut from_guest, &mut to_host).await;
        let _ = to_host.shutdown().await;
        ended.send_replace(true);
    };
    let inward = async {
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let count = tokio::select! {
                count = from_host.read(&mut chunk) => count.unwrap_or(0),
                () = silence(told.clone()) => 0,
            };
            if count == 0 || to_guest.write_all(&chunk[..count]).await.is_err() {
                break;
            }
        }
        let _ = to_guest.shutdown().await;
    };
    tokio::join!(outward, inward);
}

async fn silence(mut told: watch::Receiver<bool>) {
    let _ = told.wait_for(|ended| *ended).await;
    tokio::time::sleep(LAST_WORDS).await;
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

async fn connect(tickets: &Tickets, request: &Request) -> Result<Box<dyn Duplex>, Fault> {
    if let Some(ticket) = http::optional(request, "ticket") {
        return tickets.take(&ticket);
    }
    match (http::optional(request, "port"), http::optional(request, "path")) {
        (Some(port), None) => {
            let number = port.parse().map_err(|_| {
                Fault::new(FaultKind::Invalid, format!("{port} is no port: it is a number up to 65535"))
            })?;
            let stream = connect_port(number).await.map_err(refused(&format!("port {number}")))?;
            Ok(Box::new(stream))
        }
        (None, Some(path)) => Ok(Box::new(UnixStream::connect(&path).await.map_err(refused(&path))?)),
        _ => Err(Fault::new(FaultKind::Invalid, "/stream needs one of ?port=, ?path=, ?ticket=")),
    }
}

/// IPv4 first: servers that listen on both take either, the others are found by the second try.
async fn connect_port(port: u16) -> io::Result<TcpStream> {
    let four = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let stream = match TcpStream::connect(four).await {
        Ok(stream) => stream,
        Err(error) => TcpStream::connect(SocketAddr::from((Ipv6Addr::LOCALHOST, port))).await.map_err(|_| error)?,
    };
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn refused(target: &str) -> impl FnOnce(io::Error) -> Fault {
    let message = format!("nothing in the guest answers on {target}");
    move |error| Fault::new(FaultKind::NotFound, message).with_cause(error.to_string())
}
