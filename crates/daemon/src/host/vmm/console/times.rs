//! When a log was how long: what `logs --since` needs of a file whose lines carry no time of their own.
//!
//! ```text
//!  console.log                     console.log.times      one line per look at a log that has grown
//!  ├─ 0 … 812 bytes                1795644519000 812      milliseconds since 1970, length
//!  └─ … 4096 bytes                 1795644524000 4096
//! ```
//! A log is looked at every few seconds, so what is found is at most a look older than what was asked for, and never
//! younger. A damaged line is passed over: the log itself is all there.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// 4096 looks, 100 KB: some hours of a log that never rests. Over it every second one goes.
const MAX_LOOKS: usize = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Look {
    at_ms: u64,
    length: u64,
}

/// Notes how long the log is now, if it has grown since the last look.
pub fn note(log: &Path) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    if let Err(error) = note_at(log, u64::try_from(now.as_millis()).unwrap_or(u64::MAX)) {
        tracing::warn!(log = %log.display(), %error, "cannot note when a log has grown");
    }
}

fn note_at(log: &Path, at_ms: u64) -> io::Result<()> {
    let Ok(length) = fs::metadata(log).map(|found| found.len()) else { return Ok(()) };
    let looks = read(log);
    if looks.last().is_some_and(|last| last.length == length) {
        return Ok(());
    }
    if looks.len() >= MAX_LOOKS {
        write(log, looks.into_iter().step_by(2))?;
    }
    let line = format!("{at_ms} {length}\n");
    OpenOptions::new().create(true).append(true).mode(0o600).open(path(log))?.write_all(line.as_bytes())
}

/// The log has lost so many bytes of its beginning.
pub fn move_back(log: &Path, bytes: u64) {
    let looks = read(log).into_iter().filter(|look| look.length >= bytes);
    let moved = write(log, looks.map(|look| Look { length: look.length - bytes, ..look }));
    if let Err(error) = moved {
        tracing::warn!(log = %log.display(), %error, "cannot note that a log was cut");
    }
}

/// Where everything begins that was written after `since_ms`: the start of a line or of the log.
pub fn start_of(log: &Path, since_ms: u64) -> u64 {
    let earlier = read(log).into_iter().take_while(|look| look.at_ms <= since_ms).last();
    earlier.map_or(0, |look| look.length)
}

pub fn path(log: &Path) -> PathBuf {
    let mut path = log.as_os_str().to_owned();
    path.push(".times");
    path.into()
}

fn read(log: &Path) -> Vec<Look> {
    let text = fs::read_to_string(path(log)).unwrap_or_default();
    let look = |line: &str| {
        let (at_ms, length) = line.split_once(' ')?;
        Some(Look { at_ms: at_ms.parse().ok()?, length: length.parse().ok()? })
    };
    text.lines().filter_map(look).collect()
}

/// By rename: a reader never sees half of it.
fn write(log: &Path, looks: impl Iterator<Item = Look>) -> io::Result<()> {
    let partial = path(log).with_extension("times.partial");
    let text: String = looks.map(|look| format!("{} {}\n", look.at_ms, look.length)).collect();
    let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&partial)?;
    file.write_all(text.as_bytes())?;
    fs::rename(&partial, path(log))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(log: &Path, bytes: usize) {
        let mut file = OpenOptions::new().create(true).append(true).open(log).unwrap();
        file.write_all(&vec![b'x'; bytes]).unwrap();
    }

    #[test]
    fn what_was_written_after_a_moment_begins_at_the_look_before_it() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        note_at(&log, 1).unwrap();
        assert_eq!((start_of(&log, 5), path(&log).exists()), (0, false), "there is no log yet");
        for (at_ms, bytes) in [(10, 100), (20, 0), (30, 50)] {
            append(&log, bytes);
            note_at(&log, at_ms).unwrap();
        }
        assert_eq!(fs::read_to_string(path(&log)).unwrap(), "10 100\n30 150\n", "a log that rests costs nothing");
        assert_eq!([0, 9, 10, 29, 30, 99].map(|since| start_of(&log, since)), [0, 0, 100, 100, 150, 150]);
    }

    #[test]
    fn a_cut_log_keeps_its_times() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        for at_ms in [10, 20, 30] {
            append(&log, 100);
            note_at(&log, at_ms).unwrap();
        }
        move_back(&log, 150);
        assert_eq!([10, 20, 30].map(|since| start_of(&log, since)), [0, 50, 150]);
    }

    #[test]
    fn the_looks_are_bounded_and_damage_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        append(&log, 1);
        let many: String = (0..MAX_LOOKS as u64).map(|n| format!("{n} {n}\n")).collect();
        fs::write(path(&log), many + "-1 x\nnothing\n").unwrap();
        note_at(&log, 9_000).unwrap();
        assert_eq!(read(&log).len(), MAX_LOOKS / 2 + 1);
        assert_eq!(start_of(&log, 9_000), 1);
    }
}
