//! A sandbox of a repository begins with it: its work disk is a clone of one that was prepared with a clean checkout.
//!
//! ```text
//!  make: clean checkout of HEAD + ledger ─► archive ─► templates/repository-<name>.ext4, .shipped
//!  create with a workspace ─► choose: same key, and its commit is one that HEAD follows; else make one now
//!                          ─► the work disk is a clone of it
//!  whole shipment into a sandbox that is there already ─► make one in the background
//!  first shipment there ─► base: a delta from the template, as if the sandbox had been shipped to before
//! ```
//! Only what the host has goes on one, and of that only what is committed: never a guest's word, no edit, no staged or
//! untracked file. What cannot be told apart safely (submodules, names that mean something in a layer, a file that
//! changes while it is read) makes the file travel, or makes no template; the shipment is then whole, as without one.

use super::deliver::Scratch;
use super::delta::{Delta, Manifest, delta_of_template, follows};
use super::inspect::{Repository, Source, inspect};
use super::list::{Entry, paths, submodules};
use super::prepare::{Preparation, Wish};
use super::ship::{ShipOptions, ship_template};
use super::{Result, WorkspaceError};
use crate::app::{App, HostKind};
use crate::home::disk::locate;
use crate::home::quarantine::digest;
use crate::host::disk::{DiskError, prepared};
use engine::Sandbox;
use engine::host::{Report, Unwatched, Watch};
use model::workspace::{GuestPath, WorkspaceMode};
use model::{ByteSize, ImageName, WorkTemplate};
use rustix::process::setpriority_process;
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Changes whenever what goes on a template does.
const FORMAT: &str = "banger template 1";
/// Below both of these a shipment costs less than anybody notices.
const LEAST_FILES: u64 = 500;
const LEAST_BYTES: u64 = 8 << 20;
/// The lowest there is (setpriority(2)): somebody works in the guest meanwhile.
const NICE: i32 = 19;
/// The archive, the disk, and a bit.
const ROOM_FACTOR: u64 = 3;

/// One is made at a time; who comes meanwhile goes without.
#[derive(Debug, Default)]
pub struct Making(AtomicBool);

/// The turn of whoever makes one.
pub struct Turn<'a>(&'a Making);

impl Making {
    fn take(&self) -> Option<Turn<'_>> {
        (!self.0.swap(true, Ordering::AcqRel)).then_some(Turn(self))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.0.store(false, Ordering::Release);
    }
}

#[derive(Debug, thiserror::Error)]
enum TemplateError {
    #[error(transparent)]
    Workspace(#[from] WorkspaceError),
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error("cannot stage it")]
    Stage(#[from] io::Error),
}

/// The template that a new work disk may begin with.
pub fn choose(app: &App, image: &ImageName, size: ByteSize, wish: &Wish) -> Option<WorkTemplate> {
    let held = if app.kind == HostKind::Real { prepared::list(&app.layout) } else { Vec::new() };
    // Most often there is none: then nobody has to look at the repository.
    if held.is_empty() {
        return None;
    }
    let source = inspect(&wish.path).ok()?;
    let repository = eligible(&source, wish)?;
    let (key, head) = (key(app, image, size, repository, wish), repository.head.as_deref()?);
    let mut same = held.into_iter().map(|held| held.name).filter(|name| name.key() == key);
    same.find(|name| follows(repository, name.commit(), head).is_some())
}

/// What has to travel to a guest whose disk began with a template; none where that is of no use for this.
pub fn base(app: &App, sandbox: &Sandbox, preparation: &Preparation, now: &Manifest) -> Option<Delta> {
    let name = sandbox.spec.work_template.as_ref()?;
    let repository = eligible(&preparation.source, &preparation.wish)?;
    let spec = &sandbox.spec;
    if key(app, &spec.image, spec.disk_size, repository, &preparation.wish) != name.key() {
        return None;
    }
    let memory = Manifest::read(&app.layout.work_template_memory(name)).filter(|memory| memory.id == name.id())?;
    delta_of_template(preparation, repository, name.commit(), memory, now)
}

/// Makes one for a sandbox that is about to be created: this host writes a file system faster than a guest fills its own.
/// None where it is of no use, or fails: then the repository is shipped once the guest runs.
pub fn make_now(app: &App, image: &ImageName, size: ByteSize, wish: Wish, watch: &dyn Watch) -> Option<WorkTemplate> {
    // An image that is still to be fetched may bring a seed that no one knows yet.
    let is_there = app.layout.image_work_seed(image).is_file();
    if app.kind != HostKind::Real || !is_there {
        return None;
    }
    let _turn = app.template_making.take()?;
    let path = wish.path.display().to_string();
    make(app, image, size, wish, watch)
        .inspect_err(|error| tracing::info!(path, error = crate::homecoming::chain(error), "made no template"))
        .ok()
        .flatten()
}

/// Makes one for the sandboxes that come after this one. Nobody waits for it, and nobody misses it: a daemon that ends
/// leaves it half-made, which the next one clears away.
pub fn make_later(app: &Arc<App>, sandbox: &Sandbox, wish: Wish) {
    if app.kind != HostKind::Real || app.template_making.0.swap(true, Ordering::AcqRel) {
        return;
    }
    let (shared, image, size) = (app.clone(), sandbox.spec.image.clone(), sandbox.spec.disk_size);
    let work = move || {
        // Of this thread and the programs that it starts.
        let _ = setpriority_process(None, NICE);
        let path = wish.path.display().to_string();
        let _turn = Turn(&shared.template_making);
        match make(&shared, &image, size, wish, &Unwatched) {
            Ok(Some(_)) => {}
            Ok(None) => tracing::debug!(path, "no template is wanted"),
            Err(error) => tracing::info!(path, error = crate::homecoming::chain(&error), "made no template"),
        }
    };
    if let Err(error) = std::thread::Builder::new().name("template".into()).spawn(work) {
        tracing::warn!(%error, "cannot make a template");
        app.template_making.0.store(false, Ordering::Release);
    }
}

fn make(
    app: &App,
    image: &ImageName,
    size: ByteSize,
    wish: Wish,
    watch: &dyn Watch,
) -> std::result::Result<Option<WorkTemplate>, TemplateError> {
    let begun = Instant::now();
    let wish = Wish { branch: None, include_untracked: false, discard: false, ..wish };
    let mut preparation = Preparation::look(wish)?;
    let Some((repository, head)) = worth_it(&preparation)? else { return Ok(None) };
    let key = key(app, image, size, &repository, &preparation.wish);
    let is_there = prepared::list(&app.layout).iter().any(|held| held.name.key() == key && held.name.commit() == head);
    if is_there || !prepared::has_room(&app.layout, preparation.measured.bytes.saturating_mul(ROOM_FACTOR)) {
        return Ok(None);
    }
    let path = preparation.wish.path.display().to_string();
    watch.report(Report::Stage { text: format!("preparing a disk with {path}") });
    let wanted = || !app.is_stopping() && !watch.cancelled();
    preparation.entries = clean(&repository, std::mem::take(&mut preparation.entries))?;
    let memory = Manifest::take(&preparation, format!("{:016x}", app.host.clock.random()));
    let name: WorkTemplate = format!("{key}-{head}-{}", memory.id).parse().expect("its parts are hexadecimal");
    let scratch = Scratch::make(app)?;
    let archive = scratch.path().join("archive.tar");
    let place = place(&preparation.wish.guest_path);
    let options = ShipOptions { from: Some(head), ..preparation.options.clone() };
    let mut out = BufWriter::new(WhileWanted { file: File::create(&archive)?, wanted: &wanted });
    let staging = scratch.path().join("repository");
    ship_template(&repository, &preparation.entries, &options, &staging, (&place, &memory.id), &mut out)?;
    out.flush()?;
    if !wanted() || !prepared::has_room(&app.layout, archive.metadata()?.len().saturating_mul(2)) {
        return Ok(None);
    }
    let contents = prepared::Contents {
        image,
        size,
        archive: &archive,
        new_name: place.iter().next().unwrap_or_default().as_bytes(),
        memory: &|file| memory.write(file),
    };
    prepared::make(&app.layout, &name, &contents, &wanted)?;
    prepared::sweep(&app.layout, &name);
    tracing::info!(%name, path, took_ms = begun.elapsed().as_millis() as u64, "made a template");
    Ok(Some(name))
}

/// Ends the work on an archive that nobody waits for any more.
struct WhileWanted<'a> {
    file: File,
    wanted: &'a dyn Fn() -> bool,
}

impl Write for WhileWanted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match (self.wanted)() {
            true => self.file.write(bytes),
            false => Err(io::Error::other("it is not wanted any more")),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// The repository and its commit, where a template of them would save something.
fn worth_it(preparation: &Preparation) -> Result<Option<(Repository, String)>> {
    let large = preparation.measured.files >= LEAST_FILES || preparation.measured.bytes >= LEAST_BYTES;
    let Some(repository) = eligible(&preparation.source, &preparation.wish).filter(|_| large) else { return Ok(None) };
    let whole = preparation.inner.is_empty() && submodules(repository)?.is_empty();
    let head = repository.head.clone().filter(|_| whole);
    Ok(head.map(|head| (repository.clone(), head)))
}

/// A folder on the work disk, and a repository that is shipped as such from where it is.
fn eligible<'a>(source: &'a Source, wish: &Wish) -> Option<&'a Repository> {
    let Source::Git(repository) = source else { return None };
    let fits = wish.mode != WorkspaceMode::Files && wish.from.is_none() && on_work_disk(&wish.guest_path);
    fits.then(|| repository.as_ref())
}

fn on_work_disk(path: &GuestPath) -> bool {
    crate::home::disk::is_on_work_disk(path.as_str()) && !place(path).as_os_str().is_empty()
}

/// The folder's path on the work disk.
fn place(path: &GuestPath) -> PathBuf {
    let nowhere = Path::new("");
    let (_, inside) = locate(path.as_str(), nowhere, nowhere);
    PathBuf::from(inside.trim_start_matches('/'))
}

/// All that two work disks must have in common for one to begin as the other.
fn key(app: &App, image: &ImageName, size: ByteSize, repository: &Repository, wish: &Wish) -> String {
    let depth = match wish.mode {
        WorkspaceMode::Shallow => wish.depth.unwrap_or(super::ship::DEFAULT_DEPTH),
        WorkspaceMode::Full | WorkspaceMode::Files => 0,
    };
    let origin = prepared::origin(&app.layout, image);
    let facts = format!("{image} {origin:x} {} {depth} {} {}", size.bytes(), wish.readonly, wish.guest_path.as_str());
    let (top, common) = (repository.top.as_os_str().as_bytes(), repository.common_folder.as_os_str().as_bytes());
    digest([FORMAT.as_bytes(), facts.as_bytes(), repository.object_format.as_bytes(), top, common])[..16].to_owned()
}

/// Tracked files that are as they were committed, under names that mean nothing but themselves.
fn clean(repository: &Repository, entries: Vec<Entry>) -> Result<Vec<Entry>> {
    let words = ["diff", "--name-only", "--no-renames", "--ignore-submodules=all", "-z", "HEAD", "--"];
    let changed: HashSet<PathBuf> = paths(&repository.git.ask(words)?).collect();
    // In a layer `.wh.NAME` would hide NAME.
    let is_plain = |path: &Path| !path.iter().any(|part| part.as_bytes().starts_with(b".wh."));
    let is_clean = |entry: &Entry| entry.tracked && !changed.contains(&entry.path) && is_plain(&entry.path);
    Ok(entries.into_iter().filter(is_clean).collect())
}
