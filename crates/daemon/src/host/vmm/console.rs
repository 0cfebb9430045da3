//! The logs of a running machine: their last lines, and their bound.
//!
//! VMMs append to their logs without any limit of their own, and a guest may print for ever. Whoever watches the VMM
//! calls [`keep_within`] now and then: a log over its limit loses its beginning. All writers append (`O_APPEND`), so
//! they go on at the new end; what arrives during the cut may be lost. A reader that follows sees the file shrink.
//!
//! A log goes on over many starts, so each start leaves a line of its own ([`mark_start`]): what stands before it was
//! said by a machine that is gone. When the rest was said is kept beside it by [`times`].

pub mod times;

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

/// 8 MiB: some 100,000 lines, and what one sandbox's logs may take.
pub const MAX_LOG_BYTES: u64 = 8 * 1024 * 1024;
/// What is left of a log that was cut.
const KEPT_BYTES: usize = 1024 * 1024;
const CUT: &[u8] = b"[the beginning of this log was cut]\n";
/// How the line begins that a start leaves. A guest that prints it hides its own earlier words, nobody else's.
const START_MARK: &str = "[banger: a start began at ";

/// Opens a log for a process to write to.
pub fn open_log(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

/// A new start begins here. A log that cannot be marked is no reason not to start.
pub fn mark_start(path: &Path) {
    let mut time = String::new();
    let _ = SystemTime.format_time(&mut Writer::new(&mut time));
    let marked = open_log(path).and_then(|mut log| log.write_all(format!("{START_MARK}{time}]\n").as_bytes()));
    if let Err(error) = marked {
        tracing::warn!(log = %path.display(), %error, "cannot mark a start in a log");
    }
    times::note(path);
}

/// As [`tail`], without what machines before the last start said.
pub fn last_words(path: &Path, bytes: usize) -> String {
    let tail = tail(path, bytes);
    match tail.rfind(START_MARK) {
        Some(mark) => tail[mark..].split_once('\n').map(|(_, rest)| rest.to_owned()).unwrap_or_default(),
        None => tail,
    }
}

/// The last `bytes` of a log, from the start of a line where there is one, lossy UTF-8; empty where there is no log.
pub fn tail(path: &Path, bytes: usize) -> String {
    let Ok((tail, cut)) = File::open(path).and_then(|mut file| read_tail(&mut file, bytes)) else {
        return String::new();
    };
    // The end of one long line is better than nothing.
    let start = match tail.iter().position(|byte| *byte == b'\n') {
        Some(newline) if cut && newline + 1 < tail.len() => newline + 1,
        _ => 0,
    };
    // A guest's terminal ends its lines with both.
    String::from_utf8_lossy(&tail[start..]).replace("\r\n", "\n")
}

/// Cuts the beginning of a log that has grown over `limit`.
pub fn keep_within(path: &Path, limit: u64) -> io::Result<()> {
    if std::fs::metadata(path).map_or(0, |found| found.len()) <= limit {
        return Ok(());
    }
    let mut file = OpenOptions::new().read(true).append(true).open(path)?;
    let (tail, _) = read_tail(&mut file, KEPT_BYTES.min(limit as usize / 2))?;
    let length = file.stream_position()?;
    file.set_len(0)?;
    file.write_all(CUT)?;
    file.write_all(&tail)?;
    times::move_back(path, length.saturating_sub((CUT.len() + tail.len()) as u64));
    Ok(())
}

/// The last bytes, and whether there were more before them.
fn read_tail(file: &mut File, bytes: usize) -> io::Result<(Vec<u8>, bool)> {
    let length = file.metadata()?.len();
    let start = length.saturating_sub(bytes as u64);
    file.seek(SeekFrom::Start(start))?;
    let mut tail = Vec::new();
    file.take(bytes as u64).read_to_end(&mut tail)?;
    Ok((tail, start > 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_tail_starts_with_a_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        assert_eq!(tail(&path, 100), "");
        fs::write(&path, b"first\r\nsecond\nthird \xff\n").unwrap();
        assert_eq!(tail(&path, 100), "first\nsecond\nthird \u{fffd}\n");
        assert_eq!(tail(&path, 11), "third \u{fffd}\n");
        assert_eq!(tail(&path, 5), "rd \u{fffd}\n");
        fs::write(&path, "one line without end").unwrap();
        assert_eq!(tail(&path, 3), "end");
    }

    #[test]
    fn the_last_words_are_those_of_the_last_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        fs::write(&path, "reboot: Power down\n").unwrap();
        assert_eq!(last_words(&path, 4096), "reboot: Power down\n", "a log of before there were marks");
        mark_start(&path);
        assert_eq!(last_words(&path, 4096), "");
        open_log(&path).unwrap().write_all(b"hello\n").unwrap();
        assert_eq!(last_words(&path, 4096), "hello\n");
        assert!(
            tail(&path, 4096).starts_with("reboot: Power down\n[banger: a start began at 20"),
            "{}",
            tail(&path, 99)
        );
        mark_start(&path);
        assert_eq!(last_words(&path, 4096), "");
    }

    #[test]
    fn a_log_is_cut_at_its_beginning_and_its_writer_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut writer = open_log(&path).unwrap();
        (0..100).for_each(|line| writeln!(writer, "line {line}").unwrap());
        keep_within(&path, 10_000).unwrap();
        assert!(tail(&path, 10_000).starts_with("line 0\n"));

        keep_within(&path, 100).unwrap();
        writeln!(writer, "after").unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("[the beginning of this log was cut]\n"), "{text}");
        assert!(text.ends_with("line 99\nafter\n") && text.len() < 150, "{text}");
    }
}
