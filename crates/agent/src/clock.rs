//! The guest's wall clock, set by the host after boot, restore and fork.

use crate::http::{self, Answer, io_fault};
use hyper::StatusCode;
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};
use wire::Fault;
use wire::guest::Clock;

const NANOSECONDS: u64 = 1_000_000_000;

pub fn set(wanted: &Clock) -> Answer {
    set_ns(wanted.clock_ns)?;
    http::status(StatusCode::NO_CONTENT)
}

pub fn set_ns(clock_ns: u64) -> Result<(), Fault> {
    clock_settime(ClockId::Realtime, timespec(clock_ns)).map_err(|error| io_fault("set the clock")(error.into()))
}

/// Nanoseconds since the epoch.
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Realtime);
    u64::try_from(now.tv_sec).unwrap_or(0) * NANOSECONDS + u64::try_from(now.tv_nsec).unwrap_or(0)
}

fn timespec(clock_ns: u64) -> Timespec {
    // Both fit: u64 nanoseconds are 585 years, the rest is below 10^9.
    Timespec { tv_sec: (clock_ns / NANOSECONDS) as i64, tv_nsec: (clock_ns % NANOSECONDS) as i64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_keeps_its_nanoseconds() {
        let time = timespec(1_700_000_000_123_456_789);
        assert_eq!((time.tv_sec, time.tv_nsec), (1_700_000_000, 123_456_789));
        let end = timespec(u64::MAX);
        assert_eq!((end.tv_sec, end.tv_nsec), (18_446_744_073, 709_551_615));
    }
}
