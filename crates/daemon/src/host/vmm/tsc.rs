//! How fast the host's time stamp counter runs: a guest whose code QEMU interprets reads the very same counter, and its
//! kernel's own calibration against an emulated timer fails under load, so it has to be told.
//!
//! Measured once per boot of the host, over at least 50 ms, and kept in the cache. Unit: kHz.
#![allow(unsafe_code)]

use super::record::host_boot_id;
use rustix::time::{ClockId, clock_gettime};
use std::path::PathBuf;
use std::time::Duration;
use std::{fs, thread};

/// 50 ms: an interrupt of 5 µs between the two readings of a sample shifts the result by 0.01 %.
const MEASURE_NS: u64 = 50_000_000;
/// What a real counter can be; a cached value outside was not written here.
const PLAUSIBLE_KHZ: std::ops::RangeInclusive<u64> = 200_000..=10_000_000;

/// A measurement under way: made early and read late, it never has to wait.
#[derive(Debug)]
pub struct Tsc {
    cache: PathBuf,
    first: Sample,
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    ticks: u64,
    ns: u64,
}

impl Tsc {
    pub fn begin(cache: PathBuf) -> Tsc {
        Tsc { cache, first: Sample::take() }
    }

    /// `None` where there is no counter to speak of.
    pub fn khz(&self) -> Option<u64> {
        let boot_id = host_boot_id().ok()?;
        let cached = fs::read_to_string(&self.cache).ok();
        let cached = cached.as_deref().and_then(|text| text.trim().strip_prefix(&boot_id)?.trim().parse().ok());
        if let Some(khz) = cached.filter(|khz| PLAUSIBLE_KHZ.contains(khz)) {
            return Some(khz);
        }
        let khz = Some(self.measure()).filter(|khz| PLAUSIBLE_KHZ.contains(khz))?;
        // Only a cache: where it cannot be written, the next daemon measures again.
        drop(fs::write(&self.cache, format!("{boot_id} {khz}\n")));
        Some(khz)
    }

    fn measure(&self) -> u64 {
        let elapsed = Sample::take().ns.saturating_sub(self.first.ns);
        thread::sleep(Duration::from_nanos(MEASURE_NS.saturating_sub(elapsed)));
        let last = Sample::take();
        let (ticks, ns) = (last.ticks.wrapping_sub(self.first.ticks), last.ns.saturating_sub(self.first.ns));
        // A tick per nanosecond is a million kHz.
        u64::try_from(u128::from(ticks) * 1_000_000 / u128::from(ns.max(1))).unwrap_or(0)
    }
}

impl Sample {
    /// Counter and clock of one instant: the pair that was read fastest of eight, so that no interrupt lies between.
    fn take() -> Sample {
        let read = || {
            let before = counter();
            let now = clock_gettime(ClockId::MonotonicRaw);
            let after = counter();
            let ns = now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64;
            (after.wrapping_sub(before), Sample { ticks: before.wrapping_add(after.wrapping_sub(before) / 2), ns })
        };
        (0..8).map(|_| read()).min_by_key(|(width, _)| *width).expect("eight were taken").1
    }
}

#[cfg(target_arch = "x86_64")]
fn counter() -> u64 {
    // SAFETY: RDTSC is part of every x86_64 processor; it reads a register and touches no memory.
    unsafe { core::arch::x86_64::_rdtsc() }
}

#[cfg(not(target_arch = "x86_64"))]
fn counter() -> u64 {
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_measurement_is_kept_for_this_boot_of_the_host() {
        let folder = tempfile::tempdir().unwrap();
        let cache = folder.path().join("tsc");
        let Some(khz) = Tsc::begin(cache.clone()).khz() else { return };
        assert_eq!(fs::read_to_string(&cache).unwrap(), format!("{} {khz}\n", host_boot_id().unwrap()));

        fs::write(&cache, format!("{} 1234567\n", host_boot_id().unwrap())).unwrap();
        assert_eq!(Tsc::begin(cache.clone()).khz(), Some(1_234_567));
        for stale in ["", "another-boot 1234567", &format!("{} 1", host_boot_id().unwrap())] {
            fs::write(&cache, stale).unwrap();
            let again = Tsc::begin(cache.clone()).khz().unwrap();
            assert!(again.abs_diff(khz) < khz / 100, "{again} and {khz}");
        }
    }
}
