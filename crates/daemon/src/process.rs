//! What a process takes, from /proc (proc(5)).

use std::fs;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProcessUse {
    pub cpu_ms: u64,
    pub resident_bytes: u64,
}

/// None when there is no such process.
pub fn usage(pid: u32) -> Option<ProcessUse> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let resident_pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    let cpu_ms = cpu_ticks(&stat)?.saturating_mul(1000) / rustix::param::clock_ticks_per_second();
    Some(ProcessUse { cpu_ms, resident_bytes: resident_pages * rustix::param::page_size() as u64 })
}

/// utime + stime: fields 14 and 15. The name (field 2) may hold blanks and brackets, so counting begins after the last
/// bracket.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_any_name() {
        let stat = "77 (a) b (c) S 1 77 77 0 -1 4194560 100 0 0 0 12 30 0 0 20 0 1 0 99 1 1";
        assert_eq!(cpu_ticks(stat), Some(42));
        assert_eq!(cpu_ticks("77 (cut"), None);
    }

    #[test]
    fn this_process_takes_memory() {
        assert!(usage(std::process::id()).unwrap().resident_bytes > 0);
        assert_eq!(usage(u32::MAX), None);
    }
}
