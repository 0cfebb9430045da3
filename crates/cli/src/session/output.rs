//! What the guest prints on its way to our stdout and stderr, in the order in which it came, written at once by a
//! thread of its own. It tells when stdout takes no more.

use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use tokio::sync::{mpsc, watch};

/// 8 frames of at most 64 KiB between the socket and a slow reader.
const FRAMES: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

pub struct Output {
    frames: mpsc::Sender<(Stream, Bytes)>,
}

impl Output {
    /// Waits until there is room. Output for a closed stream is dropped: `Unread` tells of it.
    pub async fn write(&self, stream: Stream, bytes: Bytes) {
        if bytes.is_empty() {
            return;
        }
        let _ = self.frames.send((stream, bytes)).await;
    }

    /// Returns when the last byte is written.
    pub async fn finish(self) {
        let Output { frames } = self;
        // The thread drops its end after the last frame; an empty one tells that there will be no more.
        if frames.send((Stream::Stdout, Bytes::new())).await.is_ok() {
            frames.closed().await;
        }
    }
}

/// Whether stdout takes no more, and why: EPIPE where nobody reads it, ENOSPC on a full disk.
pub struct Unread(watch::Receiver<Option<Errno>>);

impl Unread {
    /// Never resolves while stdout takes what it is given.
    pub async fn wait(&mut self) -> Errno {
        match self.0.wait_for(Option::is_some).await.map(|found| *found) {
            Ok(Some(errno)) => errno,
            _ => std::future::pending().await,
        }
    }

    pub fn has_come(&self) -> Option<Errno> {
        *self.0.borrow()
    }
}

pub fn pump() -> (Output, Unread) {
    let (frames, mut next) = mpsc::channel::<(Stream, Bytes)>(FRAMES);
    let (tell, unread) = watch::channel(None);
    std::thread::spawn(move || {
        while let Some((stream, bytes)) = next.blocking_recv() {
            if bytes.is_empty() {
                return;
            }
            let written = match stream {
                Stream::Stdout => write_all(io::stdout().as_fd(), &bytes),
                Stream::Stderr => write_all(io::stderr().as_fd(), &bytes),
            };
            // A lost stderr is no reason to end the command.
            if let Err(errno) = written
                && stream == Stream::Stdout
            {
                // The session may have ended at the same moment.
                let _ = tell.send(Some(errno));
                return;
            }
        }
    });
    (Output { frames }, Unread(unread))
}

/// Past the buffer of `std::io::stdout`, which would hold a prompt back until its newline comes.
fn write_all(stream: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::write(stream, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            // Somebody who shares this pipe made it non-blocking.
            Err(Errno::AGAIN) => wait_writable(stream)?,
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn wait_writable(stream: BorrowedFd<'_>) -> Result<(), Errno> {
    match poll(&mut [PollFd::new(&stream, PollFlags::OUT)], None) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(errno),
    }
}
