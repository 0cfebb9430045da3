//! The resolver of bridged guests, on the gateway's address: names below `.vm` out of a zone of their own, everything
//! else asked of whom this host asks.
//!
//! | asked by | for `.vm` | for other names |
//! |---|---|---|
//! | a guest with a way out | answered | asked of the host's name servers |
//! | a guest without one | answered | refused: a question is a way out, too |
//! | anybody else | silence | silence |
//!
//! A question travels from a socket of its own with an id of its own (RFC 5452), so that nobody who does not see it can
//! answer it. At most [`MAX_ASKED`] questions travel at once; the next ones are lost, and their askers ask again.

use super::answer::{Transport, answer};
use super::zone::Zone;
use crate::host::network::bridged::GuestNames;
use model::egress::Outbound;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// 256 questions under way to the host's name servers.
const MAX_ASKED: usize = 256;
/// 64 TCP connections of guests.
const MAX_CONNECTIONS: usize = 64;
/// 2 s for one name server, then the next one is asked; resolvers of guests give up after 5 s (resolv.conf(5)).
const SERVER_PATIENCE: Duration = Duration::from_secs(2);
/// 10 s between two questions of a TCP connection.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// 5 s: how late a change of the host's resolv.conf is noticed.
const SERVERS_KEPT: Duration = Duration::from_secs(5);
/// 4 KiB: longer than any question, and than what EDNS lets a server send by UDP.
const MESSAGE_BYTES: usize = 4096;
/// Of the header (RFC 1035, 4.1.1): the response code, and its values that matter here.
const HEADER_BYTES: usize = 12;
const SERVER_FAILURE: u8 = 2;
const REFUSED: u8 = 5;

pub struct GuestResolver {
    runtime: Handle,
    port: u16,
    shared: Arc<Shared>,
    listening: Mutex<HashMap<Ipv4Addr, Listening>>,
}

struct Listening {
    port: u16,
    _tasks: JoinSet<()>,
}

#[derive(Default)]
struct Shared {
    zone: RwLock<Arc<Zone>>,
    /// Who may ask, and whether for names of the world, too.
    guests: RwLock<HashMap<Ipv4Addr, bool>>,
    servers: Mutex<Option<(Instant, Vec<SocketAddr>)>>,
}

impl GuestResolver {
    /// `port` is the wanted one; a taken one leads to any other.
    pub fn new(runtime: Handle, port: u16) -> GuestResolver {
        GuestResolver { runtime, port, shared: Arc::default(), listening: Mutex::default() }
    }

    pub fn publish(&self, zone: Zone) {
        *self.shared.zone.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(zone);
    }

    fn listening(&self) -> MutexGuard<'_, HashMap<Ipv4Addr, Listening>> {
        self.listening.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, address: Ipv4Addr) -> io::Result<Listening> {
        let (udp, tcp) = bind(address, self.port).or_else(|_| bind(address, 0))?;
        let port = tcp.local_addr()?.port();
        let _runtime = self.runtime.enter();
        let (udp, tcp) = (UdpSocket::from_std(udp)?, TcpListener::from_std(tcp)?);
        let mut tasks = JoinSet::new();
        let asked = Arc::new(Semaphore::new(MAX_ASKED));
        tasks.spawn_on(serve_udp(udp, self.shared.clone(), asked.clone()), &self.runtime);
        tasks.spawn_on(serve_tcp(tcp, self.shared.clone(), asked), &self.runtime);
        Ok(Listening { port, _tasks: tasks })
    }
}

impl GuestNames for GuestResolver {
    fn listen(&self, gateway: Ipv4Addr) -> io::Result<u16> {
        let mut listening = self.listening();
        if let Some(there) = listening.get(&gateway) {
            return Ok(there.port);
        }
        let new = self.serve(gateway)?;
        let port = new.port;
        // One bridge, one gateway: an earlier one is gone.
        listening.clear();
        listening.insert(gateway, new);
        Ok(port)
    }

    fn admit(&self, guests: &[(Ipv4Addr, Outbound)]) {
        let admitted = guests.iter().map(|(address, outbound)| (*address, *outbound == Outbound::Nat)).collect();
        *self.shared.guests.write().unwrap_or_else(PoisonError::into_inner) = admitted;
    }
}

fn bind(address: Ipv4Addr, port: u16) -> io::Result<(std::net::UdpSocket, std::net::TcpListener)> {
    let tcp = std::net::TcpListener::bind((address, port))?;
    let udp = std::net::UdpSocket::bind((address, tcp.local_addr()?.port()))?;
    tcp.set_nonblocking(true)?;
    udp.set_nonblocking(true)?;
    Ok((udp, tcp))
}

impl Shared {
    /// `None` for a stranger; true for a guest with a way out.
    fn right_of(&self, asker: IpAddr) -> Option<bool> {
        let IpAddr::V4(asker) = asker else { return None };
        self.guests.read().unwrap_or_else(PoisonError::into_inner).get(&asker).copied()
    }

    fn zone(&self) -> Arc<Zone> {
        self.zone.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whom this host asks; a resolver on its loopback is reached from here, too.
    fn servers(&self) -> Vec<SocketAddr> {
        let mut kept = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, servers)) = kept.as_ref()
            && at.elapsed() < SERVERS_KEPT
        {
            return servers.clone();
        }
        let servers = servers_of(Path::new("/etc/resolv.conf"));
        *kept = Some((Instant::now(), servers.clone()));
        servers
    }
}

fn servers_of(path: &Path) -> Vec<SocketAddr> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let addresses = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    let addresses = addresses.filter_map(|rest| rest.trim().parse::<IpAddr>().ok());
    addresses.filter(|address| !address.is_unspecified()).take(3).map(|address| SocketAddr::new(address, 53)).collect()
}

async fn serve_udp(socket: UdpSocket, shared: Arc<Shared>, asked: Arc<Semaphore>) {
    let socket = Arc::new(socket);
    let mut buffer = vec![0; MESSAGE_BYTES];
    loop {
        let Ok((length, client)) = socket.recv_from(&mut buffer).await else { continue };
        let question = &buffer[..length];
        let Some(way_out) = shared.right_of(client.ip()) else { continue };
        let Some(told) = answer(&shared.zone(), question, Transport::Udp) else { continue };
        if !way_out || code(&told) != REFUSED {
            let _ = socket.send_to(&told, client).await;
            continue;
        }
        let Ok(seat) = asked.clone().try_acquire_owned() else { continue };
        let (question, shared, socket) = (question.to_vec(), shared.clone(), socket.clone());
        tokio::spawn(async move {
            let told = ask_by_udp(&shared.servers(), &question).await;
            let _ = socket.send_to(&told, client).await;
            drop(seat);
        });
    }
}

/// The first server that answers in time; else the word that none does.
async fn ask_by_udp(servers: &[SocketAddr], question: &[u8]) -> Vec<u8> {
    for server in servers {
        if let Ok(Ok(told)) = tokio::time::timeout(SERVER_PATIENCE, exchange_by_udp(*server, question)).await {
            return told;
        }
    }
    failure(question)
}

async fn exchange_by_udp(server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    let ours = crate::host::clock::random_bytes::<2>();
    let mut asked = question.to_vec();
    let theirs = exchange_id(&mut asked, ours);
    socket.send(&asked).await?;
    let mut told = vec![0; MESSAGE_BYTES];
    loop {
        let length = socket.recv(&mut told).await?;
        // Anything else is no answer to this question.
        if length >= HEADER_BYTES && told[..2] == ours {
            told.truncate(length);
            exchange_id(&mut told, theirs);
            return Ok(told);
        }
    }
}

/// Puts another id in its place; answers the old one. A message here has a whole header.
fn exchange_id(message: &mut [u8], new: [u8; 2]) -> [u8; 2] {
    let old = [message[0], message[1]];
    message[..2].copy_from_slice(&new);
    old
}

async fn serve_tcp(listener: TcpListener, shared: Arc<Shared>, asked: Arc<Semaphore>) {
    let seats = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let seat = seats.clone().acquire_owned().await.expect("nobody closes the semaphore");
        match listener.accept().await {
            Ok((stream, client)) => {
                let Some(way_out) = shared.right_of(client.ip()) else { continue };
                let (shared, asked) = (shared.clone(), asked.clone());
                connections.spawn(async move {
                    let _ = converse(stream, &shared, way_out, &asked).await;
                    drop(seat);
                });
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

/// Two bytes of length before each message (RFC 1035, 4.2.2).
async fn converse(mut stream: TcpStream, shared: &Shared, way_out: bool, asked: &Semaphore) -> io::Result<()> {
    loop {
        let question = tokio::time::timeout(IDLE_TIMEOUT, receive(&mut stream)).await??;
        let Some(mut told) = answer(&shared.zone(), &question, Transport::Tcp) else { return Ok(()) };
        if way_out && code(&told) == REFUSED {
            let _seat = asked.acquire().await.map_err(io::Error::other)?;
            told = ask_by_tcp(&shared.servers(), &question).await;
        }
        tokio::time::timeout(IDLE_TIMEOUT, send(&mut stream, &told)).await??;
    }
}

async fn ask_by_tcp(servers: &[SocketAddr], question: &[u8]) -> Vec<u8> {
    let exchange = async |server: &SocketAddr| {
        let mut stream = TcpStream::connect(server).await?;
        send(&mut stream, question).await?;
        receive(&mut stream).await
    };
    for server in servers {
        if let Ok(Ok(told)) = tokio::time::timeout(SERVER_PATIENCE, exchange(server)).await {
            return told;
        }
    }
    failure(question)
}

async fn receive(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = usize::from(stream.read_u16().await?);
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await?;
    if length < HEADER_BYTES { Err(io::ErrorKind::InvalidData.into()) } else { Ok(message) }
}

async fn send(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), message].concat()).await
}

fn code(message: &[u8]) -> u8 {
    message.get(3).map_or(SERVER_FAILURE, |flags| flags & 0x0f)
}

/// The question's header with the word that no server could be asked; it has no other section (RFC 1035, 4.1.1).
fn failure(question: &[u8]) -> Vec<u8> {
    let mut told = question.to_vec();
    told.truncate(HEADER_BYTES);
    told[2] |= 0x80;
    told[3] = 0x80 | SERVER_FAILURE;
    told[4..].fill(0);
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_servers_are_read_as_its_own_resolver_reads_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resolv.conf");
        let text =
            "# x\nnameserver 127.0.0.53\n nameserver fd00::1\nnameserver 0.0.0.0\nsearch lan\nnameserver 9.9.9.9\n";
        std::fs::write(&path, text).unwrap();
        let servers: Vec<String> = servers_of(&path).iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["127.0.0.53:53", "[fd00::1]:53", "9.9.9.9:53"]);
        assert!(servers_of(Path::new("/no/such/file")).is_empty());
    }

    #[test]
    fn a_failure_is_an_answer_to_its_question() {
        let question = [7, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 3, b'a', b'b', b'c', 0, 0, 1, 0, 1];
        assert_eq!(failure(&question), [7, 9, 0x81, 0x82, 0, 0, 0, 0, 0, 0, 0, 0]);
    }
}
