//! One import or export at a time per sandbox: two clients on one workspace take turns. Nothing of the lifecycle takes this lock,
//! so `stop` and `delete` never wait for an import: they end the guest, and the import with it.

use engine::host::Watch;
use model::SandboxId;
use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// 100 ms: how soon somebody who waits notices that nobody wants it any more.
const LOOK_UP: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
pub struct Locks {
    held: Mutex<BTreeSet<SandboxId>>,
    freed: Condvar,
}

/// While it lives, nobody else touches the workspaces of its sandbox.
#[derive(Debug)]
pub struct Held<'a> {
    locks: &'a Locks,
    id: SandboxId,
}

impl Locks {
    /// None once the watch says that nobody wants it any more.
    pub fn hold(&self, id: &SandboxId, watch: &dyn Watch) -> Option<Held<'_>> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        while !held.insert(id.clone()) {
            if watch.cancelled() {
                return None;
            }
            held = self.freed.wait_timeout(held, LOOK_UP).unwrap_or_else(PoisonError::into_inner).0;
        }
        Some(Held { locks: self, id: id.clone() })
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.locks.held.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
        self.locks.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::host::{Report, Unwatched};

    struct Gone;
    impl Watch for Gone {
        fn report(&self, _: Report) {}
        fn cancelled(&self) -> bool {
            true
        }
    }

    #[test]
    fn two_clients_of_one_sandbox_take_turns() {
        let locks = Locks::default();
        let (one, other) = (SandboxId::from_bits(1), SandboxId::from_bits(2));
        let held = locks.hold(&one, &Unwatched).expect("nobody holds it");
        assert!(locks.hold(&one, &Gone).is_none());
        assert!(locks.hold(&other, &Gone).is_some());
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| locks.hold(&one, &Unwatched).is_some());
            drop(held);
            assert!(waiting.join().expect("it does not panic"));
        });
        assert!(locks.hold(&one, &Gone).is_some());
    }
}
