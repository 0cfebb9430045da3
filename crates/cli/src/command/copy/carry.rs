//! The archive on its way: what this host packs or unpacks runs on a thread, joined to the connection by a channel that holds
//! a few pieces, so that the slower side sets the pace.

use super::place::{Place, Source, Target};
use crate::client::Path as ApiPath;
use crate::command::Context;
use crate::failure::{Failure, Outcome};
use crate::render::progress::Line;
use crate::render::{self, note};
use bytes::Bytes;
use files::{Owner, PackOptions, Trust, UnpackOptions};
use std::io::{self, BufWriter, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use wire::FaultKind;
use wire::control::Event;

/// Pieces on their way.
const PIECES: usize = 8;
const PIECE_BYTES: usize = 64 * 1024;
/// 100 ms between two words about how far it is.
const TICK: Duration = Duration::from_millis(100);

type Piece = io::Result<Bytes>;

pub struct Carried {
    way: Option<Way>,
    /// Packs or unpacks here.
    worker: Option<JoinHandle<io::Result<Vec<String>>>>,
    counted: Arc<AtomicU64>,
    total: Option<u64>,
    title: String,
}

enum Way {
    Up { from: mpsc::Receiver<Piece>, to: ApiPath },
    Down { from: ApiPath, to: mpsc::Sender<Piece> },
    Out { from: ApiPath },
    Across { from: ApiPath, to: ApiPath },
}

impl Carried {
    pub fn begin(context: &Context, source: &Source, target: &Target, archive: bool) -> Outcome<Carried> {
        let _ = context;
        let counted = Arc::new(AtomicU64::new(0));
        let (sender, receiver) = mpsc::channel(PIECES);
        let read = |vm: &str, path: &str| {
            let query = ApiPath::vm(vm).then("files").query("path", path).query("name", &target.name);
            if source.follow { query.query("follow", "true") } else { query }
        };
        let write = |vm: &str, path: &str| {
            let query = ApiPath::vm(vm).then("files").query("path", path);
            if archive { query } else { query.query("owner", "root") }
        };
        let (mut worker, mut total) = (None, None);
        let way = match (&source.place, &target.place) {
            (Place::Host(path), Place::Guest { vm, path: folder }) => {
                total = files::measure(path, source.follow).ok();
                let name = Some(PathBuf::from(&target.name));
                let options = PackOptions { name, follow: source.follow, ..PackOptions::default() };
                worker = Some(pack(path.clone(), options, sender));
                Way::Up { from: receiver, to: write(vm, folder) }
            }
            (Place::Stream, Place::Guest { vm, path: folder }) => {
                std::thread::spawn(move || read_stdin(&sender));
                Way::Up { from: receiver, to: write(vm, folder) }
            }
            (Place::Guest { vm, path }, Place::Host(folder)) => {
                let owner = if archive { Owner::AsArchived } else { Owner::Ours };
                worker = Some(unpack(folder.clone(), UnpackOptions { owner, trust: Trust::Foreign }, receiver));
                Way::Down { from: read(vm, path), to: sender }
            }
            (Place::Guest { vm, path }, Place::Stream) => Way::Out { from: read(vm, path) },
            (Place::Guest { vm, path }, Place::Guest { vm: other, path: folder }) => {
                Way::Across { from: read(vm, path), to: write(other, folder) }
            }
            _ => return Err(Failure::new(FaultKind::Invalid, "one of both must be in a sandbox")),
        };
        let title = format!("copying {}", source.place);
        Ok(Carried { way: Some(way), worker, counted, total, title })
    }

    /// To the end, or as long as somebody waits for it.
    pub async fn run(&mut self, context: &Context, line: &Line) -> Outcome<u64> {
        let Some(way) = self.way.take() else { return Ok(0) };
        line.event::<()>(&Event::Stage { text: self.title.clone() });
        let counted = self.counted.clone();
        let work = carry(context, way, counted.clone());
        let told = async {
            loop {
                tokio::time::sleep(TICK).await;
                let done = counted.load(Ordering::Relaxed);
                line.event::<()>(&Event::Progress { done, total: self.total, unit: "bytes".into() });
            }
        };
        tokio::select! {
            ended = work => ended.map(|()| self.counted.load(Ordering::Relaxed)),
            () = told => Ok(0),
        }
    }

    /// Waits for the thread here, whose channel is closed by now, and shows what it left out.
    pub async fn finish(mut self) -> io::Result<()> {
        self.way = None;
        match self.worker.take() {
            None => Ok(()),
            Some(worker) => {
                let notes = worker.await.map_err(io::Error::other).flatten()?;
                notes.iter().for_each(|line| note(line));
                Ok(())
            }
        }
    }
}

/// Which of both ends tells why: the one that failed first, as far as can be seen.
pub fn verdict(remote: Outcome<u64>, local: io::Result<()>) -> Outcome<u64> {
    match (remote, local) {
        (Ok(bytes), Ok(())) => Ok(bytes),
        // The other side went, and its own words say why.
        (Err(failure), Ok(())) => Err(failure),
        (Err(failure), Err(error)) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof) => {
            Err(failure)
        }
        (_, Err(error)) => Err(local_failure(&error)),
    }
}

fn local_failure(error: &io::Error) -> Failure {
    let kind = match error.kind() {
        ErrorKind::NotFound => FaultKind::NotFound,
        ErrorKind::PermissionDenied => FaultKind::Refused,
        ErrorKind::InvalidData | ErrorKind::InvalidInput => FaultKind::Invalid,
        _ => FaultKind::Internal,
    };
    Failure::new(kind, format!("cannot copy: {error}"))
}

async fn carry(context: &Context, way: Way, counted: Arc<AtomicU64>) -> Outcome {
    let client = &context.client;
    match way {
        Way::Up { from, to } => Ok(client.upload(to, counting(from, counted)).await?),
        Way::Down { from, to } => pass(context, from, &to, &counted).await,
        Way::Out { from } => {
            let mut pieces = client.open(from).await?;
            while let Some(piece) = pieces.chunk().await? {
                counted.fetch_add(piece.len() as u64, Ordering::Relaxed);
                render::raw(&piece)?;
            }
            Ok(())
        }
        Way::Across { from, to } => {
            let (sender, receiver) = mpsc::channel(PIECES);
            let down = async {
                let passed = pass(context, from, &sender, &counted).await;
                if passed.is_err() {
                    // An end here would look like the archive's.
                    let _ = sender.send(Err(ErrorKind::BrokenPipe.into())).await;
                }
                drop(sender);
                passed
            };
            let (down, up) = tokio::join!(down, client.upload(to, receiver));
            // A source that failed is why its copy did; a target that takes no more ended the source.
            match (down, up) {
                (Ok(()), up) => Ok(up?),
                (Err(_), Err(crate::client::ClientError::Fault(fault))) => Err(fault.into()),
                (down, _) => down,
            }
        }
    }
}

/// Ends when nobody takes more, too: whoever unpacks has failed then, and says why.
async fn pass(context: &Context, from: ApiPath, to: &mpsc::Sender<Piece>, counted: &AtomicU64) -> Outcome {
    let mut pieces = context.client.open(from).await?;
    loop {
        let piece = match pieces.chunk().await {
            Ok(Some(piece)) => piece,
            Ok(None) => return Ok(()),
            Err(error) => {
                let _ = to.send(Err(ErrorKind::UnexpectedEof.into())).await;
                return Err(error.into());
            }
        };
        counted.fetch_add(piece.len() as u64, Ordering::Relaxed);
        if to.send(Ok(piece)).await.is_err() {
            return Ok(());
        }
    }
}

fn counting(mut from: mpsc::Receiver<Piece>, counted: Arc<AtomicU64>) -> mpsc::Receiver<Piece> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        while let Some(piece) = from.recv().await {
            counted.fetch_add(piece.as_ref().map_or(0, |piece| piece.len() as u64), Ordering::Relaxed);
            if sender.send(piece).await.is_err() {
                return;
            }
        }
    });
    receiver
}

fn pack(path: PathBuf, options: PackOptions, pieces: mpsc::Sender<Piece>) -> JoinHandle<io::Result<Vec<String>>> {
    tokio::task::spawn_blocking(move || {
        let output = BufWriter::with_capacity(PIECE_BYTES, Outgoing(pieces));
        files::pack(&path, &options, output, &mut |_| {}).map(|()| Vec::new())
    })
}

fn unpack(
    folder: PathBuf,
    options: UnpackOptions,
    pieces: mpsc::Receiver<Piece>,
) -> JoinHandle<io::Result<Vec<String>>> {
    tokio::task::spawn_blocking(move || {
        let input = Incoming { pieces, rest: Bytes::new() };
        files::unpack(Path::new(&folder), options, input).map(|done| done.notes)
    })
}

fn read_stdin(pieces: &mpsc::Sender<Piece>) {
    let mut stdin = io::stdin().lock();
    loop {
        let mut piece = vec![0; PIECE_BYTES];
        let read = stdin.read(&mut piece).map(|count| {
            piece.truncate(count);
            Bytes::from(piece)
        });
        let last = read.as_ref().map_or(true, Bytes::is_empty);
        if matches!(&read, Ok(piece) if piece.is_empty()) || pieces.blocking_send(read).is_err() || last {
            return;
        }
    }
}

struct Outgoing(mpsc::Sender<Piece>);

impl Write for Outgoing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = Ok(Bytes::copy_from_slice(bytes));
        self.0.blocking_send(piece).map_err(|_| io::Error::from(ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Incoming {
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
