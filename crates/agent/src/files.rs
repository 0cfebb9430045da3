//! `/files`: tar archives into and out of the guest, streamed: at most [`CHUNKS`] pieces are held, at the pace of the slower side.
//!
//! The archive work blocks and runs on a thread of its own; a channel joins it to the connection. What an archive may do
//! is bounded by its folder: an entry that would leave it, also through a symbolic link, is refused.

use crate::http::{self, Answer, Body, Request, io_fault};
use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper::{Response, StatusCode, header};
use rustix::fs::{AtFlags, Timespec, Timestamps};
use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};
use tar::{Builder, EntryType, Header};
use tokio::sync::mpsc;
use wire::{Fault, FaultKind};

const CHUNKS: usize = 4;
const CHUNK_BYTES: usize = 64 * 1024;

type Piece = io::Result<Bytes>;

/// `PUT`: unpacks the body below the folder.
pub async fn unpack(request: Request) -> Answer {
    let folder = absolute(http::required(&request, "path")?)?;
    let attempt = unpack_fault(format!("unpack into {}", folder.display()));
    receive(request, move |body| unpack_below(&folder, body)).await.map_err(attempt)?;
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
    work.await.map_err(io::Error::other).flatten()
}

/// The library says `Other` of what is wrong with an archive; what is wrong with a disk has a kind of its own.
pub fn unpack_fault(attempt: String) -> impl FnOnce(io::Error) -> Fault {
    move |error| match error.kind() {
        io::ErrorKind::Other | io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => {
            Fault::new(FaultKind::Invalid, format!("cannot {attempt}"))
                .with_cause(error.to_string())
                .with_sources(&error)
        }
        _ => io_fault(attempt)(error),
    }
}

/// `GET`: the archive as a stream. What is known to be wrong before it starts is a fault; later failures cut it short.
pub fn pack(request: &Request) -> Answer {
    let path = absolute(http::required(request, "path")?)?;
    fs::symlink_metadata(&path).map_err(io_fault(format!("read {}", path.display())))?;
    let (pieces, outgoing) = mpsc::channel::<Piece>(CHUNKS);
    tokio::task::spawn_blocking(move || {
        let failed = pieces.clone();
        let output = BufWriter::with_capacity(CHUNK_BYTES, Outgoing(pieces));
        if let Err(error) = pack_tree(&path, output) {
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

/// Folders get their modes and times last: a folder without write permission must not keep its own files out.
pub fn unpack_below(folder: &Path, input: impl Read) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let folder = fs::canonicalize(folder)?;
    let mut archive = tar::Archive::new(input);
    archive.set_preserve_permissions(true);
    archive.set_preserve_ownerships(rustix::process::geteuid().is_root());
    archive.set_unpack_xattrs(true);
    let mut folders = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = entry.path()?.into_owned();
        check_inside(&name)?;
        if entry.header().entry_type() == EntryType::Directory {
            make_inside(&folder, &name)?;
            folders.push(entry);
        } else if !entry.unpack_in(&folder)? {
            return Err(outside(&name));
        }
    }
    folders.sort_by(|a, b| b.path_bytes().cmp(&a.path_bytes()));
    for mut entry in folders {
        let name = entry.path()?.into_owned();
        if !entry.unpack_in(&folder)? {
            return Err(outside(&name));
        }
        set_time(&folder.join(name), entry.header().mtime()?)?;
    }
    Ok(())
}

/// The library leaves a folder with the time of its last child.
pub fn set_time(path: &Path, seconds: u64) -> io::Result<()> {
    let time = Timespec { tv_sec: i64::try_from(seconds).unwrap_or(i64::MAX), tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(rustix::fs::utimensat(rustix::fs::CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Makes the folders of `name` one by one: a symbolic link on the way may not lead out of `folder`.
fn make_inside(folder: &Path, name: &Path) -> io::Result<()> {
    let mut path = folder.to_owned();
    for part in name.components() {
        path.push(part);
        match fs::symlink_metadata(&path) {
            Ok(facts) if facts.is_dir() => {}
            Ok(_) if fs::canonicalize(&path).is_ok_and(|target| target.starts_with(folder) && target.is_dir()) => {}
            Ok(_) => return Err(outside(name)),
            Err(_) => fs::create_dir(&path)?,
        }
    }
    Ok(())
}

fn check_inside(name: &Path) -> io::Result<()> {
    if name.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Ok(());
    }
    Err(outside(name))
}

fn outside(name: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("the entry {} would leave the folder", name.display()))
}

/// Walks one tree and writes it down.
struct Packer<W: Write> {
    archive: Builder<W>,
    device: u64,
    /// Files with several names, by device and number: the second name becomes a link to the first.
    linked: HashMap<(u64, u64), PathBuf>,
}

fn pack_tree(path: &Path, output: impl Write) -> io::Result<()> {
    let facts = fs::symlink_metadata(path)?;
    let mut archive = Builder::new(output);
    archive.follow_symlinks(false);
    archive.sparse(false);
    let mut packer = Packer { archive, device: facts.dev(), linked: HashMap::new() };
    let name = path.file_name().map_or_else(|| PathBuf::from("."), PathBuf::from);
    packer.add(path, &name, &facts)?;
    packer.archive.into_inner()?.flush()
}

impl<W: Write> Packer<W> {
    fn add(&mut self, path: &Path, name: &Path, facts: &Metadata) -> io::Result<()> {
        let kind = facts.file_type();
        // Only a folder can lead to another file system, and on an overlay only folders show its own number.
        if kind.is_socket() || kind.is_dir() && facts.dev() != self.device {
            return Ok(());
        }
        if kind.is_dir() {
            self.archive.append_dir(name, path)?;
            return self.add_children(path, name);
        }
        if !kind.is_file() {
            return self.archive.append_path_with_name(path, name);
        }
        if facts.nlink() > 1 {
            if let Some(first) = self.linked.get(&(facts.dev(), facts.ino())) {
                let mut header = header_of(facts);
                header.set_entry_type(EntryType::Link);
                header.set_size(0);
                return self.archive.append_link(&mut header, name, first);
            }
            self.linked.insert((facts.dev(), facts.ino()), name.to_owned());
        }
        self.add_file(path, name)
    }

    /// A file that shrinks meanwhile is filled up with zeros, as tar does: its size is already written.
    fn add_file(&mut self, path: &Path, name: &Path) -> io::Result<()> {
        let file = File::open(path)?;
        let facts = file.metadata()?;
        let content = file.take(facts.len()).chain(io::repeat(0)).take(facts.len());
        self.archive.append_data(&mut header_of(&facts), name, content)
    }

    /// In name order, so that one tree is always one archive. What vanishes meanwhile is left out.
    fn add_children(&mut self, path: &Path, name: &Path) -> io::Result<()> {
        let mut children: Vec<PathBuf> =
            fs::read_dir(path)?.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<_>>()?;
        children.sort();
        for child in children {
            let facts = match fs::symlink_metadata(&child) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                facts => facts?,
            };
            let Some(own) = child.file_name() else { continue };
            self.add(&child, &name.join(own), &facts)?;
        }
        Ok(())
    }
}

fn header_of(facts: &Metadata) -> Header {
    let mut header = Header::new_gnu();
    header.set_metadata(facts);
    header
}
