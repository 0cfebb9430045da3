//! The folder through which server and supervisor know each other: what is wanted, how it fares, and a lock that is held
//! for as long as a supervisor lives.
//!
//! ```text
//! /run/banger/service/  wanted.json   the host's word            /var/log/banger/  service.log, service.log.1
//!                       state.json    the supervisor's word
//!                       lock          its process id; locked while it lives
//! ```
//! The folder is in memory: at the next boot nothing of it is left, and the host says again what it wants. Files are replaced
//! whole, so a reader never sees half of one.

use nix::unistd::Pid;
use rustix::fs::{FlockOperation, flock};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use wire::guest::{Service, ServiceFacts, ServicePhase};

pub const FOLDER: &str = "/run/banger/service";
const LOG_FOLDER: &str = "/var/log/banger";

#[derive(Debug, Clone)]
pub struct Place {
    folder: PathBuf,
    log: PathBuf,
}

/// The supervisor's word: of which service, and how it fares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    pub service: Service,
    pub facts: ServiceFacts,
}

impl State {
    pub fn has_ended(&self) -> bool {
        self.facts.phase == ServicePhase::Ended
    }
}

/// Held by a supervisor for its whole life.
pub struct Lock {
    _file: File,
}

impl Place {
    /// The guest's own folder; anywhere else (a test) the log lies beside the state.
    pub fn at(folder: &Path) -> Place {
        let log = if folder == Path::new(FOLDER) { Path::new(LOG_FOLDER) } else { folder };
        Place { folder: folder.to_owned(), log: log.join("service.log") }
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn log(&self) -> &Path {
        &self.log
    }

    pub fn old_log(&self) -> PathBuf {
        self.log.with_extension("log.1")
    }

    pub fn wanted(&self) -> Option<Service> {
        read(&self.folder.join("wanted.json"))
    }

    pub fn want(&self, service: &Service) -> io::Result<()> {
        self.replace("wanted.json", service)
    }

    pub fn state(&self) -> Option<State> {
        read(&self.folder.join("state.json"))
    }

    pub fn tell(&self, state: &State) -> io::Result<()> {
        self.replace("state.json", state)
    }

    pub fn forget_state(&self) {
        let _ = fs::remove_file(self.folder.join("state.json"));
    }

    fn replace<T: Serialize>(&self, name: &str, value: &T) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        let new = self.folder.join(format!("{name}.new"));
        fs::write(&new, serde_json::to_vec(value)?)?;
        fs::rename(&new, self.folder.join(name))
    }

    /// Nothing if another supervisor holds it.
    pub fn lock(&self) -> io::Result<Option<Lock>> {
        fs::create_dir_all(&self.folder)?;
        let mut file = self.open_lock()?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(None);
        }
        file.set_len(0)?;
        write!(file, "{}", std::process::id())?;
        Ok(Some(Lock { _file: file }))
    }

    /// The supervisor that lives now.
    pub fn supervisor(&self) -> Option<Pid> {
        let file = File::open(self.lock_path()).ok()?;
        if flock(&file, FlockOperation::NonBlockingLockShared).is_ok() {
            return None;
        }
        fs::read_to_string(self.lock_path()).ok()?.parse().ok().map(Pid::from_raw)
    }

    fn open_lock(&self) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(self.lock_path())
    }

    fn lock_path(&self) -> PathBuf {
        self.folder.join("lock")
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_held_once_and_tells_who_holds_it() {
        let folder = tempfile::tempdir().expect("temp dir");
        let place = Place::at(folder.path());
        assert_eq!(place.supervisor(), None);
        let lock = place.lock().expect("a lock").expect("it is free");
        assert!(place.lock().expect("an answer").is_none());
        assert_eq!(place.supervisor(), Some(Pid::this()));
        drop(lock);
        assert_eq!(place.supervisor(), None);
        assert!(place.lock().expect("a lock").is_some());
    }
}
