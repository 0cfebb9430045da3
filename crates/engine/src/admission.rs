//! Says no before the host is out of memory or disk: the owner's caps, and what the host has left.

use crate::engine::{Engine, Table};
use crate::error::{Error, Kind, Result};
use crate::sandbox::Sandbox;
use model::{ByteSize, SandboxId, State};

/// What the host has left, asked before the table is locked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    pub memory: Option<ByteSize>,
    pub disk: ByteSize,
}

impl Engine {
    pub(crate) fn room(&self) -> Result<Room> {
        Ok(Room { memory: self.host.clock.free_memory(), disk: self.host.disk.free_bytes()? })
    }

    /// May one more record be made?
    pub(crate) fn admit_record(&self, table: &Table, wanted: &Sandbox, room: Room) -> Result<()> {
        let caps = &self.settings.caps;
        let count = table.slots.len();
        if caps.sandboxes.is_some_and(|cap| count >= cap as usize) {
            let attempt = format!("cannot create {}: {count} VMs exist, which is the limit", wanted.name());
            return Err(Error::new(Kind::Refused, attempt).with_hint("delete one, or raise the limit in the config"));
        }
        let disk = sum(table.slots.values().map(|slot| slot.record.disk_total()));
        if let Some(cap) = caps.disk.filter(|cap| over(disk, wanted.disk_total(), *cap)) {
            let wanted_disk = wanted.disk_total();
            let name = wanted.name();
            let attempt =
                format!("cannot create {name}: it wants disks of {wanted_disk}, and {disk} of {cap} are given away");
            return Err(Error::new(Kind::Refused, attempt).with_hint("delete a VM, or raise the limit in the config"));
        }
        self.admit_disk(wanted, room)
    }

    /// May this one boot? Others that are just starting have not taken their memory yet, so theirs is set aside.
    pub(crate) fn admit_boot(&self, table: &Table, wanted: &Sandbox, room: Room) -> Result<()> {
        let others = || table.slots.values().map(|slot| &slot.record).filter(|record| record.id != wanted.id);
        let on: Vec<_> = others().filter(|record| record.state.may_have_vmm()).collect();
        let memory = sum(on.iter().map(|record| record.spec.memory));
        let (name, asked) = (wanted.name(), wanted.spec.memory);
        let running = format!("{} VMs run with {memory}", on.len());
        let hint = "stop one with `banger vm stop`, or ask for less with `--memory`";
        if let Some(cap) = self.settings.caps.memory.filter(|cap| over(memory, asked, *cap)) {
            let attempt = format!("cannot start {name}: it wants {asked} of memory, {running}, and the limit is {cap}");
            return Err(Error::new(Kind::Refused, attempt).with_hint(hint));
        }
        let starting = sum(on.iter().filter(|record| record.state == State::Starting).map(|record| record.spec.memory));
        if let Some(free) = room.memory.filter(|free| over(starting, asked, *free)) {
            let attempt = format!("cannot start {name}: it wants {asked} of memory, {free} are free, and {running}");
            return Err(Error::new(Kind::Refused, attempt).with_hint(hint));
        }
        self.admit_disk(wanted, room)
    }

    fn admit_disk(&self, wanted: &Sandbox, room: Room) -> Result<()> {
        let least = self.settings.caps.free_disk;
        if room.disk < least {
            let attempt = format!(
                "cannot give {} a disk: {} are free where disks live, and {least} must stay free",
                wanted.name(),
                room.disk
            );
            return Err(Error::new(Kind::Refused, attempt).with_hint("`banger vm prune` shows what could go"));
        }
        Ok(())
    }

    /// Is the name free, except for `but`?
    pub(crate) fn admit_name(&self, table: &Table, wanted: &Sandbox, but: Option<&SandboxId>) -> Result<()> {
        let name = wanted.name();
        match table.slots.values().find(|slot| slot.record.name() == name && Some(&slot.record.id) != but) {
            None => Ok(()),
            Some(slot) => {
                let attempt = format!("the name {name} is taken by {} ({})", slot.record.id, slot.record.state);
                Err(Error::new(Kind::Conflict, attempt)
                    .with_hint(format!("choose another with `--name`, or remove it with `banger vm delete {name}`")))
            }
        }
    }
}

fn sum(sizes: impl Iterator<Item = ByteSize>) -> ByteSize {
    ByteSize::from_bytes(sizes.fold(0, |total, size| total.saturating_add(size.bytes())))
}

fn over(taken: ByteSize, asked: ByteSize, limit: ByteSize) -> bool {
    taken.bytes().saturating_add(asked.bytes()) > limit.bytes()
}
