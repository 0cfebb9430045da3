//! Keeps the work of every guest at home: looks at each workspace whenever its guest says that something changed, once
//! more before anything of it is removed, and refuses to lose what could not be brought home.
//!
//! ```text
//!  agent: /work/watch ─► changed ─► look ([`crate::home::sync`]) ─► refs/banger/<vm>/… on the host
//!  delete, run --rm   ─► settle: a last look (agent, or the disk of a guest that is off) ─► refused, or go on
//! ```
//! Nothing is polled: a look follows a word of the guest, except where it has more folders than can be watched. All of it
//! is found again after a restart, since it hangs on the engine's records and on `state.json` beside each quarantine.
//! One look at a workspace at a time; nobody waits for one longer than [`SETTLE_WITHIN`].

mod follow;

pub use follow::keep;

use crate::app::App;
use crate::home::disk::{self, DiskTree};
use crate::home::live::LiveTree;
use crate::home::recall::{Memory, Recalled};
use crate::home::{HomeError, Place, Report, Tree, sync};
use engine::Sandbox;
use model::workspace::Workspace;
use model::{SandboxId, State};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::watch;
use wire::control::WorkFacts;
use wire::{Fault, FaultKind};

/// 40 s for the last look before a delete: `run --rm` waits 60 s for the whole of it.
pub const SETTLE_WITHIN: Duration = Duration::from_secs(40);
/// 5 s for a look that is under way to end before a delete that gives its work up.
const DISCARD_WITHIN: Duration = Duration::from_secs(5);
/// 5 min for a look in the background: the first one at a large tree reads much of it.
pub const LOOK_WITHIN: Duration = Duration::from_secs(300);
/// 100 ms between two tries at a lock that another look holds.
const TURN: Duration = Duration::from_millis(100);
/// A guest that works on while it is looked at may name what was not there a moment ago: so often is asked again.
const TRIES: u32 = 3;

/// A workspace, by its sandbox and its folder in the guest.
type Key = (SandboxId, String);

/// What the daemon knows of all workspaces.
#[derive(Default)]
pub struct Homes {
    /// Workspaces that somebody looks at, or removes.
    turns: Arc<Mutex<HashSet<Key>>>,
    reports: Mutex<HashMap<Key, Report>>,
    /// Counts up whenever a workspace was recorded.
    news: watch::Sender<u64>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Homes {
    /// Says that a workspace was recorded: from now on it is watched.
    pub fn nudge(&self) {
        self.news.send_modify(|count| *count = count.wrapping_add(1));
    }

    pub fn report(&self, id: &SandboxId, guest_path: &str) -> Option<Report> {
        lock(&self.reports).get(&(id.clone(), guest_path.to_owned())).cloned()
    }

    /// For answers: what the last look at each workspace told.
    pub fn annotate(&self, vm: &mut wire::control::Sandbox) {
        let Ok(id) = vm.id.parse::<SandboxId>() else { return };
        for workspace in &mut vm.workspaces {
            workspace.work = self.report(&id, &workspace.guest_path).map(facts);
        }
    }

    fn forget(&self, id: &SandboxId) {
        lock(&self.reports).retain(|(other, _), _| other != id);
    }

    /// Waits for others that are at it; none where `end` comes first.
    fn turn(&self, id: &SandboxId, guest_path: &str, end: Instant) -> Option<Turn> {
        let key = (id.clone(), guest_path.to_owned());
        while !lock(&self.turns).insert(key.clone()) {
            if Instant::now() >= end {
                return None;
            }
            std::thread::sleep(TURN);
        }
        Some(Turn { turns: self.turns.clone(), key })
    }
}

/// While it is held nobody else looks at the workspace.
pub struct Turn {
    turns: Arc<Mutex<HashSet<Key>>>,
    key: Key,
}

impl Drop for Turn {
    fn drop(&mut self) {
        lock(&self.turns).remove(&self.key);
    }
}

pub fn facts(report: Report) -> WorkFacts {
    WorkFacts {
        looked_at_ns: report.looked_at,
        branch: report.branch,
        head_commit: report.head,
        wip_commit: report.wip,
        moved: report.moved,
        commits: report.commits,
        changed_files: report.changed_files,
        references: report.references,
        left: report.left,
    }
}

/// Where the work of a workspace is held on the host, and under which name it comes home.
pub fn place(app: &App, record: &Sandbox, workspace: &Workspace) -> Place {
    let host_path = PathBuf::from(&workspace.host_path);
    // Two workspaces of one repository in one sandbox need two names; a sandbox's own has no dot.
    let mut same = record.workspaces.iter().filter(|other| other.host_path == workspace.host_path);
    let is_first = same.next().is_none_or(|first| first.guest_path == workspace.guest_path);
    let slug: String = workspace.guest_path.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let slug = slug.trim_matches('-');
    let home = if is_first { record.name().to_string() } else { format!("{}.at-{slug}", record.name()) };
    let mut folder_name: String = slug.chars().take(60).collect();
    folder_name.push('-');
    folder_name.push_str(&crate::home::digest_of(workspace.guest_path.as_bytes())[..8]);
    Place {
        folder: app.layout.work_home(&record.id).join(folder_name),
        home,
        host_path,
        prepared_at: workspace.prepared_at,
        include_untracked: workspace.include_untracked,
    }
}

/// Looks at a workspace now, in whichever way its guest allows. Blocks, until `end` at the longest.
pub fn look(app: &App, id: &SandboxId, guest_path: &str, end: Instant) -> Result<Report, HomeError> {
    let turn = app.homes.turn(id, guest_path, end);
    let _turn = turn.ok_or_else(|| HomeError::Late { path: guest_path.to_owned() })?;
    look_in_turn(app, id, guest_path, end)
}

/// As [`look`], at a guest of which the last such look remembers what it holds.
pub fn look_again(
    app: &App,
    id: &SandboxId,
    guest_path: &str,
    end: Instant,
    memory: &mut Memory,
) -> Result<Report, HomeError> {
    let turn = app.homes.turn(id, guest_path, end);
    let _turn = turn.ok_or_else(|| HomeError::Late { path: guest_path.to_owned() })?;
    let (record, workspace) = find(app, id, guest_path)?;
    if record.state != State::Running {
        memory.forget();
        return look_in_turn(app, id, guest_path, end);
    }
    let tree = LiveTree::new(&app.layout.vsock(&record.id), guest_path, Handle::current(), end);
    let mut recalled = Recalled { tree, memory };
    let report = sync(&mut recalled, &place(app, &record, &workspace), app.host.clock.now());
    match report {
        Ok(report) if report.left.is_empty() => {
            lock(&app.homes.reports).insert((id.clone(), guest_path.to_owned()), report.clone());
            Ok(report)
        }
        // Whatever is wrong is told only of what is there for sure.
        Ok(_) | Err(_) => {
            memory.forget();
            look_in_turn(app, id, guest_path, end)
        }
    }
}

fn look_in_turn(app: &App, id: &SandboxId, guest_path: &str, end: Instant) -> Result<Report, HomeError> {
    let mut tries = 0;
    let mut left_before = Vec::new();
    loop {
        let (record, workspace) = find(app, id, guest_path)?;
        let place = place(app, &record, &workspace);
        let mut tree = tree(app, &record, guest_path, &place, end)?;
        let report = sync(tree.as_mut(), &place, app.host.clock.now())?;
        // Read beside a VMM that began to write again meanwhile, a disk tells nothing.
        if !record.state.may_have_vmm() && app.engine.get(id).is_ok_and(|now| now.state != record.state) {
            return Err(unfit(guest_path, "was started while its disk was read"));
        }
        tries += 1;
        // The same twice is no matter of the moment.
        let stays = report.left == left_before;
        left_before.clone_from(&report.left);
        if stays || tries == TRIES || Instant::now() >= end || !record.state.may_have_vmm() {
            lock(&app.homes.reports).insert((id.clone(), guest_path.to_owned()), report.clone());
            return Ok(report);
        }
    }
}

fn unfit(guest_path: &str, what: &str) -> HomeError {
    HomeError::Unfit { path: guest_path.to_owned(), what: what.to_owned() }
}

pub fn find(app: &App, id: &SandboxId, guest_path: &str) -> Result<(Arc<Sandbox>, Workspace), HomeError> {
    let record = app.engine.get(id).map_err(|_| unfit(guest_path, "is gone with its sandbox"))?;
    let workspace = record.workspaces.iter().find(|workspace| workspace.guest_path == guest_path).cloned();
    workspace.map(|workspace| (record, workspace)).ok_or_else(|| unfit(guest_path, "is no workspace"))
}

/// The guest's own eyes while it runs, its disk when it does not.
pub fn tree(
    app: &App,
    record: &Sandbox,
    guest_path: &str,
    place: &Place,
    end: Instant,
) -> Result<Box<dyn Tree>, HomeError> {
    match record.state {
        State::Paused => Err(unfit(guest_path, "cannot be looked at: its sandbox is paused")),
        state if state.may_have_vmm() => {
            let socket = app.layout.vsock(&record.id);
            Ok(Box::new(LiveTree::new(&socket, guest_path, Handle::current(), end)))
        }
        _ => {
            let (work, root) = (app.layout.work_disk(&record.id), app.layout.root_disk(&record.id));
            let (disk, inside) = disk::locate(guest_path, &work, &root);
            if !disk.exists() {
                return Err(HomeError::Nothing { path: guest_path.to_owned() });
            }
            std::fs::create_dir_all(&place.folder)
                .map_err(|source| HomeError::Store { path: place.folder.clone(), source })?;
            Ok(Box::new(DiskTree::open(disk, guest_path, &inside, &place.folder, end)?))
        }
    }
}

/// Whether work that cannot be brought home keeps a sandbox from being removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    Keep,
    Discard,
}

/// Before a sandbox is removed: a last look at each of its workspaces. An error says what would be lost. While the answer
/// is held nobody looks again, so that nothing is written beside the removal.
pub fn settle(app: &App, id: &SandboxId, work: Work, watch: &dyn engine::host::Watch) -> Result<Vec<Turn>, Fault> {
    let Ok(record) = app.engine.get(id) else { return Ok(Vec::new()) };
    // A removal that has begun was settled then.
    let settled = record.workspaces.is_empty() || record.state == State::Removing;
    if settled || app.kind != crate::app::HostKind::Real {
        return Ok(Vec::new());
    }
    if work == Work::Discard {
        let end = Instant::now() + DISCARD_WITHIN;
        return Ok(record.workspaces.iter().filter_map(|one| app.homes.turn(id, &one.guest_path, end)).collect());
    }
    bring_all(app, &record, "delete", watch, |_| true)
}

/// Before a sandbox gets a fresh root disk: what does not lie on the work disk goes with the old one.
pub fn settle_root(app: &App, id: &SandboxId, watch: &dyn engine::host::Watch) -> Result<Vec<Turn>, Fault> {
    let Ok(record) = app.engine.get(id) else { return Ok(Vec::new()) };
    let on_root = |workspace: &Workspace| !disk::is_on_work_disk(&workspace.guest_path);
    if app.kind != crate::app::HostKind::Real || !record.workspaces.iter().any(on_root) {
        return Ok(Vec::new());
    }
    bring_all(app, &record, "reset", watch, on_root)
}

fn bring_all(
    app: &App,
    record: &Sandbox,
    verb: &str,
    watch: &dyn engine::host::Watch,
    wanted: impl Fn(&Workspace) -> bool,
) -> Result<Vec<Turn>, Fault> {
    watch.report(engine::host::Report::Stage { text: format!("bringing the work of {} home", record.name()) });
    let end = Instant::now() + SETTLE_WITHIN;
    let (mut lost, mut turns) = (BTreeMap::new(), Vec::new());
    for workspace in record.workspaces.iter().filter(|one| wanted(one) && holds_work(one)) {
        let turn = app.homes.turn(&record.id, &workspace.guest_path, end);
        let looked = match turn {
            Some(turn) => {
                turns.push(turn);
                look_in_turn(app, &record.id, &workspace.guest_path, end)
            }
            None => Err(HomeError::Late { path: workspace.guest_path.clone() }),
        };
        match looked {
            Ok(report) if report.left.is_empty() => {}
            Ok(report) => drop(lost.insert(workspace.guest_path.clone(), report.left)),
            // It is not there any more: whoever removed it did so in the guest.
            Err(HomeError::Nothing { .. }) => {}
            Err(error) => drop(lost.insert(workspace.guest_path.clone(), vec![chain(&error)])),
        }
    }
    if lost.is_empty() { Ok(turns) } else { Err(refusal(record, verb, lost)) }
}

/// A plain folder was copied, and nothing is brought back from it.
pub fn holds_work(workspace: &Workspace) -> bool {
    workspace.head_commit.is_some() || sync::repository(std::path::Path::new(&workspace.host_path)).is_ok()
}

fn refusal(record: &Sandbox, verb: &str, lost: BTreeMap<String, Vec<String>>) -> Fault {
    let name = record.name();
    let message = format!("cannot {verb} {name}: work in it is not on the host");
    let mut fault = Fault::new(FaultKind::Refused, message);
    for (path, lines) in lost {
        fault = lines.into_iter().fold(fault, |fault, line| fault.with_cause(format!("{path}: {line}")));
    }
    fault.with_hint(format!(
        "`banger vm workspace export {name}` saves it; `banger vm delete --discard {name}` gives it up on purpose"
    ))
}

/// The whole of an error in one sentence.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

pub fn fault(error: &HomeError) -> Fault {
    let kind = match error {
        HomeError::Guest { .. } => FaultKind::GuestSilent,
        HomeError::Late { .. } => FaultKind::TimedOut,
        HomeError::Host { .. } | HomeError::Unfit { .. } => FaultKind::Refused,
        HomeError::Nothing { .. } => FaultKind::NotFound,
        HomeError::Disk { .. } | HomeError::Store { .. } => FaultKind::HostUnfit,
        HomeError::Git { .. } => FaultKind::Invalid,
    };
    let fault = Fault::new(kind, error.to_string()).with_sources(error);
    match error {
        HomeError::Store { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
            fault.with_hint(crate::workspace::MAKE_ROOM)
        }
        _ => fault,
    }
}
