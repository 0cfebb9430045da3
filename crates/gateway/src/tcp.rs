//! TCP connections of the guest, each with a socket of ours: its first segment waits until that has connected, so that
//! the guest hears a refusal as one; then bytes go to and fro, and each direction ends by itself.
//!
//! ```text
//!  SYN ─► may it? ─no─► reset, noted            connecting ─failed─► reset
//!            └──yes──► connecting (SYN kept) ─────────└──done──► open: SYN goes to smoltcp, which answers it
//! ```
//! smoltcp refuses by itself: a segment that no socket of its own knows is answered with a reset.

use crate::link::Wire;
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, Shutdown, SocketFlags, SocketType, sockopt};
use smoltcp::iface::{Interface, PollIngressSingleResult, SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// 512 connections of one guest; the next ones are reset.
pub const MAX_CONNECTIONS: usize = 512;
/// 256 KiB each way and connection; memory is taken as it is used.
const BUFFER_BYTES: usize = 256 << 10;
/// As long as a guest's own patience, about.
const CONNECT_PATIENCE: Duration = Duration::from_secs(60);
/// A guest that answers nothing for two minutes while something waits for it is gone.
const GUEST_PATIENCE_S: u64 = 120;

/// The guest's port and whom it speaks with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    pub from: u16,
    pub to: SocketAddr,
}

struct Connection {
    host: OwnedFd,
    phase: Phase,
}

enum Phase {
    /// The first segment waits here.
    Connecting {
        syn: Vec<u8>,
        since: Instant,
    },
    Open {
        guest: SocketHandle,
        host_ended: bool,
        told_host: bool,
    },
}

#[derive(Default)]
pub struct Connections(HashMap<Key, Connection>);

/// smoltcp and what it works on.
pub struct Stack {
    pub interface: Interface,
    pub sockets: SocketSet<'static>,
    began: Instant,
}

impl Stack {
    pub fn new(interface: Interface) -> Stack {
        Stack { interface, sockets: SocketSet::new(Vec::new()), began: Instant::now() }
    }

    pub fn now(&self) -> smoltcp::time::Instant {
        smoltcp::time::Instant::from_micros(i64::try_from(self.began.elapsed().as_micros()).unwrap_or(i64::MAX))
    }

    /// Takes one packet of the guest.
    pub fn take(&mut self, wire: &mut Wire, packet: &[u8]) {
        wire.put(packet);
        let now = self.now();
        while self.interface.poll_ingress_single(now, wire, &mut self.sockets) != PollIngressSingleResult::None {}
    }

    /// Sends what is due, and answers how long nothing more is.
    pub fn send(&mut self, wire: &mut Wire) -> Option<Duration> {
        let now = self.now();
        self.interface.poll_egress(now, wire, &mut self.sockets);
        self.interface.poll_delay(now, &self.sockets).map(Duration::from)
    }
}

impl Connections {
    pub fn knows(&self, key: &Key) -> bool {
        self.0.contains_key(key)
    }

    /// A first segment again while its connection comes about: the guest's impatience, nothing more.
    pub fn comes_about(&self, key: &Key) -> bool {
        self.0.get(key).is_some_and(|connection| matches!(connection.phase, Phase::Connecting { .. }))
    }

    pub fn has_room(&self) -> bool {
        self.0.len() < MAX_CONNECTIONS
    }

    /// Begins to connect to `place`, which the guest calls `key.to`. False where even that fails.
    pub fn open(&mut self, key: Key, place: SocketAddr, syn: &[u8]) -> bool {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let family = if place.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let Ok(host) = net::socket_with(family, SocketType::STREAM, flags, None) else { return false };
        let _ = sockopt::set_tcp_nodelay(&host, true);
        match net::connect(&host, &place) {
            Ok(()) | Err(Errno::INPROGRESS) => {
                let phase = Phase::Connecting { syn: syn.to_vec(), since: Instant::now() };
                self.0.insert(key, Connection { host, phase });
                true
            }
            Err(_) => false,
        }
    }

    /// What to wait for, connection by connection.
    pub fn interests<'a>(&'a self, stack: &'a Stack) -> impl Iterator<Item = (Key, BorrowedFd<'a>, PollFlags)> {
        let all = self.0.iter().map(|(key, connection)| (*key, connection.host.as_fd(), connection.interest(stack)));
        // A socket of which nothing is wanted would still tell its end, again and again.
        all.filter(|(_, _, flags)| !flags.is_empty())
    }

    /// Does what a socket that became ready allows.
    pub fn serve(&mut self, key: &Key, stack: &mut Stack, wire: &mut Wire) {
        let Some(connection) = self.0.get_mut(key) else { return };
        if let Phase::Connecting { .. } = connection.phase {
            match connection.finish_connect(key, stack, wire) {
                Some(true) => {}
                Some(false) => return,
                None => drop(self.0.remove(key)),
            }
        }
        self.pump(key, stack);
    }

    /// Moves bytes both ways as far as they go.
    pub fn pump(&mut self, key: &Key, stack: &mut Stack) {
        let Some(connection) = self.0.get_mut(key) else { return };
        if connection.pump(stack) == Pumped::Over {
            self.remove(key, stack);
        }
    }

    pub fn pump_all(&mut self, stack: &mut Stack) {
        let open: Vec<Key> = self.0.keys().copied().collect();
        open.iter().for_each(|key| self.pump(key, stack));
    }

    /// Connections that take too long to come about are given up; the guest hears a reset when it tries again.
    pub fn expire(&mut self) {
        self.0.retain(|_, connection| match &connection.phase {
            Phase::Connecting { since, .. } => since.elapsed() < CONNECT_PATIENCE,
            Phase::Open { .. } => true,
        });
    }

    /// Ends what a new policy forbids.
    pub fn end_unless(&mut self, stack: &mut Stack, allowed: impl Fn(&Key) -> bool) {
        let forbidden: Vec<Key> = self.0.keys().filter(|key| !allowed(key)).copied().collect();
        for key in forbidden {
            if let Some(Connection { phase: Phase::Open { guest, .. }, .. }) = self.0.get(&key) {
                stack.sockets.get_mut::<Socket>(*guest).abort();
            }
            // The reset is sent with the next look; until then smoltcp keeps the socket.
            self.0.remove(&key);
        }
    }

    fn remove(&mut self, key: &Key, stack: &mut Stack) {
        if let Some(Connection { phase: Phase::Open { guest, .. }, .. }) = self.0.remove(key) {
            stack.sockets.remove(guest);
        }
    }

    /// Sockets of smoltcp that ended without a connection of ours, after `end_unless`.
    pub fn sweep(&self, stack: &mut Stack) {
        let held: Vec<SocketHandle> = self.0.values().filter_map(Connection::guest).collect();
        let ended = stack.sockets.iter().filter_map(|(handle, _)| (!held.contains(&handle)).then_some(handle));
        let ended: Vec<SocketHandle> = ended.collect();
        for handle in ended {
            if !stack.sockets.get::<Socket>(handle).is_open() {
                stack.sockets.remove(handle);
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Pumped {
    GoesOn,
    Over,
}

impl Connection {
    fn guest(&self) -> Option<SocketHandle> {
        match self.phase {
            Phase::Open { guest, .. } => Some(guest),
            Phase::Connecting { .. } => None,
        }
    }

    fn interest(&self, stack: &Stack) -> PollFlags {
        let Phase::Open { guest, host_ended, .. } = &self.phase else { return PollFlags::OUT };
        let guest = stack.sockets.get::<Socket>(*guest);
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::IN, !host_ended && guest.can_send());
        flags.set(PollFlags::OUT, guest.can_recv());
        flags
    }

    /// `Some(true)`: it is connected; `Some(false)`: not yet; `None`: it never will be, and the guest was told.
    fn finish_connect(&mut self, key: &Key, stack: &mut Stack, wire: &mut Wire) -> Option<bool> {
        let Phase::Connecting { syn, .. } = &mut self.phase else { return Some(true) };
        let failed = sockopt::socket_error(&self.host).is_ok_and(|outcome| outcome.is_err());
        if !failed && net::getpeername(&self.host).is_err() {
            return Some(false);
        }
        let syn = std::mem::take(syn);
        if failed {
            // Nobody listens inside, so this is answered with a reset.
            stack.take(wire, &syn);
            return None;
        }
        let buffer = || SocketBuffer::new(vec![0; BUFFER_BYTES]);
        let mut guest = Socket::new(buffer(), buffer());
        guest.set_ack_delay(None);
        guest.set_nagle_enabled(false);
        guest.set_timeout(Some(smoltcp::time::Duration::from_secs(GUEST_PATIENCE_S)));
        let place = (smoltcp::wire::IpAddress::from(key.to.ip()), key.to.port());
        guest.listen(place).ok()?;
        let guest = stack.sockets.add(guest);
        // It is the only one that listens, so this very segment reaches it.
        stack.take(wire, &syn);
        if stack.sockets.get::<Socket>(guest).is_listening() {
            stack.sockets.remove(guest);
            return None;
        }
        self.phase = Phase::Open { guest, host_ended: false, told_host: false };
        Some(true)
    }

    fn pump(&mut self, stack: &mut Stack) -> Pumped {
        let Phase::Open { guest, host_ended, told_host } = &mut self.phase else { return Pumped::GoesOn };
        let socket = stack.sockets.get_mut::<Socket>(*guest);
        if to_host(socket, &self.host).is_err() || (!*host_ended && to_guest(socket, &self.host, host_ended).is_err()) {
            socket.abort();
        }
        let guest_ended = !socket.may_recv() && socket.state() != State::SynReceived && !socket.can_recv();
        if guest_ended && !*told_host {
            *told_host = true;
            let _ = net::shutdown(&self.host, Shutdown::Write);
        }
        match socket.state() {
            // An aborted one still has its reset to send.
            State::Closed if socket.remote_endpoint().is_some() => Pumped::GoesOn,
            State::Closed | State::TimeWait => Pumped::Over,
            _ => Pumped::GoesOn,
        }
    }
}

fn to_host(socket: &mut Socket<'_>, host: &OwnedFd) -> Result<(), Errno> {
    while socket.can_recv() {
        let sent = socket.recv(|bytes| match net::send(host, bytes, net::SendFlags::NOSIGNAL) {
            Ok(count) => (count, Ok(count)),
            Err(error) => (0, Err(error)),
        });
        match sent {
            Ok(Ok(_)) | Ok(Err(Errno::INTR)) => {}
            Ok(Err(Errno::AGAIN)) | Err(_) => return Ok(()),
            Ok(Err(error)) => return Err(error),
        }
    }
    Ok(())
}

fn to_guest(socket: &mut Socket<'_>, host: &OwnedFd, host_ended: &mut bool) -> Result<(), Errno> {
    while socket.can_send() {
        let read = socket.send(|room| match net::recv(host, &mut *room, net::RecvFlags::empty()) {
            Ok((_, count)) => (count, Ok(count)),
            Err(error) => (0, Err(error)),
        });
        match read {
            Ok(Ok(0)) => {
                *host_ended = true;
                socket.close();
                return Ok(());
            }
            Ok(Ok(_)) | Ok(Err(Errno::INTR)) => {}
            Ok(Err(Errno::AGAIN)) | Err(_) => return Ok(()),
            Ok(Err(error)) => return Err(error),
        }
    }
    Ok(())
}
