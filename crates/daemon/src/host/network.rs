//! The network seam without privilege: *user* mode, QEMU's own network in the VMM's process.
//!
//! Such a link is nothing but an argument of the VMM, so it is gone when the VMM is; what is kept here is only who was
//! given one. Every guest sees the same small network, and its own machine alone in it:
//!
//! | address | who |
//! |---|---|
//! | 10.0.2.15/24 | the guest |
//! | 10.0.2.2 | the gateway |
//! | 10.0.2.3 | a name server that asks the host's |
//!
//! Firecracker has no such network, so without the root helper its guests have no link; nor have guests whose outbound
//! traffic is off, since this link leads nowhere but out. Ports are published by a [`Publisher`], through the agent.
//!
//! With the root helper there is a better one around it: [`bridged`].

pub mod book;
pub mod bridged;
pub mod helper;

use engine::host::network::{Attachment, Link, LinkFacts, LinkMode, Network};
use engine::host::{HostError, HostErrorKind, Result};
use model::egress::Outbound;
use model::port::PortForward;
use model::{Backend, Change, SandboxId};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// QEMU's defaults for `-netdev user` (qemu(1)); the arguments leave them so.
const GUEST_ADDRESS: &str = "10.0.2.15/24";
const GATEWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 2, 2));
const NAME_SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 2, 3));

/// Listens on the host and carries each connection to the guest over vsock.
pub trait Publisher: Send + Sync {
    /// Exactly these ports of this sandbox; answers them as bound.
    fn publish(&self, id: &SandboxId, ports: &[PortForward]) -> Result<Vec<PortForward>>;
    /// None of its ports any more.
    fn withdraw(&self, id: &SandboxId);
}

pub struct HostNetwork {
    publisher: Option<Arc<dyn Publisher>>,
    links: Mutex<BTreeMap<SandboxId, UserLink>>,
}

#[derive(Debug, Clone)]
struct UserLink {
    mode: LinkMode,
    ports: Vec<PortForward>,
    /// As they were asked for, a port of 0 still 0.
    wanted_ports: Vec<PortForward>,
}

impl HostNetwork {
    pub fn new(publisher: Option<Arc<dyn Publisher>>) -> HostNetwork {
        HostNetwork { publisher, links: Mutex::default() }
    }

    /// Notes who was given which link, so that ports can be published on it.
    fn record(&self, id: &SandboxId, mode: LinkMode) -> Change {
        let mut links = self.links();
        match links.get_mut(id) {
            Some(link) if link.mode == mode => Change::Unchanged,
            Some(link) => {
                link.mode = mode;
                Change::Changed
            }
            None => {
                links.insert(id.clone(), UserLink { mode, ports: Vec::new(), wanted_ports: Vec::new() });
                Change::Changed
            }
        }
    }

    fn links(&self) -> MutexGuard<'_, BTreeMap<SandboxId, UserLink>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Network for HostNetwork {
    fn ensure_link(&self, wanted: &Link) -> Result<(Change, Attachment)> {
        let attachment = attachment(wanted);
        let change = self.record(&wanted.id, attachment.mode.clone());
        Ok((change, attachment))
    }

    fn ensure_ports(&self, id: &SandboxId, ports: &[PortForward]) -> Result<(Change, Vec<PortForward>)> {
        let refuse = |kind| HostError::new(kind, format!("cannot publish ports of {id}"));
        match self.links().get(id) {
            None => return Err(refuse(HostErrorKind::NotFound).with_source("it has no link")),
            Some(link) if link.wanted_ports == ports || link.ports == ports => {
                return Ok((Change::Unchanged, link.ports.clone()));
            }
            Some(_) => {}
        }
        let bound = match &self.publisher {
            Some(publisher) => publisher.publish(id, ports)?,
            None if ports.is_empty() => Vec::new(),
            None => return Err(refuse(HostErrorKind::Unfit).with_source("nobody here can carry them to the guest")),
        };
        let mut links = self.links();
        let Some(link) = links.get_mut(id) else {
            return Err(refuse(HostErrorKind::NotFound).with_source("its link was removed meanwhile"));
        };
        link.wanted_ports = ports.to_vec();
        link.ports = bound.clone();
        Ok((Change::Changed, bound))
    }

    fn remove_link(&self, id: &SandboxId) -> Result<Change> {
        if let Some(publisher) = &self.publisher {
            publisher.withdraw(id);
        }
        Ok(if self.links().remove(id).is_some() { Change::Changed } else { Change::Unchanged })
    }

    fn observe(&self) -> Result<Vec<LinkFacts>> {
        let facts = |(id, link): (&SandboxId, &UserLink)| LinkFacts {
            id: id.clone(),
            mode: link.mode.clone(),
            ports: link.ports.clone(),
        };
        Ok(self.links().iter().map(facts).collect())
    }
}

fn attachment(wanted: &Link) -> Attachment {
    match (wanted.backend, wanted.egress.outbound) {
        (Backend::Qemu, Outbound::Nat) => Attachment {
            mode: LinkMode::User,
            mac: Some(hardware_address(&wanted.id)),
            addresses: vec![GUEST_ADDRESS.into()],
            gateways: vec![GATEWAY],
            name_servers: vec![NAME_SERVER],
            search: Vec::new(),
            mtu: None,
        },
        (Backend::Firecracker, Outbound::Nat) => {
            tracing::warn!(vm = %wanted.name, "Firecracker has no network without the root helper");
            Attachment::default()
        }
        (Backend::Qemu | Backend::Firecracker | Backend::Sim, _) => Attachment::default(),
    }
}

/// 02: an address that no vendor gave out (IEEE 802, the locally administered bit); the rest is the sandbox's id.
pub fn hardware_address(id: &SandboxId) -> String {
    let [_, _, _, a, b, c, d, e] = id.bits().to_be_bytes();
    format!("02:{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::egress::Egress;

    fn link(bits: u64, backend: Backend, outbound: Outbound) -> Link {
        let egress = Egress { outbound, ..Egress::default() };
        Link { id: SandboxId::from_bits(bits), name: "web".parse().unwrap(), backend, egress }
    }

    #[test]
    fn the_same_sandbox_gets_the_same_link_again() {
        let network = HostNetwork::new(None);
        let wanted = link(0x0011_2233_4455_6677, Backend::Qemu, Outbound::Nat);
        let (change, first) = network.ensure_link(&wanted).unwrap();
        assert_eq!((change, &first.mode), (Change::Changed, &LinkMode::User));
        assert_eq!(first.mac.as_deref(), Some("02:33:44:55:66:77"));
        assert_eq!(network.ensure_link(&wanted).unwrap(), (Change::Unchanged, first.clone()));
        assert_eq!(HostNetwork::new(None).ensure_link(&wanted).unwrap().1, first, "after a restart too");
        assert_eq!(network.observe().unwrap().len(), 1);
        assert_eq!(network.remove_link(&wanted.id).unwrap(), Change::Changed);
        assert_eq!(network.remove_link(&wanted.id).unwrap(), Change::Unchanged);
        assert_eq!(network.observe().unwrap(), []);
    }

    #[test]
    fn who_cannot_have_a_user_network_has_none() {
        let network = HostNetwork::new(None);
        for (backend, outbound) in [(Backend::Firecracker, Outbound::Nat), (Backend::Qemu, Outbound::Off)] {
            let (_, attachment) = network.ensure_link(&link(7, backend, outbound)).unwrap();
            assert_eq!(attachment, Attachment::default(), "{backend}");
        }
    }

    /// Binds port 0 to 40000.
    struct Fake;

    impl Publisher for Fake {
        fn publish(&self, _: &SandboxId, ports: &[PortForward]) -> Result<Vec<PortForward>> {
            Ok(ports.iter().map(|port| PortForward { host_port: port.host_port.max(40000), ..*port }).collect())
        }
        fn withdraw(&self, _: &SandboxId) {}
    }

    #[test]
    fn ports_are_published_by_who_can_and_stay_as_bound() {
        let wanted = link(7, Backend::Qemu, Outbound::Nat);
        let ports: Vec<PortForward> = vec!["0:80".parse().unwrap()];
        let network = HostNetwork::new(Some(Arc::new(Fake)));
        assert_eq!(network.ensure_ports(&wanted.id, &ports).unwrap_err().kind, HostErrorKind::NotFound);
        let _link = network.ensure_link(&wanted).unwrap();
        let bound: Vec<PortForward> = vec!["40000:80".parse().unwrap()];
        assert_eq!(network.ensure_ports(&wanted.id, &ports).unwrap(), (Change::Changed, bound.clone()));
        assert_eq!(network.ensure_ports(&wanted.id, &ports).unwrap(), (Change::Unchanged, bound.clone()));
        assert_eq!(network.ensure_ports(&wanted.id, &bound).unwrap(), (Change::Unchanged, bound.clone()));
        assert_eq!(network.observe().unwrap()[0].ports, bound);

        let network = HostNetwork::new(None);
        let _link = network.ensure_link(&wanted).unwrap();
        assert_eq!(network.ensure_ports(&wanted.id, &ports).unwrap_err().kind, HostErrorKind::Unfit);
        assert_eq!(network.ensure_ports(&wanted.id, &[]).unwrap(), (Change::Unchanged, Vec::new()));
    }
}
