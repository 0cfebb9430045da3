//! Watches what happens by itself: a VMM that ends without being asked to, and what the engine wants done in time
//! (restarts, idle sandboxes, work that an earlier daemon left).
//!
//! The kernel tells of an end through a pidfd (pidfd_open(2)). A pid is trusted only if the host still names it for the
//! sandbox after the pidfd was opened: then the descriptor means that very process.

use crate::app::{App, HostKind};
use crate::homecoming::{Turn, Work, settle};
use engine::Errand;
use engine::host::Unwatched;
use model::{SandboxId, State};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use wire::Fault;

/// How late a restart or an idle stop may be.
const TICK: Duration = Duration::from_secs(1);
/// 10 s: how long guests may be without our rules at most; a look costs a socket and a few netlink messages.
const MEND_EVERY: Duration = Duration::from_secs(10);
/// 1 s for the host to tell how a VMM ended once its end is known.
const EXIT_WITHIN_MS: u64 = 1000;

/// Runs until the daemon stops.
pub async fn watch(app: Arc<App>) {
    let ticks = tokio::spawn(tick(app.clone()));
    let mending = tokio::spawn(mend_network(app.clone()));
    if app.kind == HostKind::Real {
        watch_vmms(&app).await;
    }
    let _ = ticks.await;
    let _ = mending.await;
}

/// A firewall that is reloaded tells nobody; our rules are looked at now and then while anybody depends on them.
async fn mend_network(app: Arc<App>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(MEND_EVERY) => {}
            () = app.stopped() => return,
        }
        let mended = app.ask(|app| {
            let mended = app.network.as_ref().map(|network| network.mend()).transpose();
            mended.map_err(|error| crate::server::fault(error.into()))
        });
        if let Err(fault) = mended.await {
            tracing::warn!(causes = ?fault.causes, "{fault}");
        }
    }
}

async fn tick(app: Arc<App>) {
    let under_way = Arc::new(Mutex::new(HashSet::new()));
    loop {
        let errands = app.ask(|app| Ok(app.engine.tick())).await.unwrap_or_default();
        for errand in errands {
            run_errand(&app, errand, &under_way);
        }
        tokio::select! {
            () = tokio::time::sleep(TICK) => {}
            () = app.stopped() => return,
        }
    }
}

/// One errand a sandbox at a time; what is asked for again meanwhile is under way already.
fn run_errand(app: &Arc<App>, errand: Errand, under_way: &Arc<Mutex<HashSet<SandboxId>>>) {
    let lock = |set: &Mutex<HashSet<SandboxId>>, id: &SandboxId, begin: bool| {
        let mut set = set.lock().unwrap_or_else(PoisonError::into_inner);
        if begin { set.insert(id.clone()) } else { set.remove(id) }
    };
    if !lock(under_way, errand.id(), true) {
        return;
    }
    let (app, under_way) = (app.clone(), under_way.clone());
    tokio::spawn(async move {
        let id = errand.id().clone();
        tracing::info!(?errand, "begins by itself");
        let done = app.work(move |app| {
            let _turns = keep_work(app, &errand)?;
            app.engine.run_errand(&errand, &Unwatched).map(drop).map_err(crate::server::fault)
        });
        if let Err(fault) = done.await {
            tracing::warn!(vm = %id, operation = fault.operation, causes = ?fault.causes, "{fault}");
        }
        lock(&under_way, &id, false);
    });
}

/// An ephemeral sandbox that ended by itself is not removed while work in it is not on the host. A removal that was begun
/// before is finished: it was settled then.
fn keep_work(app: &App, errand: &Errand) -> Result<Vec<Turn>, Fault> {
    let is_off =
        |id: &SandboxId| app.engine.get(id).is_ok_and(|record| matches!(record.state, State::Stopped | State::Failed));
    match errand {
        Errand::Delete(id) if is_off(id) => settle(app, id, Work::Keep, &Unwatched),
        _ => Ok(Vec::new()),
    }
}

async fn watch_vmms(app: &Arc<App>) {
    let mut events = app.events();
    let watched = Arc::new(Mutex::new(HashSet::new()));
    watch_all(app, &watched);
    loop {
        let event = tokio::select! {
            event = events.recv() => event,
            () = app.stopped() => return,
        };
        match event {
            Ok(change) if change.to == Some(State::Running) => begin(app, change.id, &watched),
            Ok(_) => {}
            Err(RecvError::Lagged(_)) => watch_all(app, &watched),
            Err(RecvError::Closed) => return,
        }
    }
}

type Watched = Arc<Mutex<HashSet<SandboxId>>>;

fn watch_all(app: &Arc<App>, watched: &Watched) {
    for record in app.engine.list().iter().filter(|record| record.state.may_have_vmm()) {
        begin(app, record.id.clone(), watched);
    }
}

fn begin(app: &Arc<App>, id: SandboxId, watched: &Watched) {
    if !watched.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone()) {
        return;
    }
    let (app, watched) = (app.clone(), watched.clone());
    tokio::spawn(async move {
        tokio::select! {
            ended = await_end(&app, &id) => {
                watched.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
                if ended {
                    conclude(&app, id).await;
                }
            }
            () = app.stopped() => {}
        }
    });
}

/// False when there was no VMM to watch.
async fn await_end(app: &Arc<App>, id: &SandboxId) -> bool {
    let asked = id.clone();
    let descriptor = app.ask(move |app| Ok(descriptor(app, &asked))).await.ok().flatten();
    let Some(descriptor) = descriptor.and_then(|fd| crate::descriptor::readable(fd).ok()) else {
        return false;
    };
    descriptor.readable().await.is_ok()
}

fn descriptor(app: &App, id: &SandboxId) -> Option<OwnedFd> {
    let pid = crate::server::vmm_pid(app, id)?;
    let descriptor = pidfd_open(Pid::from_raw(i32::try_from(pid).ok()?)?, PidfdFlags::empty()).ok()?;
    (crate::server::vmm_pid(app, id) == Some(pid)).then_some(descriptor)
}

async fn conclude(app: &Arc<App>, id: SandboxId) {
    let told = app.ask(move |app| {
        let exit = app.host.vmm.await_exit(&id, EXIT_WITHIN_MS).ok().flatten().unwrap_or_default();
        app.engine.vmm_ended(&id, &exit).map(drop).map_err(crate::server::fault)
    });
    // Not found: it was removed, and its VMM ended for that.
    match told.await {
        Ok(()) => {}
        Err(Fault { kind: wire::FaultKind::NotFound, .. }) => {}
        Err(fault) => tracing::warn!(causes = ?fault.causes, "{fault}"),
    }
}
