//! Links with addresses of their own, and host ports that only one sandbox can have.

use super::{SimLink, State, World, refuse};
use crate::host::network::{Attachment, Link, LinkFacts, LinkMode, Network};
use crate::host::{HostErrorKind, Result};
use model::port::PortForward;
use model::{Change, SandboxId};
use std::sync::Arc;

/// Where the kernel hands out ports that nobody chose (ip(7), ip_local_port_range).
const FIRST_FREE_PORT: u16 = 32768;

pub(super) struct SimNetwork(pub Arc<World>);

impl Network for SimNetwork {
    fn ensure_link(&self, wanted: &Link) -> Result<(Change, Attachment)> {
        self.0.call("cannot make a link", |state| {
            let attachment = attachment(&wanted.id);
            let change = match state.links.get(&wanted.id) {
                Some(_) => Change::Unchanged,
                None => Change::Changed,
            };
            let link = SimLink { attachment: attachment.clone(), ports: Vec::new() };
            state.links.entry(wanted.id.clone()).or_insert(link);
            Ok((change, attachment))
        })
    }

    fn ensure_ports(&self, id: &SandboxId, ports: &[PortForward]) -> Result<(Change, Vec<PortForward>)> {
        self.0.call("cannot publish ports", |state| {
            if !state.runs(id) {
                return refuse(HostErrorKind::Broken, format!("cannot publish ports of {id}: no VMM runs"));
            }
            let bound = bind(state, id, ports)?;
            let Some(link) = state.links.get_mut(id) else {
                return refuse(HostErrorKind::NotFound, format!("cannot publish ports of {id}: it has no link"));
            };
            let change = if link.ports == bound { Change::Unchanged } else { Change::Changed };
            link.ports = bound.clone();
            Ok((change, bound))
        })
    }

    fn remove_link(&self, id: &SandboxId) -> Result<Change> {
        self.0.call("cannot remove a link", |state| {
            Ok(if state.links.remove(id).is_some() { Change::Changed } else { Change::Unchanged })
        })
    }

    fn observe(&self) -> Result<Vec<LinkFacts>> {
        self.0.call("cannot look at links", |state| {
            let facts = |(id, link): (&SandboxId, &SimLink)| LinkFacts {
                id: id.clone(),
                mode: link.attachment.mode.clone(),
                ports: link.ports.clone(),
            };
            Ok(state.links.iter().map(facts).collect())
        })
    }
}

/// The same sandbox gets the same addresses: they are made of its id.
fn attachment(id: &SandboxId) -> Attachment {
    let [a, b, c, ..] = id.bits().to_be_bytes();
    Attachment {
        mode: LinkMode::Tap { device: format!("sim{}", &id.as_str()[..8]) },
        mac: Some(format!("06:00:00:{a:02x}:{b:02x}:{c:02x}")),
        addresses: vec![format!("10.{a}.{b}.{}/24", c.max(2))],
        gateways: vec![[10, a, b, 1].into()],
        name_servers: vec![[10, a, b, 1].into()],
        search: vec!["vm".into()],
        mtu: Some(1500),
    }
}

fn bind(state: &State, id: &SandboxId, ports: &[PortForward]) -> Result<Vec<PortForward>> {
    if ports.is_empty() {
        return Ok(Vec::new());
    }
    let others: Vec<_> =
        state.links.iter().filter(|(other, _)| *other != id).flat_map(|(_, link)| link.ports.iter()).collect();
    let mine: Vec<_> = state.links.get(id).map(|link| link.ports.clone()).unwrap_or_default();
    let mut bound: Vec<PortForward> = Vec::new();
    for port in ports {
        let taken = |number: u16, bound: &[PortForward]| {
            let same = |other: &PortForward| other.host_port == number && other.protocol == port.protocol;
            others.iter().any(|other| same(other)) || bound.iter().any(same)
        };
        let number = match port.host_port {
            0 => {
                let before = mine.iter().find(|old| old.guest_port == port.guest_port).map(|old| old.host_port);
                let free = before.or_else(|| (FIRST_FREE_PORT..).find(|number| !taken(*number, &bound)));
                let Some(free) = free else {
                    return refuse(HostErrorKind::Busy, format!("cannot publish {port}: no host port is free"));
                };
                free
            }
            number if taken(number, &bound) => {
                return refuse(HostErrorKind::Busy, format!("cannot publish {port}: host port {number} is in use"));
            }
            number => number,
        };
        bound.push(PortForward { host_port: number, ..*port });
    }
    Ok(bound)
}
