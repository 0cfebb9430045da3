//! `/files`: tar archives into and out of the guest, streamed at the pace of the slower side: at most [`CHUNKS`] pieces wait
//! to leave, and what has arrived and waits for its disk is bounded by [`ahead_bytes`].
//!
//! The archive work is `files`' and blocks, so it runs on a thread of its own; a channel joins it to the connection. What an
//! archive may do is bounded by its folder: an entry that would leave it, also through a symbolic link, is refused.

use crate::http::{self, Answer, Body, Request, io_fault};
use crate::metrics;
use ::files::{Owner, PackOptions, Trust, UnpackOptions};
use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper::{Response, StatusCode, header};
use rustix::fs::{AtFlags, Timespec, Timestamps};
use std::fs;
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use wire::guest::{FileFacts, FileKind};
use wire::{Fault, FaultKind};

const CHUNKS: usize = 4;
const CHUNK_BYTES: usize = 64 * 1024;
/// 10 s for a sender to notice that its archive is not taken: closing at once could cut off the word that says why.
const DRAIN_WITHIN: Duration = Duration::from_secs(10);
/// 256 MiB: a repository of 50,000 files.
const MOST_AHEAD_BYTES: usize = 256 << 20;
/// 256 KiB: as much as the kernel holds of a vsock connection by itself.
const LEAST_AHEAD_BYTES: usize = 256 << 10;
/// An eighth of the memory that is free. A quarter was hardly faster (50,000 files into 1 GiB: 0.74 for 0.76 of the time
/// that a clone takes).
const AHEAD_SHARE: u64 = 8;

type Piece = io::Result<Bytes>;

/// `PUT`: unpacks the body below the folder.
pub async fn unpack(request: Request) -> Answer {
    let folder = absolute(http::required(&request, "path")?)?;
    let owner = match http::optional(&request, "owner").as_deref() {
        None => Owner::AsArchived,
        Some("root") => Owner::Of { uid: 0, gid: 0 },
        Some(_) => return Err(Fault::new(FaultKind::Invalid, "the owner of files is `root`, or as archived")),
    };
    let options = UnpackOptions { owner, trust: Trust::Own };
    let attempt = unpack_fault(format!("unpack into {}", folder.display()));
    receive(request, move |body| ::files::unpack(&folder, options, body)).await.map_err(attempt)?;
    http::status(StatusCode::NO_CONTENT)
}

/// How much may arrive before its turn. A sender that has used up what the guest's socket holds asks for room again and
/// again (vhost-device-vsock 0.3: eight interrupts for each packet), and the guest answers instead of working: under TCG a
/// repository of 5000 files took 17 s that way and takes 3 s when it may arrive first.
fn ahead_bytes(available: u64) -> usize {
    let share = usize::try_from(available / AHEAD_SHARE).unwrap_or(usize::MAX);
    share.clamp(LEAST_AHEAD_BYTES, MOST_AHEAD_BYTES)
}

/// Hands the body to `work` on a thread of its own, at the pace of the slower of the two.
pub async fn receive<T: Send + 'static>(
    request: Request,
    work: impl FnOnce(Incoming) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    hand_over(request.into_body(), ahead_bytes(metrics::available_bytes()), work).await
}

async fn hand_over<B, T>(
    mut body: B,
    ahead: usize,
    work: impl FnOnce(Incoming) -> io::Result<T> + Send + 'static,
) -> io::Result<T>
where
    B: hyper::body::Body<Data = Bytes, Error: std::error::Error + Send + Sync> + Unpin + Send + 'static,
    T: Send + 'static,
{
    let room = Arc::new(Semaphore::new(ahead));
    // Bounded by the room that each piece takes.
    let (pieces, incoming) = mpsc::unbounded_channel();
    let work = tokio::task::spawn_blocking(move || work(Incoming { pieces: incoming, rest: Bytes::new(), room: None }));
    while let Some(frame) = body.frame().await {
        let piece = frame.map(|frame| frame.into_data().unwrap_or_default()).map_err(io::Error::other);
        let taken = piece.as_ref().map_or(0, Bytes::len).min(ahead);
        let taken = u32::try_from(taken).expect("no piece is larger than the room");
        let taken = room.clone().acquire_many_owned(taken).await.expect("nobody closes the room");
        // The worker has failed and says why.
        if pieces.send((piece, taken)).is_err() {
            break;
        }
    }
    drop(pieces);
    let done = work.await.map_err(io::Error::other).flatten();
    if done.is_err() {
        tokio::spawn(tokio::time::timeout(DRAIN_WITHIN, async move { while let Some(Ok(_)) = body.frame().await {} }));
    }
    done
}

/// What is wrong with an archive is the sender's; what is wrong with a disk has a kind of its own.
pub fn unpack_fault(attempt: String) -> impl FnOnce(io::Error) -> Fault {
    move |error| match error.kind() {
        io::ErrorKind::Other | io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => {
            Fault::new(FaultKind::Invalid, format!("cannot {attempt}"))
                .with_cause(error.to_string())
                .with_sources(&error)
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            let fault = Fault::new(FaultKind::Refused, format!("cannot {attempt}: the guest's disk is full"));
            fault.with_cause(error.to_string()).with_hint("what was copied so far is there; make room and copy again")
        }
        _ => io_fault(attempt)(error),
    }
}

/// `GET`: the archive as a stream. What is known to be wrong before it starts is a fault; later failures cut it short.
pub fn pack(request: &Request) -> Answer {
    let path = absolute(http::required(request, "path")?)?;
    let name = http::optional(request, "name").map(PathBuf::from);
    let follow = http::optional(request, "follow").as_deref() == Some("true");
    let options = PackOptions { name, follow, ..PackOptions::default() };
    fs::symlink_metadata(&path).map_err(io_fault(format!("read {}", path.display())))?;
    let (pieces, outgoing) = mpsc::channel::<Piece>(CHUNKS);
    tokio::task::spawn_blocking(move || {
        let failed = pieces.clone();
        let output = BufWriter::with_capacity(CHUNK_BYTES, Outgoing(pieces));
        if let Err(error) = ::files::pack(&path, &options, output, &mut |_| {}) {
            let _ = failed.blocking_send(Err(error));
        }
    });
    let frames = stream::unfold(outgoing, async |mut outgoing| {
        let piece = outgoing.recv().await?;
        Some((piece.map(Frame::data), outgoing))
    });
    let body: Body = BodyExt::boxed(StreamBody::new(frames));
    Response::builder()
        .header(header::CONTENT_TYPE, "application/x-tar")
        .body(body)
        .map_err(|error| Fault::new(FaultKind::Internal, "cannot answer").with_cause(error.to_string()))
}

/// `/stat`: what lies at the end of a path and of its links.
pub fn stat(request: &Request) -> Answer {
    let path = absolute(http::required(request, "path")?)?;
    let read = |path: &PathBuf| match fs::canonicalize(path) {
        Ok(real) => Ok((fs::metadata(&real)?, real)),
        // A link that leads nowhere is there all the same.
        Err(error) => fs::symlink_metadata(path).map(|facts| (facts, path.clone())).map_err(|_| error),
    };
    let (facts, real) = read(&path).map_err(io_fault(format!("look at {}", path.display())))?;
    let kind = match () {
        () if facts.is_file() => FileKind::File,
        () if facts.is_dir() => FileKind::Folder,
        () => FileKind::Other,
    };
    let path = real.into_os_string().into_string();
    let path = path.map_err(|_| Fault::new(FaultKind::Invalid, "the path leads to a name that is not UTF-8"))?;
    http::json(&FileFacts { kind, size: facts.len(), mode: facts.mode() & 0o7777, path })
}

pub fn absolute(path: String) -> Result<PathBuf, Fault> {
    let path = PathBuf::from(path);
    if path.is_absolute() {
        return Ok(path);
    }
    Err(Fault::new(FaultKind::Invalid, format!("{} does not start with /", path.display())))
}

/// The body as the worker reads it.
pub struct Incoming {
    pieces: mpsc::UnboundedReceiver<(Piece, OwnedSemaphorePermit)>,
    rest: Bytes,
    /// What the piece that `rest` belongs to takes.
    room: Option<OwnedSemaphorePermit>,
}

impl Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            // The next piece may need all of the room.
            self.room = None;
            match self.pieces.blocking_recv() {
                Some((piece, room)) => {
                    self.rest = piece?;
                    self.room = Some(room);
                }
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.rest.len());
        buffer[..count].copy_from_slice(&self.rest.split_to(count));
        Ok(count)
    }
}

struct Outgoing(mpsc::Sender<Piece>);

impl Write for Outgoing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = Ok(Bytes::copy_from_slice(bytes));
        self.0.blocking_send(piece).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub fn set_time(path: &Path, seconds: u64) -> io::Result<()> {
    let time = Timespec { tv_sec: i64::try_from(seconds).unwrap_or(i64::MAX), tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(rustix::fs::utimensat(rustix::fs::CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicUsize, Ordering};

    const PIECE: usize = 1000;

    /// A body of ten pieces that counts those which were taken from it.
    fn body(
        asked: &Arc<AtomicUsize>,
    ) -> impl hyper::body::Body<Data = Bytes, Error = Infallible> + Unpin + Send + 'static {
        let asked = asked.clone();
        let pieces = (0..10).map(move |number| {
            asked.fetch_add(1, Ordering::SeqCst);
            Ok(Frame::data(Bytes::from(vec![number; PIECE])))
        });
        StreamBody::new(stream::iter(pieces))
    }

    #[test]
    fn what_may_arrive_first_is_a_share_of_the_free_memory_within_bounds() {
        assert_eq!(ahead_bytes(0), 256 << 10);
        assert_eq!(ahead_bytes(800 << 20), 100 << 20);
        assert_eq!(ahead_bytes(u64::MAX), 256 << 20);
    }

    #[tokio::test]
    async fn a_slow_reader_gets_all_and_no_more_than_the_room_arrives_first() {
        for (ahead, most) in [(10, 2), (PIECE, 2), (3 * PIECE, 4), (100 * PIECE, 10)] {
            let asked = Arc::new(AtomicUsize::new(0));
            let seen = asked.clone();
            let read = hand_over(body(&asked), ahead, move |mut incoming| {
                // Whatever may come has come.
                std::thread::sleep(Duration::from_millis(50));
                let first = seen.load(Ordering::SeqCst);
                let mut all = Vec::new();
                incoming.read_to_end(&mut all)?;
                Ok((first, all))
            });
            let (first, all) = read.await.unwrap();
            assert_eq!(first, most, "with room for {ahead}");
            assert_eq!(all, (0..10).flat_map(|number| vec![number; PIECE]).collect::<Vec<u8>>());
        }
    }

    #[tokio::test]
    async fn a_reader_that_gives_up_holds_nobody() {
        let asked = Arc::new(AtomicUsize::new(0));
        let failed = hand_over(body(&asked), PIECE, |mut incoming| -> io::Result<()> {
            incoming.read_exact(&mut [0; 10])?;
            Err(io::ErrorKind::StorageFull.into())
        });
        assert_eq!(failed.await.unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}
