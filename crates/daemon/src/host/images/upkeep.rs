//! What the library takes on the disk, and what of it can go: other names for an image, copies into our own keeping, the
//! cache's budget.

use super::blobs::{Entry, KEEP_PARTIAL};
use super::manifest::{self, ImageManifest};
use super::staging::Staging;
use super::{Library, Trouble, refuse_existing};
use crate::host::clock::HostClock;
use crate::host::disk;
use engine::host::Result;
use engine::host::clock::Clock;
use model::{ByteSize, Digest, ImageName, KernelName};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::SystemTime;

/// 20 GiB: some hundred layers of a distribution.
pub const DEFAULT_BUDGET: ByteSize = ByteSize::from_gib(20);

/// Which blobs shall go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sweep {
    /// Those that no image here was made of.
    Unused,
    All,
}

/// What lies in the cache, for people.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CacheFacts {
    pub count: u64,
    pub allocated: ByteSize,
    /// Of what no image here was made.
    pub unused: ByteSize,
}

impl Library {
    /// Another name for the same image: the files are shared, so it costs nothing.
    pub fn tag_image(&self, name: &ImageName, other: &ImageName) -> Result<()> {
        let attempt = format!("cannot call image {name} {other} as well");
        refuse_existing(&self.layout.image(other), &attempt)?;
        let work = || {
            let mut manifest = self.manifest_of(name)?;
            let staging = Staging::begin(&self.layout.images())?;
            for file in [self.layout.image_rootfs(name), self.layout.image_work_seed(name)] {
                link(&file, &staging.file(&file_name(&file)))?;
            }
            manifest.parent = Some(name.clone());
            manifest.references.clear();
            manifest.created_at_ns = HostClock.now();
            manifest::write(&staging.file("manifest.json"), &manifest)?;
            staging.commit(&self.layout.image(other))
        };
        work().map_err(|error| error.told(&attempt, &self.layout))
    }

    /// Makes a registered image's files our own, so that its owner may remove them. Tells whether it had to.
    pub fn promote_image(&self, name: &ImageName) -> Result<bool> {
        let work = || {
            let mut manifest = self.manifest_of(name)?;
            if manifest.managed {
                return Ok(false);
            }
            let staging = Staging::begin(&self.layout.images())?;
            for file in [self.layout.image_rootfs(name), self.layout.image_work_seed(name)] {
                if file.exists() {
                    disk::copy_sparse(&file, &staging.file(&file_name(&file)))?;
                }
            }
            manifest.managed = true;
            manifest::write(&staging.file("manifest.json"), &manifest)?;
            staging.replace(&self.layout.image(name))?;
            Ok(true)
        };
        work().map_err(|error: Trouble| error.told(&format!("cannot promote image {name}"), &self.layout))
    }

    /// The kernel that came with an image and goes with it.
    pub fn owned_kernel(&self, name: &ImageName) -> Option<KernelName> {
        self.manifest_of(name).ok().filter(|manifest| manifest.owns_kernel)?.kernel
    }

    pub(super) fn manifest_of(&self, name: &ImageName) -> std::result::Result<ImageManifest, Trouble> {
        ImageManifest::read(&self.layout.image_manifest(name))
            .ok_or_else(|| Trouble::NotFound(format!("there is no image `{name}`")))
    }

    /// What the cache holds.
    pub fn cache_facts(&self) -> Result<CacheFacts> {
        let used = self.used_blobs()?;
        let mut facts = CacheFacts::default();
        for entry in self.entries()? {
            facts.count += 1;
            facts.allocated = sum(facts.allocated, entry.allocated);
            if !used.contains(&entry.digest) {
                facts.unused = sum(facts.unused, entry.allocated);
            }
        }
        Ok(facts)
    }

    /// Removes blobs, or tells which would go. What is being fetched stays.
    pub fn prune_cache(&self, sweep: Sweep, dry_run: bool) -> Result<Vec<Entry>> {
        let used = self.used_blobs()?;
        let goes = |entry: &Entry| sweep == Sweep::All || !used.contains(&entry.digest);
        let mut gone = Vec::new();
        for entry in self.entries()?.into_iter().filter(goes) {
            if dry_run || self.remove_blob(&entry)? {
                gone.push(entry);
            }
        }
        Ok(gone)
    }

    /// Lets the oldest blobs go until the rest fits the budget: first those that no image was made of. Torn downloads
    /// that nobody took up again for a week go, too.
    pub(super) fn keep_within_budget(&self) {
        let kept = || -> Result<()> {
            let used = self.used_blobs()?;
            let entries = self.entries()?;
            let mut total = entries.iter().fold(0, |sum, entry| sum + entry.allocated.bytes());
            let now = SystemTime::now();
            let stale =
                |entry: &Entry| !entry.whole && now.duration_since(entry.used_at).is_ok_and(|age| age > KEEP_PARTIAL);
            let (mut order, last): (Vec<_>, Vec<_>) = entries.into_iter().partition(|one| !used.contains(&one.digest));
            order.extend(last);
            for entry in order {
                if (stale(&entry) || total > self.budget.bytes()) && self.remove_blob(&entry)? {
                    total = total.saturating_sub(entry.allocated.bytes());
                }
            }
            Ok(())
        };
        if let Err(error) = kept() {
            tracing::warn!(%error, "the cache could not be held to its budget");
        }
    }

    fn entries(&self) -> Result<Vec<Entry>> {
        self.blobs.entries().map_err(|error| Trouble::from(error).told("cannot look into the cache", &self.layout))
    }

    fn remove_blob(&self, entry: &Entry) -> Result<bool> {
        let removed = self.blobs.remove(entry);
        removed.map_err(|error| Trouble::from(error).told(&format!("cannot remove {}", entry.digest), &self.layout))
    }

    fn used_blobs(&self) -> Result<BTreeSet<Digest>> {
        let mut used = BTreeSet::new();
        for origin in self.manifests()?.into_iter().filter_map(|(_, manifest)| manifest.origin) {
            used.extend([origin.manifest, origin.config]);
            used.extend(origin.layers.into_iter().map(|layer| layer.blob));
        }
        Ok(used)
    }
}

fn sum(a: ByteSize, b: ByteSize) -> ByteSize {
    ByteSize::from_bytes(a.bytes() + b.bytes())
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// A link to what the name means: for a registered image, its owner's file.
fn link(from: &Path, to: &Path) -> std::result::Result<(), Trouble> {
    let Ok(found) = fs::symlink_metadata(from) else { return Ok(()) };
    match found.is_symlink() {
        true => std::os::unix::fs::symlink(fs::read_link(from)?, to)?,
        false => fs::hard_link(from, to)?,
    }
    Ok(())
}

/// What deleting a file would give back: one that has another name gives nothing, a link next to nothing.
pub fn freed_of(file: &fs::Metadata) -> u64 {
    // st_blocks counts 512 bytes each, whatever the file system (stat(2)).
    if file.nlink() == 1 { file.blocks() * 512 } else { 0 }
}
