//! The tap of one sandbox: an isolated port of the bridge, open to the owner's VMM.

use super::{Root, bridge};
use crate::checkpoint;
use crate::failure::{Attempt, Failure, Result};
use crate::ledger::TapNote;
use crate::netlink::Link;
use crate::{sysctl, tap};
use model::{Change, SandboxId};
use netlink_packet_route::link::InfoKind;
use wire::FaultKind;
use wire::privilege::address;
use wire::privilege::facts::{Done, TapMade};

pub fn ensure(root: &mut Root, id: &SandboxId) -> Result<TapMade> {
    let device = address::tap(id);
    let (bridge, _) = bridge::require(root)?;
    let there = claim(root, id, &device)?;
    let (made, link) = match there {
        Some(link) => (Change::Unchanged, link),
        None => (Change::Changed, make(root, &device)?),
    };
    let plugged = plug(root, &link, bridge.index)?;
    Ok(TapMade { change: made.and(plugged), device })
}

pub fn remove(root: &mut Root, id: &SandboxId) -> Result<Done> {
    let device = address::tap(id);
    match root.ledger.notes().taps.get(&device) {
        Some(note) if note.id == *id => unmake(root, &device).map(|change| Done { change }),
        _ => Ok(Done { change: Change::Unchanged }),
    }
}

/// Removes a device that the ledger knows, and then the note of it.
pub fn unmake(root: &mut Root, device: &str) -> Result<Change> {
    if let Some(link) = find(root, device)? {
        root.netlink.delete_link(link.index).attempt(|| format!("cannot remove the tap `{device}`"))?;
        checkpoint::reached("a tap is removed");
    }
    root.ledger.note(|notes| drop(notes.taps.remove(device)))?;
    checkpoint::reached("a tap is forgotten");
    Ok(Change::Changed)
}

pub fn find(root: &mut Root, device: &str) -> Result<Option<Link>> {
    let link = root.netlink.link(device).attempt(|| format!("cannot look for `{device}`"))?;
    Ok(link.filter(|link| link.kind == Some(InfoKind::Tun)))
}

/// Notes the name for this sandbox, unless somebody else has it. Answers the device that is there already.
fn claim(root: &mut Root, id: &SandboxId, device: &str) -> Result<Option<Link>> {
    let there = root.netlink.link(device).attempt(|| format!("cannot look for `{device}`"))?;
    match root.ledger.notes().taps.get(device) {
        Some(note) if note.id == *id => Ok(there.filter(|link| link.kind == Some(InfoKind::Tun))),
        Some(note) => {
            let sentence = format!("sandboxes {} and {id} would share the device name `{device}`", note.id);
            Err(Failure::new(FaultKind::Conflict, sentence).with_hint("remove and create the new sandbox again"))
        }
        None if there.is_some() => {
            Err(Failure::new(FaultKind::Conflict, format!("a device `{device}` exists that banger did not make"))
                .with_hint(format!("remove it: `ip link del {device}`")))
        }
        None => {
            let note = TapNote { id: id.clone(), owner: root.owner };
            root.ledger.note(|notes| drop(notes.taps.insert(device.to_owned(), note)))?;
            checkpoint::reached("a tap is noted");
            Ok(None)
        }
    }
}

fn make(root: &mut Root, device: &str) -> Result<Link> {
    tap::add(device, root.owner).attempt(|| format!("cannot make the tap `{device}`"))?;
    checkpoint::reached("a tap is made");
    // The host speaks to guests through the bridge; a port that had addresses of its own would only answer strangers.
    let _ = sysctl::set(&format!("ipv6/conf/{device}/disable_ipv6"), "1");
    let link = find(root, device)?;
    link.ok_or_else(|| Failure::new(FaultKind::HostUnfit, format!("the tap `{device}` vanished while it was made")))
}

fn plug(root: &mut Root, link: &Link, bridge: u32) -> Result<Change> {
    if link.up && link.bridge == Some(bridge) {
        return Ok(Change::Unchanged);
    }
    let attempt = || format!("cannot plug the tap `{}` into the bridge", link.name);
    root.netlink.attach_isolated(link.index, bridge).attempt(attempt)?;
    checkpoint::reached("a tap is plugged");
    root.netlink.set_up(link.index).attempt(attempt)?;
    checkpoint::reached("a tap is up");
    Ok(Change::Changed)
}
