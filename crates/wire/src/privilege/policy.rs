//! Who may reach what, as one value. `bangerd` sends all of it each time; the helper checks it against the address
//! plan ([`Policy::check`]) and turns it into rules.
//!
//! The floor that no policy can lower: a guest speaks with its own hardware and network addresses only, reaches no
//! service of the host but what is named here, and nobody outside opens a connection to a guest.

use super::address::{self, Network, Range};
use model::SandboxId;
use model::egress::Outbound;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// The most sandboxes one policy may name; a /20 holds as many.
pub const MAX_GUESTS: usize = 4093;
/// The most networks one sandbox may be allowed.
pub const MAX_NETWORKS: usize = 64;
/// The most other sandboxes one sandbox may be allowed.
pub const MAX_ALLOWED_GUESTS: usize = 256;
/// What resolv.conf(5) holds, and some.
pub const MAX_RESOLVERS: usize = 8;
/// The most ports of the host that may be open to guests.
pub const MAX_HOST_PORTS: usize = 64;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Where the owner's resolver listens on the gateway's address. Guests ask port 53 of the gateway and are led there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns_port: Option<u16>,
    /// Name servers that guests with an outbound link may ask (port 53 and nothing else), private or not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resolvers: Vec<Ipv4Addr>,
    /// TCP ports of the host that every guest may reach on the gateway's address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host_ports: Vec<u16>,
    pub guests: Vec<GuestPolicy>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestPolicy {
    pub id: SandboxId,
    pub ipv4: Ipv4Addr,
    pub outbound: Outbound,
    /// Private networks opened on purpose. The metadata address is only opened by a network inside 169.254.0.0/16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_networks: Vec<Network>,
    /// Other sandboxes it may open connections to. One that is not in this policy has no address and opens nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_guests: Vec<SandboxId>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    #[error("a policy of {count} {what}: at most {most} are possible")]
    TooMany { count: usize, what: &'static str, most: usize },
    #[error("sandbox {id} stands in the policy twice")]
    Twice { id: SandboxId },
    #[error("sandboxes {first} and {second} share {what}")]
    Shared { first: SandboxId, second: SandboxId, what: String },
    #[error("address {address} of sandbox {id} is none that {range} has for sandboxes")]
    Outside { id: SandboxId, address: Ipv4Addr, range: Range },
    #[error("port 0 cannot be opened")]
    PortZero,
}

impl Policy {
    /// Proves that the rules for this policy can be written: every address belongs to exactly one sandbox and to the
    /// range, no two ids share a device or hardware address, all lists have their bounds.
    pub fn check(&self, range: Range) -> Result<(), PolicyError> {
        at_most(self.guests.len(), "sandboxes", MAX_GUESTS)?;
        at_most(self.host_ports.len(), "host ports", MAX_HOST_PORTS)?;
        at_most(self.resolvers.len(), "resolvers", MAX_RESOLVERS)?;
        if self.dns_port == Some(0) || self.host_ports.contains(&0) {
            return Err(PolicyError::PortZero);
        }
        let mut ids = BTreeSet::new();
        let mut holders = BTreeMap::new();
        for guest in &self.guests {
            guest.check(range)?;
            if !ids.insert(&guest.id) {
                return Err(PolicyError::Twice { id: guest.id.clone() });
            }
            for name in [guest.ipv4.to_string(), address::tap(&guest.id), address::mac(&guest.id).to_string()] {
                if let Some(first) = holders.insert(name.clone(), &guest.id) {
                    let (first, second) = (first.clone(), guest.id.clone());
                    return Err(PolicyError::Shared { first, second, what: name });
                }
            }
        }
        Ok(())
    }
}

impl GuestPolicy {
    fn check(&self, range: Range) -> Result<(), PolicyError> {
        at_most(self.allow_networks.len(), "allowed networks", MAX_NETWORKS)?;
        at_most(self.allow_guests.len(), "allowed sandboxes", MAX_ALLOWED_GUESTS)?;
        if !range.holds(self.ipv4) {
            return Err(PolicyError::Outside { id: self.id.clone(), address: self.ipv4, range });
        }
        Ok(())
    }
}

fn at_most(count: usize, what: &'static str, most: usize) -> Result<(), PolicyError> {
    if count > most { Err(PolicyError::TooMany { count, what, most }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(bits: u64, last: u8) -> GuestPolicy {
        GuestPolicy {
            id: SandboxId::from_bits(bits),
            ipv4: Ipv4Addr::new(10, 9, 0, last),
            outbound: Outbound::Nat,
            allow_networks: Vec::new(),
            allow_guests: Vec::new(),
        }
    }

    fn check(guests: Vec<GuestPolicy>, wanted: &str) {
        let range = "10.9.0.0/24".parse().unwrap();
        let answer = Policy { guests, ..Policy::default() }.check(range);
        let text = answer.map_or_else(|error| error.to_string(), |()| "valid".to_owned());
        assert!(text.contains(wanted), "{text}");
    }

    #[test]
    fn a_policy_is_held_against_the_address_plan() {
        let (a, b) = (0x1111_1111_1111_1111, 0x2222_2222_2222_2222);
        check(vec![], "valid");
        check(vec![guest(a, 2), guest(b, 3)], "valid");
        check(vec![guest(a, 2), guest(a, 3)], "twice");
        check(vec![guest(a, 2), guest(b, 2)], "share 10.9.0.2");
        check(vec![guest(a, 2), guest(a + 1, 3)], "share bgr-11111111111");
        check(vec![guest(a, 1)], "none that 10.9.0.0/24 has");
        check(vec![guest(a, 255)], "none that 10.9.0.0/24 has");
        let everywhere = GuestPolicy { allow_networks: vec!["10.0.0.0/8".parse().unwrap(); 65], ..guest(a, 2) };
        check(vec![everywhere], "at most 64");
    }
}
