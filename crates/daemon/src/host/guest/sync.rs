//! The owner's files for every guest (`[[file_sync]]`): one archive, packed while it is sent, unpacked by the agent below
//! root's home as root's. A host file that is not there is worth a note; one that cannot be read fails the start.

use crate::config::file_sync::FileSync;
use crate::guest::{self, GuestError};
use bytes::Bytes;
use files::{Links, PackOptions, Packer};
use futures_util::stream;
use http_body_util::{BodyExt, Limited, StreamBody};
use hyper::Request;
use hyper::body::Frame;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;
use wire::{Fault, FaultKind};

/// Root's home in every guest.
const GUEST_HOME: &str = "/root";
const PIECES: usize = 4;
const PIECE_BYTES: usize = 64 * 1024;
/// 64 KiB: a fault of the agent.
const MAX_FAULT_BYTES: usize = 64 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    #[error("cannot find your home: HOME is not set")]
    Homeless,
    #[error(transparent)]
    Pack(io::Error),
    #[error(transparent)]
    Guest(#[from] GuestError),
    #[error(transparent)]
    Refused(Box<Fault>),
}

/// Answers a line for each file that was left out.
pub async fn sync(socket: &Path, wanted: &[FileSync]) -> Result<Vec<String>, SyncError> {
    let home = std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
    let home = home.ok_or(SyncError::Homeless)?;
    let (mut there, mut notes) = (Vec::new(), Vec::new());
    for file in wanted {
        let path = file.host.resolve(&home);
        match std::fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                notes.push(format!("{} is not there and was not copied into the guest", path.display()));
            }
            _ => there.push((path, file.clone())),
        }
    }
    if !there.is_empty() {
        notes.extend(send(socket, there).await?);
    }
    Ok(notes)
}

async fn send(socket: &Path, there: Vec<(PathBuf, FileSync)>) -> Result<Vec<String>, SyncError> {
    let (pieces, receiver) = mpsc::channel(PIECES);
    let packing = tokio::task::spawn_blocking(move || pack(&there, pieces));
    let frames = stream::unfold(receiver, async |mut pieces: mpsc::Receiver<io::Result<Bytes>>| {
        let piece = pieces.recv().await?;
        Some((piece.map(Frame::data), pieces))
    });
    let target = format!("/files?path={GUEST_HOME}&owner=root");
    let request = Request::put(target).header("host", "guest").body(StreamBody::new(Box::pin(frames)));
    let sent = guest::send(socket, request.expect("our own path is valid")).await;
    let refusal = match sent {
        Ok(response) if response.status().is_success() => None,
        Ok(response) => {
            let status = response.status();
            let said = Limited::new(response.into_body(), MAX_FAULT_BYTES).collect().await.ok();
            let fault = said.and_then(|said| serde_json::from_slice::<Fault>(&said.to_bytes()).ok());
            let unsaid = || Fault::new(FaultKind::GuestSilent, format!("the agent answered with status {status}"));
            Some(SyncError::Refused(Box::new(fault.unwrap_or_else(unsaid))))
        }
        Err(error) => Some(error.into()),
    };
    match (packing.await.map_err(io::Error::other).flatten(), refusal) {
        // A broken pipe is what the guest's refusal looks like from here.
        (Err(error), Some(refusal)) if error.kind() == io::ErrorKind::BrokenPipe => Err(refusal),
        (Err(error), _) => Err(SyncError::Pack(error)),
        (Ok(_), Some(refusal)) => Err(refusal),
        (Ok(notes), None) => Ok(notes),
    }
}

fn pack(there: &[(PathBuf, FileSync)], pieces: mpsc::Sender<io::Result<Bytes>>) -> io::Result<Vec<String>> {
    let mut silent = |_| {};
    let mut packer = Packer::new(BufWriter::with_capacity(PIECE_BYTES, Outgoing(pieces)), &mut silent);
    for (path, file) in there {
        let options =
            PackOptions { name: Some(file.guest.clone()), follow: true, mode: Some(file.mode), links: Links::Skip };
        packer.add(path, &options)?;
    }
    packer.finish()
}

struct Outgoing(mpsc::Sender<io::Result<Bytes>>);

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
