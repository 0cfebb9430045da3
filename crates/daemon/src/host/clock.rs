//! Time, chance and the shape of the machine, from the kernel.

use engine::host::clock::{Clock, Timestamp};
use model::ByteSize;
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

pub struct HostClock;

impl Clock for HostClock {
    fn now(&self) -> Timestamp {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX)
    }

    fn random(&self) -> u64 {
        u64::from_ne_bytes(random_bytes())
    }

    fn boot_id(&self) -> String {
        fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
    }

    fn free_memory(&self) -> Option<ByteSize> {
        let meminfo = fs::read_to_string("/proc/meminfo").ok()?;
        available_bytes(&meminfo).map(ByteSize::from_bytes)
    }
}

/// From the kernel's generator; it never fails once the machine has booted (getrandom(2)).
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        let got = rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty());
        filled += got.expect("the kernel's generator answers");
    }
    bytes
}

/// The line `MemAvailable:  123 kB` of /proc/meminfo (proc(5)).
fn available_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_memory_is_read_in_bytes() {
        assert_eq!(available_bytes("MemTotal: 9 kB\nMemAvailable:    2048 kB\n"), Some(2 * 1024 * 1024));
        assert_eq!(available_bytes("MemTotal: 9 kB\n"), None);
    }

    #[test]
    fn two_draws_differ() {
        assert_ne!(HostClock.random(), HostClock.random());
        assert!(HostClock.now() > 1_700_000_000_000_000_000);
    }
}
