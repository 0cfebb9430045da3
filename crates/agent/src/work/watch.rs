//! `POST /work/watch`: tells that something changed below a folder, by inotify(7), many changes at once as one.
//!
//! Every folder has a watch of its own, up to [`WATCH_LIMIT`] and what the kernel allows; folders that are made later get
//! theirs. Below `.git` only the folders are watched whose files git renames when a command is done: objects always
//! come before a reference or an index that names them.

use super::scan::{gone, walk};
use super::{CHUNKS, asked, streamed};
use crate::http::{self, Answer, Request};
use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use wire::guest::work::{BURST_MS, CHANGED_LIMIT, CHANGED_LIMIT_BYTES, QUIET_MS, WATCH_LIMIT, WatchEvent};

/// 5 s: how soon the end of a host is noticed that hung up while nothing changed.
const HANG_UP_CHECK: Duration = Duration::from_secs(5);
const EVENTS_BYTES: usize = 64 * 1024;

pub async fn watch(request: Request) -> Answer {
    let (top, pruned) = asked(request).await?;
    let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
        .map_err(|errno| http::io_fault("watch folders in the guest")(errno.into()))?;
    let (lines, outgoing) = mpsc::channel(CHUNKS);
    tokio::task::spawn_blocking(move || {
        let mut watcher = Watcher::new(inotify, top, pruned.into_iter().collect());
        if let Err(error) = watcher.run(&lines) {
            let _ = lines.blocking_send(Err(error));
        }
    });
    streamed("application/x-ndjson", outgoing)
}

struct Watcher {
    inotify: OwnedFd,
    top: PathBuf,
    pruned: HashSet<Vec<u8>>,
    /// The folder behind each watch, below the top.
    folders: HashMap<i32, Vec<u8>>,
    complete: bool,
    told: Told,
}

/// Folders in which something changed since that was told.
#[derive(Default)]
struct Told {
    folders: BTreeSet<Vec<u8>>,
    /// In some others, too.
    elsewhere: bool,
}

impl Told {
    fn take(&mut self) -> Option<Vec<String>> {
        let Told { folders, elsewhere } = std::mem::take(self);
        let bytes: usize = folders.iter().map(Vec::len).sum();
        let fits = !elsewhere && folders.len() <= CHANGED_LIMIT && bytes <= CHANGED_LIMIT_BYTES;
        // Each byte as the character of that number: a name need be no text.
        let name = |folder: &Vec<u8>| folder.iter().map(|byte| char::from(*byte)).collect();
        fits.then(|| folders.iter().map(name).collect())
    }
}

impl Watcher {
    fn new(inotify: OwnedFd, top: PathBuf, pruned: HashSet<Vec<u8>>) -> Watcher {
        Watcher { inotify, top, pruned, folders: HashMap::new(), complete: true, told: Told::default() }
    }

    fn run(&mut self, lines: &mpsc::Sender<io::Result<Bytes>>) -> io::Result<()> {
        self.add_tree(b"")?;
        let watching = WatchEvent::Watching { folders: self.folders.len() as u64, complete: self.complete };
        if lines.blocking_send(Ok(line(&watching)?)).is_err() {
            return Ok(());
        }
        while self.await_burst(lines)? {
            let changed = WatchEvent::Changed { folders: self.told.take() };
            if lines.blocking_send(Ok(line(&changed)?)).is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Returns after a burst of changes; false once the host has hung up.
    fn await_burst(&mut self, lines: &mpsc::Sender<io::Result<Bytes>>) -> io::Result<bool> {
        while !self.readable(HANG_UP_CHECK)? {
            if lines.is_closed() {
                return Ok(false);
            }
        }
        let end = Instant::now() + Duration::from_millis(BURST_MS);
        loop {
            self.take_events()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || !self.readable(left.min(Duration::from_millis(QUIET_MS)))? {
                return Ok(!lines.is_closed());
            }
        }
    }

    fn readable(&self, within: Duration) -> io::Result<bool> {
        let mut polled = [PollFd::new(&self.inotify, PollFlags::IN)];
        let within = Timespec { tv_sec: within.as_secs() as i64, tv_nsec: i64::from(within.subsec_nanos()) };
        match poll(&mut polled, Some(&within)) {
            Ok(count) => Ok(count > 0),
            Err(Errno::INTR) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Reads what the kernel has to tell; new folders are watched from here on.
    fn take_events(&mut self) -> io::Result<()> {
        let mut appeared = Vec::new();
        let mut overflowed = false;
        let mut buffer = [MaybeUninit::uninit(); EVENTS_BYTES];
        let mut reader = inotify::Reader::new(&self.inotify, &mut buffer);
        loop {
            let event = match reader.next() {
                Ok(event) => event,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno.into()),
            };
            let flags = event.events();
            overflowed |= flags.contains(ReadFlags::QUEUE_OVERFLOW);
            match self.folders.get(&event.wd()) {
                Some(folder) if self.told.folders.len() <= CHANGED_LIMIT => {
                    self.told.folders.insert(folder.clone());
                }
                _ => self.told.elsewhere = true,
            }
            if flags.contains(ReadFlags::IGNORED) {
                self.folders.remove(&event.wd());
            } else if flags.contains(ReadFlags::ISDIR)
                && flags.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO)
                && let (Some(folder), Some(name)) = (self.folders.get(&event.wd()), event.file_name())
            {
                appeared.push(join(folder, name.to_bytes()));
            }
        }
        if overflowed {
            // Anything may have been missed, so everything is looked at anew; a watch that is there stays.
            appeared.push(Vec::new());
        }
        appeared.iter().try_for_each(|folder| self.add_tree(folder))
    }

    /// Watches a folder and those below it.
    fn add_tree(&mut self, folder: &[u8]) -> io::Result<()> {
        if self.is_left_out(folder) || !self.add(folder)? {
            return Ok(());
        }
        let path = self.path(folder);
        walk(&path, &mut |below, facts| {
            if !facts.is_dir() {
                return Ok(false);
            }
            let name = join(folder, below);
            Ok(!self.is_left_out(&name) && self.add(&name)?)
        })
    }

    /// False where there is nothing to go into any further.
    fn add(&mut self, folder: &[u8]) -> io::Result<bool> {
        if self.folders.len() >= WATCH_LIMIT {
            self.complete = false;
            return Ok(false);
        }
        let wanted = WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::MODIFY
            | WatchFlags::ATTRIB
            | WatchFlags::ONLYDIR
            | WatchFlags::DONT_FOLLOW
            | WatchFlags::EXCL_UNLINK;
        match inotify::add_watch(&self.inotify, self.path(folder), wanted) {
            Ok(number) => {
                self.folders.insert(number, folder.to_vec());
                Ok(true)
            }
            // The kernel's own bound (fs.inotify.max_user_watches).
            Err(Errno::NOSPC | Errno::NOMEM) => {
                self.complete = false;
                Ok(false)
            }
            Err(errno) if gone(&errno.into()) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    fn is_left_out(&self, folder: &[u8]) -> bool {
        let inside_git = folder.strip_prefix(b".git/");
        inside_git.is_some_and(|inside| inside != b"refs" && !inside.starts_with(b"refs/"))
            || self.pruned.contains(folder)
    }

    fn path(&self, folder: &[u8]) -> PathBuf {
        self.top.join(Path::new(std::ffi::OsStr::from_bytes(folder)))
    }
}

fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    match folder {
        b"" => name.to_vec(),
        folder => [folder, b"/", name].concat(),
    }
}

fn line(event: &WatchEvent) -> io::Result<Bytes> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    Ok(line.into())
}
