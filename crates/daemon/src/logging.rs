//! The daemon's log: one JSON object a line in `<state>/bangerd.log`, two files of bounded size, never in anybody's way.
//!
//! Every line of an operation carries its id (`operation`), so that the id in an error finds them all.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// 4 MiB, twice (the log and the one before): a few weeks of ordinary days.
const MAX_BYTES: u64 = 4 * 1024 * 1024;
const DEFAULT_FILTER: &str = "info";

#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    #[error("cannot open the log {path}")]
    Open { path: PathBuf, source: io::Error },
    #[error("`{filter}` is no log level")]
    Filter { filter: String, source: tracing_subscriber::filter::ParseError },
}

/// Begins to log. Called once, by `main`; `also_stderr` is for who runs the daemon in a terminal.
pub fn begin(path: &Path, filter: Option<&str>, also_stderr: bool) -> Result<(), LoggingError> {
    let filter = filter.unwrap_or(DEFAULT_FILTER);
    let parse =
        || EnvFilter::try_new(filter).map_err(|source| LoggingError::Filter { filter: filter.to_owned(), source });
    let file =
        BoundedFile::open(path, MAX_BYTES).map_err(|source| LoggingError::Open { path: path.to_owned(), source })?;
    let json = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_writer(Shared(Box::leak(Box::new(Mutex::new(file)))));
    let stderr = also_stderr.then(|| tracing_subscriber::fmt::layer().with_writer(io::stderr));
    tracing_subscriber::registry().with(parse()?).with(json).with(stderr).init();
    Ok(())
}

/// The process has one log, and it lives as long as the process.
struct Shared(&'static Mutex<BoundedFile>);

impl<'a> MakeWriter<'a> for Shared {
    type Writer = Shared;
    fn make_writer(&'a self) -> Shared {
        Shared(self.0)
    }
}

impl Write for Shared {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).write(line)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A file that steps aside as `<name>.1` when it is full.
#[derive(Debug)]
struct BoundedFile {
    path: PathBuf,
    file: File,
    written: u64,
    limit: u64,
}

impl BoundedFile {
    fn open(path: &Path, limit: u64) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        let written = file.metadata()?.len();
        Ok(BoundedFile { path: path.to_owned(), file, written, limit })
    }

    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.written + line.len() as u64 > self.limit && self.written > 0 {
            let mut previous = self.path.clone().into_os_string();
            previous.push(".1");
            std::fs::rename(&self.path, previous)?;
            *self = BoundedFile::open(&self.path, self.limit)?;
        }
        self.file.write_all(line)?;
        self.written += line.len() as u64;
        Ok(line.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_never_grows_beyond_two_files_of_its_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bangerd.log");
        let mut log = BoundedFile::open(&path, 100).unwrap();
        for n in 0..100 {
            log.write(format!("line {n:04}\n").as_bytes()).unwrap();
        }
        let size = |name: &str| std::fs::metadata(folder.path().join(name)).unwrap().len();
        assert!(size("bangerd.log") <= 100 && size("bangerd.log.1") <= 100);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
        assert!(std::fs::read_to_string(&path).unwrap().ends_with("line 0099\n"));
    }

    #[test]
    fn an_old_log_is_continued() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bangerd.log");
        BoundedFile::open(&path, 100).unwrap().write(b"a\n").unwrap();
        BoundedFile::open(&path, 100).unwrap().write(b"b\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "a\nb\n");
    }
}
