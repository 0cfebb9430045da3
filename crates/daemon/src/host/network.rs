//! The network seam without privilege: *user* mode, where each guest's wire ends in a `banger-gateway` of its own that
//! speaks sockets with the world and reaches only what the sandbox may ([`gateways`]). Every guest sees the same small
//! network, and its own machine alone in it (`wire::gateway`):
//!
//! | address | who |
//! |---|---|
//! | 10.0.2.15/24 | the guest |
//! | 10.0.2.2 | the gateway |
//! | 10.0.2.3 | answers for names: `.vm`, and what the host itself can ask |
//! | fd62:6772:a00:200::15/128 | the guest |
//! | fe80::1 | the gateway, as on a bridge |
//!
//! IPv6 is there whether this host has it or not: where it has none, the gateway refuses each connection at once.
//!
//! Firecracker's end of the wire is a tap in a namespace of its own; where that cannot be made, its guests have no link.
//! Ports are published by a [`Publisher`], through the agent.
//!
//! With the root helper there is a better one around it: [`bridged`].

pub mod book;
pub mod bridged;
pub mod choice;
pub mod gateways;
pub mod helper;

use crate::host::vmm::gateway::can_make_taps;
use engine::host::network::{Attachment, Link, LinkFacts, LinkMode, Network};
use engine::host::{HostError, HostErrorKind, Result};
use gateways::Gateways;
use model::egress::{Egress, Outbound};
use model::port::PortForward;
use model::{Backend, Change, SandboxId};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use wire::gateway::{GATEWAY, GUEST, GUEST_V6, MTU, NAME_SERVER, PREFIX_LENGTH};
use wire::privilege::address::GATEWAY_LINK_LOCAL;
use wire::privilege::facts::RefusedEntry;

/// Listens on the host and carries each connection to the guest over vsock.
pub trait Publisher: Send + Sync {
    /// Exactly these ports of this sandbox; answers them as bound.
    fn publish(&self, id: &SandboxId, ports: &[PortForward]) -> Result<Vec<PortForward>>;
    /// None of its ports any more.
    fn withdraw(&self, id: &SandboxId);
}

pub struct HostNetwork {
    publisher: Option<Arc<dyn Publisher>>,
    gateways: Option<Gateways>,
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
        HostNetwork { publisher, gateways: None, links: Mutex::default() }
    }

    /// With gateways to tell what each sandbox may reach.
    pub fn with_gateways(self, gateways: Gateways) -> HostNetwork {
        HostNetwork { gateways: Some(gateways), ..self }
    }

    /// Guests behind gateways ask here for names below `.vm` from now on. Their policies are written with the next link.
    pub fn name_server_is(&self, address: std::net::SocketAddr) {
        if let Some(gateways) = &self.gateways {
            gateways.name_server_is(address);
        }
    }

    /// Whether this sandbox runs behind a gateway now, whatever new ones get.
    pub fn is_live(&self, id: &SandboxId) -> bool {
        self.gateways.as_ref().is_some_and(|gateways| gateways.is_live(id))
    }

    pub fn refresh(&self, id: &SandboxId, egress: &Egress) {
        if let Some(gateways) = self.gateways.as_ref().filter(|gateways| gateways.is_live(id))
            && let Err(error) = gateways.ensure(id, egress)
        {
            tracing::warn!(%error, "a gateway has an old policy");
        }
    }

    pub fn refused(&self, id: &SandboxId) -> Result<Vec<RefusedEntry>> {
        self.gateways.as_ref().map_or(Ok(Vec::new()), |gateways| gateways.refused(id))
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
        let ruled = match (&self.gateways, &attachment.mode) {
            (Some(gateways), LinkMode::User) => gateways.ensure(&wanted.id, &wanted.egress)?,
            _ => Change::Unchanged,
        };
        let change = self.record(&wanted.id, attachment.mode.clone());
        Ok((change.and(ruled), attachment))
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
        if let Some(gateways) = &self.gateways {
            gateways.forget(id);
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
    // A tap has the usual MTU, a socket whatever its two ends agree on.
    let mtu = match (wanted.backend, wanted.egress.outbound) {
        (_, Outbound::None) | (Backend::Sim, _) => return Attachment::default(),
        (Backend::Qemu, Outbound::Nat | Outbound::Off) => Some(MTU),
        (Backend::Firecracker, Outbound::Nat | Outbound::Off) => match can_make_taps() {
            Ok(()) => None,
            Err(why) => {
                tracing::warn!(vm = %wanted.name, why, "Firecracker has no network without the root helper here");
                return Attachment::default();
            }
        },
    };
    Attachment {
        mode: LinkMode::User,
        mac: Some(hardware_address(&wanted.id)),
        addresses: vec![format!("{GUEST}/{PREFIX_LENGTH}"), format!("{GUEST_V6}/128")],
        gateways: vec![GATEWAY.into(), GATEWAY_LINK_LOCAL.into()],
        name_servers: vec![NAME_SERVER.into()],
        search: vec!["vm".to_owned()],
        mtu,
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
        assert_eq!(first.addresses, ["10.0.2.15/24", "fd62:6772:a00:200::15/128"]);
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
        for (backend, outbound) in [(Backend::Firecracker, Outbound::None), (Backend::Qemu, Outbound::None)] {
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
