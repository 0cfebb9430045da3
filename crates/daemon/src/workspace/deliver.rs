//! From a preparation to a folder in a guest: one tar stream to the agent, at the pace of the slower side, then the record.
//!
//! The stream is made on the calling thread and sent by a task; a channel of a few pieces joins them. A stream that breaks
//! off (cancelled, host disk full, a file that cannot be read) ends without its end, and the agent then changes nothing.

use super::WorkspaceError;
use super::delta::{Delta, Manifest, delta};
use super::prepare::Preparation;
use super::ship::{Shipped, ship, ship_delta};
use super::template;
use crate::app::{App, HostKind};
use crate::guest::{self, GuestError};
use crate::home::limits::SMALL_BYTES;
use crate::home::live::LiveTree;
use crate::home::tree::read_small;
use bytes::{Bytes, BytesMut};
use engine::Sandbox;
use engine::host::{Report, Unit, Watch};
use lz4_flex::frame::FrameEncoder;
use model::workspace::Workspace;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use wire::guest::{LZ4, Placed};
use wire::{Fault, FaultKind};

/// Pieces on their way to the guest, of [`PIECE_BYTES`] each.
const PIECES: usize = 8;
const PIECE_BYTES: usize = 128 * 1024;
/// 60 s: a guest under emulation that writes to a slow disk still takes a piece in a few.
const PIECE_WITHIN: Duration = Duration::from_secs(60);
/// 10 min for the guest to put a million files in place.
const PLACED_WITHIN: Duration = Duration::from_secs(600);

/// 1 MiB: what is smaller is there before anybody notices.
const LEAST_PACKED_BYTES: u64 = 1 << 20;

/// A shipment of more than a quarter of all files is a new one rather than a change.
const MOST_OF: usize = 4;

type Piece = io::Result<Bytes>;

pub struct Delivered {
    pub workspace: Workspace,
    pub shipped: Shipped,
    pub placed: Placed,
    /// Nothing of it, or little, was there before: worth a template for the next sandbox.
    pub mostly_new: bool,
}

/// Ships into a running sandbox, and records it. Call with the sandbox's workspace lock held.
pub fn deliver(app: &App, sandbox: &Sandbox, preparation: &Preparation, watch: &dyn Watch) -> Result<Delivered, Fault> {
    let name = sandbox.name();
    let path = preparation.wish.guest_path.as_str();
    watch.report(Report::Stage { text: format!("shipping {} to {path}", preparation.host_path().display()) });
    let scratch = Scratch::make(app).map_err(|source| write_failed(preparation, source))?;
    let record = sandbox.workspaces.iter().find(|workspace| workspace.guest_path == path);
    let file = app.layout.shipped(&sandbox.id, folder_number(path));
    let manifest = Manifest::take(preparation, format!("{:016x}", app.host.clock.random()));
    let mut changes = match record {
        Some(_) => delta(preparation, record, Manifest::read(&file), &manifest),
        None => template::base(app, sandbox, preparation, &manifest),
    };
    if let Some(changes) = changes.as_mut().filter(|changes| !changes.settings.is_empty()) {
        changes.guest_config = guest_config(app, sandbox, path);
    }
    let journey = Journey { app, sandbox, preparation, scratch: scratch.path(), watch, id: &manifest.id };
    let is_most = |changes: &Delta| changes.changed.len() * MOST_OF > preparation.entries.len();
    let (mostly_new, (shipped, placed)) = match changes.as_ref().map(|changes| journey.go(Some(changes))) {
        // The guest's disk is older or newer than what we remember: it gets everything.
        Some(Err(fault)) if fault.kind == FaultKind::NotFound => (true, journey.go(None)?),
        Some(outcome) => (changes.as_ref().is_some_and(is_most), outcome?),
        None => (true, journey.go(None)?),
    };
    if let Err(error) = manifest.write(&file) {
        // Everything travels the next time.
        tracing::warn!(%error, "cannot remember what was shipped");
        let _ = fs::remove_file(&file);
    }
    let workspace = preparation.record(app.host.clock.now());
    app.engine.record_workspace(&sandbox.id, workspace.clone()).map_err(crate::server::fault)?;
    app.homes.nudge();
    tracing::info!(vm = %name, path, files = shipped.files, bytes = shipped.bytes, "shipped a workspace");
    Ok(Delivered { workspace, shipped, placed, mostly_new })
}

/// What the guest's repository is set to; none where nobody tells.
fn guest_config(app: &App, sandbox: &Sandbox, path: &str) -> Option<Vec<u8>> {
    if app.kind != HostKind::Real {
        return None;
    }
    let end = Instant::now() + PIECE_WITHIN;
    let mut tree = LiveTree::new(&app.layout.vsock(&sandbox.id), path, Handle::current(), end);
    read_small(&mut tree, &[(b".git/config".to_vec(), SMALL_BYTES)]).ok()?.pop().flatten()
}

/// Stands for a folder of the guest in the name of a file: FNV-1a, which is the same tomorrow.
fn folder_number(path: &str) -> u64 {
    path.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

/// One archive on its way.
struct Journey<'a> {
    app: &'a App,
    sandbox: &'a Sandbox,
    preparation: &'a Preparation,
    scratch: &'a Path,
    watch: &'a dyn Watch,
    /// The shipment's name.
    id: &'a str,
}

impl Journey<'_> {
    fn go(&self, changes: Option<&Delta>) -> Result<(Shipped, Placed), Fault> {
        match self.app.kind {
            HostKind::Sim => Ok((self.write(changes, &mut io::sink())?, Placed::default())),
            HostKind::Real => self.stream(changes),
        }
    }

    fn write(&self, changes: Option<&Delta>, out: &mut dyn Write) -> Result<Shipped, WorkspaceError> {
        let Preparation { source, entries, options, .. } = self.preparation;
        match changes {
            Some(changes) => ship_delta(source, changes, options, self.scratch, out),
            None => ship(source, entries, options, self.scratch, out),
        }
    }

    fn target(&self, changes: Option<&Delta>) -> String {
        let path = self.preparation.wish.guest_path.as_str();
        let is_known = self.sandbox.workspaces.iter().any(|workspace| workspace.guest_path == path);
        // What lies there may be a template's that is of no use after all.
        let over = is_known || self.sandbox.spec.work_template.is_some();
        let (discard, id) = (self.preparation.wish.discard, self.id);
        let base = changes.map(|changes| format!("&base={}&fresh={}", changes.base, changes.fresh)).unwrap_or_default();
        format!("/workspace?path={}&over={over}&discard={discard}&id={id}{base}", guest::percent_encode(path))
    }

    fn stream(&self, changes: Option<&Delta>) -> Result<(Shipped, Placed), Fault> {
        let (pieces, body) = mpsc::channel::<Piece>(PIECES);
        let vsock = self.app.layout.vsock(&self.sandbox.id);
        let runtime = Handle::current();
        let is_large = changes.is_none() && self.preparation.measured.bytes >= LEAST_PACKED_BYTES;
        let is_packed = is_large && runtime.block_on(knows_lz4(&vsock));
        let encoding = if is_packed { "&encoding=lz4" } else { "" };
        let target = self.target(changes) + encoding;
        let call = runtime.spawn(async move { guest::put::<Placed>(&vsock, &target, body).await });
        let total = if changes.is_some() { 0 } else { self.preparation.measured.bytes };
        let (watch, piece) = (self.watch, BytesMut::new());
        let out = Out { pieces, runtime: runtime.clone(), piece, watch, done: 0, total };
        let mut out = if is_packed { Packing::Lz4(Box::new(FrameEncoder::new(out))) } else { Packing::Plain(out) };
        let failed = |source| WorkspaceError::Write { path: self.preparation.host_path().to_path_buf(), source };
        let shipped = self.write(changes, &mut out).and_then(|shipped| out.end().map(|()| shipped).map_err(failed));
        match &shipped {
            Ok(_) => drop(out),
            Err(error) => out.break_off(&error.to_string()),
        }
        if watch.cancelled() {
            let message = format!("cannot ship to {}: it was cancelled", self.sandbox.name());
            return Err(Fault::new(FaultKind::Cancelled, message));
        }
        let answer = match runtime.block_on(async { tokio::time::timeout(PLACED_WITHIN, call).await }) {
            Ok(joined) => joined.map_err(|error| Fault::new(FaultKind::Internal, error.to_string()))?,
            Err(_) => Err(GuestError::Silent { call: "PUT /workspace".into(), within: PLACED_WITHIN }),
        };
        match (shipped, answer) {
            (Ok(shipped), Ok(placed)) => Ok((shipped, placed)),
            // What the guest says explains why its side of the stream ended.
            (_, Err(GuestError::Refused { source, .. })) => Err(refused(self.sandbox, *source)),
            (Err(WorkspaceError::Write { .. }) | Ok(_), Err(error)) => {
                Err(crate::server::guest_fault(self.sandbox.name(), &error))
            }
            (Err(error), _) => Err(error.into()),
        }
    }
}

fn refused(sandbox: &Sandbox, fault: Fault) -> Fault {
    match fault.kind {
        FaultKind::Conflict if fault.hint.is_none() => {
            let name = sandbox.name();
            fault.with_hint(format!(
                "`banger vm workspace pull {name}` brings the guest's work home; `--discard` replaces it on purpose"
            ))
        }
        _ => fault,
    }
}

fn write_failed(preparation: &Preparation, source: io::Error) -> Fault {
    WorkspaceError::Write { path: preparation.host_path().to_path_buf(), source }.into()
}

/// An agent of before does not; then nothing is packed.
async fn knows_lz4(vsock: &Path) -> bool {
    let known = guest::get::<Vec<String>>(vsock, "/encodings").await;
    known.is_ok_and(|known| known.iter().any(|name| name == LZ4))
}

/// The archive, packed where the guest can unpack it: a vsock device under emulation carries 15 MB/s.
enum Packing<'a> {
    Plain(Out<'a>),
    Lz4(Box<FrameEncoder<Out<'a>>>),
}

impl<'a> Packing<'a> {
    fn out(&mut self) -> &mut Out<'a> {
        match self {
            Packing::Plain(out) => out,
            Packing::Lz4(encoder) => encoder.get_mut(),
        }
    }

    /// What is still held goes on its way.
    fn end(&mut self) -> io::Result<()> {
        if let Packing::Lz4(encoder) = self {
            encoder.try_finish()?;
        }
        self.out().flush()
    }

    fn break_off(self, why: &str) {
        match self {
            Packing::Plain(out) => out.break_off(why),
            Packing::Lz4(encoder) => encoder.into_inner().break_off(why),
        }
    }
}

impl Write for Packing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = match self {
            Packing::Plain(out) => out.write(bytes),
            Packing::Lz4(encoder) => encoder.write(bytes),
        }?;
        self.out().done += taken as u64;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Packing::Plain(out) => out.flush(),
            Packing::Lz4(encoder) => encoder.flush(),
        }
    }
}

/// The archive as pieces of a body.
struct Out<'a> {
    pieces: mpsc::Sender<Piece>,
    runtime: Handle,
    piece: BytesMut,
    watch: &'a dyn Watch,
    /// Of the archive, whatever it is packed in.
    done: u64,
    total: u64,
}

impl Out<'_> {
    /// The body ends in an error, so the agent knows that this is not all. One that takes not even that never gets an end.
    fn break_off(self, why: &str) {
        let word = self.pieces.send_timeout(Err(io::Error::other(why.to_owned())), PIECE_WITHIN);
        if let Err(mpsc::error::SendTimeoutError::Timeout(_)) = self.runtime.block_on(word) {
            tracing::warn!("a guest takes nothing; its import is left hanging until it ends");
            std::mem::forget(self.pieces);
        }
    }

    fn send(&mut self) -> io::Result<()> {
        if self.watch.cancelled() {
            return Err(io::Error::other("it was cancelled"));
        }
        let piece = self.piece.split().freeze();
        let sent = self.runtime.block_on(self.pieces.send_timeout(Ok(piece), PIECE_WITHIN));
        sent.map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the guest takes no more"))?;
        // The archive's own headers and the history come on top of the files.
        let total = Some(self.total.max(self.done));
        self.watch.report(Report::Progress { done: self.done, total, unit: Unit::Bytes });
        Ok(())
    }
}

impl Write for Out<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = PIECE_BYTES - self.piece.len();
        let taken = &bytes[..bytes.len().min(room)];
        self.piece.extend_from_slice(taken);
        if self.piece.len() == PIECE_BYTES {
            self.send()?;
        }
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() { Ok(()) } else { self.send() }
    }
}

/// A folder of ours for the staged repository; it goes with the value.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn make(app: &App) -> io::Result<Scratch> {
        use std::os::unix::fs::DirBuilderExt;
        let path = app.layout.shipment(app.host.clock.random());
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
        Ok(Scratch(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, path = %self.0.display(), "cannot remove a staged repository");
        }
    }
}

/// Looks after what a daemon that was killed left behind.
pub fn clear_scratch(app: &App) {
    let _ = fs::remove_dir_all(app.layout.shipments());
}
