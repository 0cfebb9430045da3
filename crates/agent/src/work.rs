//! `/work`: shows the host what was done below a folder and hands out what it asks for; see [`wire::guest::work`].
//!
//! [`scan`] lists, [`read`] sends contents, [`watch`] tells that something changed. None of them knows git. Each runs on
//! a thread of its own and is joined to its connection by a channel of [`CHUNKS`] pieces: a host that reads slowly slows it,
//! one that hangs up ends it.

mod read;
mod scan;
mod watch;

pub use read::read;
pub use scan::scan;
pub use watch::watch;

use crate::http::{self, Body, Request};
use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, Limited, StreamBody};
use hyper::body::Frame;
use hyper::{Response, header};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;
use wire::guest::work::{PATHS_LIMIT_BYTES, RecordError, decode_paths};
use wire::{Fault, FaultKind};

const CHUNKS: usize = 4;
const CHUNK_BYTES: usize = 64 * 1024;

type Piece = io::Result<Bytes>;
/// Names below the folder.
type Paths = Vec<Vec<u8>>;

/// The folder, which exists, and the paths that the request names.
async fn asked(request: Request) -> Result<(PathBuf, Paths), Fault> {
    asked_for(request, decode_paths).await
}

async fn asked_for(
    request: Request,
    decode: fn(&[u8]) -> Result<Paths, RecordError>,
) -> Result<(PathBuf, Paths), Fault> {
    let top = PathBuf::from(http::required(&request, "path")?);
    if !top.is_absolute() {
        return Err(Fault::new(FaultKind::Invalid, format!("{} does not start with /", top.display())));
    }
    let facts = std::fs::symlink_metadata(&top).map_err(http::io_fault(format!("read {}", top.display())))?;
    if !facts.is_dir() {
        return Err(Fault::new(FaultKind::NotFound, format!("{} is no folder", top.display())));
    }
    let refused = |error: String| Fault::new(FaultKind::Invalid, "cannot read the list of paths").with_cause(error);
    let body = Limited::new(request.into_body(), PATHS_LIMIT_BYTES).collect().await;
    let body = body.map_err(|error| refused(error.to_string()))?.to_bytes();
    Ok((top, decode(&body).map_err(|error| refused(error.to_string()))?))
}

/// An answer that a thread writes. What fails after it began cuts it short.
fn answer(
    kind: &'static str,
    work: impl FnOnce(&mut dyn Write) -> io::Result<()> + Send + 'static,
) -> Result<Response<Body>, Fault> {
    let (pieces, outgoing) = mpsc::channel::<Piece>(CHUNKS);
    tokio::task::spawn_blocking(move || {
        let failed = pieces.clone();
        let mut output = io::BufWriter::with_capacity(CHUNK_BYTES, Outgoing(pieces));
        if let Err(error) = work(&mut output).and_then(|()| output.flush()) {
            let _ = failed.blocking_send(Err(error));
        }
    });
    streamed(kind, outgoing)
}

fn streamed(kind: &'static str, outgoing: mpsc::Receiver<Piece>) -> Result<Response<Body>, Fault> {
    let frames = stream::unfold(outgoing, async |mut outgoing| {
        let piece = outgoing.recv().await?;
        Some((piece.map(Frame::data), outgoing))
    });
    let body: Body = BodyExt::boxed(StreamBody::new(frames));
    Response::builder()
        .header(header::CONTENT_TYPE, kind)
        .body(body)
        .map_err(|error| Fault::new(FaultKind::Internal, "cannot answer").with_cause(error.to_string()))
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

fn below(top: &Path, path: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    top.join(std::ffi::OsStr::from_bytes(path))
}
