//! The VMM seam on the real machine: one process per running sandbox, which outlives the daemon.
//!
//! ```text
//!  vmm.rs        the seam: start, stop, find again
//!  vmm/backends  what this host can run, and why        vmm/boot      what a machine boots
//!  vmm/firecracker, vmm/http                            vmm/qemu, vmm/qmp
//!  vmm/process   pid + start time, pidfd, session       vmm/record    machine.json
//!  vmm/keeper    learns of every end                    vmm/console   logs, their times and bounds
//!  vmm/cgroup    what a VMM may take of the host
//! ```
//! A start in order: lock the disks; a fresh run folder; the VMM, holding the lock, its processors stopped;
//! `machine.json`; only then may it run. Whatever fails, the VMM is gone and so is the folder. The lock travels as an
//! inherited descriptor and is never taken by hand again: it dies with the VMM, not with the daemon.
//!
//! A guest's first word arrives on a socket in the run folder, so [`Settings::before_boot`] is called when the folder
//! exists and the VMM does not: who listens there binds its socket then.

pub mod backends;
pub mod boot;
pub mod cgroup;
pub mod console;
mod firecracker;
pub mod gateway;
mod http;
mod keeper;
pub mod process;
mod qemu;
mod qmp;
mod record;
mod tsc;

use crate::layout::Layout;
use backends::{Findings, Programs, Surveyor};
use boot::{Boot, Kernels};
use cgroup::{Groups, Limits, Weights};
use engine::host::network::LinkMode;
use engine::host::vmm::{BackendFacts, Machine, Vmm, VmmExit, VmmFacts, VmmState};
use engine::host::{HostError, HostErrorKind, Result};
use keeper::{KILL_PATIENCE, Keeper, Kept};
use model::{Backend, Change, SandboxId};
use process::{Process, Usage, processes_logging_to};
use qemu::Accelerator;
use record::{Record, Shape, host_boot_id};
use rustix::process::Signal;
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{error, io};
use tsc::Tsc;

/// How long a VMM may take to heed the signal that `ensure_stopped` was given.
const SIGNAL_PATIENCE: Duration = Duration::from_secs(3);

type Cause = Box<dyn error::Error + Send + Sync>;
pub type Hook = Arc<dyn Fn(&SandboxId) -> io::Result<()> + Send + Sync>;

pub struct Settings {
    pub layout: Layout,
    pub programs: Programs,
    pub kernels: Arc<dyn Kernels>,
    pub weights: Weights,
    /// Called with the run folder made and empty, before the VMM starts.
    pub before_boot: Hook,
}

/// All VMMs of this installation.
pub struct HostVmm {
    settings: Settings,
    surveyor: Surveyor,
    keeper: Keeper,
    tsc: Tsc,
    groups: Groups,
    /// One deed at a time for each sandbox.
    turns: Mutex<HashMap<SandboxId, Arc<Mutex<()>>>>,
}

/// What a backend needs to start a machine.
pub(in crate::host::vmm) struct Start<'a> {
    layout: &'a Layout,
    machine: &'a Machine,
    boot: &'a Boot,
    lock: &'a File,
}

/// The VMM's processes before the guest runs, and how to make it run.
struct Started {
    vmm: Process,
    vsock_device: Option<Process>,
    gateway: Option<Process>,
    boot: Box<dyn FnOnce() -> std::result::Result<(), Cause>>,
}

/// What a run folder turns out to hold.
enum Found {
    Nothing,
    Alive(Kept, Record),
    Ended(Record),
    Remains(String),
}

impl HostVmm {
    pub fn new(settings: Settings) -> io::Result<HostVmm> {
        let tsc = Tsc::begin(settings.layout.cache().join("tsc-khz"));
        let keeper = Keeper::start()?;
        let groups = Groups::find(settings.layout.state());
        Ok(HostVmm { settings, surveyor: Surveyor::default(), keeper, tsc, groups, turns: Mutex::default() })
    }

    /// What the VMM of `id` and its companions use; `None` when it does not run.
    pub fn usage(&self, id: &SandboxId) -> Option<Usage> {
        let kept = self.kept(id)?;
        let vmm = kept.vmm.usage()?;
        let device = kept.vsock_device.as_ref().and_then(|device| device.usage()).unwrap_or_default();
        let resident_bytes = vmm.resident_bytes + device.resident_bytes;
        Some(Usage { cpu_ms: vmm.cpu_ms + device.cpu_ms, resident_bytes })
    }

    fn layout(&self) -> &Layout {
        &self.settings.layout
    }

    fn turn(&self, id: &SandboxId) -> Arc<Mutex<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody else holds a turn that only the table knows.
        turns.retain(|known, turn| known == id || Arc::strong_count(turn) > 1);
        Arc::clone(turns.entry(id.clone()).or_default())
    }

    /// The VMM in our care; one that an earlier daemon started is adopted here.
    fn kept(&self, id: &SandboxId) -> Option<Kept> {
        if let Some(kept) = self.keeper.get(id) {
            return Some(kept);
        }
        match self.find(id) {
            Found::Alive(kept, record) => {
                tracing::info!(vm = %id, pid = record.vmm.pid, "adopted a running VMM");
                self.keeper.keep(id, kept.clone());
                Some(kept)
            }
            Found::Nothing | Found::Ended(_) | Found::Remains(_) => None,
        }
    }

    fn find(&self, id: &SandboxId) -> Found {
        match Record::read(&self.layout().machine_record(id), id) {
            Ok(None) if !self.layout().run(id).exists() => Found::Nothing,
            Ok(None) => Found::Remains("a start that was not finished".into()),
            Err(error) => Found::Remains(chain(&error)),
            Ok(Some(record)) => match record.find() {
                (Some(vmm), device) => Found::Alive(Kept::new(vmm, device, self.logs(id)), record),
                (None, _) => Found::Ended(record),
            },
        }
    }

    fn logs(&self, id: &SandboxId) -> Vec<std::path::PathBuf> {
        vec![self.layout().console_log(id), self.layout().vmm_log(id), self.layout().metrics(id)]
    }

    fn start(&self, machine: &Machine) -> Result<()> {
        let id = &machine.id;
        let findings = self.surveyor.survey(&self.settings.programs);
        let usable = backends::facts(&findings).into_iter().find(|facts| facts.backend == machine.backend);
        match usable {
            Some(facts) if facts.usable => {}
            Some(facts) => return Err(unfit(machine).with_source(facts.reason)),
            None => return Err(unfit(machine)),
        }
        let interpreted = machine.backend == Backend::Qemu && findings.accelerator() == Accelerator::Tcg;
        let tsc_khz = if interpreted { self.tsc.khz() } else { None };
        let boot = Boot::find(machine, self.layout(), &*self.settings.kernels, tsc_khz)?;
        let lock = lock_disks(self.layout(), id)?;
        let started = self
            .renew_run_folder(id)
            .and_then(|()| self.launch(&Start { layout: self.layout(), machine, boot: &boot, lock: &lock }, &findings));
        // From here on only the VMM holds the lock.
        drop(lock);
        started.inspect_err(|_| drop(self.sweep(id)))
    }

    fn renew_run_folder(&self, id: &SandboxId) -> Result<()> {
        let run = self.layout().run(id);
        remove_folder(&run)
            .and_then(|_| fs::DirBuilder::new().recursive(true).mode(0o700).create(&run))
            .and_then(|()| (self.settings.before_boot)(id))
            .map_err(|source| broken(format!("cannot make the run folder of {id}"), source))
    }

    /// From nothing to a running guest. On failure the processes are gone.
    fn launch(&self, start: &Start<'_>, findings: &Findings) -> Result<()> {
        let id = &start.machine.id;
        [self.layout().console_log(id), self.layout().vmm_log(id)].iter().for_each(|log| console::mark_start(log));
        let started = match start.machine.backend {
            Backend::Firecracker => start_firecracker(start, findings),
            Backend::Qemu => start_qemu(start, findings),
            Backend::Sim => return Err(unfit(start.machine)),
        };
        let Started { vmm, vsock_device, gateway, boot } =
            started.map_err(|source| self.explain(start.machine, source))?;
        let all = [Some(&vmm), vsock_device.as_ref(), gateway.as_ref()];
        let pids: Vec<u32> = all.into_iter().flatten().map(|process| process.identity.pid).collect();
        self.groups.place(id, &pids, Limits::of(start.machine, self.settings.weights));
        let recorded = self.record(start.machine, &vmm, vsock_device.as_ref());
        let running = recorded.map_err(Cause::from).and_then(|()| boot());
        match running {
            Ok(()) => {
                tracing::info!(vm = %id, pid = vmm.identity.pid, backend = %start.machine.backend, "the VMM runs");
                self.keeper.keep(id, Kept::new(vmm, vsock_device, self.logs(id)).with_gateway(gateway));
                Ok(())
            }
            Err(source) => {
                let error = self.explain(start.machine, source);
                end_all([Some(vmm), vsock_device, gateway]);
                Err(error)
            }
        }
    }

    fn record(&self, machine: &Machine, vmm: &Process, vsock_device: Option<&Process>) -> io::Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Record {
            version: record::VERSION,
            id: machine.id.clone(),
            boot_id: host_boot_id()?,
            started_at_ns: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX),
            vmm: vmm.identity.clone(),
            vsock_device: vsock_device.map(|device| device.identity.clone()),
            machine: Shape::from(machine),
        }
        .write(&self.layout().machine_record(&machine.id))
    }

    /// A failed start with the VMM's own last words, which tell more than a closed socket.
    fn explain(&self, machine: &Machine, source: Cause) -> HostError {
        let said = console::last_words(&self.layout().vmm_log(&machine.id), 2000);
        let said: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let attempt = format!("cannot start {} for {}", title(machine.backend), machine.id);
        let kind = match source.downcast_ref::<firecracker::FirecrackerError>() {
            Some(firecracker::FirecrackerError::NoTap { .. }) => HostErrorKind::NotFound,
            None if source.is::<gateway::GatewayError>() => HostErrorKind::Unfit,
            _ => HostErrorKind::Broken,
        };
        let error = HostError::new(kind, attempt);
        match said.last() {
            Some(words) => error.with_source(format!("{}; its last words: {words}", chain(&*source))),
            None => error.with_source(source),
        }
    }

    /// Ends whatever of `id` still runs and takes its run folder away.
    fn sweep(&self, id: &SandboxId) -> Result<Change> {
        // Only a VMM that was never written down is looked for this way; all others were found by their record.
        let strays = processes_logging_to(&self.layout().vmm_log(id));
        let found_strays = !strays.is_empty();
        if !end_all(strays.into_iter().map(Some)) {
            return Err(HostError::new(HostErrorKind::TimedOut, format!("cannot end the VMM of {id}")));
        }
        let removed = remove_folder(&self.layout().run(id))
            .map_err(|source| broken(format!("cannot remove the run folder of {id}"), source))?;
        let ungrouped =
            self.groups.remove(id).map_err(|source| broken(format!("cannot remove the cgroup of {id}"), source))?;
        Ok(if found_strays { Change::Changed } else { removed.and(ungrouped) })
    }

    fn facts_of(&self, id: &SandboxId) -> Option<VmmFacts> {
        let facts = |record: &Record, state| VmmFacts {
            id: id.clone(),
            backend: record.machine.backend,
            pid: record.vmm.pid,
            started_at: record.started_at_ns,
            state,
        };
        let known = self.keeper.get(id).and_then(|kept| kept.exit);
        match self.find(id) {
            Found::Nothing => None,
            Found::Remains(what) => Some(remains(id, what)),
            Found::Ended(record) => {
                let exit = known.or_else(|| keeper::exit_told_in(&self.layout().vmm_log(id)));
                Some(facts(&record, VmmState::Ended(exit.unwrap_or_default())))
            }
            Found::Alive(_, record) => {
                self.kept(id);
                Some(facts(&record, self.ask_state(id, record.machine.backend)))
            }
        }
    }

    /// A VMM that does not answer (somebody else talks to it, or it is stuck) is taken for running.
    fn ask_state(&self, id: &SandboxId, backend: Backend) -> VmmState {
        let state = match backend {
            Backend::Firecracker => firecracker::state(&self.layout().api_socket(id)).map_err(Cause::from),
            Backend::Qemu | Backend::Sim => qemu::state(&self.layout().qmp_socket(id)).map_err(Cause::from),
        };
        state.unwrap_or(VmmState::Running)
    }

    fn set_paused(&self, id: &SandboxId, paused: bool) -> Result<Change> {
        let turn = self.turn(id);
        let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        let attempt = format!("cannot {} {id}", if paused { "pause" } else { "resume" });
        let Found::Alive(_, record) = self.find(id) else {
            return Err(HostError::new(HostErrorKind::NotFound, attempt).with_source("it has no running VMM"));
        };
        let backend = record.machine.backend;
        if (self.ask_state(id, backend) == VmmState::Paused) == paused {
            return Ok(Change::Unchanged);
        }
        let (api, qmp) = (self.layout().api_socket(id), self.layout().qmp_socket(id));
        let done = match (backend, paused) {
            (Backend::Firecracker, true) => firecracker::pause(&api).map_err(Cause::from),
            (Backend::Firecracker, false) => firecracker::resume(&api).map_err(Cause::from),
            (Backend::Qemu | Backend::Sim, true) => qemu::pause(&qmp).map_err(Cause::from),
            (Backend::Qemu | Backend::Sim, false) => qemu::resume(&qmp).map_err(Cause::from),
        };
        done.map(|()| Change::Changed).map_err(|source| broken(attempt, source))
    }
}

impl Vmm for HostVmm {
    fn backends(&self) -> Vec<BackendFacts> {
        backends::facts(&self.surveyor.survey(&self.settings.programs))
    }

    fn ensure_running(&self, machine: &Machine) -> Result<Change> {
        let turn = self.turn(&machine.id);
        let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        match self.find(&machine.id) {
            Found::Alive(_, record) if record.machine == Shape::from(machine) => {
                self.kept(&machine.id);
                return Ok(Change::Unchanged);
            }
            Found::Alive(..) => {
                let attempt = format!("cannot start {}: it runs already, as another machine", machine.id);
                return Err(HostError::new(HostErrorKind::Busy, attempt).with_hint("stop it first"));
            }
            Found::Nothing => {}
            Found::Ended(record) => {
                end_all([record.vsock_device.as_ref().and_then(process::Identity::find)]);
                let _swept = self.sweep(&machine.id)?;
            }
            Found::Remains(_) => drop(self.sweep(&machine.id)?),
        }
        self.keeper.forget(&machine.id);
        self.start(machine).map(|()| Change::Changed)
    }

    fn ensure_stopped(&self, id: &SandboxId, signal: Option<i32>) -> Result<Change> {
        let turn = self.turn(id);
        let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = self.kept(id);
        if let Some(kept) = &kept {
            let signal = signal.and_then(Signal::from_named_raw);
            let heeded =
                signal.is_some_and(|signal| kept.vmm.signal(signal).is_ok() && kept.vmm.await_end(SIGNAL_PATIENCE));
            if !heeded {
                drop(kept.vmm.signal(Signal::KILL));
            }
            // The keeper reaps it and ends its companions.
            if self.keeper.await_exit(id, 2 * KILL_PATIENCE).is_none() {
                let attempt = format!("cannot end the VMM of {id}");
                return Err(HostError::new(HostErrorKind::TimedOut, attempt));
            }
        } else if let Found::Ended(record) = self.find(id) {
            end_all([record.vsock_device.as_ref().and_then(process::Identity::find)]);
        }
        let swept = match kept.is_some() || self.layout().run(id).exists() || self.groups.list().contains(id) {
            true => self.sweep(id)?,
            false => Change::Unchanged,
        };
        self.keeper.forget(id);
        Ok(swept)
    }

    fn await_exit(&self, id: &SandboxId, timeout_ms: u64) -> Result<Option<VmmExit>> {
        self.kept(id);
        Ok(self.keeper.await_exit(id, Duration::from_millis(timeout_ms)))
    }

    fn ensure_drives(&self, id: &SandboxId) -> Result<()> {
        let turn = self.turn(id);
        let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        let attempt = format!("cannot tell the VMM of {id} of its disks");
        let Found::Alive(_, record) = self.find(id) else {
            return Err(HostError::new(HostErrorKind::NotFound, attempt).with_source("it has no running VMM"));
        };
        let told = boot::own_drives(self.layout(), id).try_for_each(|drive| match record.machine.backend {
            Backend::Firecracker => {
                firecracker::look_at_drive(&self.layout().api_socket(id), &drive).map_err(Cause::from)
            }
            Backend::Qemu | Backend::Sim => {
                qemu::look_at_drive(&self.layout().qmp_socket(id), &drive).map_err(Cause::from)
            }
        });
        told.map_err(|source| broken(attempt, source))
    }

    fn ensure_paused(&self, id: &SandboxId) -> Result<Change> {
        self.set_paused(id, true)
    }

    fn ensure_resumed(&self, id: &SandboxId) -> Result<Change> {
        self.set_paused(id, false)
    }

    fn observe(&self) -> Result<Vec<VmmFacts>> {
        let runs = self.layout().runs();
        let entries = match fs::read_dir(&runs) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(broken("cannot list the running VMMs".into(), error)),
        };
        let mut ids: Vec<SandboxId> =
            entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        // A run without a home in our state belongs to another installation that shares this runtime folder.
        ids.retain(|id| self.layout().vm(id).is_dir());
        let mut facts: Vec<VmmFacts> = ids.iter().filter_map(|id| self.facts_of(id)).collect();
        let left = self.groups.list().into_iter().filter(|id| !facts.iter().any(|facts| facts.id == *id));
        let left: Vec<VmmFacts> = left.map(|id| remains(&id, "a cgroup without a VMM".into())).collect();
        facts.extend(left);
        facts.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(facts)
    }

    fn console_tail(&self, id: &SandboxId, bytes: usize) -> String {
        console::last_words(&self.layout().console_log(id), bytes)
    }
}

fn start_firecracker(start: &Start<'_>, findings: &Findings) -> std::result::Result<Started, Cause> {
    let tool = findings.firecracker.as_ref().map_err(Clone::clone)?;
    let (gateway, place) = match start.machine.attachment.mode {
        LinkMode::User => gateway::start_with_tap(start).map(|(gateway, place)| (Some(gateway), Some(place)))?,
        LinkMode::None | LinkMode::Tap { .. } => (None, None),
    };
    let vmm = match firecracker::start(start, &tool.path, place.as_ref()) {
        Ok(vmm) => vmm,
        Err(error) => {
            end_all([gateway]);
            return Err(error.into());
        }
    };
    drop(place);
    match firecracker::configure(start, &vmm) {
        Ok(configured) => {
            let boot = Box::new(|| configured.boot().map_err(Cause::from));
            Ok(Started { vmm, vsock_device: None, gateway, boot })
        }
        Err(error) => {
            end_all([Some(vmm), gateway]);
            Err(error.into())
        }
    }
}

fn start_qemu(start: &Start<'_>, findings: &Findings) -> std::result::Result<Started, Cause> {
    let tool = findings.qemu.as_ref().map_err(Clone::clone)?;
    let device_program = findings.vsock_device.as_ref().map_err(Clone::clone)?;
    let (device, vsock) = qemu::start_vsock_device(start, device_program)?;
    let (gateway, wire) = match start.machine.attachment.mode {
        LinkMode::User => match gateway::start(start) {
            Ok((gateway, wire)) => (Some(gateway), Some(wire)),
            Err(error) => {
                end_all([Some(device)]);
                return Err(error.into());
            }
        },
        LinkMode::None | LinkMode::Tap { .. } => (None, None),
    };
    let started = qemu::start(start, &tool.path, findings.accelerator(), &vsock, wire.as_ref());
    let (vmm, listener) = match started {
        Ok(started) => started,
        Err(error) => {
            end_all([Some(device), gateway]);
            return Err(error.into());
        }
    };
    // Only QEMU holds its ends now, so that they end with it.
    drop((vsock, wire));
    match qemu::await_control(&start.layout.qmp_socket(&start.machine.id), listener) {
        Ok(waiting) => {
            let boot = Box::new(|| waiting.boot().map_err(Cause::from));
            Ok(Started { vmm, vsock_device: Some(device), gateway, boot })
        }
        Err(error) => {
            end_all([Some(vmm), Some(device), gateway]);
            Err(error.into())
        }
    }
}

/// The lock of a sandbox's disks, held until the answer is dropped by everybody who inherited it.
fn lock_disks(layout: &Layout, id: &SandboxId) -> Result<File> {
    let attempt = || format!("cannot lock the disks of {id}");
    let path = layout.disk_lock(id);
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path);
    let file = file.map_err(|source| broken(attempt(), source))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => {
            Err(HostError::new(HostErrorKind::Busy, attempt()).with_source("a VMM has them open"))
        }
        Err(fs::TryLockError::Error(source)) => Err(broken(attempt(), source)),
    }
}

/// The same lock in our own hands. It is let go by word: a program that is just being started beside us has a copy of every
/// descriptor until it runs (fork(2)), and would hold the lock for as long.
pub(in crate::host) struct HeldDisks(File);

pub(in crate::host) fn hold_disks(layout: &Layout, id: &SandboxId) -> Result<HeldDisks> {
    lock_disks(layout, id).map(HeldDisks)
}

#[cfg(test)]
impl HeldDisks {
    pub(in crate::host) fn copy(&self) -> File {
        self.0.try_clone().expect("a descriptor can be copied")
    }
}

impl Drop for HeldDisks {
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

/// All at once, then one after the other; false when one of them does not end.
fn end_all(processes: impl IntoIterator<Item = Option<Process>>) -> bool {
    let processes: Vec<Process> = processes.into_iter().flatten().collect();
    processes.iter().for_each(|process| drop(process.signal(Signal::KILL)));
    let stuck = processes.iter().filter(|process| !process.kill(KILL_PATIENCE));
    stuck.count() == 0
}

fn remove_folder(path: &Path) -> io::Result<Change> {
    match fs::remove_dir_all(path) {
        Ok(()) => Ok(Change::Changed),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Change::Unchanged),
        Err(error) => Err(error),
    }
}

fn remains(id: &SandboxId, what: String) -> VmmFacts {
    VmmFacts { id: id.clone(), backend: Backend::Sim, pid: 0, started_at: 0, state: VmmState::Remains { what } }
}

fn title(backend: Backend) -> &'static str {
    match backend {
        Backend::Firecracker => "Firecracker",
        Backend::Qemu => "QEMU",
        Backend::Sim => "the simulated VMM",
    }
}

fn unfit(machine: &Machine) -> HostError {
    let attempt = format!("cannot start {} for {} on this host", title(machine.backend), machine.id);
    HostError::new(HostErrorKind::Unfit, attempt).with_hint("banger doctor")
}

fn broken(attempt: String, source: impl Into<Cause>) -> HostError {
    HostError::new(HostErrorKind::Broken, attempt).with_source(source)
}

/// An error and its causes in one line.
fn chain(error: &dyn error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
