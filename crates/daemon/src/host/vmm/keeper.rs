//! One thread that keeps company to all VMMs: it learns of every end at once, reaps, ends what was started beside the
//! VMM, and keeps the logs within their bounds. Nothing polls for an end; everybody else waits here for the news.
//!
//! ```text
//!  keep ──► poll(pidfds) ──► VMM ended: reap, end its vsock device, tell ──► await_exit, observe
//!                       └──► device ended first: the guest cannot be reached any more; the VMM is asked to end
//! ```

use super::console::{MAX_LOG_BYTES, keep_within, last_words, open_log, times};
use super::process::Process;
use engine::host::vmm::VmmExit;
use model::SandboxId;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::process::Signal;
use std::collections::HashMap;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often logs are looked at while anything runs: a guest prints some 10 MiB a second at most.
const LOG_INTERVAL: Duration = Duration::from_secs(5);
/// A killed process ends as soon as its pending I/O does.
pub const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// Where the VMM's own log stands among the logs.
const VMM_LOG: usize = 1;

/// A VMM in our care.
#[derive(Debug, Clone)]
pub struct Kept {
    pub vmm: Arc<Process>,
    pub vsock_device: Option<Arc<Process>>,
    /// Ours to reap; it ends by itself.
    gateway: Option<Arc<Process>>,
    /// The guest's console, the VMM's own log, then others.
    pub logs: Vec<PathBuf>,
    pub exit: Option<VmmExit>,
    device_lost: bool,
}

impl Kept {
    pub fn new(vmm: Process, vsock_device: Option<Process>, logs: Vec<PathBuf>) -> Kept {
        let vsock_device = vsock_device.map(Arc::new);
        Kept { vmm: Arc::new(vmm), vsock_device, gateway: None, logs, exit: None, device_lost: false }
    }

    pub fn with_gateway(self, gateway: Option<Process>) -> Kept {
        Kept { gateway: gateway.map(Arc::new), ..self }
    }

    fn vmm_log(&self) -> Option<&PathBuf> {
        self.logs.get(VMM_LOG)
    }
}

#[derive(Debug)]
pub struct Keeper {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    ended: Condvar,
    wake: OwnedFd,
}

#[derive(Debug, Default)]
struct State {
    kept: HashMap<SandboxId, Kept>,
    closing: bool,
}

impl Keeper {
    pub fn start() -> io::Result<Keeper> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let shared = Arc::new(Shared { state: Mutex::default(), ended: Condvar::new(), wake });
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("vmm-keeper".into()).spawn(move || theirs.run())?;
        Ok(Keeper { shared, thread: Some(thread) })
    }

    pub fn keep(&self, id: &SandboxId, kept: Kept) {
        self.shared.lock().kept.insert(id.clone(), kept);
        self.shared.wake();
    }

    pub fn get(&self, id: &SandboxId) -> Option<Kept> {
        self.shared.lock().kept.get(id).cloned()
    }

    /// The VMM is no longer ours to know of.
    pub fn forget(&self, id: &SandboxId) {
        self.shared.lock().kept.remove(id);
        self.shared.ended.notify_all();
    }

    /// How the VMM ended; `None` once `patience` is over. One that is not kept (any more) has ended in silence.
    pub fn await_exit(&self, id: &SandboxId, patience: Duration) -> Option<VmmExit> {
        let deadline = Instant::now() + patience;
        let mut state = self.shared.lock();
        loop {
            match state.kept.get(id) {
                None => return Some(VmmExit::default()),
                Some(Kept { exit: Some(exit), .. }) => return Some(exit.clone()),
                Some(Kept { exit: None, .. }) => {}
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            let waited = self.shared.ended.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Keeper {
    /// The thread goes, the VMMs stay: they outlive the daemon.
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.wake();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // Fails only when the counter is full, and then the thread is woken already.
        let _woken = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    fn run(&self) {
        let mut logs_at = Instant::now();
        loop {
            let watched: Vec<(SandboxId, Kept)> = {
                let state = self.lock();
                if state.closing {
                    return;
                }
                let alive = state.kept.iter().filter(|(_, kept)| kept.exit.is_none());
                alive.map(|(id, kept)| (id.clone(), kept.clone())).collect()
            };
            self.await_news(&watched);
            for (id, kept) in &watched {
                self.look_at(id, kept);
            }
            if logs_at.elapsed() >= LOG_INTERVAL {
                watched.iter().for_each(|(_, kept)| bound_logs(kept));
                logs_at = Instant::now();
            }
        }
    }

    fn await_news(&self, watched: &[(SandboxId, Kept)]) {
        let mut fds = vec![PollFd::new(&self.wake, PollFlags::IN)];
        for (_, kept) in watched {
            fds.push(PollFd::from_borrowed_fd(kept.vmm.as_fd(), PollFlags::IN));
            let device = kept.vsock_device.as_deref().filter(|_| !kept.device_lost);
            fds.extend(device.map(|device| PollFd::from_borrowed_fd(device.as_fd(), PollFlags::IN)));
        }
        // With nothing to watch there are no logs to bound either: sleep until somebody comes.
        let patience = Timespec { tv_sec: LOG_INTERVAL.as_secs() as i64, tv_nsec: 0 };
        let _count = poll(&mut fds, (!watched.is_empty()).then_some(&patience));
        let _read = rustix::io::read(&self.wake, &mut [0u8; 8]);
    }

    fn look_at(&self, id: &SandboxId, kept: &Kept) {
        if kept.vmm.has_ended() {
            let exit = how_it_ended(kept);
            bound_logs(kept);
            tracing::info!(vm = %id, pid = kept.vmm.identity.pid, ?exit, "the VMM has ended");
            if let Some(device) = &kept.vsock_device
                && !device.kill(KILL_PATIENCE)
            {
                tracing::warn!(vm = %id, pid = device.identity.pid, "the vsock device does not end");
            }
            if let Some(gateway) = &kept.gateway {
                gateway.kill(KILL_PATIENCE);
            }
            self.update(id, kept, |kept| kept.exit = Some(exit));
            self.ended.notify_all();
        } else if !kept.device_lost && kept.vsock_device.as_deref().is_some_and(Process::has_ended) {
            tracing::warn!(vm = %id, "the vsock device has ended; its VMM is asked to end too");
            say_in(kept, "banger: the vsock device has ended, so nobody reaches the guest; its VMM is asked to end\n");
            // QEMU ends in order on SIGTERM: what the guest has written is on its disks.
            drop(kept.vmm.signal(Signal::TERM));
            self.update(id, kept, |kept| kept.device_lost = true);
        }
    }

    /// Unless another VMM has taken the place meanwhile.
    fn update(&self, id: &SandboxId, seen: &Kept, change: impl FnOnce(&mut Kept)) {
        if let Some(kept) = self.lock().kept.get_mut(id).filter(|kept| Arc::ptr_eq(&kept.vmm, &seen.vmm)) {
            change(kept);
        }
    }
}

/// QEMU ends in order on SIGTERM and answers 0, as if its guest had powered itself off. Its last words tell the two apart
/// (`main_loop_should_exit` in softmmu/runstate.c): `qemu-system-x86_64: terminating on signal 15 from pid 42 (kill)`.
fn how_it_ended(kept: &Kept) -> VmmExit {
    let exit = kept.vmm.reap();
    match (&exit, kept.vmm_log()) {
        (VmmExit { code: Some(0) | None, signal: None }, Some(log)) => exit_told_in(log).unwrap_or(exit),
        _ => exit,
    }
}

pub fn exit_told_in(log: &Path) -> Option<VmmExit> {
    signal_in(&last_words(log, 2000)).map(|signal| VmmExit { code: None, signal: Some(signal) })
}

fn signal_in(words: &str) -> Option<i32> {
    let (_, rest) = words.rsplit_once("terminating on signal ")?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn say_in(kept: &Kept, line: &str) {
    let said = kept.vmm_log().map(|log| open_log(log).and_then(|mut log| log.write_all(line.as_bytes())));
    if let Some(Err(error)) = said {
        tracing::warn!(%error, "cannot write to a VMM's log");
    }
}

fn bound_logs(kept: &Kept) {
    for log in &kept.logs {
        times::note(log);
        if let Err(error) = keep_within(log, MAX_LOG_BYTES) {
            tracing::warn!(log = %log.display(), %error, "cannot bound a log");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::signal_in;

    #[test]
    fn the_signal_is_read_from_the_vmms_last_words() {
        let words = "warning: x\nqemu-system-x86_64: terminating on signal 15 from pid 42 (/bin/kill)\n";
        assert_eq!(signal_in(words), Some(15));
        assert_eq!(signal_in("qemu-system-x86_64: terminating on signal 2\n"), Some(2));
        for other in ["", "terminating on signal ", "terminating on signal x", "ended"] {
            assert_eq!(signal_in(other), None, "{other:?}");
        }
    }
}
