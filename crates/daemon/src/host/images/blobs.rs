//! The blob cache: what registries and archives brought, by digest, so that nothing is fetched twice and a download goes
//! on where it broke off. It lies in the cache folder and may be deleted at any time; several daemons may share it.
//!
//! ```text
//! blobs/sha256/<hex>           whole and verified; its time of change is that of its last use
//! blobs/sha256/<hex>.partial   what has arrived so far; locked by the one who downloads
//! ```
//! A blob appears by rename, after its bytes have reached the disk and its digest was found right.

use images::digest;
use model::{ByteSize, Digest};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

const PARTIAL: &str = ".partial";
/// More than this are not looked at.
const MAX_ENTRIES: usize = 1_000_000;

#[derive(Debug, Clone)]
pub struct BlobCache {
    folder: PathBuf,
}

/// A blob that is being made: its file, locked.
#[derive(Debug)]
pub struct Partial {
    pub file: File,
    path: PathBuf,
    place: PathBuf,
}

/// What lies in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub digest: Digest,
    pub allocated: ByteSize,
    pub used_at: SystemTime,
    pub whole: bool,
}

pub enum Claim {
    /// It is there: nobody needs to fetch it.
    Whole(File),
    Ours(Partial),
    /// Somebody else is fetching it.
    Taken,
}

impl BlobCache {
    pub fn open(folder: PathBuf) -> BlobCache {
        BlobCache { folder }
    }

    fn place(&self, digest: &Digest) -> PathBuf {
        self.folder.join(digest.hex())
    }

    /// The blob, if it is here whole; counts as a use.
    pub fn find(&self, digest: &Digest) -> io::Result<Option<File>> {
        match File::open(self.place(digest)) {
            Ok(file) => {
                // Only tells the pruner what is old.
                let _ = file.set_modified(SystemTime::now());
                Ok(Some(file))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The blob, or the right to make it.
    pub fn claim(&self, digest: &Digest) -> io::Result<Claim> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        let place = self.place(digest);
        let path = place.with_extension(&PARTIAL[1..]);
        loop {
            if let Some(file) = self.find(digest)? {
                return Ok(Claim::Whole(file));
            }
            let file =
                OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path)?;
            match file.try_lock() {
                Err(fs::TryLockError::WouldBlock) => return Ok(Claim::Taken),
                Err(fs::TryLockError::Error(error)) => return Err(error),
                Ok(()) => {}
            }
            // Its last owner may have finished or removed it between our open and our lock.
            let same = fs::metadata(&path).is_ok_and(|found| file.metadata().is_ok_and(|own| own.ino() == found.ino()));
            if same {
                return Ok(Claim::Ours(Partial { file, path, place }));
            }
        }
    }

    /// Puts a small blob there whose bytes are at hand.
    pub fn keep(&self, bytes: &[u8]) -> io::Result<Digest> {
        let digest = digest::of_bytes(bytes);
        if let Claim::Ours(partial) = self.claim(&digest)? {
            partial.file.set_len(0)?;
            io::Write::write_all(&mut &partial.file, bytes)?;
            partial.commit()?;
        }
        Ok(digest)
    }

    /// Everything in it, oldest use first.
    pub fn entries(&self) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        let listed = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(entries),
            listed => listed?,
        };
        for entry in listed.take(MAX_ENTRIES) {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let (hex, whole) = name.strip_suffix(PARTIAL).map_or((name, true), |hex| (hex, false));
            let Ok(digest) = format!("sha256:{hex}").parse() else { continue };
            // One that vanishes meanwhile is none of ours any more.
            let Ok(found) = entry.metadata() else { continue };
            let used_at = found.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            entries.push(Entry { digest, allocated: ByteSize::from_bytes(found.blocks() * 512), used_at, whole });
        }
        entries.sort_by_key(|entry| entry.used_at);
        Ok(entries)
    }

    /// Removes a blob; one that is being made stays. Tells whether it is gone.
    pub fn remove(&self, entry: &Entry) -> io::Result<bool> {
        let place = self.place(&entry.digest);
        let path = if entry.whole { place } else { place.with_extension(&PARTIAL[1..]) };
        if !entry.whole {
            let Ok(file) = File::open(&path) else { return Ok(true) };
            if file.try_lock().is_err() {
                return Ok(false);
            }
            fs::remove_file(&path)?;
            return Ok(true);
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(true),
        }
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Partial {
    /// On disk first, then visible. The caller has found the digest right.
    pub fn commit(self) -> io::Result<File> {
        self.file.sync_all()?;
        fs::rename(&self.path, &self.place)?;
        if let Some(folder) = self.place.parent() {
            File::open(folder)?.sync_all()?;
        }
        File::open(&self.place)
    }

    /// Nothing of it is worth keeping.
    pub fn discard(self) -> io::Result<()> {
        fs::remove_file(&self.path)
    }
}

/// How long a torn download is kept for the next try, unless room is wanted.
pub const KEEP_PARTIAL: Duration = Duration::from_secs(7 * 24 * 3600);

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> (tempfile::TempDir, BlobCache) {
        let folder = tempfile::tempdir().unwrap();
        let cache = BlobCache::open(folder.path().join("blobs/sha256"));
        (folder, cache)
    }

    #[test]
    fn a_blob_is_seen_only_whole_and_made_by_one() {
        let (_folder, cache) = cache();
        let digest = digest::of_bytes(b"hello");
        let Claim::Ours(partial) = cache.claim(&digest).unwrap() else { panic!("nobody else is there") };
        assert!(matches!(cache.claim(&digest).unwrap(), Claim::Taken));
        assert!(cache.find(&digest).unwrap().is_none());
        io::Write::write_all(&mut &partial.file, b"hello").unwrap();
        partial.commit().unwrap();
        assert!(matches!(cache.claim(&digest).unwrap(), Claim::Whole(_)));
        assert_eq!(cache.keep(b"hello").unwrap(), digest);
    }

    #[test]
    fn what_is_torn_stays_for_the_next_one_and_can_be_removed_unless_it_is_being_made() {
        let (_folder, cache) = cache();
        let digest = digest::of_bytes(b"hello");
        let Claim::Ours(partial) = cache.claim(&digest).unwrap() else { panic!("nobody else is there") };
        io::Write::write_all(&mut &partial.file, b"hel").unwrap();
        let entries = cache.entries().unwrap();
        assert!(entries.len() == 1 && !entries[0].whole);
        assert!(!cache.remove(&entries[0]).unwrap());
        drop(partial);
        let Claim::Ours(partial) = cache.claim(&digest).unwrap() else { panic!("its maker is gone") };
        assert_eq!(partial.file.metadata().unwrap().len(), 3);
        drop(partial);
        assert!(cache.remove(&entries[0]).unwrap());
        assert!(cache.entries().unwrap().is_empty());
    }
}
