//! What the command writes: into a file of bounded size, of which the host reads and follows, and a little of it onto
//! the console, so that `vm logs` shows it even of a machine that is gone.
//!
//! The console is a serial port that the VMM emulates byte by byte: a command that writes much must not wait for it.
//! So the console gets what fits in an allowance ([`ALLOWANCE_BYTES`], refilled at [`REFILL_BYTES_PER_S`]).

use super::place::Place;
use crate::http::Body;
use crate::serve::Server;
use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::Response;
use hyper::body::Frame;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::mpsc;

/// 10 MiB, and as much again in the file before it.
const MAX_LOG_BYTES: u64 = 10 * 1024 * 1024;
/// 64 KiB at once on the console, 8 KiB/s for long.
const ALLOWANCE_BYTES: f64 = 65536.0;
const REFILL_BYTES_PER_S: f64 = 8192.0;
const CHUNK_BYTES: usize = 64 * 1024;
/// 1 MiB: how far back `tail` looks.
const MAX_TAIL_BYTES: u64 = 1024 * 1024;
/// 1 s: what inotify does not announce (a supervisor that was killed) is noticed by looking again.
const LOOK_AGAIN: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

pub struct Log {
    place: Place,
    file: Option<File>,
    length: u64,
    allowance: f64,
    refilled: Instant,
    left_out: bool,
}

impl Log {
    /// A guest whose disk takes no log has a command all the same.
    pub fn open(place: &Place) -> Log {
        let mut log = Log {
            place: place.clone(),
            file: None,
            length: 0,
            allowance: ALLOWANCE_BYTES,
            refilled: Instant::now(),
            left_out: false,
        };
        log.reopen();
        log
    }

    fn reopen(&mut self) {
        let path = self.place.log();
        let opened = fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))
            .and_then(|()| OpenOptions::new().create(true).append(true).open(path));
        match opened {
            Ok(file) => {
                self.length = file.metadata().map_or(0, |facts| facts.len());
                self.file = Some(file);
            }
            Err(error) => crate::console::say(&format!("banger-service: cannot open {}: {error}", path.display())),
        }
    }

    /// A full disk loses lines, never the command.
    pub fn write(&mut self, bytes: &[u8]) {
        if self.length > MAX_LOG_BYTES && fs::rename(self.place.log(), self.place.old_log()).is_ok() {
            self.reopen();
        }
        if let Some(file) = &mut self.file
            && file.write_all(bytes).is_ok()
        {
            self.length += bytes.len() as u64;
        }
        self.copy_to_console(bytes);
    }

    fn copy_to_console(&mut self, bytes: &[u8]) {
        let since = self.refilled.elapsed().as_secs_f64();
        self.refilled = Instant::now();
        self.allowance = (self.allowance + since * REFILL_BYTES_PER_S).min(ALLOWANCE_BYTES);
        if self.allowance >= bytes.len() as f64 {
            self.allowance -= bytes.len() as f64;
            self.left_out = false;
            let _ = io::stderr().write_all(bytes);
        } else if !self.left_out {
            self.left_out = true;
            crate::console::say("banger-service: it writes too much for the console; its log has the rest");
        }
    }
}

/// The log as the body of an answer, read by a thread of its own at the reader's pace.
pub fn stream(server: Arc<Server>, tail: Option<u64>, follow: bool) -> Response<Body> {
    let (pieces, outgoing) = mpsc::channel::<io::Result<Bytes>>(4);
    tokio::task::spawn_blocking(move || {
        if let Err(error) = send(&server.service, tail, follow, &pieces) {
            let _ = pieces.blocking_send(Err(error));
        }
    });
    let frames = stream::unfold(outgoing, async |mut outgoing| {
        let piece = outgoing.recv().await?;
        Some((piece.map(Frame::data), outgoing))
    });
    Response::new(BodyExt::boxed(StreamBody::new(frames)))
}

type Pieces = mpsc::Sender<io::Result<Bytes>>;

fn send(place: &Place, tail: Option<u64>, follow: bool, pieces: &Pieces) -> io::Result<()> {
    let watch = if follow { Some(watch(place)?) } else { None };
    let mut file = match (File::open(place.log()), tail) {
        (Ok(mut file), Some(lines)) => {
            let start = tail_start(&mut file, lines)?;
            file.seek(SeekFrom::Start(start))?;
            Some(file)
        }
        (Ok(file), None) => {
            if let Ok(mut old) = File::open(place.old_log()) {
                copy(&mut old, pieces)?;
            }
            Some(file)
        }
        (Err(_), _) => None,
    };
    loop {
        // Asked before reading: what was written until then is sent.
        let over = !super::may_go_on(place);
        if file.is_none() {
            file = File::open(place.log()).ok();
        }
        if let Some(open) = &mut file {
            copy(open, pieces)?;
            if was_replaced(open, place) {
                file = None;
                continue;
            }
        }
        let Some(watch) = &watch else { return Ok(()) };
        if over || pieces.is_closed() {
            return Ok(());
        }
        await_change(watch);
    }
}

fn copy(file: &mut File, pieces: &Pieces) -> io::Result<()> {
    loop {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        if file.take(CHUNK_BYTES as u64).read_to_end(&mut chunk)? == 0 {
            return Ok(());
        }
        pieces.blocking_send(Ok(chunk.into())).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
    }
}

fn was_replaced(file: &File, place: &Place) -> bool {
    let own = file.metadata().map(|facts| facts.ino());
    let there = fs::metadata(place.log()).map(|facts| facts.ino());
    matches!((own, there), (Ok(own), Ok(there)) if own != there)
}

/// Both folders: the log's, and the state's for the command's end.
fn watch(place: &Place) -> io::Result<OwnedFd> {
    let watch = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)?;
    let events = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO;
    for folder in [place.log().parent(), Some(place.folder())].into_iter().flatten() {
        let _ = fs::create_dir_all(folder);
        inotify::add_watch(&watch, folder, events)?;
    }
    Ok(watch)
}

fn await_change(watch: &OwnedFd) {
    let _ = poll(&mut [PollFd::new(watch, PollFlags::IN)], Some(&LOOK_AGAIN));
    let mut events = [0u8; 4096];
    while rustix::io::read(watch, &mut events).is_ok_and(|count| count > 0) {}
}

fn tail_start(file: &mut File, lines: u64) -> io::Result<u64> {
    let length = file.metadata()?.len();
    let from = length.saturating_sub(MAX_TAIL_BYTES);
    file.seek(SeekFrom::Start(from))?;
    let mut end = Vec::new();
    file.take(MAX_TAIL_BYTES).read_to_end(&mut end)?;
    Ok(from + nth_line_from_end(&end, lines) as u64)
}

fn nth_line_from_end(text: &[u8], lines: u64) -> usize {
    if lines == 0 {
        return text.len();
    }
    let body = text.strip_suffix(b"\n").unwrap_or(text);
    let breaks = body.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
    let skip = usize::try_from(lines - 1).unwrap_or(usize::MAX);
    breaks.map(|(at, _)| at + 1).nth(skip).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_found() {
        for (text, lines, expected) in [("a\nb\nc\n", 1, "c\n"), ("a\nb", 1, "b"), ("a\n", 9, "a\n"), ("a\n", 0, "")] {
            assert_eq!(&text[nth_line_from_end(text.as_bytes(), lines)..], expected, "{text:?}, {lines}");
        }
    }

    #[test]
    fn a_log_that_grew_too_large_becomes_the_old_one() {
        let folder = tempfile::tempdir().expect("temp dir");
        let place = Place::at(folder.path());
        let mut log = Log::open(&place);
        log.allowance = 0.0;
        log.left_out = true;
        let block = vec![b'x'; 1024 * 1024];
        for _ in 0..12 {
            log.write(&block);
            log.allowance = 0.0;
        }
        assert_eq!(fs::metadata(place.old_log()).expect("old").len(), 11 * 1024 * 1024);
        assert_eq!(fs::metadata(place.log()).expect("new").len(), 1024 * 1024);
    }
}
