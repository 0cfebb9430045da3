//! `GET /listen`: sockets on which the guest accepts for the host. A connection waits under a ticket until the host takes
//! it up with `GET /stream?ticket=`, so that each flows by itself and the guest never has to reach the host.
//!
//! The caller's connection is the listener's life: when it ends, socket and folder are gone. Bounds: [`WAITING_LIMIT`]
//! connections wait in the agent, the next ones in the kernel's queue; one waits [`TICKET_SECONDS`] at most.

use crate::exec::user;
use crate::http::{self, Answer, Request, io_fault};
use crate::stream::{self, Duplex};
use hyper_util::rt::TokioIo;
use std::collections::HashMap;
use std::io::{self, Read};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use wire::guest::{ListenEvent, TICKET_SECONDS};
use wire::{Fault, FaultKind};

/// 64 connections that the host has not taken up yet, of all listeners together.
const WAITING_LIMIT: usize = 64;
/// 20 ms between two looks for room, when none is left.
const PAUSE: Duration = Duration::from_millis(20);

/// Connections that wait for the host, by ticket.
#[derive(Clone, Default)]
pub struct Tickets(Arc<Mutex<HashMap<String, Box<dyn Duplex>>>>);

impl Tickets {
    pub fn take(&self, ticket: &str) -> Result<Box<dyn Duplex>, Fault> {
        let gone = || Fault::new(FaultKind::NotFound, "the connection was not taken up in time");
        self.0.lock().expect("no holder panics").remove(ticket).ok_or_else(gone)
    }

    fn keep(&self, connection: Box<dyn Duplex>) -> io::Result<String> {
        let mut random = [0; 8];
        std::fs::File::open("/dev/urandom")?.read_exact(&mut random)?;
        let ticket = format!("{:016x}", u64::from_ne_bytes(random));
        self.0.lock().expect("no holder panics").insert(ticket.clone(), connection);
        let (tickets, kept) = (self.clone(), ticket.clone());
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(TICKET_SECONDS)).await;
            let _ = tickets.take(&kept);
        });
        Ok(ticket)
    }

    async fn room(&self) {
        while self.0.lock().expect("no holder panics").len() >= WAITING_LIMIT {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Binds first, so that a refusal is a fault and no stream.
pub fn upgrade(tickets: &Tickets, mut request: Request) -> Answer {
    let (listener, bound) = match http::optional(&request, "port") {
        Some(port) => bind_port(&request, &port)?,
        None => bind_socket(&request)?,
    };
    let upgraded = hyper::upgrade::on(&mut request);
    let tickets = tickets.clone();
    tokio::spawn(async move {
        if let Ok(upgraded) = upgraded.await {
            let _ = announce(TokioIo::new(upgraded), listener, bound, &tickets).await;
        }
    });
    stream::switching()
}

/// What listens; dropped, it takes its traces along.
enum Listener {
    Ports(TcpListener, Option<TcpListener>),
    Socket { listener: UnixListener, _traces: Traces },
}

/// Files that a listener made, in the order in which they go.
struct Traces {
    socket: PathBuf,
    folder: Option<PathBuf>,
}

impl Drop for Traces {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
        if let Some(folder) = &self.folder {
            let _ = std::fs::remove_dir(folder);
        }
    }
}

impl Listener {
    async fn accept(&self) -> io::Result<(Box<dyn Duplex>, String)> {
        match self {
            Listener::Ports(first, second) => {
                let (stream, peer) = tokio::select! {
                    accepted = first.accept() => accepted?,
                    accepted = accept_second(second.as_ref()) => accepted?,
                };
                stream.set_nodelay(true)?;
                Ok((Box::new(stream), peer.to_string()))
            }
            Listener::Socket { listener, .. } => Ok((Box::new(listener.accept().await?.0), String::new())),
        }
    }
}

async fn accept_second(listener: Option<&TcpListener>) -> io::Result<(tokio::net::TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

/// IPv6 follows where the guest has it and the port is free there.
fn bind_port(request: &Request, port: &str) -> Result<(Listener, ListenEvent), Fault> {
    let invalid = || Fault::new(FaultKind::Invalid, format!("{port} is no port: it is a number up to 65535"));
    let number: u16 = port.parse().map_err(|_| invalid())?;
    let everywhere = http::optional(request, "everywhere").as_deref() == Some("true");
    let (four, six) = match everywhere {
        true => (Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED),
        false => (Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST),
    };
    let refused = |error: io::Error| {
        let kind = match error.kind() {
            io::ErrorKind::AddrInUse => FaultKind::Conflict,
            _ => FaultKind::Refused,
        };
        Fault::new(kind, format!("cannot listen on port {number} of the guest")).with_cause(error.to_string())
    };
    let first = bind_tcp(SocketAddr::from((four, number))).map_err(refused)?;
    let bound = first.local_addr().map_err(refused)?.port();
    let second = bind_tcp(SocketAddr::from((six, bound))).ok();
    Ok((Listener::Ports(first, second), ListenEvent::Bound { port: Some(bound), path: None }))
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        // Else the address of all would take IPv4 along, which is bound already.
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    bind(&socket, &address)?;
    listen(&socket, 128)?;
    TcpListener::from_std(socket.into())
}

/// The socket, and where it was left to us its folder, belong to the user who will connect.
fn bind_socket(request: &Request) -> Result<(Listener, ListenEvent), Fault> {
    let user = user::find(http::optional(request, "user").as_deref())?;
    let (socket, folder) = match http::optional(request, "path") {
        Some(path) => (PathBuf::from(path), None),
        None => {
            let folder = private_folder(&user).map_err(io_fault("make a folder for a socket in the guest"))?;
            (folder.join("agent"), Some(folder))
        }
    };
    let shown = socket.display().to_string();
    let failed = |error| io_fault(format!("listen on {shown} in the guest"))(error);
    let listener = UnixListener::bind(&socket).map_err(failed)?;
    let traces = Traces { socket, folder };
    std::fs::set_permissions(&traces.socket, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    give(&traces.socket, &user).map_err(failed)?;
    let bound = ListenEvent::Bound { port: None, path: Some(shown.clone()) };
    Ok((Listener::Socket { listener, _traces: traces }, bound))
}

fn private_folder(user: &user::User) -> io::Result<PathBuf> {
    let mut random = [0; 8];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut random)?;
    let folder = std::env::temp_dir().join(format!("banger-{:016x}", u64::from_ne_bytes(random)));
    // A name that nobody can guess, and no `recursive`: a folder that is there already is an error.
    std::fs::DirBuilder::new().mode(0o700).create(&folder)?;
    give(&folder, user)?;
    Ok(folder)
}

fn give(path: &Path, user: &user::User) -> io::Result<()> {
    match rustix::process::geteuid().is_root() {
        true => std::os::unix::fs::lchown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw())),
        false => Ok(()),
    }
}

/// One line per event, until the host hangs up.
async fn announce(
    host: TokioIo<hyper::upgrade::Upgraded>,
    listener: Listener,
    bound: ListenEvent,
    tickets: &Tickets,
) -> io::Result<()> {
    let (mut from_host, mut to_host) = tokio::io::split(host);
    to_host.write_all(&line(&bound)?).await?;
    let mut word = [0; 64];
    loop {
        let accepted = async {
            tickets.room().await;
            listener.accept().await
        };
        let (connection, peer) = tokio::select! {
            accepted = accepted => match accepted {
                Ok(accepted) => accepted,
                // Out of descriptors, or a peer that went already: a moment later it may work.
                Err(_) => {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            },
            said = from_host.read(&mut word) => match said? {
                0 => return Ok(()),
                _ => continue,
            },
        };
        let ticket = tickets.keep(connection)?;
        to_host.write_all(&line(&ListenEvent::Accepted { ticket, peer })?).await?;
    }
}

fn line(event: &ListenEvent) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    Ok(line)
}
