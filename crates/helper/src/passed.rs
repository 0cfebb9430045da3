//! What the process was started with: a listening socket from systemd (sd_listen_fds(3)), a descriptor to say "ready"
//! on, a notification socket (sd_notify(3)).
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};

/// The first descriptor that systemd passes (SD_LISTEN_FDS_START).
const FIRST: RawFd = 3;

/// The socket, when systemd started us with exactly one.
pub fn listener() -> io::Result<Option<UnixListener>> {
    let number = |key: &str| std::env::var(key).ok().and_then(|text| text.parse::<u32>().ok());
    if number("LISTEN_PID") != Some(std::process::id()) {
        return Ok(None);
    }
    match number("LISTEN_FDS") {
        Some(1) => {
            // SAFETY: systemd opened descriptor 3 for this very process (LISTEN_PID), and nobody took it before.
            let descriptor = unsafe { OwnedFd::from_raw_fd(FIRST) };
            nix::fcntl::fcntl(&descriptor, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))?;
            Ok(Some(UnixListener::from(descriptor)))
        }
        Some(count) => Err(io::Error::other(format!("{count} sockets were passed, and one is wanted"))),
        None => Ok(None),
    }
}

/// One line on a descriptor that the parent waits on, then its end; on standard output the line alone.
pub fn announce(descriptor: RawFd) -> io::Result<()> {
    match descriptor {
        1 => return io::stdout().write_all(b"ready\n"),
        ..=2 => return Err(io::Error::other("of the standard streams only 1 can be that descriptor")),
        3.. => {}
    }
    // SAFETY: the parent opened it for us and named it on the command line; nothing else here uses the number.
    let mut pipe = File::from(unsafe { OwnedFd::from_raw_fd(descriptor) });
    pipe.write_all(b"ready\n")
}

/// Tells systemd that the socket answers; without systemd, nobody.
pub fn notify() {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let address = match path.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&path),
    };
    if let (Ok(address), Ok(socket)) = (address, UnixDatagram::unbound()) {
        let _ = socket.send_to_addr(b"READY=1", &address);
    }
}
