//! Disks in name only: sizes, and whose they are. A disk in use is not removed, nor grown but by room for its guest.

use super::{SimDisks, State, World, refuse};
use crate::host::disk::{Disk, DiskFacts, Disks};
use crate::host::{HostErrorKind, Result};
use model::{ByteSize, Change, SandboxId};
use std::sync::Arc;

/// What an empty ext4 takes.
const EMPTY_DISK: ByteSize = ByteSize::from_mib(2);

pub(super) struct SimDisk(pub Arc<World>);

impl Disk for SimDisk {
    fn ensure_disks(&self, wanted: &Disks) -> Result<Change> {
        self.0.call("cannot make disks", |state| {
            check_image(state, wanted)?;
            let Disks { id, root_size, work_size, .. } = wanted.clone();
            let runs = state.runs(&id);
            let Some(disks) = state.disks.get_mut(&id) else {
                state.disks.insert(id, SimDisks { root_size, work_size, root_generation: 1 });
                return Ok(Change::Changed);
            };
            if runs && (root_size > disks.root_size || work_size > disks.work_size) {
                return refuse(HostErrorKind::Busy, format!("cannot grow the disks of {id}: a VMM holds their lock"));
            }
            Ok(grow(disks, root_size, work_size))
        })
    }

    fn extend(&self, wanted: &Disks) -> Result<Change> {
        self.0.call("cannot extend disks", |state| match state.disks.get_mut(&wanted.id) {
            Some(disks) => Ok(grow(disks, wanted.root_size, wanted.work_size)),
            None => refuse(HostErrorKind::NotFound, format!("cannot extend the disks of {}: it has none", wanted.id)),
        })
    }

    fn renew_root(&self, wanted: &Disks) -> Result<Change> {
        self.0.call("cannot renew a root disk", |state| {
            check_image(state, wanted)?;
            let id = &wanted.id;
            if state.runs(id) {
                return refuse(
                    HostErrorKind::Busy,
                    format!("cannot renew the root disk of {id}: a VMM holds its lock"),
                );
            }
            match state.disks.get_mut(id) {
                Some(disks) => {
                    disks.root_generation += 1;
                    disks.root_size = wanted.root_size;
                    Ok(Change::Changed)
                }
                None => refuse(HostErrorKind::NotFound, format!("cannot renew the root disk of {id}: it has none")),
            }
        })
    }

    fn remove_disks(&self, id: &SandboxId) -> Result<Change> {
        self.0.call("cannot remove disks", |state| {
            if state.runs(id) {
                return refuse(HostErrorKind::Busy, format!("cannot remove the disks of {id}: a VMM holds their lock"));
            }
            state.consoles.remove(id);
            Ok(if state.disks.remove(id).is_some() { Change::Changed } else { Change::Unchanged })
        })
    }

    fn observe(&self) -> Result<Vec<DiskFacts>> {
        self.0.call("cannot look at disks", |state| {
            let facts = |(id, disks): (&SandboxId, &SimDisks)| DiskFacts {
                id: id.clone(),
                root_size: disks.root_size,
                work_size: disks.work_size,
                allocated: EMPTY_DISK,
            };
            Ok(state.disks.iter().map(facts).collect())
        })
    }

    fn free_bytes(&self) -> Result<ByteSize> {
        self.0.call("cannot look at free space", |state| Ok(state.free_disk))
    }
}

fn grow(disks: &mut SimDisks, root_size: ByteSize, work_size: ByteSize) -> Change {
    let before = (disks.root_size, disks.work_size);
    disks.root_size = root_size.max(disks.root_size);
    disks.work_size = work_size.max(disks.work_size);
    if before == (disks.root_size, disks.work_size) { Change::Unchanged } else { Change::Changed }
}

fn check_image(state: &State, wanted: &Disks) -> Result<()> {
    match state.images.contains(&wanted.image) {
        true => Ok(()),
        false => refuse(HostErrorKind::NotFound, format!("cannot make disks: there is no image {}", wanted.image)),
    }
}
