//! The server: takes connections from the host, one request or one upgrade each, and reports readiness once it does.
//!
//! One thread: a guest may have one CPU, and every route either waits or hands blocking work to a thread of its own.
//! The transport is exchangeable: vsock in a guest, a Unix socket for tests or another channel.

use crate::http::{self, Answer, Body, Request};
use crate::machine::{self, InitKind};
use crate::service::place::{self, Place};
use crate::{
    clock, console, drives, exec, files, health, identity, listen, metrics, ports, service, stream, work, workspace,
};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_vsock::{VMADDR_CID_ANY, VsockAddr, VsockListener, VsockStream};
use wire::guest::{AGENT_PORT, HOST_CID, READY_PORT, Ready, Shutdown};
use wire::{Fault, FaultKind};

/// 1024 connections at once: a host that opens more waits in the listener's queue.
const CONNECTION_LIMIT: usize = 1024;
/// Connections that wait in the listener's queue.
const QUEUE_LIMIT: i32 = 1024;
/// 30 s for a peer to say what it wants.
const HEADER_DEADLINE: Duration = Duration::from_secs(30);
/// 1 min of telling a host that does not listen (yet) that the guest is ready.
const READY_DEADLINE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    Vsock,
    Unix(PathBuf),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    pub init: InitKind,
    pub listen: Listen,
    /// Where the service's state lies.
    pub service: PathBuf,
}

impl Options {
    /// The words after `serve`; the error is the word that was not understood.
    pub fn parse(words: &[&str]) -> Result<Options, String> {
        let mut options =
            Options { init: InitKind::Agent, listen: Listen::Vsock, service: PathBuf::from(place::FOLDER) };
        let mut left = words.iter();
        while let Some(&word) = left.next() {
            match (word, left.next().copied()) {
                ("--init", Some("agent")) => options.init = InitKind::Agent,
                ("--init", Some("systemd")) => options.init = InitKind::Systemd,
                ("--service", Some(folder)) => options.service = PathBuf::from(folder),
                ("--listen", Some("vsock")) => options.listen = Listen::Vsock,
                ("--listen", Some(address)) => {
                    let path = address.strip_prefix("unix:").ok_or(address)?;
                    options.listen = Listen::Unix(PathBuf::from(path));
                }
                (_, value) => return Err([word, value.unwrap_or_default()].join(" ")),
            }
        }
        Ok(options)
    }
}

/// What all connections share.
pub struct Server {
    pub init: InitKind,
    /// Commands running through `exec`.
    pub sessions: AtomicU32,
    pub service: Place,
    tickets: listen::Tickets,
    owns_machine: bool,
}

impl Server {
    /// On a Unix socket the agent is a guest on somebody's machine (a test): it must not set its clock or power it off.
    pub fn check_owner(&self) -> Result<(), Fault> {
        if self.owns_machine {
            return Ok(());
        }
        Err(Fault::new(FaultKind::Refused, "cannot change a machine that is not the agent's own"))
    }
}

pub fn run(options: &Options) -> ExitCode {
    raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(64).build();
    let outcome = runtime.and_then(|runtime| runtime.block_on(listen(options)));
    match outcome {
        Ok(never) => match never {},
        Err(error) => {
            console::boot(&format!("cannot serve on {:?}: {error}", options.listen));
            ExitCode::FAILURE
        }
    }
}

/// Each command through `exec` holds up to five descriptors here. Commands get the old limit back.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(65536, |maximum| maximum.min(65536));
    let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum });
}

async fn listen(options: &Options) -> io::Result<Infallible> {
    let owns_machine = options.listen == Listen::Vsock;
    let server = Arc::new(Server {
        init: options.init,
        sessions: AtomicU32::new(0),
        service: Place::at(&options.service),
        tickets: listen::Tickets::default(),
        owns_machine,
    });
    match &options.listen {
        Listen::Vsock => {
            if options.init == InitKind::Agent
                && let Err(fault) = crate::network::bring_up_loopback().await
            {
                console::boot(&format!("{fault}: {}", fault.causes.join(": ")));
            }
            let listener = VsockListener::bind(VsockAddr::new(VMADDR_CID_ANY, AGENT_PORT))?;
            // The library leaves room for 128 that wait: a host that opens 200 channels at once would be refused some of
            // them. A shorter queue is no reason not to serve.
            let _ = rustix::net::listen(&listener, QUEUE_LIMIT);
            tokio::spawn(report_ready(options.init));
            accept(&server, async || listener.accept().await.map(|(stream, _)| stream)).await
        }
        Listen::Unix(path) => {
            let listener = bind_unix(path)?;
            accept(&server, async || listener.accept().await.map(|(stream, _)| stream)).await
        }
    }
}

fn bind_unix(path: &PathBuf) -> io::Result<tokio::net::UnixListener> {
    use std::os::unix::fs::PermissionsExt;
    let _ = std::fs::remove_file(path);
    let listener = tokio::net::UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

async fn accept<S>(server: &Arc<Server>, next: impl AsyncFn() -> io::Result<S>) -> io::Result<Infallible>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let slots = Arc::new(Semaphore::new(CONNECTION_LIMIT));
    loop {
        let slot = Arc::clone(&slots).acquire_owned().await.map_err(io::Error::other)?;
        match next().await {
            Ok(stream) => {
                tokio::spawn(converse(Arc::clone(server), stream, slot));
            }
            // Out of descriptors, a peer that was gone again, a transport that was reset by a restore: all of them pass.
            Err(error) => {
                console::boot(&format!("cannot accept a connection: {error}"));
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse<S>(server: Arc<Server>, stream: S, slot: OwnedSemaphorePermit)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: hyper::Request<Incoming>| answer(Arc::clone(&server), request));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_DEADLINE)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    // A peer that went away in the middle is its own affair.
    let _ = connection.await;
    drop(slot);
}

async fn answer(server: Arc<Server>, request: Request) -> Result<Response<Body>, Infallible> {
    Ok(route(&server, request).await.unwrap_or_else(|fault| http::fault(&fault)))
}

async fn route(server: &Arc<Server>, request: Request) -> Answer {
    let path = request.uri().path().to_owned();
    match (request.method(), path.as_str()) {
        (&Method::GET, "/healthz") => http::json(&health::health(server).await),
        (&Method::GET, "/metrics") => http::json(&metrics::read()),
        (&Method::GET, "/ports") => match http::optional(&request, "watch").as_deref() {
            Some("true") => ports::watch(),
            _ => http::json(&ports::listening()),
        },
        (&Method::GET, "/service") => service::facts(server),
        (&Method::POST, "/service") => service::ensure(server, request).await,
        (&Method::GET, "/service/log") => service::read_log(server, &request),
        (&Method::GET, "/exec") => exec::upgrade(server, request),
        (&Method::GET, "/stream") => stream::upgrade(&server.tickets, request).await,
        (&Method::GET, "/listen") => listen::upgrade(&server.tickets, request),
        (&Method::GET, "/files") => files::pack(&request),
        (&Method::GET, "/stat") => files::stat(&request),
        (&Method::PUT, "/files") => files::unpack(request).await,
        (&Method::PUT, "/workspace") => workspace::put(request).await,
        (&Method::GET, "/workspace") => workspace::state(&request).await,
        (&Method::GET, "/encodings") => http::json(&[wire::guest::LZ4]),
        (&Method::POST, "/work/scan") => work::scan(request).await,
        (&Method::POST, "/work/read") => work::read(request).await,
        (&Method::POST, "/work/watch") => work::watch(request).await,
        (&Method::POST, "/clock") => {
            server.check_owner()?;
            clock::set(&http::read_json(request).await?)
        }
        (&Method::POST, "/identity") => {
            server.check_owner()?;
            identity::take(http::read_json(request).await?).await
        }
        (&Method::POST, "/drives") => {
            server.check_owner()?;
            drives::grow(http::read_json(request).await?).await
        }
        (&Method::POST, "/shutdown") => shut_down(server, &http::read_json(request).await?),
        (method, path) => Err(Fault::new(FaultKind::NotFound, format!("the guest's agent has no {method} {path}"))
            .with_cause(format!("it is version {}", env!("CARGO_PKG_VERSION")))),
    }
}

fn shut_down(server: &Server, wanted: &Shutdown) -> Answer {
    server.check_owner()?;
    crate::power::begin(server.init, Duration::from_millis(wanted.grace_ms))?;
    http::status(StatusCode::ACCEPTED)
}

/// Tells the host that this guest answers. The host may not listen yet, or never: then it finds out by asking.
async fn report_ready(init: InitKind) {
    let _ = tokio::time::timeout(READY_DEADLINE, async {
        let mut pause = Duration::from_millis(20);
        while let Err(error) = say_ready(init).await {
            if pause == Duration::from_millis(640) {
                console::boot(&format!("cannot report to the host yet: {error}"));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(2));
        }
    })
    .await;
}

async fn say_ready(init: InitKind) -> io::Result<()> {
    let ready = Ready {
        api_version: wire::version::GUEST,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        boot_id: machine::boot_id(),
        uptime_ms: machine::uptime_ms(),
        init: init.name().to_owned(),
    };
    let mut line = serde_json::to_vec(&ready)?;
    line.push(b'\n');
    let mut host = VsockStream::connect(VsockAddr::new(HOST_CID, READY_PORT)).await?;
    host.write_all(&line).await?;
    host.shutdown(std::net::Shutdown::Write)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_default_to_vsock_and_unknown_ones_are_named() {
        let service = PathBuf::from(place::FOLDER);
        let least = Options { init: InitKind::Agent, listen: Listen::Vsock, service: service.clone() };
        assert_eq!(Options::parse(&[]), Ok(least));
        let options = Options::parse(&["--init", "systemd", "--listen", "unix:/run/a.sock"]).expect("options");
        assert_eq!(options, Options { init: InitKind::Systemd, listen: Listen::Unix("/run/a.sock".into()), service });
        assert_eq!(Options::parse(&["--port", "1"]), Err("--port 1".to_owned()));
        assert_eq!(Options::parse(&["--listen", "tcp:1"]), Err("tcp:1".to_owned()));
    }
}
