//! One driver per sandbox: whoever sits in the gate may change the sandbox and its things on the host.
//!
//! The gate's lock is held for moments only. A driver that works, boots or waits holds its *seat*, not the lock, so
//! that `stop`, `kill` and `delete` can always tell it to let go, and then wait for the seat.

use crate::host::{Report, Watch};
use crate::lock;
use crate::plan::Verb;
use model::OperationId;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// How often a waiter asks whether it is still wanted; the seat's release wakes it at once.
const LOOK: Duration = Duration::from_millis(50);

#[derive(Default)]
pub(crate) struct Gate {
    turn: Mutex<Turn>,
    freed: Condvar,
}

#[derive(Default)]
struct Turn {
    driver: Option<Driver>,
    /// Preempting requests that wait; nobody else sits down before them.
    claims: u32,
}

/// Who sits in the gate now.
#[derive(Clone)]
pub(crate) struct Driver {
    pub operation: OperationId,
    pub verb: Verb,
    pub waiting: Waiting,
    pub letting_go: Arc<LetGo>,
}

/// What of the guest a driver waits for, as far as ending the VMM would end the wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waiting {
    Nothing,
    Boot,
    Shutdown,
}

/// Has somebody told the driver to let go?
#[derive(Default)]
pub(crate) struct LetGo(AtomicU8);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    None,
    /// The person who asked does not want it any more.
    Cancelled,
    /// A `stop`, `kill` or `delete` came.
    Preempted,
}

impl LetGo {
    pub fn say(&self, wish: Wish) {
        self.0.fetch_max(wish as u8, Ordering::SeqCst);
    }

    pub fn wish(&self) -> Wish {
        match self.0.load(Ordering::SeqCst) {
            0 => Wish::None,
            1 => Wish::Cancelled,
            _ => Wish::Preempted,
        }
    }
}

impl Gate {
    /// Sits down if the gate is free and nobody has a better claim.
    pub fn try_take(
        self: &Arc<Self>,
        verb: Verb,
        operation: &OperationId,
        claimed: bool,
    ) -> Result<Seat, Option<Driver>> {
        let mut turn = lock(&self.turn);
        if turn.driver.is_some() || (turn.claims > 0 && !claimed) {
            return Err(turn.driver.clone());
        }
        let letting_go = Arc::<LetGo>::default();
        let driver =
            Driver { operation: operation.clone(), verb, waiting: Waiting::Nothing, letting_go: letting_go.clone() };
        turn.driver = Some(driver);
        Ok(Seat { gate: self.clone(), letting_go })
    }

    pub fn driver(&self) -> Option<Driver> {
        lock(&self.turn).driver.clone()
    }

    pub fn claim(self: &Arc<Self>) -> Claim {
        lock(&self.turn).claims += 1;
        Claim { gate: self.clone() }
    }

    /// Waits until something changed here, a short time at most.
    pub fn wait(&self) {
        let turn = lock(&self.turn);
        if turn.driver.is_some() || turn.claims > 0 {
            drop(self.wait_on(turn));
        }
    }

    fn wait_on<'a>(&self, turn: MutexGuard<'a, Turn>) -> MutexGuard<'a, Turn> {
        match self.freed.wait_timeout(turn, LOOK) {
            Ok((turn, _)) => turn,
            Err(poisoned) => poisoned.into_inner().0,
        }
    }
}

/// The looks that fit into a time.
pub(crate) fn looks(timeout_ms: u64) -> u64 {
    (timeout_ms / LOOK.as_millis() as u64).max(1)
}

/// The right to drive one sandbox; ends when dropped.
pub(crate) struct Seat {
    gate: Arc<Gate>,
    pub letting_go: Arc<LetGo>,
}

impl Seat {
    /// Says what the driver waits for; false if it was told to let go and must not begin to wait.
    pub fn await_guest(&self, waiting: Waiting) -> bool {
        let mut turn = lock(&self.gate.turn);
        if let Some(driver) = &mut turn.driver {
            driver.waiting = waiting;
        }
        waiting != Waiting::Boot || self.letting_go.wish() == Wish::None
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        lock(&self.gate.turn).driver = None;
        self.gate.freed.notify_all();
    }
}

/// Keeps others from sitting down before the claimant.
pub(crate) struct Claim {
    gate: Arc<Gate>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        lock(&self.gate.turn).claims -= 1;
        self.gate.freed.notify_all();
    }
}

/// The caller's watch, and the gate's own word that somebody wants the seat.
pub(crate) struct Guarded<'a> {
    pub inner: &'a dyn Watch,
    pub letting_go: &'a LetGo,
}

impl Guarded<'_> {
    pub fn wish(&self) -> Wish {
        match self.letting_go.wish() {
            Wish::None if self.inner.cancelled() => Wish::Cancelled,
            wish => wish,
        }
    }
}

impl Watch for Guarded<'_> {
    fn report(&self, report: Report) {
        self.inner.report(report);
    }

    fn cancelled(&self) -> bool {
        self.wish() != Wish::None
    }
}
