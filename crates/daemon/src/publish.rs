//! Owns the ports of sandboxes on this host: a listener per published port, each connection carried to the guest's
//! loopback through its agent. So a service that listens on the guest's 127.0.0.1 is reached, and no network is needed.
//!
//! Listeners belong to the sandbox, not to its boot: while a guest restarts, connections are refused one by one and the
//! port stays ours. Publishing is all or nothing: a port that cannot be had leaves the others as they were.
//!
//! ```text
//! wanted: by the sandbox's spec, through the engine's seam `Publisher`      tcp  a stream of the guest per connection
//! auto:   by what the guest listens on, from `follow`; the engine does not  udp  a stream of datagrams per peer
//!         know of them, since they are nobody's wish and end with their service
//! ```

pub mod follow;
mod holder;
mod tcp;
mod udp;

use crate::guest_channel::{Guest, GuestChannel};
use crate::host::network::Publisher;
use engine::host::{HostError, HostErrorKind, Result};
use model::SandboxId;
use model::port::{PortForward, Protocol};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use tokio::net::{TcpListener, UdpSocket};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// Ports below are the system's own: what a guest happens to listen on must not take one of them.
const FIRST_ORDINARY_PORT: u16 = 1024;
/// 64 ports published by themselves: a guest decides how many it listens on, but not what this host has room for.
const MAX_AUTO: usize = 64;

type NameOf = Box<dyn Fn(&SandboxId) -> Option<String> + Send + Sync>;

pub struct Ports {
    runtime: Handle,
    channel: Arc<dyn GuestChannel>,
    table: Mutex<Table>,
    /// For sentences about who holds a port.
    name_of: OnceLock<NameOf>,
}

#[derive(Default)]
struct Table {
    wanted: BTreeMap<SandboxId, Vec<Published>>,
    auto: BTreeMap<SandboxId, Vec<Published>>,
}

/// A port that is listened on; dropped, the listener and its connections end.
struct Published {
    wanted: PortForward,
    bound: PortForward,
    task: JoinHandle<()>,
}

impl Drop for Published {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Ports {
    /// `runtime` serves the listeners; the engine calls from threads that may wait.
    pub fn new(runtime: Handle, channel: Arc<dyn GuestChannel>) -> Arc<Self> {
        Arc::new(Ports { runtime, channel, table: Mutex::default(), name_of: OnceLock::new() })
    }

    /// How a sandbox is called; the first answer counts.
    pub fn name_by(&self, name_of: NameOf) {
        let _ = self.name_of.set(name_of);
    }

    pub fn guest(&self, id: &SandboxId) -> Guest {
        Guest::new(self.channel.clone(), id.clone())
    }

    /// What is published by itself now, as bound.
    pub fn auto(&self, id: &SandboxId) -> Vec<PortForward> {
        self.table().auto.get(id).map(|ports| ports.iter().map(|port| port.bound).collect()).unwrap_or_default()
    }

    /// Exactly these guest ports are published by themselves, but for those that are published anyway: under the same
    /// number where it is free and ordinary, else under any. One that cannot be had is left out.
    pub fn publish_auto(&self, id: &SandboxId, guest_ports: &[u16]) {
        let mut table = self.table();
        let by_wish = |port: &u16| {
            let same = |one: &Published| one.wanted.protocol == Protocol::Tcp && one.wanted.guest_port == *port;
            table.wanted.get(id).is_some_and(|ports| ports.iter().any(same))
        };
        let guest_ports: Vec<u16> = guest_ports.iter().filter(|port| !by_wish(port)).take(MAX_AUTO).copied().collect();
        let now = table.auto.entry(id.clone()).or_default();
        now.retain(|port| guest_ports.contains(&port.bound.guest_port));
        for guest_port in guest_ports {
            if now.iter().any(|port| port.bound.guest_port == guest_port) {
                continue;
            }
            match self.listen_anywhere(id, guest_port) {
                Ok(port) => now.push(port),
                Err(error) => tracing::warn!(%id, guest_port, %error, "a port is not published by itself"),
            }
        }
        if now.is_empty() {
            table.auto.remove(id);
        }
    }

    pub fn withdraw_auto(&self, id: &SandboxId) {
        self.table().auto.remove(id);
    }

    fn listen_anywhere(&self, id: &SandboxId, guest_port: u16) -> Result<Published> {
        let host_address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let forward = |host_port| PortForward { host_address, host_port, guest_port, protocol: Protocol::Tcp };
        let same = if guest_port >= FIRST_ORDINARY_PORT { self.bind(id, forward(guest_port)).ok() } else { None };
        match same {
            Some(port) => Ok(port),
            None => {
                let refuse = |error: io::Error| {
                    let attempt = format!("cannot publish port {guest_port} on any port of {host_address}");
                    HostError::new(HostErrorKind::Broken, attempt).with_source(error)
                };
                self.bind(id, forward(0)).map_err(refuse)
            }
        }
    }

    fn listen(&self, table: &Table, id: &SandboxId, wanted: PortForward) -> Result<Published> {
        let address = SocketAddr::new(wanted.host_address, wanted.host_port);
        self.bind(id, wanted).map_err(|error| {
            let refuse = |kind| HostError::new(kind, format!("cannot publish port {} on {address}", wanted.guest_port));
            match error.kind() {
                io::ErrorKind::AddrInUse => {
                    let cause = self.holder(table, address, wanted.protocol);
                    let hint = "choose another port, or `0` for any free one";
                    refuse(HostErrorKind::Busy).with_source(cause).with_hint(hint)
                }
                _ => explain(error, refuse),
            }
        })
    }

    fn bind(&self, id: &SandboxId, wanted: PortForward) -> io::Result<Published> {
        let address = SocketAddr::new(wanted.host_address, wanted.host_port);
        let guest = self.guest(id);
        let _runtime = self.runtime.enter();
        let (address, task) = match wanted.protocol {
            Protocol::Tcp => {
                let listener = std::net::TcpListener::bind(address)?;
                listener.set_nonblocking(true)?;
                let (address, listener) = (listener.local_addr()?, TcpListener::from_std(listener)?);
                (address, self.runtime.spawn(tcp::accept(listener, guest, wanted.guest_port)))
            }
            Protocol::Udp => {
                let socket = std::net::UdpSocket::bind(address)?;
                socket.set_nonblocking(true)?;
                let (address, socket) = (socket.local_addr()?, UdpSocket::from_std(socket)?);
                (address, self.runtime.spawn(udp::serve(socket, guest, wanted.guest_port)))
            }
        };
        Ok(Published { wanted, bound: PortForward { host_port: address.port(), ..wanted }, task })
    }

    /// Who stands in the way: one of our sandboxes, else whatever program the system knows.
    fn holder(&self, table: &Table, address: SocketAddr, protocol: Protocol) -> String {
        let meets = |port: &&Published| {
            let other = port.bound.host_address;
            let same = other == address.ip() || other.is_unspecified() || address.ip().is_unspecified();
            same && (port.bound.host_port, port.bound.protocol) == (address.port(), protocol)
        };
        let find = |(id, ports): (&SandboxId, &Vec<Published>)| Some((id.clone(), ports.iter().find(meets)?.bound));
        let name = |id: &SandboxId| self.name_of.get().and_then(|name| name(id)).unwrap_or_else(|| id.to_string());
        if let Some((id, port)) = table.wanted.iter().find_map(find) {
            return format!("sandbox {} publishes its port {} there", name(&id), port.guest_port);
        }
        if let Some((id, port)) = table.auto.iter().find_map(find) {
            return format!("port {} of sandbox {} is published there by itself", port.guest_port, name(&id));
        }
        match holder::of(address, protocol) {
            Some(holder) => format!("{holder} listens there"),
            None => "somebody listens there".to_owned(),
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Publisher for Ports {
    fn publish(&self, id: &SandboxId, ports: &[PortForward]) -> Result<Vec<PortForward>> {
        let mut table = self.table();
        // A port that was bound to any free one is still wanted by either of its names.
        let is = |have: &Published, wanted: &PortForward| have.wanted == *wanted || have.bound == *wanted;
        let have = table.wanted.get(id).map(Vec::as_slice).unwrap_or_default();
        let missing: Vec<PortForward> =
            ports.iter().filter(|wanted| !have.iter().any(|port| is(port, wanted))).copied().collect();
        // A port that moves to another guest port within one change must be let go first.
        let moved = |port: &Published| {
            let key = |port: &PortForward| (port.host_address, port.host_port, port.protocol);
            !ports.iter().any(|wanted| is(port, wanted)) && missing.iter().any(|new| key(new) == key(&port.bound))
        };
        let moving: Vec<Published> = match table.wanted.get_mut(id) {
            Some(now) => now.extract_if(.., |port| moved(port)).collect(),
            None => Vec::new(),
        };
        let back: Vec<PortForward> = moving.iter().map(|port| port.bound).collect();
        moving.into_iter().for_each(|port| self.end(port));
        let new = missing.into_iter().map(|wanted| self.listen(&table, id, wanted)).collect::<Result<Vec<_>>>();
        let new = match new {
            Ok(new) => new,
            Err(error) => {
                let restored: Vec<Published> = back.into_iter().filter_map(|port| self.bind(id, port).ok()).collect();
                table.wanted.entry(id.clone()).or_default().extend(restored);
                return Err(error);
            }
        };
        let now = table.wanted.entry(id.clone()).or_default();
        let gone: Vec<Published> = now.extract_if(.., |port| !ports.iter().any(|wanted| is(port, wanted))).collect();
        now.extend(new);
        let bound = |wanted: &PortForward| now.iter().find(|port| is(port, wanted)).map(|port| port.bound);
        let bound = ports.iter().filter_map(bound).collect();
        gone.into_iter().for_each(|port| self.end(port));
        Ok(bound)
    }

    fn withdraw(&self, id: &SandboxId) {
        let mut table = self.table();
        table.wanted.remove(id);
        table.auto.remove(id);
    }
}

impl Ports {
    /// Returns once its socket is closed, so that the port can be bound again at once.
    fn end(&self, mut port: Published) {
        port.task.abort();
        let _ = self.runtime.block_on(&mut port.task);
    }
}

fn explain(error: io::Error, refuse: impl Fn(HostErrorKind) -> HostError) -> HostError {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            let hint = "ports below 1024 are the system's; choose a higher one";
            refuse(HostErrorKind::Unfit).with_source(error).with_hint(hint)
        }
        io::ErrorKind::AddrNotAvailable => {
            refuse(HostErrorKind::Unfit).with_source(error).with_hint("this host has no such address")
        }
        _ => refuse(HostErrorKind::Broken).with_source(error),
    }
}
