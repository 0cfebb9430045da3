//! The loop: wait for anything to become ready, take the guest's frames, move bytes, send what waits.

use crate::control::Control;
use crate::frame::v6::{self, Problem};
use crate::frame::{self, Frame, Mac, Segment};
use crate::link::{Kind, Link};
use crate::names::{Servers, Way};
use crate::policy::Judge;
use crate::refused::{Protocol, Refused};
use crate::tcp::{Connections, Key, Stack};
use crate::udp::{Number, Ports};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use smoltcp::iface::{Config, Interface};
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr};
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use wire::gateway::{
    Answer, Ask, GATEWAY, GATEWAY_V6, MAX_MESSAGE_BYTES, NAME_SERVER, PREFIX_LENGTH, PREFIX_LENGTH_V6, Policy,
};

/// How often what was silent for long is looked for.
const EXPIRE_EVERY: Duration = Duration::from_secs(5);
/// While the guest does not read, its connections are looked at this often.
const STALLED: Duration = Duration::from_millis(100);
const DNS_PORT: u16 = 53;

#[derive(Debug, Clone)]
pub struct Settings {
    pub policy: PathBuf,
    pub control: PathBuf,
    pub mac: Mac,
}

pub struct Gateway {
    link: Link,
    /// The end of a pipe whose other end only the VMM holds, where the link does not tell of its end.
    until: Option<OwnedFd>,
    stack: Stack,
    connections: Connections,
    ports: Ports,
    servers: Servers,
    control: Control,
    judge: Judge,
    names: Option<SocketAddr>,
    refused: Refused,
    settings: Settings,
}

/// What became ready.
#[derive(Debug, Default)]
struct Ready {
    link: bool,
    control: bool,
    over: bool,
    connections: Vec<Key>,
    ports: Vec<Number>,
}

impl Gateway {
    /// Its control socket answers and its policy holds when this returns.
    pub fn new(link: OwnedFd, kind: Kind, until: Option<OwnedFd>, settings: &Settings) -> io::Result<Gateway> {
        let policy = read_policy(&settings.policy)?;
        let mut link = Link::new(link, kind, settings.mac)?;
        let mut interface =
            Interface::new(Config::new(HardwareAddress::Ip), &mut link.wire, smoltcp::time::Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            let [gateway, names] = [GATEWAY, NAME_SERVER].map(|own| IpCidr::new(IpAddress::Ipv4(own), PREFIX_LENGTH));
            let own = [gateway, names, IpCidr::new(IpAddress::Ipv6(GATEWAY_V6), PREFIX_LENGTH_V6)];
            own.into_iter().for_each(|own| addresses.push(own).expect("there is room for three addresses"));
        });
        // The whole world is at our end of the wire.
        interface.set_any_ip(true);
        Ok(Gateway {
            link,
            until,
            stack: Stack::new(interface),
            connections: Connections::default(),
            ports: Ports::default(),
            servers: Servers::default(),
            control: Control::bind(&settings.control)?,
            judge: Judge::new(&policy),
            names: policy.names,
            refused: Refused::default(),
            settings: settings.clone(),
        })
    }

    /// Until the other end of the link is closed.
    pub fn serve(mut self) -> io::Result<()> {
        let mut frame = Vec::new();
        let mut expired = Instant::now();
        let mut patience = None;
        loop {
            let ready = self.wait(patience)?;
            if ready.over {
                return Ok(());
            }
            if ready.control {
                self.answer();
            }
            if ready.link {
                if !self.link.fill()? {
                    return Ok(());
                }
                while self.link.take(&mut frame)? {
                    self.take(&frame);
                }
            }
            for key in &ready.connections {
                self.connections.serve(key, &mut self.stack, &mut self.link.wire);
            }
            for number in ready.ports {
                self.receive(number);
            }
            if ready.link {
                self.connections.pump_all(&mut self.stack);
            }
            patience = self.stack.send(&mut self.link.wire);
            self.link.flush()?;
            if expired.elapsed() > EXPIRE_EVERY {
                self.connections.expire();
                self.ports.expire();
                self.connections.pump_all(&mut self.stack);
                self.connections.sweep(&mut self.stack);
                expired = Instant::now();
            }
        }
    }

    fn wait(&self, patience: Option<Duration>) -> io::Result<Ready> {
        let link = PollFlags::IN | if self.link.wants_to_write() { PollFlags::OUT } else { PollFlags::empty() };
        let link_fd = self.link.fd();
        let control_fd = self.control.fd();
        let until_fd = self.until.as_ref().map_or(control_fd, AsFd::as_fd);
        let mut fds = vec![
            PollFd::from_borrowed_fd(link_fd, link),
            PollFd::from_borrowed_fd(control_fd, PollFlags::IN),
            PollFd::from_borrowed_fd(until_fd, PollFlags::empty()),
        ];
        let mut keys = Vec::new();
        for (key, fd, flags) in self.connections.interests(&self.stack) {
            keys.push(key);
            fds.push(PollFd::from_borrowed_fd(fd, flags));
        }
        let mut numbers = Vec::new();
        for (number, fd, flags) in self.ports.interests() {
            numbers.push(number);
            fds.push(PollFd::from_borrowed_fd(fd, flags));
        }
        let patience = patience.unwrap_or(EXPIRE_EVERY).min(EXPIRE_EVERY);
        // What is due and cannot be sent waits for the guest to read, not for the clock.
        let patience = if self.link.wire.has_room() { patience } else { patience.max(STALLED) };
        let timeout = Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: patience.subsec_nanos().into() };
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let happened: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let readable = |at: usize| fds[at].revents().intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR);
        let (first, rest) = happened[3..].split_at(keys.len());
        Ok(Ready {
            link: readable(0),
            control: readable(1),
            over: readable(2),
            connections: keys.into_iter().zip(first).filter_map(|(key, is)| is.then_some(key)).collect(),
            ports: numbers.into_iter().zip(rest).filter_map(|(number, is)| is.then_some(number)).collect(),
        })
    }

    fn take(&mut self, bytes: &[u8]) {
        match frame::read(bytes, self.settings.mac) {
            Frame::WhoHas(wanted) => self.link.wire.send(&frame::arp_reply(wanted, self.settings.mac)),
            Frame::Solicits { wanted, by } => {
                self.link.wire.send(&v6::advertisement(wanted, by, self.settings.mac));
            }
            Frame::Tcp(segment) => self.take_segment(&segment),
            Frame::Udp { from, to, payload, packet } => self.take_datagram(from, to, payload, packet),
            Frame::Icmp { to, packet } if frame::is_own(to) => self.stack.take(&mut self.link.wire, packet),
            Frame::Icmp { to, packet } => {
                // The world is pinged by who has the privilege; what may not be reached is at least said.
                if !self.judge.admits(to) {
                    self.refused.note(Protocol::Icmp, SocketAddr::new(to, 0));
                }
                self.complain(Problem::Refused, to, packet);
            }
            Frame::Unfit { problem, packet } => self.tell_of(problem, packet),
            Frame::Nothing => {}
        }
    }

    /// A first segment decides; all others belong to a connection, or are reset by smoltcp.
    fn take_segment(&mut self, segment: &Segment<'_>) {
        if is_for_many(segment.to.ip()) {
            // Nobody connects to many, and nobody resets for them.
            return self.refused.note(Protocol::Tcp, segment.to);
        }
        let key = Key { from: segment.from, to: segment.to };
        if self.connections.comes_about(&key) {
            return;
        }
        if !segment.opens || self.connections.knows(&key) {
            return self.stack.take(&mut self.link.wire, segment.packet);
        }
        let place = self.place_of(segment.to);
        let opened =
            place.is_some_and(|place| self.connections.has_room() && self.connections.open(key, place, segment.packet));
        if place.is_none() {
            self.refused.note(Protocol::Tcp, segment.to);
        }
        if !opened {
            self.stack.take(&mut self.link.wire, segment.packet);
        }
    }

    /// In IPv6 a program that waits for an answer hears that there will be none, and tries IPv4.
    fn complain(&mut self, problem: Problem, to: IpAddr, packet: &[u8]) {
        if to.is_ipv6() {
            self.tell_of(problem, packet);
        }
    }

    fn tell_of(&mut self, problem: Problem, packet: &[u8]) {
        if let Some(frame) = v6::complaint(problem, packet, self.settings.mac) {
            self.link.wire.send(&frame);
        }
    }

    /// Where a connection leads; `None` where it may not.
    fn place_of(&mut self, to: SocketAddr) -> Option<SocketAddr> {
        if answers_for_names(&to) && self.judge.has_way_out() {
            return self.servers.upstream();
        }
        self.judge.lets_through(to.ip()).then_some(to)
    }

    fn take_datagram(&mut self, from: u16, to: SocketAddr, payload: &[u8], packet: &[u8]) {
        if answers_for_names(&to) {
            match self.servers.way(payload, self.names, self.judge.has_way_out()) {
                Way::Ask(server) => drop(self.ports.send(from, server, to, payload)),
                Way::Refuse(told) => self.tell(to, from, &told),
                Way::Drop => {}
            }
            return;
        }
        if to.port() == 0 {
            return;
        }
        if self.ports.knows(from, &to) || self.judge.lets_through(to.ip()) {
            if self.ports.send(from, to, to, payload).is_err_and(|error| is_no_way(&error)) {
                self.complain(Problem::Refused, to.ip(), packet);
            }
        } else {
            self.refused.note(Protocol::Udp, to);
            self.complain(Problem::Refused, to.ip(), packet);
        }
    }

    fn receive(&mut self, number: Number) {
        let (wire, mac) = (&mut self.link.wire, self.settings.mac);
        self.ports.receive(number, |from, payload| {
            if let Some(frame) = frame::datagram(from, number.port, payload, mac) {
                wire.send(&frame);
            }
        });
    }

    fn tell(&mut self, from: SocketAddr, to: u16, payload: &[u8]) {
        if let Some(frame) = frame::datagram(from, to, payload, self.settings.mac) {
            self.link.wire.send(&frame);
        }
    }

    fn answer(&mut self) {
        let Gateway { control, judge, names, refused, connections, stack, ports, settings, .. } = self;
        control.serve(|ask| match ask {
            Ask::Refused => Answer::Refused(refused.entries()),
            Ask::Reload => match read_policy(&settings.policy) {
                Err(error) => Answer::Failed(format!("cannot read the policy: {error}")),
                Ok(policy) => {
                    *judge = Judge::new(&policy);
                    *names = policy.names;
                    let allowed = |address: IpAddr| judge.lets_through(address);
                    connections.end_unless(stack, |key| allowed(key.to.ip()));
                    ports.end_unless(allowed);
                    Answer::Done
                }
            },
        });
    }
}

/// No packet comes from such an address (RFC 1122, 3.2.1.3), so none can answer for it.
fn is_for_many(address: IpAddr) -> bool {
    let is_broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
    address.is_multicast() || address.is_unspecified() || is_broadcast
}

fn answers_for_names(to: &SocketAddr) -> bool {
    to.ip() == NAME_SERVER && to.port() == DNS_PORT
}

/// This host has no route there, or no such family. Anything else is a datagram lost.
fn is_no_way(error: &io::Error) -> bool {
    let kind = error.kind();
    matches!(kind, io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable)
        || matches!(kind, io::ErrorKind::AddrNotAvailable | io::ErrorKind::PermissionDenied)
        || error.raw_os_error() == Some(libc::EAFNOSUPPORT)
}

fn read_policy(path: &Path) -> io::Result<Policy> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(MAX_MESSAGE_BYTES).read_to_string(&mut text)?;
    Ok(serde_json::from_str(&text)?)
}
