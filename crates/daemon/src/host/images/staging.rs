//! Where things are made before anybody sees them: a folder beside their place, whose name no image or kernel can have.
//! It is renamed into place whole, or removed when it is dropped.

use super::Trouble;
use crate::host::clock::random_bytes;
use model::Change;
use rustix::fs::{CWD, RenameFlags};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// A leading dot: neither `ImageName` nor `KernelName` may have one.
const PREFIX: &str = ".staging-";

pub struct Staging {
    path: PathBuf,
}

impl Staging {
    pub fn begin(folder: &Path) -> Result<Staging, Trouble> {
        let path = folder.join(fresh_name());
        let made = fs::DirBuilder::new().mode(0o700).create(&path);
        made.map_err(|source| Trouble::File { what: "cannot make the folder", path: path.clone(), source })?;
        Ok(Staging { path })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Takes the place of an entry that is there, in one step.
    pub fn replace(self, place: &Path) -> Result<(), Trouble> {
        self.sync()?;
        rustix::fs::renameat_with(CWD, &self.path, CWD, place, RenameFlags::EXCHANGE).map_err(io::Error::from)?;
        if let Some(folder) = place.parent() {
            File::open(folder)?.sync_all()?;
        }
        // What was there lies in our place now, and goes with us.
        Ok(())
    }

    fn sync(&self) -> Result<(), Trouble> {
        for entry in fs::read_dir(&self.path)? {
            let path = entry?.path();
            if path.is_file() {
                File::open(&path)?.sync_all()?;
            }
        }
        Ok(File::open(&self.path)?.sync_all()?)
    }

    /// On disk first, then visible. An entry that came to be meanwhile stays.
    pub fn commit(self, place: &Path) -> Result<(), Trouble> {
        self.sync()?;
        fs::rename(&self.path, place)?;
        if let Some(folder) = place.parent() {
            File::open(folder)?.sync_all()?;
        }
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, path = %self.path.display(), "cannot remove what was half-made; the next start tries again");
            }
            _ => {}
        }
    }
}

fn fresh_name() -> String {
    format!("{PREFIX}{:016x}", u64::from_ne_bytes(random_bytes()))
}

/// Removes what was half-made or half-removed when a daemon died.
pub fn sweep(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(PREFIX) {
            tracing::info!(path = %entry.path().display(), "removing what was half-made");
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// Out of sight in one step, then off the disk.
pub fn remove(place: &Path) -> io::Result<Change> {
    let folder = place.parent().unwrap_or(Path::new("."));
    let aside = folder.join(fresh_name());
    match fs::rename(place, &aside) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Change::Unchanged),
        renamed => renamed?,
    }
    fs::remove_dir_all(aside)?;
    Ok(Change::Changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_is_committed_is_there_and_what_is_dropped_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let kept = Staging::begin(folder.path()).unwrap();
        fs::write(kept.file("rootfs"), "x").unwrap();
        kept.commit(&folder.path().join("kept")).unwrap();
        let dropped = Staging::begin(folder.path()).unwrap();
        fs::write(dropped.file("rootfs"), "x").unwrap();
        drop(dropped);
        assert_eq!(names(folder.path()), ["kept"]);
    }

    #[test]
    fn what_a_dead_daemon_left_is_swept() {
        let folder = tempfile::tempdir().unwrap();
        let staging = Staging::begin(folder.path()).unwrap();
        std::mem::forget(staging);
        fs::create_dir(folder.path().join("whole")).unwrap();
        sweep(folder.path()).unwrap();
        assert_eq!(names(folder.path()), ["whole"]);
    }

    #[test]
    fn removal_may_be_repeated() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("a")).unwrap();
        assert_eq!(remove(&folder.path().join("a")).unwrap(), Change::Changed);
        assert_eq!(remove(&folder.path().join("a")).unwrap(), Change::Unchanged);
        assert!(names(folder.path()).is_empty());
    }
}
