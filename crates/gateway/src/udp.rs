//! Datagrams of the guest: a socket of ours for each of its ports and family of peers, and for each socket the peers that
//! the guest has written to. What comes from anybody else is nobody's.

use rustix::event::PollFlags;
use rustix::net::{self, AddressFamily, SocketFlags, SocketType, sockopt};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// 256 ports of one guest; the one that was silent longest makes room.
const MAX_PORTS: usize = 256;
/// 64 peers of one port.
const MAX_PEERS: usize = 64;
/// 60 s of silence end a port; two minutes are usual for NAT (RFC 4787), but nobody here waits behind another one.
const PORT_PATIENCE: Duration = Duration::from_secs(60);
/// Datagrams of one socket in a row, before others have their turn.
const AT_ONCE: usize = 64;
const DATAGRAM_BYTES: usize = 65536;

struct Port {
    socket: UdpSocket,
    used: Instant,
    /// Whom we speak with → as whom the guest knows them.
    peers: HashMap<SocketAddr, SocketAddr>,
}

/// The guest's port, and how our socket speaks with its peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Number {
    pub port: u16,
    pub family: Family,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    V4,
    V6,
}

impl Number {
    fn of(port: u16, place: &SocketAddr) -> Number {
        Number { port, family: if place.is_ipv4() { Family::V4 } else { Family::V6 } }
    }
}

pub struct Ports {
    ports: HashMap<Number, Port>,
    buffer: Vec<u8>,
}

impl Default for Ports {
    fn default() -> Self {
        Ports { ports: HashMap::new(), buffer: vec![0; DATAGRAM_BYTES] }
    }
}

impl Ports {
    /// True where the guest has written to this peer from that port already, so that nothing has to be decided.
    pub fn knows(&self, from: u16, peer: &SocketAddr) -> bool {
        self.ports.get(&Number::of(from, peer)).is_some_and(|port| port.peers.get(peer) == Some(peer))
    }

    /// Sends to `place`, whom the guest knows as `known_as`. A datagram may be lost.
    pub fn send(&mut self, from: u16, place: SocketAddr, known_as: SocketAddr, payload: &[u8]) -> io::Result<()> {
        let number = Number::of(from, &place);
        if !self.ports.contains_key(&number) {
            self.make_room();
            let socket = socket(number.family)?;
            self.ports.insert(number, Port { socket, used: Instant::now(), peers: HashMap::new() });
        }
        let port = self.ports.get_mut(&number).expect("it was put there");
        port.used = Instant::now();
        if port.peers.len() >= MAX_PEERS && !port.peers.contains_key(&place) {
            port.peers.clear();
        }
        port.peers.insert(place, known_as);
        port.socket.send_to(payload, place).map(drop)
    }

    fn make_room(&mut self) {
        if self.ports.len() >= MAX_PORTS {
            let oldest = self.ports.iter().min_by_key(|(_, port)| port.used).map(|(number, _)| *number);
            oldest.map(|number| self.ports.remove(&number));
        }
    }

    pub fn interests(&self) -> impl Iterator<Item = (Number, BorrowedFd<'_>, PollFlags)> {
        self.ports.iter().map(|(number, port)| (*number, port.socket.as_fd(), PollFlags::IN))
    }

    /// What has arrived for one port: from whom, and the payload.
    pub fn receive(&mut self, number: Number, mut each: impl FnMut(SocketAddr, &[u8])) {
        let Some(port) = self.ports.get_mut(&number) else { return };
        for _ in 0..AT_ONCE {
            match port.socket.recv_from(&mut self.buffer) {
                Ok((length, from)) => {
                    let Some(known_as) = port.peers.get(&from) else { continue };
                    port.used = Instant::now();
                    each(*known_as, &self.buffer[..length]);
                }
                // The echo of a datagram that found nobody; the next one may be good.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(_) => return,
            }
        }
    }

    pub fn expire(&mut self) {
        self.ports.retain(|_, port| port.used.elapsed() < PORT_PATIENCE);
    }

    /// Ends what a new policy forbids. Peers under another name are name servers, and are chosen for each question.
    pub fn end_unless(&mut self, allowed: impl Fn(IpAddr) -> bool) {
        for port in self.ports.values_mut() {
            port.peers.retain(|place, known_as| place != known_as || allowed(place.ip()));
        }
    }
}

/// One that hears its own family only.
fn socket(family: Family) -> io::Result<UdpSocket> {
    let (word, any): (_, IpAddr) = match family {
        Family::V4 => (AddressFamily::INET, Ipv4Addr::UNSPECIFIED.into()),
        Family::V6 => (AddressFamily::INET6, Ipv6Addr::UNSPECIFIED.into()),
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = net::socket_with(word, SocketType::DGRAM, flags, None)?;
    if family == Family::V6 {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    net::bind(&socket, &SocketAddr::new(any, 0))?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(socket: &UdpSocket) -> SocketAddr {
        socket.local_addr().unwrap()
    }

    #[test]
    fn only_whom_the_guest_wrote_to_is_heard() {
        let [friend, stranger] = [0, 1].map(|_| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
        let mut ports = Ports::default();
        let known_as = SocketAddr::from(([10, 0, 2, 3], 53));
        ports.send(4000, local(&friend), known_as, b"hello").unwrap();
        let mut buffer = [0; 16];
        let (_, ours) = friend.recv_from(&mut buffer).unwrap();
        stranger.send_to(b"spoof", ("127.0.0.1", ours.port())).unwrap();
        friend.send_to(b"answer", ("127.0.0.1", ours.port())).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        let mut heard = Vec::new();
        ports.receive(Number { port: 4000, family: Family::V4 }, |from, payload| heard.push((from, payload.to_vec())));
        assert_eq!(heard, [(known_as, b"answer".to_vec())]);
        ports.end_unless(|_| false);
        assert!(!ports.knows(4000, &local(&friend)));
    }
}
