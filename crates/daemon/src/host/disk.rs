//! The disk seam on the real machine: two sparse files for each sandbox, made in milliseconds whatever the image's size.
//!
//! *root* is cloned from an empty file system, formatted once for each size, by reflink where the host's file system
//! can, else only what is not a hole; *work* from the image's work-seed, which is grown to each size once ([`seed`]), or
//! from one that has a repository on it already ([`prepared`]). A disk is made beside its place and renamed into it, so a name always stands for a whole disk. Whoever changes a disk holds its lock, as a running VMM does.

pub(crate) mod clone;
mod ext4;
pub(crate) mod prepared;
mod seed;

pub use clone::clone_sparse as copy_sparse;

use self::ext4::Label;
use super::vmm::hold_disks;
use crate::layout::Layout;
use engine::host::disk::{Disk, DiskFacts, Disks};
use engine::host::{HostError, HostErrorKind, Result};
use model::{ByteSize, Change, SandboxId};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::{fs, io};

pub struct HostDisk {
    layout: Layout,
}

/// What can go wrong with one disk; the seam's error says whose it was.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    #[error("there is no room left on this file system")]
    Full,
    #[error("the image's own has {present}, and a disk cannot shrink to {wanted}")]
    Shrink { present: ByteSize, wanted: ByteSize },
    #[error("cannot write the disk")]
    Write(#[source] io::Error),
    #[error("cannot format the disk")]
    Format(#[source] images::ext4::ImageError),
    #[error("`{program}` is not installed")]
    NoTool { program: &'static str },
    #[error("`{program}` refused the disk: {said}")]
    Tool { program: &'static str, said: String },
}

impl From<io::Error> for DiskError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => DiskError::Full,
            _ => DiskError::Write(error),
        }
    }
}

impl DiskError {
    fn kind(&self) -> HostErrorKind {
        match self {
            DiskError::Full | DiskError::NoTool { .. } => HostErrorKind::Unfit,
            DiskError::Shrink { .. } => HostErrorKind::Invalid,
            DiskError::Write(_) | DiskError::Format(_) | DiskError::Tool { .. } => HostErrorKind::Broken,
        }
    }

    fn hint(&self) -> Option<&'static str> {
        match self {
            DiskError::Full => Some("`banger vm prune` and `banger image prune` make room"),
            DiskError::NoTool { .. } => Some("install e2fsprogs"),
            DiskError::Shrink { .. } | DiskError::Write(_) | DiskError::Format(_) | DiskError::Tool { .. } => None,
        }
    }
}

impl HostDisk {
    /// The caller holds the lock of the state folder: a template that lies half-made belonged to a daemon that died.
    pub fn new(layout: Layout) -> HostDisk {
        remove_half_made(&layout.templates());
        HostDisk { layout }
    }

    fn ensure(&self, wanted: &Disks) -> Result<Change> {
        let (root, work) = (self.layout.root_disk(&wanted.id), self.layout.work_disk(&wanted.id));
        if size(&root) >= Some(wanted.root_size) && size(&work) >= Some(wanted.work_size) {
            return Ok(Change::Unchanged);
        }
        let attempt = || format!("cannot make the disks of {}", wanted.id);
        if !self.layout.image_rootfs(&wanted.image).is_file() {
            return Err(HostError::new(HostErrorKind::NotFound, attempt())
                .with_source(format!("there is no image `{}`", wanted.image)));
        }
        let folder = self.layout.vm(&wanted.id);
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(|error| seam_error(attempt(), error.into()))?;
        let _lock = hold_disks(&self.layout, &wanted.id)?;
        let make_root = |path: &Path| self.make_empty(path, wanted.root_size, Label::Root, &wanted.id);
        let make_work = |path: &Path| self.make_work(path, wanted);
        let change = ensure_one(&root, wanted.root_size, make_root)
            .and_then(|change| Ok(change.and(ensure_one(&work, wanted.work_size, make_work)?)));
        change.map_err(|error| seam_error(attempt(), error))
    }

    fn make_empty(
        &self,
        path: &Path,
        size: ByteSize,
        label: Label,
        id: &SandboxId,
    ) -> std::result::Result<(), DiskError> {
        let template = self.layout.disk_template(label.word(), size);
        if !template.exists() {
            // Two sandboxes may make the same template at once; each makes its own, and the last name stands.
            let partial = template.with_extension(format!("{id}.partial"));
            make_whole(&partial, &template, |partial| ext4::format(partial, size, label))?;
        }
        Ok(clone::clone_sparse(&template, path)?)
    }

    fn make_work(&self, path: &Path, wanted: &Disks) -> std::result::Result<(), DiskError> {
        if let Some(template) = &wanted.work_template
            && let Some(template) = prepared::find(&self.layout, template, wanted.work_size)
        {
            match clone::clone_sparse(&template, path) {
                // It may go at any time.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                cloned => return Ok(cloned?),
            }
        }
        let seed = self.layout.image_work_seed(&wanted.image);
        if !seed.is_file() {
            return self.make_empty(path, wanted.work_size, Label::Work, &wanted.id);
        }
        match size(&seed) {
            Some(present) if present > wanted.work_size => Err(DiskError::Shrink { present, wanted: wanted.work_size }),
            Some(present) if present == wanted.work_size => Ok(clone::clone_sparse(&seed, path)?),
            _ => Ok(clone::clone_sparse(&seed::grown(&self.layout, wanted)?, path)?),
        }
    }
}

impl Disk for HostDisk {
    fn ensure_disks(&self, wanted: &Disks) -> Result<Change> {
        let fresh = !self.layout.vm(&wanted.id).exists();
        self.ensure(wanted).inspect_err(|_| {
            // Nothing half-made: of a sandbox that had no disks none are left.
            if fresh && hold_disks(&self.layout, &wanted.id).is_ok() {
                drop(fs::remove_dir_all(self.layout.vm(&wanted.id)));
            }
        })
    }

    /// Without the lock, which the VMM holds: more room at the end is in nobody's way.
    fn extend(&self, wanted: &Disks) -> Result<Change> {
        let attempt = || format!("cannot extend the disks of {}", wanted.id);
        let disks = [
            (self.layout.root_disk(&wanted.id), wanted.root_size),
            (self.layout.work_disk(&wanted.id), wanted.work_size),
        ];
        let mut change = Change::Unchanged;
        for (path, wanted_size) in disks {
            let Some(present) = size(&path) else {
                return Err(HostError::new(HostErrorKind::NotFound, attempt()).with_source("it has none"));
            };
            if present < wanted_size {
                let file = fs::File::options().write(true).open(&path);
                let extended = file.and_then(|file| file.set_len(wanted_size.bytes()).and_then(|()| file.sync_all()));
                extended.map_err(|error| seam_error(attempt(), error.into()))?;
                change = Change::Changed;
            }
        }
        Ok(change)
    }

    fn renew_root(&self, wanted: &Disks) -> Result<Change> {
        let root = self.layout.root_disk(&wanted.id);
        let attempt = || format!("cannot renew the root disk of {}", wanted.id);
        if !root.exists() {
            return Err(HostError::new(HostErrorKind::NotFound, attempt()).with_source("it has none"));
        }
        let _lock = hold_disks(&self.layout, &wanted.id)?;
        let make = |path: &Path| self.make_empty(path, wanted.root_size, Label::Root, &wanted.id);
        let made = make_whole(&partial(&root), &root, make);
        made.map(|()| Change::Changed).map_err(|error| seam_error(attempt(), error))
    }

    fn remove_disks(&self, id: &SandboxId) -> Result<Change> {
        if !self.layout.vm(id).exists() {
            return Ok(Change::Unchanged);
        }
        let _lock = hold_disks(&self.layout, id)?;
        let removed = fs::remove_dir_all(self.layout.vm(id));
        removed
            .map(|()| Change::Changed)
            .map_err(|error| seam_error(format!("cannot remove the disks of {id}"), error.into()))
    }

    fn observe(&self) -> Result<Vec<DiskFacts>> {
        let entries = match fs::read_dir(self.layout.vms()) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(seam_error("cannot list the disks".into(), error.into())),
        };
        let ids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<SandboxId>().ok());
        let mut facts: Vec<DiskFacts> = ids.map(|id| self.facts_of(id)).collect();
        facts.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(facts)
    }

    fn free_bytes(&self) -> Result<ByteSize> {
        let free = rustix::fs::statvfs(self.layout.state()).map_err(io::Error::from);
        let free = free.map_err(|error| seam_error("cannot look at the free space for disks".into(), error.into()))?;
        Ok(ByteSize::from_bytes(free.f_bavail.saturating_mul(free.f_frsize)))
    }
}

impl HostDisk {
    fn facts_of(&self, id: SandboxId) -> DiskFacts {
        let disks = [self.layout.root_disk(&id), self.layout.work_disk(&id)];
        let [root_size, work_size] = disks.each_ref().map(|path| size(path).unwrap_or_default());
        // A block is 512 bytes here, whatever the file system's is (stat(2)).
        let allocated = disks.iter().filter_map(|path| fs::metadata(path).ok()).map(|found| found.blocks() * 512).sum();
        DiskFacts { id, root_size, work_size, allocated: ByteSize::from_bytes(allocated) }
    }
}

/// The disk at `path` with this size: made, grown, or left alone.
fn ensure_one(
    path: &Path,
    wanted: ByteSize,
    make: impl FnOnce(&Path) -> std::result::Result<(), DiskError>,
) -> std::result::Result<Change, DiskError> {
    match size(path) {
        // A larger one was grown in a daemon's last moment, before that was written down.
        Some(present) if present >= wanted => return Ok(Change::Unchanged),
        Some(_) => ext4::check(path).and_then(|()| ext4::grow(path, wanted))?,
        None => make_whole(&partial(path), path, make)?,
    }
    Ok(Change::Changed)
}

/// Has `make` make the file `partial`, and moves it to `path` when it is whole and on the disk.
fn make_whole(
    partial: &Path,
    path: &Path,
    make: impl FnOnce(&Path) -> std::result::Result<(), DiskError>,
) -> std::result::Result<(), DiskError> {
    drop(fs::remove_file(partial));
    let made = make(partial).and_then(|()| {
        fs::File::open(partial)?.sync_all()?;
        Ok(fs::rename(partial, path)?)
    });
    made.inspect_err(|_| drop(fs::remove_file(partial)))
}

/// What cannot be removed is told of by the audit.
fn remove_half_made(folder: &Path) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries
        .filter(|path| path.extension().is_some_and(|end| end == "partial"))
        .for_each(|path| drop(fs::remove_file(path)));
}

fn partial(path: &Path) -> PathBuf {
    path.with_extension("ext4.partial")
}

fn size(path: &Path) -> Option<ByteSize> {
    fs::metadata(path).ok().map(|found| ByteSize::from_bytes(found.len()))
}

fn seam_error(attempt: String, error: DiskError) -> HostError {
    let host_error = HostError::new(error.kind(), attempt);
    let host_error = match error.hint() {
        Some(hint) => host_error.with_hint(hint),
        None => host_error,
    };
    host_error.with_source(error)
}

#[cfg(test)]
mod tests;
