//! A small world behind the seven seams: a machine in memory that refuses what a kernel refuses.
//!
//! It is the fake of every test and the host of `bangerd --host sim`. Its state is one value ([`World::print`]); a
//! test can make its n-th call fail or the whole daemon die there ([`Fault`]), and choose how guests behave.
//! Without a clock of its own choosing it is deterministic: the same seed and calls give the same world.

mod clock;
mod disk;
mod guest;
mod images;
mod network;
mod repository;
mod vmm;

use crate::host::clock::Clock;
use crate::host::vmm::{Machine, VmmExit};
use crate::host::{Host, HostError, HostErrorKind, Result};
use crate::lock;
use model::port::PortForward;
use model::{ByteSize, ImageName, KernelName, SandboxId, SandboxName};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

pub const IMAGES: &[&str] = &["debian-bookworm", "alpine-3.20"];
pub const KERNELS: &[&str] = &["debian-cloud"];

/// What happens at the n-th call, counted from the next one as 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The call fails and did nothing.
    Error(HostErrorKind),
    /// The daemon dies before the call does anything: the caller's stack is unwound.
    CrashBefore,
    /// The daemon dies right after it.
    CrashAfter,
}

/// What a daemon's death leaves on the unwound stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crash;

/// How guests that boot from now on behave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Boot {
    Ready,
    /// It never says a word, and all deadlines pass at once.
    Silent,
    /// Its VMM ends with this status before it says a word.
    Dies(i32),
    /// It stays silent until [`World::set_boot`] says otherwise or its VMM is ended.
    Held,
}

/// How guests behave that are asked to power off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    Obeys,
    /// It agrees and goes on; all deadlines pass at once.
    Ignores,
    /// It agrees, and nothing happens until its VMM is ended.
    Hangs,
    /// It does not answer.
    Silent,
}

pub struct World {
    state: Mutex<State>,
    changed: Condvar,
    clock: Option<Arc<dyn Clock>>,
}

pub(crate) struct State {
    random: u64,
    now: u64,
    host_boot: u64,
    next_pid: u32,
    calls: u64,
    fault: Option<(u64, Fault)>,
    boot: Boot,
    shutdown: Shutdown,
    load_percent: u32,
    sessions: u32,
    free_memory: Option<ByteSize>,
    free_disk: ByteSize,
    vmms: BTreeMap<SandboxId, SimVmm>,
    consoles: BTreeMap<SandboxId, String>,
    links: BTreeMap<SandboxId, SimLink>,
    disks: BTreeMap<SandboxId, SimDisks>,
    images: BTreeSet<ImageName>,
    kernels: BTreeSet<KernelName>,
    /// Every VMM that was ever started beside a living one: must stay empty.
    doubled: Vec<SandboxId>,
}

#[derive(Debug, Clone)]
pub(crate) struct SimVmm {
    machine: Machine,
    pid: u32,
    started_at: u64,
    paused: bool,
    ended: Option<VmmExit>,
    boot_id: String,
    name: Option<SandboxName>,
}

#[derive(Debug, Clone)]
pub(crate) struct SimLink {
    attachment: crate::host::network::Attachment,
    ports: Vec<PortForward>,
}

#[derive(Debug, Clone)]
pub(crate) struct SimDisks {
    root_size: ByteSize,
    work_size: ByteSize,
    /// Counts the roots this sandbox has had.
    root_generation: u32,
}

impl World {
    pub fn new(seed: u64) -> Arc<World> {
        World::with(seed, None)
    }

    /// For the shipped `--host sim`: time and chance are the real ones.
    pub fn with_clock(clock: Arc<dyn Clock>) -> Arc<World> {
        World::with(clock.random(), Some(clock))
    }

    fn with(seed: u64, clock: Option<Arc<dyn Clock>>) -> Arc<World> {
        let state = State {
            random: seed,
            now: 1_700_000_000_000_000_000,
            host_boot: seed ^ 1,
            next_pid: 1000,
            calls: 0,
            fault: None,
            boot: Boot::Ready,
            shutdown: Shutdown::Obeys,
            load_percent: 0,
            sessions: 0,
            free_memory: None,
            free_disk: ByteSize::from_gib(1024),
            vmms: BTreeMap::new(),
            consoles: BTreeMap::new(),
            links: BTreeMap::new(),
            disks: BTreeMap::new(),
            images: BTreeSet::new(),
            kernels: BTreeSet::new(),
            doubled: Vec::new(),
        };
        Arc::new(World { state: Mutex::new(state), changed: Condvar::new(), clock })
    }

    /// The seams of this world; any number of hosts may share it, as a restarted daemon does.
    pub fn host(self: &Arc<Self>) -> Host {
        Host {
            vmm: Arc::new(vmm::SimVmms(self.clone())),
            network: Arc::new(network::SimNetwork(self.clone())),
            disk: Arc::new(disk::SimDisk(self.clone())),
            images: Arc::new(images::SimImages(self.clone())),
            guest: Arc::new(guest::SimGuests(self.clone())),
            repository: Arc::new(repository::SimRepository(self.clone())),
            clock: Arc::new(clock::SimClock(self.clone())),
        }
    }

    pub fn fail_at(&self, calls_from_now: u64, fault: Fault) {
        let mut state = lock(&self.state);
        let at = state.calls + calls_from_now;
        state.fault = Some((at, fault));
    }

    pub fn fail_never(&self) {
        lock(&self.state).fault = None;
    }

    pub fn set_boot(&self, boot: Boot) {
        lock(&self.state).boot = boot;
        self.changed.notify_all();
    }

    pub fn set_shutdown(&self, shutdown: Shutdown) {
        lock(&self.state).shutdown = shutdown;
    }

    pub fn set_use(&self, load_percent: u32, sessions: u32) {
        let mut state = lock(&self.state);
        state.load_percent = load_percent;
        state.sessions = sessions;
    }

    pub fn set_room(&self, memory: Option<ByteSize>, disk: ByteSize) {
        let mut state = lock(&self.state);
        state.free_memory = memory;
        state.free_disk = disk;
    }

    pub fn pass_time(&self, nanoseconds: u64) {
        lock(&self.state).now += nanoseconds;
    }

    /// A VMM ends by itself: a crash, a guest's poweroff, somebody's `kill -9`. False when none runs.
    pub fn end_vmm(&self, id: &SandboxId, exit: VmmExit) -> bool {
        let mut state = lock(&self.state);
        let ended = match state.vmms.get_mut(id) {
            Some(vmm) if vmm.ended.is_none() => {
                vmm.ended = Some(exit);
                true
            }
            _ => false,
        };
        self.changed.notify_all();
        ended
    }

    /// The host restarts: processes and links are gone, disks and images are not.
    pub fn reboot_host(&self) {
        let mut state = lock(&self.state);
        state.host_boot = state.next_random();
        state.vmms.clear();
        state.links.clear();
        self.changed.notify_all();
    }

    /// The whole state, for a person and for a test's failure; stable for a seed.
    pub fn print(&self) -> String {
        let state = lock(&self.state);
        let mut text = format!("calls {}\n", state.calls);
        for (id, vmm) in &state.vmms {
            let how = match (&vmm.ended, vmm.paused) {
                (Some(exit), _) => format!("ended {exit:?}"),
                (None, true) => "paused".to_owned(),
                (None, false) => "running".to_owned(),
            };
            text.push_str(&format!("vmm {id} pid {} {how}\n", vmm.pid));
        }
        for (id, link) in &state.links {
            text.push_str(&format!("link {id} {:?} {:?}\n", link.attachment.addresses, link.ports));
        }
        for (id, disks) in &state.disks {
            let SimDisks { root_size, work_size, root_generation } = disks;
            text.push_str(&format!("disks {id} root {root_size} ({root_generation}) work {work_size}\n"));
        }
        text
    }

    /// Sandboxes that ever had two VMMs at once.
    pub fn doubled(&self) -> Vec<SandboxId> {
        lock(&self.state).doubled.clone()
    }

    /// Counts a call, lets the fault happen if its time has come, and does the work.
    pub(crate) fn call<T>(&self, attempt: &str, work: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        let mut state = lock(&self.state);
        let fault = state.count_call();
        match fault {
            Some(Fault::Error(kind)) => {
                return Err(HostError::new(kind, format!("{attempt}: the simulated host was told to fail")));
            }
            Some(Fault::CrashBefore) => crash(state),
            Some(Fault::CrashAfter) => {
                let _result = work(&mut state);
                self.changed.notify_all();
                crash(state)
            }
            None => {}
        }
        let result = work(&mut state);
        self.changed.notify_all();
        result
    }

    fn time(&self, state: &State) -> u64 {
        self.clock.as_ref().map_or(state.now, |clock| clock.now())
    }

    /// Waits for a change of the world, a moment at most, so that a watch is asked now and then.
    pub(crate) fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        match self.changed.wait_timeout(state, Duration::from_millis(10)) {
            Ok((state, _)) => state,
            Err(poisoned) => poisoned.into_inner().0,
        }
    }
}

impl State {
    fn count_call(&mut self) -> Option<Fault> {
        self.calls += 1;
        match self.fault {
            Some((at, fault)) if at <= self.calls => {
                self.fault = None;
                Some(fault)
            }
            _ => None,
        }
    }

    /// splitmix64 (Steele, Lea, Flood 2014): every seed gives a full period.
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn runs(&self, id: &SandboxId) -> bool {
        self.vmms.get(id).is_some_and(|vmm| vmm.ended.is_none())
    }
}

/// Unwinds like a dying process: no panic message, no destructor that matters (the world's lock is released first).
fn crash(state: MutexGuard<'_, State>) -> ! {
    drop(state);
    std::panic::resume_unwind(Box::new(Crash))
}

fn refuse<T>(kind: HostErrorKind, attempt: String) -> Result<T> {
    Err(HostError::new(kind, attempt))
}
