//! Our ends of a command's pipes or terminal, waited for without a buffer of their own: an idle command costs no memory.
//!
//! tokio's pipes take a terminal as well: they only read and write. A terminal is duplicated, one descriptor a direction.

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use std::io;
use std::os::fd::OwnedFd;
use tokio::net::unix::pipe::{Receiver, Sender};

/// The end that we read the command's output from.
pub struct Output(Receiver);

impl Output {
    pub fn new(descriptor: OwnedFd) -> io::Result<Output> {
        set_nonblocking(&descriptor)?;
        Receiver::from_owned_fd_unchecked(descriptor).map(Output)
    }

    /// Until there is something to read, or the end.
    pub async fn readable(&self) -> io::Result<()> {
        self.0.readable().await
    }

    /// Fills the spare room of `buffer`: `None` if there was nothing after all, 0 at the end.
    pub fn try_read(&self, buffer: &mut Vec<u8>) -> io::Result<Option<usize>> {
        match self.0.try_read_buf(buffer) {
            Ok(count) => Ok(Some(count)),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(None),
                // A terminal whose other side is closed says EIO where a pipe says 0.
                _ if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => Ok(Some(0)),
                _ => Err(error),
            },
        }
    }
}

/// The end that we write the command's input to.
pub struct Input(Sender);

impl Input {
    pub fn new(descriptor: OwnedFd) -> io::Result<Input> {
        set_nonblocking(&descriptor)?;
        Sender::from_owned_fd_unchecked(descriptor).map(Input)
    }

    pub async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.0.writable().await?;
            match self.0.try_write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn set_nonblocking(descriptor: &OwnedFd) -> io::Result<()> {
    Ok(fcntl_setfl(descriptor, fcntl_getfl(descriptor)? | OFlags::NONBLOCK)?)
}
