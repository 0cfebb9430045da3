//! Which ports a sandbox shall have after some were added and others removed: decided on the record as it is when the
//! change is made, so that two changes at once both count.

use super::Sandbox;
use crate::error::{Error, Kind, Result};
use model::port::{PortForward, PortSelector};

/// More published ports than anybody types, and than a host should listen on for one sandbox.
pub const MAX_PORTS: usize = 256;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PortChanges {
    pub add: Vec<PortForward>,
    pub remove: Vec<PortSelector>,
}

impl PortChanges {
    /// Removals first, so that a port may be moved in one change. What is published already is published once.
    pub(crate) fn apply(&self, record: &Sandbox) -> Result<Vec<PortForward>> {
        let mut ports = self.without_removed(record)?;
        for port in &self.add {
            if ports.contains(port) {
                continue;
            }
            if let Some(other) = ports.iter().find(|other| takes_the_same(other, port)) {
                let attempt = format!("cannot publish {port} of {}: {other} is published there", record.name());
                let hint = format!("`banger vm port remove {} {other}` withdraws it", record.name());
                return Err(Error::new(Kind::Conflict, attempt).with_hint(hint));
            }
            ports.push(*port);
        }
        if ports.len() > MAX_PORTS {
            let attempt = format!("cannot publish {} ports of {}: {MAX_PORTS} are allowed", ports.len(), record.name());
            return Err(Error::new(Kind::Invalid, attempt));
        }
        Ok(ports)
    }

    /// The same by the ports' own names: once the host has bound others, a number may mean nothing or something else.
    pub(crate) fn resolved(&self, record: &Sandbox) -> Result<PortChanges> {
        let left = self.without_removed(record)?;
        let gone = record.spec.ports.iter().filter(|port| !left.contains(port));
        Ok(PortChanges { add: self.add.clone(), remove: gone.copied().map(PortSelector::Exactly).collect() })
    }

    fn without_removed(&self, record: &Sandbox) -> Result<Vec<PortForward>> {
        let wanted = &record.spec.ports;
        let mut gone = Vec::new();
        for selector in &self.remove {
            let places = selector.select(wanted, &record.ports);
            if places.is_empty() {
                let attempt = format!("cannot withdraw port {selector} of {}: it is not published", record.name());
                let hint = format!("`banger vm port list {}` shows what is", record.name());
                return Err(Error::new(Kind::NotFound, attempt).with_hint(hint));
            }
            gone.extend(places);
        }
        Ok(wanted.iter().enumerate().filter(|(at, _)| !gone.contains(at)).map(|(_, port)| *port).collect())
    }
}

fn takes_the_same(one: &PortForward, other: &PortForward) -> bool {
    let key = |port: &PortForward| (port.host_address, port.host_port, port.protocol);
    one.host_port != 0 && key(one) == key(other)
}
