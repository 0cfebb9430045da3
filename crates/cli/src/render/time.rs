//! Moments and spans as people say them.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::time::{SystemTime, UNIX_EPOCH};

/// `2026-11-21 10:03:22` by the clock on the person's wall.
pub fn moment(at_ns: u64) -> String {
    match Timestamp::from_nanosecond(i128::from(at_ns)) {
        Ok(at) => at.to_zoned(TimeZone::system()).strftime("%F %T").to_string(),
        Err(_) => "-".into(),
    }
}

/// How long ago, in the largest unit: `3 min`.
pub fn since(at_ns: u64) -> String {
    let now_ns = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_nanos() as u64);
    span_s(now_ns.saturating_sub(at_ns) / 1_000_000_000)
}

pub fn span_s(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        172_800.. => format!("{} days", seconds / 86_400),
    }
}

/// A short span with three digits that matter: `0.41 ms`, `12.3 ms`, `1.52 s`.
pub fn span_us(us: u64) -> String {
    match us {
        0..10_000 => format!("{:.2} ms", us as f64 / 1e3),
        10_000..1_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        1_000_000.. => format!("{:.2} s", us as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_short() {
        for (seconds, said) in [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7_200, "2 h"), (200_000, "2 days")] {
            assert_eq!(span_s(seconds), said);
        }
        for (us, said) in [(412, "0.41 ms"), (12_340, "12.3 ms"), (1_520_000, "1.52 s")] {
            assert_eq!(span_us(us), said);
        }
    }
}
