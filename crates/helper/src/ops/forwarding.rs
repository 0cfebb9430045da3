//! IPv4 forwarding of the host: turned on once, with a note of how it was, and put back as it was.
//!
//! IPv6 forwarding is never touched: with it on, a host stops learning its own address and default route from router
//! advertisements. Where somebody else turned it on, guests have IPv6 to the world; elsewhere to the host only.

use super::Root;
use crate::checkpoint;
use crate::failure::{Attempt, Result};
use crate::ledger::ForwardingNote;
use crate::sysctl::{self, ACCEPT_REDIRECTS, IP_FORWARD};
use model::Change;
use std::io;
use wire::privilege::address::BRIDGE;

/// Devices of software that needs forwarding as well and may not have turned it on itself, since it was on.
const OTHER_USERS: [&str; 7] = ["docker", "br-", "virbr", "podman", "cni", "lxcbr", "lxdbr"];

pub fn ensure(root: &mut Root) -> Result<Change> {
    let attempt = || "cannot turn IPv4 forwarding on";
    if sysctl::is_on(IP_FORWARD).attempt(attempt)? {
        return Ok(Change::Unchanged);
    }
    let note = ForwardingNote {
        devices: sysctl::forwarding_devices(BRIDGE).attempt(attempt)?,
        accept_redirects: sysctl::is_on(ACCEPT_REDIRECTS).attempt(attempt)?,
        other_users: other_users(root)?,
    };
    root.ledger.note(|notes| {
        // A second helper life finds forwarding half set; what the first one saw is the truth.
        notes.forwarding.get_or_insert(note);
    })?;
    checkpoint::reached("forwarding is noted");
    sysctl::set(IP_FORWARD, "1").attempt(attempt)?;
    checkpoint::reached("forwarding is on");
    Ok(Change::Changed)
}

/// Puts it back; answers the sentence for why it was left on, if it was.
pub fn restore(root: &mut Root) -> Result<Option<String>> {
    let Some(note) = root.ledger.notes().forwarding.clone() else { return Ok(None) };
    let newcomers: Vec<_> = other_users(root)?.into_iter().filter(|name| !note.other_users.contains(name)).collect();
    if newcomers.is_empty() {
        put_back(&note).attempt(|| "cannot put IPv4 forwarding back as it was")?;
        checkpoint::reached("forwarding is as it was");
    }
    root.ledger.note(|notes| notes.forwarding = None)?;
    Ok(newcomers.first().map(|device| format!("IPv4 forwarding stays on: `{device}` came up since and needs it")))
}

/// The kernel sets every device's forwarding along with the host's, so the order matters.
fn put_back(note: &ForwardingNote) -> io::Result<()> {
    sysctl::set(IP_FORWARD, "0")?;
    for device in &note.devices {
        match sysctl::set(&format!("ipv4/conf/{device}/forwarding"), "1") {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    sysctl::set(ACCEPT_REDIRECTS, if note.accept_redirects { "1" } else { "0" })
}

fn other_users(root: &mut Root) -> Result<Vec<String>> {
    let links = root.netlink.links().attempt(|| "cannot list the links")?;
    let names = links.into_iter().map(|link| link.name).filter(|name| name != BRIDGE);
    Ok(names.filter(|name| OTHER_USERS.iter().any(|prefix| name.starts_with(prefix))).collect())
}
