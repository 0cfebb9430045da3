//! `GET /metrics`: what the machine uses, read from /proc at the moment of asking.

use rustix::fs::statvfs;
use std::fs::{read_dir, read_to_string};
use wire::guest::{DiskUse, Metrics};

/// The kernel counts CPU time for user space in ticks of 10 ms, whatever its own clock is (USER_HZ).
const TICK_MS: u64 = 10;

pub fn read() -> Metrics {
    let (cpu_busy_ms, cpu_idle_ms) = cpu_times(&text("/proc/stat"));
    let memory = text("/proc/meminfo");
    let (network_received_bytes, network_sent_bytes) = network_bytes(&text("/proc/net/dev"));
    Metrics {
        load_1m: text("/proc/loadavg").split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0),
        cpu_busy_ms,
        cpu_idle_ms,
        memory_total_bytes: memory_bytes(&memory, "MemTotal:"),
        memory_available_bytes: memory_bytes(&memory, "MemAvailable:"),
        disks: disk_mounts(&text("/proc/self/mounts")).iter().filter_map(|mount| disk_use(mount)).collect(),
        network_received_bytes,
        network_sent_bytes,
        processes: count_processes(),
    }
}

/// What programs may still take without anything being swapped out.
pub fn available_bytes() -> u64 {
    memory_bytes(&text("/proc/meminfo"), "MemAvailable:")
}

fn text(path: &str) -> String {
    read_to_string(path).unwrap_or_default()
}

/// The first line: user nice system idle iowait irq softirq steal; waiting for a disk counts as idle.
fn cpu_times(stat: &str) -> (u64, u64) {
    let line = stat.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = line.split_ascii_whitespace().skip(1).take(8).filter_map(|text| text.parse().ok()).collect();
    let idle = ticks.iter().skip(3).take(2).sum::<u64>();
    (TICK_MS * (ticks.iter().sum::<u64>() - idle), TICK_MS * idle)
}

fn memory_bytes(meminfo: &str, name: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name));
    let kib: u64 = line.and_then(|rest| rest.split_ascii_whitespace().next()?.parse().ok()).unwrap_or(0);
    kib * 1024
}

/// All links but the loopback; received bytes come first, sent ones ninth.
fn network_bytes(dev: &str) -> (u64, u64) {
    let mut sums = (0, 0);
    for (name, counters) in dev.lines().filter_map(|line| line.split_once(':')) {
        if name.trim() != "lo" {
            let counters: Vec<u64> = counters.split_ascii_whitespace().filter_map(|text| text.parse().ok()).collect();
            sums.0 += counters.first().unwrap_or(&0);
            sums.1 += counters.get(8).unwrap_or(&0);
        }
    }
    sums
}

/// Where disks are seen: the root and each device once, without the place where init keeps the sandbox's own disk.
fn disk_mounts(table: &str) -> Vec<String> {
    let mut seen = Vec::new();
    let mut mounts = Vec::new();
    for line in table.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let [source, target, ..] = fields[..] else { continue };
        let disk = source.starts_with("/dev/") || target == "/" && source != "rootfs";
        if disk && !target.starts_with("/run/initramfs") && !seen.contains(&source) {
            seen.push(source);
            mounts.push(crate::text::unescape_mount(target));
        }
    }
    mounts
}

fn disk_use(mount: &str) -> Option<DiskUse> {
    let facts = statvfs(mount).ok()?;
    let total_bytes = facts.f_blocks * facts.f_frsize;
    Some(DiskUse {
        mount: mount.to_owned(),
        total_bytes,
        used_bytes: total_bytes.saturating_sub(facts.f_bfree * facts.f_frsize),
    })
}

fn count_processes() -> u32 {
    let entries = read_dir("/proc").into_iter().flatten().flatten();
    let numbers = entries.filter(|entry| entry.file_name().to_str().is_some_and(|name| name.parse::<u32>().is_ok()));
    u32::try_from(numbers.count()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_split_into_busy_and_idle() {
        assert_eq!(cpu_times("cpu  10 1 5 100 20 2 3 4 7 7\ncpu0 1 1\n"), (250, 1200));
        assert_eq!(cpu_times(""), (0, 0));
    }

    #[test]
    fn memory_and_network_are_in_bytes() {
        assert_eq!(memory_bytes("MemTotal:  1024 kB\nMemFree: 1 kB\n", "MemTotal:"), 1024 * 1024);
        assert_eq!(memory_bytes("", "MemTotal:"), 0);
        let dev = "Inter-| Receive\n face |bytes\n    lo: 9 1 0 0 0 0 0 0 9 1\n  eth0: 100 1 0 0 0 0 0 0 200 1 0\n";
        assert_eq!(network_bytes(dev), (100, 200));
    }

    #[test]
    fn a_disk_is_told_once_and_hidden_ones_not_at_all() {
        let table = "overlay / overlay rw 0 0\n/dev/vdb /run/initramfs/own ext4 rw 0 0\n/dev/vdb /var/lib/docker ext4 rw 0 0\n/dev/vdb /x ext4 rw 0 0\ntmpfs /run tmpfs rw 0 0\n";
        assert_eq!(disk_mounts(table), ["/", "/var/lib/docker"]);
    }
}
