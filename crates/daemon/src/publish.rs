//! Owns the ports of sandboxes on this host: a listener per published port, each connection carried to the guest's
//! loopback through its agent. So a service that listens on the guest's 127.0.0.1 is reached, and no network is needed.
//!
//! Listeners belong to the sandbox, not to its boot: while a guest restarts, connections are refused one by one and the
//! port stays ours. Publishing is all or nothing: a port that cannot be had leaves the others as they were.
//! Bounds: [`MAX_CONNECTIONS`] per port; further ones wait in the listener's queue.

mod holder;

use crate::guest_channel::{Destination, Guest, GuestChannel};
use crate::host::network::Publisher;
use engine::host::{HostError, HostErrorKind, Result};
use model::SandboxId;
use model::port::{PortForward, Protocol};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};

/// 256 connections of one port at once.
const MAX_CONNECTIONS: usize = 256;
/// 64 KiB each way and connection.
const COPY_BYTES: usize = 64 * 1024;
/// What is left to the system when it has no descriptor for a connection.
const PAUSE: Duration = Duration::from_millis(50);

pub struct Ports {
    runtime: Handle,
    channel: Arc<dyn GuestChannel>,
    published: Mutex<BTreeMap<SandboxId, Vec<Published>>>,
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
        Arc::new(Ports { runtime, channel, published: Mutex::default() })
    }

    fn published(&self) -> std::sync::MutexGuard<'_, BTreeMap<SandboxId, Vec<Published>>> {
        self.published.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listen(&self, id: &SandboxId, wanted: PortForward) -> Result<Published> {
        let address = SocketAddr::new(wanted.host_address, wanted.host_port);
        let refuse = |kind| HostError::new(kind, format!("cannot publish port {} on {address}", wanted.guest_port));
        if wanted.protocol == Protocol::Udp {
            return Err(refuse(HostErrorKind::Unfit).with_source("UDP is not carried to guests"));
        }
        let _runtime = self.runtime.enter();
        let bound = std::net::TcpListener::bind(address).and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok((listener.local_addr()?, TcpListener::from_std(listener)?))
        });
        let (address, listener) = bound.map_err(|error| explain(error, address, refuse))?;
        let guest = Guest::new(self.channel.clone(), id.clone());
        let task = self.runtime.spawn(accept(listener, guest, wanted.guest_port));
        Ok(Published { wanted, bound: PortForward { host_port: address.port(), ..wanted }, task })
    }
}

impl Publisher for Ports {
    fn publish(&self, id: &SandboxId, ports: &[PortForward]) -> Result<Vec<PortForward>> {
        let mut published = self.published();
        let have = |wanted: &PortForward| {
            published.get(id).is_some_and(|ports| ports.iter().any(|port| port.wanted == *wanted))
        };
        let missing: Vec<PortForward> = ports.iter().filter(|wanted| !have(wanted)).copied().collect();
        let new = missing.into_iter().map(|wanted| self.listen(id, wanted)).collect::<Result<Vec<_>>>()?;
        let now = published.entry(id.clone()).or_default();
        now.retain(|port| ports.contains(&port.wanted));
        now.extend(new);
        let bound = |wanted: &PortForward| now.iter().find(|port| port.wanted == *wanted).map(|port| port.bound);
        Ok(ports.iter().filter_map(bound).collect())
    }

    fn withdraw(&self, id: &SandboxId) {
        self.published().remove(id);
    }
}

fn explain(error: io::Error, address: SocketAddr, refuse: impl Fn(HostErrorKind) -> HostError) -> HostError {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            let cause = match holder::of(address) {
                Some(holder) => format!("{holder} listens there"),
                None => "somebody listens there".to_owned(),
            };
            let hint = "choose another port, or `0` for any free one";
            refuse(HostErrorKind::Busy).with_source(cause).with_hint(hint)
        }
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

/// Its connections end with it, because the set is dropped with it.
async fn accept(listener: TcpListener, guest: Guest, port: u16) {
    let seats = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let seat = seats.clone().acquire_owned().await.expect("nobody closes the semaphore");
        match listener.accept().await {
            Ok((stream, _)) => {
                let guest = guest.clone();
                connections.spawn(async move {
                    carry(stream, &guest, port).await;
                    drop(seat);
                });
            }
            Err(error) => {
                tracing::warn!(%error, port, "cannot accept a connection of a published port");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// What the guest refuses is reset, so that a client does not take it for an empty answer.
async fn carry(mut client: TcpStream, guest: &Guest, port: u16) {
    let _ = client.set_nodelay(true);
    match guest.stream(&Destination::Port(port)).await {
        Ok(mut stream) => {
            let copied = tokio::io::copy_bidirectional_with_sizes(&mut client, &mut stream, COPY_BYTES, COPY_BYTES);
            if let Err(error) = copied.await {
                tracing::debug!(id = %guest.id(), port, %error, "a published connection broke off");
                let _ = client.set_zero_linger();
            }
        }
        Err(error) => {
            tracing::debug!(id = %guest.id(), port, %error, "a published connection was refused");
            let _ = client.set_zero_linger();
        }
    }
}
