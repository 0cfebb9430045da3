//! `/files`: tar archives into and out of the guest, streamed: at most [`CHUNKS`] pieces are held, at the pace of the slower side.
//!
//! The archive work is `files`' and blocks, so it runs on a thread of its own; a channel joins it to the connection. What an
//! archive may do is bounded by its folder: an entry that would leave it, also through a symbolic link, is refused.

use crate::http::{self, Answer, Body, Request, io_fault};
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
use std::time::Duration;
use tokio::sync::mpsc;
use wire::guest::{FileFacts, FileKind};
use wire::{Fault, FaultKind};

const CHUNKS: usize = 4;
const CHUNK_BYTES: usize = 64 * 1024;
/// 10 s for a sender to notice that its archive is not taken: closing at once could cut off the word that says why.
const DRAIN_WITHIN: Duration = Duration::from_secs(10);

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

/// Hands the body to `work` on a thread of its own, at the pace of the slower of the two.
pub async fn receive<T: Send + 'static>(
    request: Request,
    work: impl FnOnce(Incoming) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (pieces, incoming) = mpsc::channel(CHUNKS);
    let work = tokio::task::spawn_blocking(move || work(Incoming { pieces: incoming, rest: Bytes::new() }));
    let mut body = request.into_body();
    while let Some(frame) = body.frame().await {
        let piece = frame.map(|frame| frame.into_data().unwrap_or_default()).map_err(io::Error::other);
        // The worker has failed and says why.
        if pieces.send(piece).await.is_err() {
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
    pieces: mpsc::Receiver<Piece>,
    rest: Bytes,
}

impl Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.rest = piece?,
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
