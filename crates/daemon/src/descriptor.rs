//! Descriptors whose readiness is awaited: a pidfd, an inotify instance. The one place that registers them.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers for reading. Call on the runtime.
pub fn readable(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is a valid open descriptor and answers `as_raw_fd` with the same number until it is dropped,
    // and the `AsyncFd` owns it from here on; nobody else can close it.
    let registered = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) };
    registered.map_err(io::Error::from)
}
