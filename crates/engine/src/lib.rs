//! Decides, and cannot touch the machine: no files, no processes, no sockets, no time. SQLite in a folder is its one tool.
//!
//! ```text
//!  request ─► lifecycle table ─► Plan (pure) ─► run: journal, step, journal, step … ─► record ─► published snapshot
//!                                   ▲ facts           │ seams (host/)
//! ```
//! [`Engine`] is called from blocking threads, by any number of them. One driver per sandbox changes it (`gate`);
//! readers get a snapshot. After a crash `reconcile` compares journal and records with what the seams observe.
//! [`sim`] is a whole machine in memory behind the same seams.

mod admission;
pub mod audit;
mod engine;
mod error;
mod gate;
pub mod host;
mod plan;
mod reconcile;
mod run;
mod sandbox;
mod settings;
pub mod sim;
pub mod store;
mod tick;

pub use audit::Finding;
pub use engine::Engine;
pub use error::{ConsoleTail, Error, Kind, Result};
pub use host::Host;
pub use plan::{Plan, Start, Step, Verb};
pub use reconcile::Errand;
pub use sandbox::{Applied, Changes, Failure, PortChanges, Sandbox, Span, StateChange};
pub use settings::{Caps, Settings};
pub use store::Store;
pub use store::journal::{Operation, Outcome, StepRecord, StepState};

use std::sync::{Mutex, MutexGuard, PoisonError};

/// No lock here is held over code that may leave its data half-changed, so a panic elsewhere is no reason to stop.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
