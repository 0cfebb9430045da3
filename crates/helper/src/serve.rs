//! The socket: one thread per connection, a bound on both, one message in, one message out (varlink.org). All
//! operations take turns under one lock.

use crate::caller::Caller;
use crate::failure::{Attempt, Failure, Result};
use crate::ops::Root;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::json;
use std::fs::{self, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use wire::privilege::varlink::{Call, Inbox, Reply, SERVICE, encode};
use wire::privilege::{DESCRIPTION, INTERFACE, Request, RequestError};
use wire::{Fault, FaultKind};

/// A `bangerd` needs one, `doctor` another.
const MAX_CONNECTIONS: usize = 16;
/// A message that has begun must be whole within this; between messages a peer may be silent for ever.
const MESSAGE_DEADLINE: Duration = Duration::from_secs(5);

/// Binds the socket for the owner: 0600, theirs.
pub fn bind(path: &Path, owner: u32) -> Result<UnixListener> {
    let attempt = || format!("cannot listen on `{}`", path.display());
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).attempt(attempt)?;
    }
    clear_stale(path)?;
    let listener = UnixListener::bind(path).attempt(attempt)?;
    // Between bind and here only root can have connected, and credentials are checked anyway.
    fs::set_permissions(path, Permissions::from_mode(0o600)).attempt(attempt)?;
    std::os::unix::fs::chown(path, Some(owner), None).attempt(attempt)?;
    Ok(listener)
}

/// A socket that nobody answers on is left over from a life that was killed.
fn clear_stale(path: &Path) -> Result<()> {
    let attempt = || format!("cannot listen on `{}`", path.display());
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).attempt(attempt),
        Ok(facts) if !facts.file_type().is_socket() => {
            Err(Failure::new(FaultKind::Conflict, attempt()).with_source("something else than a socket is there"))
        }
        Ok(_) if UnixStream::connect(path).is_ok() => {
            Err(Failure::new(FaultKind::Conflict, attempt()).with_source("another bangerd-root answers there"))
        }
        Ok(_) => fs::remove_file(path).attempt(attempt),
    }
}

/// Serves until nobody was connected for `idle_exit`, or for ever.
pub fn serve(listener: &UnixListener, root: Root, idle_exit: Option<Duration>) -> Result<()> {
    let owner = root.owner;
    let root = Arc::new(Mutex::new(root));
    let connections = Arc::new(AtomicUsize::new(0));
    let mut idle_since = Instant::now();
    loop {
        if connections.load(Ordering::SeqCst) > 0 {
            idle_since = Instant::now();
        }
        if idle_exit.is_some_and(|limit| idle_since.elapsed() >= limit) {
            return Ok(());
        }
        if !wait_for_caller(listener, idle_exit).attempt(|| "cannot wait for a connection")? {
            continue;
        }
        let Ok((stream, _)) = listener.accept() else { continue };
        // Dropping a stream closes it: that is the answer to a stranger, and to one too many.
        if !Caller::of(&stream).is_ok_and(|caller| caller.may_speak(owner)) {
            continue;
        }
        if connections.fetch_add(1, Ordering::SeqCst) >= MAX_CONNECTIONS {
            connections.fetch_sub(1, Ordering::SeqCst);
            continue;
        }
        let (root, connections) = (root.clone(), connections.clone());
        std::thread::spawn(move || {
            let _ = converse(stream, &root);
            connections.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

/// True when somebody wants to connect; false after a while, so that the idle clock is looked at.
fn wait_for_caller(listener: &UnixListener, idle_exit: Option<Duration>) -> io::Result<bool> {
    let timeout = match idle_exit {
        Some(_) => PollTimeout::from(1000u16),
        None => PollTimeout::NONE,
    };
    let mut polled = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
    match poll(&mut polled, timeout) {
        Ok(ready) => Ok(ready > 0),
        Err(nix::errno::Errno::EINTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn converse(mut stream: UnixStream, root: &Mutex<Root>) -> io::Result<()> {
    stream.set_write_timeout(Some(MESSAGE_DEADLINE))?;
    let mut inbox = Inbox::default();
    let mut buffer = vec![0; 64 << 10];
    let mut begun: Option<Instant> = None;
    loop {
        while let Some(message) = inbox.take().map_err(io::Error::other)? {
            if let Some(reply) = answer(&message, root) {
                stream.write_all(&encode(&reply))?;
            }
        }
        begun = if inbox.is_empty() { None } else { begun.or_else(|| Some(Instant::now())) };
        let left = begun.map(|begun| MESSAGE_DEADLINE.saturating_sub(begun.elapsed()).max(Duration::from_millis(1)));
        stream.set_read_timeout(left)?;
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) if begun.is_some_and(|begun| begun.elapsed() > MESSAGE_DEADLINE) => {
                return Err(io::Error::other(format!("a message was not whole in time, {count} bytes came late")));
            }
            Ok(count) => inbox.push(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The reply to one message; none for a `oneway` call, whose deed is done all the same.
pub fn answer(message: &[u8], root: &Mutex<Root>) -> Option<Reply> {
    let call = match read_call(message) {
        Ok(call) => call,
        Err(reply) => return Some(reply),
    };
    let oneway = call.oneway;
    let reply = service(&call).unwrap_or_else(|| match Request::parse(&call.method, call.parameters.into()) {
        Ok(request) => perform(root, request),
        Err(error) => protocol_error(&error),
    });
    (!oneway).then_some(reply)
}

/// Bytes from outside, up to the point where they are a call with the options we know.
pub fn read_call(message: &[u8]) -> std::result::Result<Call, Reply> {
    let call: Call = serde_json::from_slice(message)
        .map_err(|error| Reply::protocol_error("InvalidParameter", "parameter", &error.to_string()))?;
    if call.more || call.upgrade {
        return Err(Reply::protocol_error("MethodNotImplemented", "method", &call.method));
    }
    Ok(call)
}

pub fn protocol_error(error: &RequestError) -> Reply {
    match error {
        RequestError::UnknownInterface { method } => {
            let interface = method.rsplit_once('.').map_or(method.as_str(), |(interface, _)| interface);
            Reply::protocol_error("InterfaceNotFound", "interface", interface)
        }
        RequestError::UnknownMethod { method } => Reply::protocol_error("MethodNotFound", "method", method),
        RequestError::Parameters { reason, .. } => Reply::protocol_error("InvalidParameter", "parameter", reason),
    }
}

fn perform(root: &Mutex<Root>, request: Request) -> Reply {
    // A panic in an operation left a noted, half-made thing, as a crash would; operations are repeatable.
    let mut root = root.lock().unwrap_or_else(PoisonError::into_inner);
    match root.answer(request) {
        Ok(answer) => Reply::answer(&answer),
        Err(failure) => Reply::fault(&failure.fault()),
    }
}

/// What every varlink service answers about itself.
fn service(call: &Call) -> Option<Reply> {
    match call.method.strip_prefix(SERVICE)?.strip_prefix('.')? {
        "GetInfo" => Some(Reply::answer(&json!({
            "vendor": "banger",
            "product": "bangerd-root",
            "version": env!("CARGO_PKG_VERSION"),
            "url": "",
            "interfaces": [SERVICE, INTERFACE],
        }))),
        "GetInterfaceDescription" => match call.parameters.get("interface").and_then(|name| name.as_str()) {
            Some(INTERFACE) => Some(Reply::answer(&json!({ "description": DESCRIPTION }))),
            Some(other) => Some(Reply::protocol_error("InterfaceNotFound", "interface", other)),
            None => Some(Reply::protocol_error("InvalidParameter", "parameter", "interface")),
        },
        _ => Some(Reply::protocol_error("MethodNotFound", "method", &call.method)),
    }
}

/// The fault for a start that failed, for whoever reads the last line of a log.
pub fn sentence(failure: &Failure) -> String {
    let Fault { message, causes, .. } = failure.fault();
    [vec![message], causes].concat().join(": ")
}
