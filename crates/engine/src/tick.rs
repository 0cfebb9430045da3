//! What time alone brings about: restart policies, idle policies, the end of ephemeral sandboxes, second looks.
//!
//! [`Engine::tick`] only decides. It answers with errands; the daemon runs each on a thread of its own
//! ([`Engine::run_errand`]), so that a boot never delays the next tick.

use crate::engine::Engine;
use crate::error::Result;
use crate::gate::Gate;
use crate::host::Watch;
use crate::host::clock::Timestamp;
use crate::lock;
use crate::reconcile::Errand;
use crate::sandbox::Sandbox;
use model::{RestartPolicy, SandboxId, State};
use std::sync::Arc;
use std::sync::atomic::Ordering;

const SECOND: Timestamp = 1_000_000_000;
/// Delays between restarts double from a second up to this: a guest that always crashes costs little.
const MAX_RESTART_DELAY: Timestamp = 300 * SECOND;
/// A sandbox that ran this long has recovered; the next restart is prompt again.
const RECOVERED_AFTER: Timestamp = 600 * SECOND;
/// An ephemeral sandbox that ended by itself is kept this long for whoever looks at why.
const EPHEMERAL_LINGER: Timestamp = 30 * SECOND;

/// Who uses a sandbox, and when it was last used.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    pub holds: u32,
    pub last_used: Timestamp,
}

/// While it lives, its sandbox counts as used: one per session.
pub struct Hold {
    engine: Arc<Engine>,
    id: SandboxId,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let now = self.engine.now();
        if let Some(slot) = lock(&self.engine.table).slots.get_mut(&self.id) {
            slot.usage.holds = slot.usage.holds.saturating_sub(1);
            slot.usage.last_used = now;
        }
    }
}

impl Engine {
    /// Counts a session on a sandbox as use of it.
    pub fn hold(self: &Arc<Self>, id: &SandboxId) -> Hold {
        if let Some(slot) = lock(&self.table).slots.get_mut(id) {
            slot.usage.holds += 1;
        }
        Hold { engine: self.clone(), id: id.clone() }
    }

    pub(crate) fn used(&self, id: &SandboxId, now: Timestamp) {
        if let Some(slot) = lock(&self.table).slots.get_mut(id) {
            slot.usage.last_used = now;
        }
    }

    /// Something was left behind; the next tick looks after it.
    pub(crate) fn look_again(&self) {
        self.reconcile_due.store(true, Ordering::SeqCst);
    }

    /// What is to be done now. Call it every second or so; a second call may answer the same errand again while it
    /// has not begun.
    pub fn tick(&self) -> Vec<Errand> {
        if self.reconcile_due.swap(false, Ordering::SeqCst) {
            self.reconcile();
        }
        self.save_unsaved();
        let now = self.now();
        let mut errands = std::mem::take(&mut *lock(&self.errands));
        for (record, gate, usage) in self.all_slots() {
            if gate.driver().is_some() || errands.iter().any(|errand| *errand.id() == record.id) {
                continue;
            }
            errands.extend(self.errand_for(&record, usage, now));
        }
        errands
    }

    /// Blocks as the request of the same name would.
    pub fn run_errand(&self, errand: &Errand, watch: &dyn Watch) -> Result<Arc<Sandbox>> {
        let ended = match errand {
            Errand::Await(id) => self.carry_on(id, watch),
            Errand::Start(id) => self.start_again(id, watch),
            Errand::Stop(id) => self.stop(id, None, watch),
            Errand::Delete(id) => self.delete(id, false, watch),
        };
        lock(&self.cared_for).remove(errand.id());
        ended
    }

    fn all_slots(&self) -> Vec<(Arc<Sandbox>, Arc<Gate>, Usage)> {
        let table = lock(&self.table);
        table.slots.values().map(|slot| (slot.record.clone(), slot.gate.clone(), slot.usage)).collect()
    }

    fn errand_for(&self, record: &Sandbox, usage: Usage, now: Timestamp) -> Option<Errand> {
        let id = record.id.clone();
        match record.state {
            State::Running if self.is_idle(record, usage, now) => Some(Errand::Stop(id)),
            State::Stopped | State::Failed if record.spec.ephemeral => {
                let over = record.ended_at.is_some_and(|ended_at| ended_at + EPHEMERAL_LINGER < now);
                (over && usage.holds == 0).then_some(Errand::Delete(id))
            }
            State::Stopped | State::Failed => {
                record.restart_due.is_some_and(|due| due <= now).then_some(Errand::Start(id))
            }
            _ => None,
        }
    }

    /// The guest itself is asked before it is stopped: sessions that did not come through us, and load, count as use.
    fn is_idle(&self, record: &Sandbox, usage: Usage, now: Timestamp) -> bool {
        let Some(limit_s) = record.spec.stop_when_idle_s.filter(|_| usage.holds == 0) else { return false };
        if now.saturating_sub(usage.last_used) < limit_s.saturating_mul(SECOND) {
            return false;
        }
        match self.host.guest.health(&record.id) {
            Ok(health) if health.sessions > 0 || health.load_percent >= self.settings.idle_load_percent => {
                self.used(&record.id, now);
                false
            }
            Ok(_) => true,
            // A guest that does not answer is not idle but ill; somebody may be looking into it.
            Err(_) => false,
        }
    }

    fn start_again(&self, id: &SandboxId, watch: &dyn Watch) -> Result<Arc<Sandbox>> {
        self.update(id, crate::engine::Saving::Must, None, |record| {
            record.restarts += 1;
            record.restart_due = None;
            Ok(())
        })?;
        self.start(id, watch).inspect_err(|_| {
            let now = self.now();
            let _record = self.update(id, crate::engine::Saving::Anyway, None, |record| {
                if record.state == State::Failed {
                    record.restart_due = Some(now + restart_delay(record.restarts));
                }
                Ok(())
            });
        })
    }

    fn save_unsaved(&self) {
        let mut table = lock(&self.table);
        let unsaved: Vec<_> = table.unsaved.iter().cloned().collect();
        for id in unsaved {
            match table.slots.get(&id).map(|slot| self.store.save(&slot.record)) {
                Some(Err(_)) => {}
                Some(Ok(())) | None => drop(table.unsaved.remove(&id)),
            }
        }
    }
}

/// A sandbox that ran has ended by itself: when is it to be started again?
pub(crate) fn plan_restart(record: &mut Sandbox, failed: bool, now: Timestamp) {
    let wanted = match record.spec.restart {
        RestartPolicy::Always => true,
        RestartPolicy::OnFailure => failed,
        RestartPolicy::No => false,
    };
    if record.started_at.is_some_and(|started_at| started_at + RECOVERED_AFTER < now) {
        record.restarts = 0;
    }
    record.restart_due = (wanted && !record.spec.ephemeral).then(|| now + restart_delay(record.restarts));
}

fn restart_delay(restarts: u32) -> Timestamp {
    (SECOND << restarts.min(20)).min(MAX_RESTART_DELAY)
}
