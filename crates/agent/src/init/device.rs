//! Waiting for a block device: the kernel's own announcement (a uevent) wakes us, a deadline ends the wait.

use super::InitError;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

/// Blocks until `path` exists. Listening starts before looking, so an announcement in between is not lost.
pub fn wait_for(path: &Path, deadline: Duration) -> Result<(), InitError> {
    let listener = listen().map_err(InitError::step("listen for new devices"))?;
    let end = Instant::now() + deadline;
    loop {
        if path.exists() {
            return Ok(());
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(InitError::NoDevice { what: path.display().to_string(), seconds: deadline.as_secs() });
        }
        wait_for_event(&listener, left);
    }
}

/// Group 1 is the kernel's; udev's is 2.
fn listen() -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(KOBJECT_UEVENT))?;
    bind(&socket, &SocketAddrNetlink::new(0, 1))?;
    Ok(socket)
}

/// What an event says does not matter: any of them is a reason to look again. An overflowed queue wakes us as well.
fn wait_for_event(listener: &OwnedFd, left: Duration) {
    let timeout = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
    let _ = poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&timeout));
    let mut event = [0u8; 4096];
    while recv(listener, &mut event, RecvFlags::empty()).is_ok() {}
}
