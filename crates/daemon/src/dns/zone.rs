//! The records of a moment: made whole from the list of sandboxes, never changed, replaced by the next.

use hickory_proto::rr::rdata::{A, AAAA, NS, PTR, SOA, SRV};
use hickory_proto::rr::{LowerName, Name, RData, Record};
use model::SandboxName;
use model::port::Protocol;
use std::collections::HashMap;
use std::net::IpAddr;

/// 5 s: a sandbox that comes back may have another address.
const TTL_SECONDS: u32 = 5;
/// 1 s: a name that was asked for just before its sandbox was made must not stay unknown.
const NEGATIVE_TTL_SECONDS: u32 = 1;

/// A sandbox as its neighbours see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    pub name: SandboxName,
    pub addresses: Vec<IpAddr>,
    pub services: Vec<Service>,
}

/// A port of the guest that is published on this host: `_80._tcp.web.vm` and, by its usual name, `_http._tcp.web.vm`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    pub protocol: Protocol,
    pub guest_port: u16,
    pub bound: std::net::SocketAddr,
}

/// The usual names of ports that people publish (IANA).
const SERVICE_NAMES: &[(u16, &str)] = &[
    (22, "ssh"),
    (53, "domain"),
    (80, "http"),
    (443, "https"),
    (3306, "mysql"),
    (5432, "postgresql"),
    (6379, "redis"),
    (8080, "http-alt"),
];

#[derive(Debug)]
pub struct Zone {
    pub(super) apex: LowerName,
    pub(super) soa: Record,
    nodes: HashMap<LowerName, Vec<Record>>,
}

impl Default for Zone {
    fn default() -> Self {
        Zone::new(&[], 0)
    }
}

impl Zone {
    /// `serial` grows with every zone.
    pub fn new(hosts: &[Host], serial: u32) -> Self {
        let apex = name("vm.");
        let server = name("ns.vm.");
        let soa = SOA::new(server.clone(), name("nobody.vm."), serial, 60, 60, 60, NEGATIVE_TTL_SECONDS);
        let soa = Record::from_rdata(apex.clone(), NEGATIVE_TTL_SECONDS, RData::SOA(soa));
        let mut zone = Zone { apex: LowerName::new(&apex), soa: soa.clone(), nodes: HashMap::new() };
        zone.add(soa);
        zone.add(record(&apex, RData::NS(NS(server.clone()))));
        zone.add(record(&server, RData::A(A(std::net::Ipv4Addr::LOCALHOST))));
        for host in hosts {
            zone.add_host(host);
        }
        zone
    }

    /// Absent: no such name. Empty: a name without records, or one that only has others below it.
    pub(super) fn find(&self, name: &LowerName) -> Option<&[Record]> {
        self.nodes.get(name).map(Vec::as_slice)
    }

    fn add_host(&mut self, host: &Host) {
        let owner = name(&format!("{}.vm.", host.name));
        self.nodes.entry(LowerName::new(&owner)).or_default();
        for address in &host.addresses {
            self.add(record(&owner, address_data(*address)));
            // The loopback address of published ports is not the sandbox's own.
            if !address.is_loopback() {
                self.add(record(&Name::from(*address), RData::PTR(PTR(owner.clone()))));
            }
        }
        for service in &host.services {
            self.add_service(host, &owner, service);
        }
    }

    /// The service is where it is bound: at the sandbox's own address, or at a name that says so.
    fn add_service(&mut self, host: &Host, owner: &Name, service: &Service) {
        let address = service.bound.ip();
        let target = match host.addresses.contains(&address) {
            true => owner.clone(),
            false => name(&format!("published.{}.vm.", host.name)),
        };
        if target != *owner {
            let found = self.find(&LowerName::new(&target)).unwrap_or_default();
            let bound = record(&target, address_data(reachable(address)));
            if !found.contains(&bound) {
                self.add(bound);
            }
        }
        let transport = match service.protocol {
            Protocol::Tcp => "_tcp",
            Protocol::Udp => "_udp",
        };
        let usual = SERVICE_NAMES.iter().find(|(port, _)| *port == service.guest_port).map(|(_, name)| *name);
        self.nodes.entry(LowerName::new(&name(&format!("{transport}.{}.vm.", host.name)))).or_default();
        for label in [Some(service.guest_port.to_string()), usual.map(str::to_owned)].into_iter().flatten() {
            let owner = name(&format!("_{label}.{transport}.{}.vm.", host.name));
            self.add(record(&owner, RData::SRV(SRV::new(0, 0, service.bound.port(), target.clone()))));
        }
    }

    fn add(&mut self, record: Record) {
        self.nodes.entry(LowerName::new(&record.name)).or_default().push(record);
    }
}

/// "All addresses" is no address to connect to.
fn reachable(bound: IpAddr) -> IpAddr {
    match bound {
        IpAddr::V4(address) if address.is_unspecified() => std::net::Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(address) if address.is_unspecified() => std::net::Ipv6Addr::LOCALHOST.into(),
        other => other,
    }
}

fn address_data(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    }
}

fn record(owner: &Name, data: RData) -> Record {
    Record::from_rdata(owner.clone(), TTL_SECONDS, data)
}

/// Only for names made of a sandbox's name (one label of 63 bytes at most) and words of this file.
fn name(text: &str) -> Name {
    Name::from_ascii(text).expect("labels of validated names are short enough")
}
