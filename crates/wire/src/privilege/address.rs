//! The address plan: what follows from a range and from a sandbox's id, so that both sides of the privilege boundary
//! arrive at the same names without sending them.
//!
//! Only a sandbox's IPv4 address is a choice; `bangerd` makes it with [`Range::allocate`] and records it. The device
//! name, the hardware address and the IPv6 address are functions of the id. The gateway is the first host of the range.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use model::SandboxId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// The bridge every bridged sandbox hangs on. 15 bytes is the limit of a device name (IFNAMSIZ, netdevice(7)).
pub const BRIDGE: &str = "br-banger";
/// What the name of every tap begins with; the firewall matches `bgr-*`.
pub const TAP_PREFIX: &str = "bgr-";
/// The gateway's link-local address, the same on every host: a guest's IPv6 default route.
pub const GATEWAY_LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// Tried in this order when nobody wants a certain range: 1021 sandboxes each, one per private block, away from the
/// nets that docker (172.17 to 172.31), libvirt (192.168.122), podman (10.88) and kubernetes (10.96, 10.244) take first.
pub const CANDIDATES: [&str; 4] = ["10.213.212.0/22", "172.16.212.0/22", "192.168.212.0/22", "10.77.212.0/22"];
/// A larger range would only make collisions with other nets likelier.
const WIDEST_PREFIX: u8 = 16;
/// 5 sandboxes; a smaller range is a mistake.
const NARROWEST_PREFIX: u8 = 29;
/// The blocks of RFC 1918 and of RFC 6598 (carrier-grade NAT).
const PRIVATE_BLOCKS: [&str; 4] = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"];

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error("`{given}` is no range of addresses: it is written like `10.213.212.0/22`")]
    NoRange { given: String },
    #[error("`{given}` is no network: it is written like `10.0.0.0/8` or `fd00::/8`")]
    NoNetwork { given: String },
    #[error("range {range} is not private: take one inside 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 or 100.64.0.0/10")]
    NotPrivate { range: Ipv4Net },
    #[error("range {range} has {bits} network bits: {WIDEST_PREFIX} to {NARROWEST_PREFIX} are possible")]
    Width { range: Ipv4Net, bits: u8 },
    #[error("network {network} cannot be opened: it is loopback, multicast or unspecified")]
    Unroutable { network: IpNet },
    #[error("all {capacity} addresses of {range} are taken")]
    Full { range: Ipv4Net, capacity: usize },
}

/// The private IPv4 range of the bridge, and by it the IPv6 one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Range(Ipv4Net);

impl Range {
    pub fn network(self) -> Ipv4Net {
        self.0
    }

    pub fn gateway(self) -> Ipv4Addr {
        self.0.hosts().next().expect("a range has 5 hosts or more")
    }

    /// Unique local addresses (RFC 4193) whose global id spells the IPv4 range: two ranges never share a prefix.
    pub fn network_v6(self) -> Ipv6Net {
        let [a, b, c, d] = self.0.network().octets();
        let address = Ipv6Addr::new(0xfd62, 0x6772, u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]), 0, 0, 0, 0);
        Ipv6Net::new(address, 64).expect("64 is a prefix length")
    }

    pub fn gateway_v6(self) -> Ipv6Addr {
        Ipv6Addr::from_bits(self.network_v6().network().to_bits() | 1)
    }

    /// A sandbox's IPv6 address. The top bit of the host part is set, so that no id becomes the gateway.
    pub fn address_v6(self, id: &SandboxId) -> Ipv6Addr {
        let host = u128::from(id.bits() | 1 << 63);
        Ipv6Addr::from_bits(self.network_v6().network().to_bits() | host)
    }

    /// True for an address that a sandbox may hold.
    pub fn holds(self, address: Ipv4Addr) -> bool {
        self.0.contains(&address)
            && address != self.0.network()
            && address != self.0.broadcast()
            && address != self.gateway()
    }

    /// A free address for this sandbox: the one its id points at, or the next free one after it, so that a sandbox
    /// tends to get the same address again even when the record of it was lost.
    pub fn allocate(self, id: &SandboxId, taken: &BTreeSet<Ipv4Addr>) -> Result<Ipv4Addr, AddressError> {
        let capacity = self.capacity();
        let first = (id.bits() % capacity as u64) as u32;
        let gateway = self.gateway().to_bits();
        (0..capacity as u32)
            .map(|step| Ipv4Addr::from_bits(gateway + 1 + (first + step) % capacity as u32))
            .find(|address| !taken.contains(address))
            .ok_or(AddressError::Full { range: self.0, capacity })
    }

    /// How many sandboxes fit: all addresses but network, gateway and broadcast.
    pub fn capacity(self) -> usize {
        (1 << (32 - self.0.prefix_len())) - 3
    }

    pub fn overlaps(self, other: Ipv4Net) -> bool {
        self.0.contains(&other.network()) || other.contains(&self.0.network())
    }

    /// The first candidate that meets none of the networks in use.
    pub fn choose(in_use: &[Ipv4Net]) -> Option<Range> {
        CANDIDATES
            .iter()
            .map(|text| text.parse::<Range>().expect("candidates are ranges"))
            .find(|range| !in_use.iter().any(|other| range.overlaps(*other)))
    }
}

impl FromStr for Range {
    type Err = AddressError;
    fn from_str(given: &str) -> Result<Self, AddressError> {
        let net: Ipv4Net = given.parse().map_err(|_| AddressError::NoRange { given: super::shorten(given) })?;
        let net = net.trunc();
        if !PRIVATE_BLOCKS.iter().any(|block| block.parse::<Ipv4Net>().expect("a block").contains(&net)) {
            return Err(AddressError::NotPrivate { range: net });
        }
        if !(WIDEST_PREFIX..=NARROWEST_PREFIX).contains(&net.prefix_len()) {
            return Err(AddressError::Width { range: net, bits: net.prefix_len() });
        }
        Ok(Range(net))
    }
}

impl TryFrom<String> for Range {
    type Error = AddressError;
    fn try_from(given: String) -> Result<Self, AddressError> {
        given.parse()
    }
}

impl From<Range> for String {
    fn from(range: Range) -> String {
        range.to_string()
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A network that a sandbox may be allowed to reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Network(IpNet);

impl Network {
    pub fn net(self) -> IpNet {
        self.0
    }
}

impl FromStr for Network {
    type Err = AddressError;
    /// `10.0.0.0/8`, `fd00::/8`, or a single address.
    fn from_str(given: &str) -> Result<Self, AddressError> {
        let net = given.parse::<IpNet>().or_else(|_| given.parse::<std::net::IpAddr>().map(IpNet::from));
        let net = net.map_err(|_| AddressError::NoNetwork { given: super::shorten(given) })?.trunc();
        let everything = net.prefix_len() == 0;
        let address = net.network();
        if !everything && (address.is_loopback() || address.is_multicast() || address.is_unspecified()) {
            return Err(AddressError::Unroutable { network: net });
        }
        Ok(Network(net))
    }
}

impl TryFrom<String> for Network {
    type Error = AddressError;
    fn try_from(given: String) -> Result<Self, AddressError> {
        given.parse()
    }
}

impl From<Network> for String {
    fn from(network: Network) -> String {
        network.to_string()
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A hardware address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// `02` marks a locally administered unicast address (IEEE 802); 40 bits of the id follow.
pub fn mac(id: &SandboxId) -> Mac {
    let [a, b, c, d, e, ..] = id.bits().to_be_bytes();
    Mac([0x02, a, b, c, d, e])
}

/// `bgr-` and 11 of the id's 16 digits: 15 bytes, all that a device name holds.
pub fn tap(id: &SandboxId) -> String {
    format!("{TAP_PREFIX}{}", &id.as_str()[..11])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(text: &str) -> Range {
        text.parse().unwrap()
    }

    #[test]
    fn everything_follows_from_range_and_id() {
        let id = SandboxId::from_bits(0x0123_4567_89ab_cdef);
        let range = range("10.213.212.0/22");
        assert_eq!(tap(&id), "bgr-0123456789a");
        assert_eq!(mac(&id).to_string(), "02:01:23:45:67:89");
        assert_eq!(range.gateway(), Ipv4Addr::new(10, 213, 212, 1));
        assert_eq!(range.gateway_v6().to_string(), "fd62:6772:ad5:d400::1");
        assert_eq!(range.address_v6(&id).to_string(), "fd62:6772:ad5:d400:8123:4567:89ab:cdef");
    }

    #[test]
    fn a_range_is_private_and_of_a_sensible_width() {
        for good in ["10.213.212.0/22", "192.168.1.0/24", "172.16.0.0/16", "100.64.0.0/16", "10.0.0.8/29"] {
            assert_eq!(range(good).to_string(), good);
        }
        for bad in ["", "10.0.0.0", "8.8.8.0/24", "10.0.0.0/8", "10.0.0.0/30", "172.32.0.0/16", "fd00::/64", "a/b"] {
            assert!(bad.parse::<Range>().is_err(), "{bad:?}");
        }
        assert_eq!(range("10.1.2.3/24").to_string(), "10.1.2.0/24");
    }

    #[test]
    fn what_can_be_opened_is_a_routable_network() {
        for (given, wanted) in [("10.1.2.3/8", "10.0.0.0/8"), ("1.2.3.4", "1.2.3.4/32"), ("fd00::/8", "fd00::/8")] {
            assert_eq!(given.parse::<Network>().unwrap().to_string(), wanted);
        }
        assert!("0.0.0.0/0".parse::<Network>().is_ok());
        for bad in
            ["", "127.0.0.0/8", "::1", "224.0.0.0/4", "ff02::/16", "10.0.0.0/33", "0.0.0.0/8", "10.0.0.0/8; drop"]
        {
            assert!(bad.parse::<Network>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_range_in_use_is_passed_over() {
        let nets = |list: &[&str]| list.iter().map(|net| net.parse().unwrap()).collect::<Vec<Ipv4Net>>();
        assert_eq!(Range::choose(&[]), Some(range(CANDIDATES[0])));
        assert_eq!(Range::choose(&nets(&["10.0.0.0/8"])), Some(range(CANDIDATES[1])));
        assert_eq!(Range::choose(&nets(&["10.0.0.0/8", "172.16.212.7/32"])), Some(range(CANDIDATES[2])));
        assert_eq!(Range::choose(&nets(&["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"])), None);
    }

    #[test]
    fn a_full_range_says_so() {
        let range = range("10.0.0.8/29");
        let mut taken = BTreeSet::new();
        for _ in 0..range.capacity() {
            taken.insert(range.allocate(&SandboxId::from_bits(3), &taken).unwrap());
        }
        let error = range.allocate(&SandboxId::from_bits(3), &taken).unwrap_err();
        assert_eq!(error.to_string(), "all 5 addresses of 10.0.0.8/29 are taken");
    }

    proptest! {
        #[test]
        fn an_allocated_address_is_free_and_belongs_to_sandboxes(bits: u64, others in proptest::collection::vec(any::<u64>(), 0..40)) {
            let range = range("192.168.9.0/24");
            let mut taken = BTreeSet::new();
            for other in others {
                taken.insert(range.allocate(&SandboxId::from_bits(other), &taken).unwrap());
            }
            let address = range.allocate(&SandboxId::from_bits(bits), &taken).unwrap();
            prop_assert!(range.holds(address));
            prop_assert!(!taken.contains(&address));
        }

        #[test]
        fn parsing_never_panics(text in "\\PC*") {
            let _ = text.parse::<Range>();
            let _ = text.parse::<Network>();
        }
    }
}
