//! Time that passes by itself, a microsecond a call, and chance from the seed; or the real ones, in the shipped world.

use super::World;
use crate::host::clock::{Clock, Timestamp};
use crate::lock;
use model::ByteSize;
use std::sync::Arc;

pub(super) struct SimClock(pub Arc<World>);

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        if let Some(clock) = &self.0.clock {
            return clock.now();
        }
        // Time is read between any two steps, so this is where a daemon dies between them.
        let now = self.0.call("cannot read the clock", |state| {
            state.now += 1000;
            Ok(state.now)
        });
        now.unwrap_or_else(|_| lock(&self.0.state).now)
    }

    fn random(&self) -> u64 {
        match &self.0.clock {
            Some(clock) => clock.random(),
            None => lock(&self.0.state).next_random(),
        }
    }

    fn boot_id(&self) -> String {
        format!("{:016x}", lock(&self.0.state).host_boot)
    }

    fn free_memory(&self) -> Option<ByteSize> {
        lock(&self.0.state).free_memory
    }
}
