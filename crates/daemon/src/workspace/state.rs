//! How large what travels is, and a digest of it by which a later look sees that the host moved on.
//!
//! The digest covers the index entries and, for every listed path, its kind, permissions, size and time of last change: no
//! content is read. It changes when anything that would travel changes, and now and then when nothing did (a `touch`).

use super::inspect::Source;
use super::list::Entry;
use super::{Result, git_stage};
use sha2::{Digest, Sha256};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Measured {
    pub files: u64,
    pub bytes: u64,
    /// Hexadecimal.
    pub digest: String,
}

pub fn measure<'a>(source: &Source, entries: impl Iterator<Item = &'a Entry>) -> Result<Measured> {
    let mut hash = Sha256::new();
    if let Source::Git(repository) = source {
        hash.update(repository.head.as_deref().unwrap_or_default());
        hash.update(git_stage(repository)?);
    }
    let mut measured = Measured::default();
    for entry in entries {
        let Ok(facts) = source.path().join(&entry.path).symlink_metadata() else { continue };
        measured.files += 1;
        measured.bytes = measured.bytes.saturating_add(facts.size());
        hash.update(entry.path.as_os_str().as_bytes());
        let facts = [u64::from(facts.mode()), facts.size(), facts.mtime() as u64, facts.mtime_nsec() as u64];
        facts.iter().for_each(|fact| hash.update(fact.to_le_bytes()));
    }
    measured.digest = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(measured)
}
