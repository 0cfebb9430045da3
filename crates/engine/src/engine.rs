//! The engine itself: the table of sandboxes, its published snapshot, who listens, and how a request gets its seat.
//!
//! Locks, in the order in which they may be taken: *table* (moments: a decision and its row in the store), *store*,
//! *published* and *listeners*. No seam is called under any of them. `list` takes none but a pointer's.

use crate::error::{Error, Kind, Result};
use crate::gate::{self, Claim, Driver, Gate, Seat, Waiting, Wish};
use crate::host::clock::Timestamp;
use crate::host::{Host, Watch};
use crate::lock;
use crate::plan::Verb;
use crate::reconcile::Errand;
use crate::sandbox::{Sandbox, StateChange};
use crate::settings::Settings;
use crate::store::Store;
use crate::store::journal::Operation;
use crate::tick::Usage;
use model::lifecycle::{Answer, Reason, Request, answer};
use model::{OperationId, SandboxId};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// Changes a listener may lag behind before it is dropped; it then subscribes anew and lists.
const LISTENER_LAG: usize = 1024;

pub struct Engine {
    pub(crate) host: Host,
    pub(crate) settings: Settings,
    pub(crate) store: Store,
    pub(crate) table: Mutex<Table>,
    published: RwLock<Arc<[Arc<Sandbox>]>>,
    listeners: Mutex<Vec<SyncSender<StateChange>>>,
    pub(crate) errands: Mutex<Vec<Errand>>,
    /// Sandboxes whose errand waits, or was handed out and has not ended: somebody is looking after them.
    pub(crate) cared_for: Mutex<BTreeSet<SandboxId>>,
    /// Something was left behind that the next tick shall look after.
    pub(crate) reconcile_due: AtomicBool,
}

#[derive(Default)]
pub(crate) struct Table {
    pub slots: BTreeMap<SandboxId, Slot>,
    /// Records that could not be written when they had to change anyway.
    pub unsaved: BTreeSet<SandboxId>,
}

pub(crate) struct Slot {
    pub record: Arc<Sandbox>,
    pub gate: Arc<Gate>,
    pub usage: Usage,
}

/// What becomes of a change that cannot be written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Saving {
    /// It does not happen.
    Must,
    /// It happened on the machine already: it is so, and written later.
    Anyway,
}

/// The outcome of asking for a seat.
pub(crate) enum Entry {
    Seated(Seat, Arc<Sandbox>),
    AlreadySo(Arc<Sandbox>),
}

impl Engine {
    /// Opens the store in `folder` (which exists), and brings records and machine in line as far as that goes at once;
    /// what takes longer waits as errands for the first [`Engine::tick`].
    pub fn open(folder: &Path, host: Host, settings: Settings) -> Result<Engine> {
        Engine::over(Store::open(folder)?, host, settings)
    }

    pub fn over(store: Store, host: Host, settings: Settings) -> Result<Engine> {
        let now = host.clock.now();
        let mut table = Table::default();
        for record in store.sandboxes()? {
            table.slots.insert(record.id.clone(), Slot::new(Arc::new(record), Arc::default(), now));
        }
        store.prune(settings.history_limit)?;
        let mut list: Vec<_> = table.slots.values().map(|slot| slot.record.clone()).collect();
        sort(&mut list);
        let engine = Engine {
            host,
            settings,
            store,
            table: Mutex::new(table),
            published: RwLock::new(list.into()),
            listeners: Mutex::default(),
            errands: Mutex::default(),
            cared_for: Mutex::default(),
            reconcile_due: AtomicBool::new(false),
        };
        engine.reconcile();
        Ok(engine)
    }

    /// All sandboxes, oldest first. A pointer's load.
    pub fn list(&self) -> Arc<[Arc<Sandbox>]> {
        self.published.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// By name, id or unique prefix of an id.
    pub fn resolve(&self, reference: &str) -> Result<Arc<Sandbox>> {
        let list = self.list();
        if let Some(exact) = list.iter().find(|s| s.name().as_str() == reference || s.id.as_str() == reference) {
            return Ok(exact.clone());
        }
        let matches: Vec<_> = match reference {
            "" => Vec::new(),
            prefix => list.iter().filter(|sandbox| sandbox.id.as_str().starts_with(prefix)).collect(),
        };
        match matches.as_slice() {
            [one] => Ok((*one).clone()),
            [] => Err(not_found(reference)),
            several => {
                let shown: Vec<_> =
                    several.iter().take(5).map(|sandbox| format!("{} ({})", sandbox.name(), sandbox.id)).collect();
                Err(Error::new(
                    Kind::Conflict,
                    format!("`{}` fits {} VMs: {}", shorten(reference), several.len(), shown.join(", ")),
                )
                .with_hint("give the name, or more of the id"))
            }
        }
    }

    pub fn get(&self, id: &SandboxId) -> Result<Arc<Sandbox>> {
        let table = lock(&self.table);
        table.slots.get(id).map(|slot| slot.record.clone()).ok_or_else(|| not_found(id.as_str()))
    }

    /// State changes from now on. The receiver ends when it lags too far behind.
    pub fn subscribe(&self) -> Receiver<StateChange> {
        let (sender, receiver) = sync_channel(LISTENER_LAG);
        lock(&self.listeners).push(sender);
        receiver
    }

    /// Operations, the latest first; `of` is a name, an id or a prefix of one, of a VM that may be gone.
    pub fn history(&self, of: Option<&str>, limit: u32) -> Result<Vec<Operation>> {
        self.store.operations(of, limit)
    }

    /// Records and journal as they are now, in a new file.
    pub fn back_up(&self, file: &Path) -> Result<()> {
        self.store.copy_to(file)
    }

    /// Tells the driver of this operation that nobody wants it any more; false when it is not under way.
    pub fn cancel(&self, operation: &OperationId) -> bool {
        let gates: Vec<_> = lock(&self.table).slots.values().map(|slot| slot.gate.clone()).collect();
        let driver = gates.iter().filter_map(|gate| gate.driver()).find(|driver| driver.operation == *operation);
        if let Some(driver) = &driver {
            driver.letting_go.say(Wish::Cancelled);
        }
        driver.is_some()
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    pub fn host(&self) -> &Host {
        &self.host
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.host.clock.now()
    }

    pub(crate) fn new_operation(&self) -> OperationId {
        OperationId::from_bits(self.host.clock.random())
    }

    pub(crate) fn gate(&self, id: &SandboxId) -> Result<Arc<Gate>> {
        let table = lock(&self.table);
        table.slots.get(id).map(|slot| slot.gate.clone()).ok_or_else(|| not_found(id.as_str()))
    }

    /// Waits for the seat as the request's kind allows: `stop`, `kill` and `delete` make the driver let go, `start`
    /// joins a start under way, everything else takes its turn. The table is asked whenever the seat changes hands.
    pub(crate) fn enter(
        &self,
        id: &SandboxId,
        request: Request,
        verb: Verb,
        operation: &OperationId,
        watch: &dyn Watch,
    ) -> Result<Entry> {
        let mut claim: Option<Claim> = None;
        let mut looks_left = gate::looks(self.settings.preempt_timeout_ms);
        loop {
            let gate = self.gate(id)?;
            match gate.try_take(verb, operation, claim.is_some()) {
                Ok(seat) => {
                    let record = self.get(id)?;
                    return match answer(record.state, request) {
                        Answer::Begin => Ok(Entry::Seated(seat, record)),
                        Answer::AlreadySo => Ok(Entry::AlreadySo(record)),
                        Answer::Refused(reason) => Err(refused(&record, request, reason)),
                    };
                }
                Err(driver) => {
                    let record = self.get(id)?;
                    match (answer(record.state, request), &driver) {
                        (Answer::Refused(reason), _) => return Err(refused(&record, request, reason)),
                        (Answer::AlreadySo, _) if request != Request::Start => return Ok(Entry::AlreadySo(record)),
                        (Answer::Begin, Some(driver)) if preempts(request, driver.verb) => {
                            claim.get_or_insert_with(|| gate.claim());
                            self.make_let_go(id, request, driver)?;
                            looks_left -= 1;
                            if looks_left == 0 {
                                return Err(will_not_let_go(&record, request, driver));
                            }
                        }
                        _ => {}
                    }
                    if watch.cancelled() {
                        let attempt = format!("cannot {} {}: it was cancelled", request.word(), record.name());
                        return Err(Error::new(Kind::Cancelled, attempt));
                    }
                    gate.wait();
                }
            }
        }
    }

    /// A driver that waits for the guest is woken by the end of the VMM; any other sees the flag before its next step.
    fn make_let_go(&self, id: &SandboxId, request: Request, driver: &Driver) -> Result<()> {
        driver.letting_go.say(Wish::Preempted);
        let end_vmm = match driver.waiting {
            Waiting::Nothing => false,
            Waiting::Boot => true,
            Waiting::Shutdown => matches!(request, Request::Kill | Request::Delete),
        };
        if end_vmm {
            let _change = self.host.vmm.ensure_stopped(id, None)?;
        }
        Ok(())
    }

    /// Changes a record, in the store first and then for everybody.
    pub(crate) fn update(
        &self,
        id: &SandboxId,
        saving: Saving,
        operation: Option<&OperationId>,
        change: impl FnOnce(&mut Sandbox) -> Result<()>,
    ) -> Result<Arc<Sandbox>> {
        self.change(id, saving, operation, |_, record| change(record))
    }

    /// Like `update`, for a change that depends on all other records; what it decides still holds when it is written.
    pub(crate) fn update_with_table(
        &self,
        id: &SandboxId,
        operation: Option<&OperationId>,
        change: impl FnOnce(&Table, &mut Sandbox) -> Result<()>,
    ) -> Result<Arc<Sandbox>> {
        self.change(id, Saving::Must, operation, change)
    }

    fn change(
        &self,
        id: &SandboxId,
        saving: Saving,
        operation: Option<&OperationId>,
        change: impl FnOnce(&Table, &mut Sandbox) -> Result<()>,
    ) -> Result<Arc<Sandbox>> {
        let now = self.now();
        let mut table = lock(&self.table);
        let before = table.slots.get(id).map(|slot| slot.record.clone()).ok_or_else(|| not_found(id.as_str()))?;
        let mut record = (*before).clone();
        change(&table, &mut record)?;
        if record == *before {
            return Ok(before);
        }
        match (self.store.save(&record), saving) {
            (Ok(()), _) => drop(table.unsaved.remove(id)),
            (Err(error), Saving::Must) => return Err(error),
            (Err(_), Saving::Anyway) => drop(table.unsaved.insert(id.clone())),
        }
        let record = Arc::new(record);
        let slot = table.slots.get_mut(id).expect("the table is locked and had the slot a moment ago");
        slot.record = record.clone();
        self.publish(|list| match list.iter_mut().find(|other| other.id == *id) {
            Some(place) => *place = record.clone(),
            None => list.push(record.clone()),
        });
        self.tell(now, &record, Some(before.state), Some(record.state), operation);
        Ok(record)
    }

    /// Call with the table locked, so that snapshots appear in the order of their making.
    pub(crate) fn publish(&self, change: impl FnOnce(&mut Vec<Arc<Sandbox>>)) {
        let mut list = self.list().to_vec();
        change(&mut list);
        sort(&mut list);
        *self.published.write().unwrap_or_else(PoisonError::into_inner) = list.into();
    }

    /// Call with the table locked, so that events appear in the order of the changes.
    pub(crate) fn tell(
        &self,
        at: Timestamp,
        sandbox: &Sandbox,
        from: Option<model::State>,
        to: Option<model::State>,
        operation: Option<&OperationId>,
    ) {
        if from == to {
            return;
        }
        let (id, name, operation) = (sandbox.id.clone(), sandbox.name().clone(), operation.cloned());
        let event = StateChange { at, id, name, from, to, operation };
        lock(&self.listeners).retain(|listener| listener.try_send(event.clone()).is_ok());
    }
}

impl Slot {
    pub fn new(record: Arc<Sandbox>, gate: Arc<Gate>, now: Timestamp) -> Self {
        Slot { record, gate, usage: Usage { holds: 0, last_used: now } }
    }
}

/// Who makes whom let go. A stop lets a stop finish; nobody disturbs a delete.
fn preempts(request: Request, driving: Verb) -> bool {
    match request {
        Request::Kill | Request::Delete => !matches!(driving, Verb::Kill | Verb::Delete | Verb::Reconcile),
        Request::Stop => matches!(driving, Verb::Create | Verb::Start | Verb::Restart | Verb::Reset),
        _ => false,
    }
}

fn sort(list: &mut [Arc<Sandbox>]) {
    list.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
}

fn shorten(text: &str) -> String {
    text.chars().take(80).collect()
}

pub(crate) fn not_found(reference: &str) -> Error {
    Error::new(Kind::NotFound, format!("there is no VM `{}`", shorten(reference)))
        .with_hint("`banger ps -a` lists all VMs")
}

pub(crate) fn refused(sandbox: &Sandbox, request: Request, reason: Reason) -> Error {
    let name = sandbox.name();
    let error = Error::new(Kind::Refused, format!("cannot {} {name}: {}", request.word(), reason.sentence()));
    match reason {
        Reason::NotRunning => error.with_hint(format!("start it with `banger vm start {name}`")),
        Reason::StillRunning => error.with_hint(format!("stop it with `banger vm stop {name}`")),
        Reason::Paused => error.with_hint(format!("resume it with `banger vm resume {name}`")),
        Reason::StillStarting | Reason::StillStopping | Reason::BusySnapshotting | Reason::BeingRemoved => error,
    }
}

fn will_not_let_go(sandbox: &Sandbox, request: Request, driver: &Driver) -> Error {
    let (name, verb) = (sandbox.name(), driver.verb);
    Error::new(Kind::TimedOut, format!("cannot {} {name}: its {verb} does not let go", request.word()))
        .with_hint(format!("`banger history {name}` shows where operation {} is", driver.operation))
}
