//! The sockets of the name server: one port, UDP and TCP.

use super::answer::{Transport, answer};
use super::zone::Zone;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, RwLock};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// 64 TCP connections at once; the next ones wait in the backlog.
const MAX_CONNECTIONS: usize = 64;
/// 10 s between two questions of a TCP connection.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// 16 tries to find one free port for both protocols.
const PORT_TRIES: usize = 16;
/// 4 KiB: longer than any question.
const QUESTION_BYTES: usize = 4096;

#[derive(Debug, thiserror::Error)]
#[error("the name server cannot listen on {address}")]
pub struct DnsError {
    pub address: SocketAddr,
    pub source: io::Error,
}

type Shared = Arc<RwLock<Arc<Zone>>>;

/// Serves until it is dropped.
pub struct NameServer {
    address: SocketAddr,
    zone: Shared,
    _tasks: JoinSet<()>,
}

impl NameServer {
    /// On the wanted port, or where somebody has taken it, on any free one.
    pub async fn start(wanted: SocketAddr) -> Result<Self, DnsError> {
        let (udp, tcp) = match bind(wanted).await {
            Err(error) if error.source.kind() == io::ErrorKind::AddrInUse => bind_any(wanted).await?,
            bound => bound?,
        };
        let address = tcp.local_addr().map_err(|source| DnsError { address: wanted, source })?;
        let zone = Shared::default();
        let mut tasks = JoinSet::new();
        tasks.spawn(serve_udp(udp, zone.clone()));
        tasks.spawn(serve_tcp(tcp, zone.clone()));
        Ok(NameServer { address, zone, _tasks: tasks })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Every answer from now on is from this zone.
    pub fn publish(&self, zone: Zone) {
        *self.zone.write().expect("no holder panics") = Arc::new(zone);
    }
}

async fn bind(address: SocketAddr) -> Result<(UdpSocket, TcpListener), DnsError> {
    let failed = |source| DnsError { address, source };
    let tcp = TcpListener::bind(address).await.map_err(failed)?;
    // With port 0 the kernel has chosen one for TCP; UDP takes the same.
    let address = tcp.local_addr().map_err(failed)?;
    Ok((UdpSocket::bind(address).await.map_err(failed)?, tcp))
}

async fn bind_any(wanted: SocketAddr) -> Result<(UdpSocket, TcpListener), DnsError> {
    let mut last = bind(SocketAddr::new(wanted.ip(), 0)).await;
    for _ in 1..PORT_TRIES {
        match last {
            Err(_) => last = bind(SocketAddr::new(wanted.ip(), 0)).await,
            Ok(_) => break,
        }
    }
    last
}

fn current(zone: &Shared) -> Arc<Zone> {
    zone.read().expect("no holder panics").clone()
}

async fn serve_udp(socket: UdpSocket, zone: Shared) {
    let mut question = vec![0; QUESTION_BYTES];
    loop {
        // An error is the echo of an earlier answer to a client that had gone (ICMP): nothing to do with the next.
        let Ok((length, client)) = socket.recv_from(&mut question).await else { continue };
        if let Some(told) = answer(&current(&zone), &question[..length], Transport::Udp) {
            let _ = socket.send_to(&told, client).await;
        }
    }
}

async fn serve_tcp(listener: TcpListener, zone: Shared) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let permit = permits.clone().acquire_owned().await.expect("it is never closed");
        match listener.accept().await {
            Ok((stream, _)) => {
                let zone = zone.clone();
                connections.spawn(async move {
                    let _ = converse(stream, zone).await;
                    drop(permit);
                });
            }
            // Out of descriptors, or a client that went already: a moment later it may work.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

/// Two bytes of length before each message (RFC 1035, 4.2.2).
async fn converse(mut stream: TcpStream, zone: Shared) -> io::Result<()> {
    let mut question = Vec::new();
    loop {
        let length = usize::from(in_time(stream.read_u16()).await?);
        question.resize(length, 0);
        in_time(stream.read_exact(&mut question)).await?;
        let Some(told) = answer(&current(&zone), &question, Transport::Tcp) else { return Ok(()) };
        let length = u16::try_from(told.len()).map_err(io::Error::other)?;
        let framed = [length.to_be_bytes().as_slice(), &told].concat();
        in_time(stream.write_all(&framed)).await?;
    }
}

async fn in_time<T>(step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(IDLE_TIMEOUT, step).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}
