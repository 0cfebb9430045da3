//! May the guest reach this address? A pure function of the policy, and one question to the host: is it the host itself?

use ipnet::Ipv4Net;
use model::egress::{Outbound, PRIVATE_V4};
use std::net::{Ipv4Addr, UdpSocket};
use wire::gateway::{GATEWAY, PREFIX_LENGTH, Policy};

/// Where clouds serve an instance's credentials: a wider network does not open it.
const METADATA: &str = "169.254.0.0/16";

#[derive(Debug, Clone)]
pub struct Judge {
    outbound: Outbound,
    allowed: Vec<Ipv4Net>,
    private: Vec<Ipv4Net>,
    metadata: Ipv4Net,
    own: Ipv4Net,
}

impl Judge {
    pub fn new(policy: &Policy) -> Judge {
        let net = |text: &str| text.parse::<Ipv4Net>().expect("the blocks are networks");
        let allowed = policy.allow_networks.iter().filter_map(|network| match network.net() {
            ipnet::IpNet::V4(net) => Some(net),
            // There is no IPv6 here.
            ipnet::IpNet::V6(_) => None,
        });
        Judge {
            outbound: policy.outbound,
            allowed: allowed.collect(),
            private: PRIVATE_V4.iter().map(|text| net(text)).collect(),
            metadata: net(METADATA),
            own: Ipv4Net::new(GATEWAY, PREFIX_LENGTH).expect("a prefix length").trunc(),
        }
    }

    pub fn has_way_out(&self) -> bool {
        self.outbound == Outbound::Nat
    }

    /// By its number alone.
    pub fn admits(&self, address: Ipv4Addr) -> bool {
        if !self.has_way_out() || self.own.contains(&address) || is_never_remote(address) {
            return false;
        }
        if self.metadata.contains(&address) {
            return self.opens(address, 16);
        }
        self.opens(address, 0) || !self.private.iter().any(|net| net.contains(&address))
    }

    /// As [`Judge::admits`], and not this host under one of its own addresses, unless that very network was opened.
    pub fn lets_through(&self, address: Ipv4Addr) -> bool {
        self.admits(address) && (self.opens(address, 1) || !is_this_host(address))
    }

    fn opens(&self, address: Ipv4Addr, least_prefix: u8) -> bool {
        self.allowed.iter().any(|net| net.prefix_len() >= least_prefix && net.contains(&address))
    }
}

/// Loopback, "this host", multicast and broadcast: no rule opens them.
fn is_never_remote(address: Ipv4Addr) -> bool {
    address.is_loopback() || address.octets()[0] == 0 || address.is_multicast() || address.octets()[0] >= 240
}

/// The kernel takes a host's own address as the source towards itself. Connecting a datagram socket sends nothing.
fn is_this_host(address: Ipv4Addr) -> bool {
    let source = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| {
        socket.connect((address, 9))?;
        socket.local_addr()
    });
    source.is_ok_and(|source| source.ip() == address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(outbound: Outbound, allowed: &[&str], reached: &[&str], refused: &[&str]) {
        let allow_networks = allowed.iter().map(|text| text.parse().unwrap()).collect();
        let judge = Judge::new(&Policy { outbound, allow_networks, names: None });
        for address in reached {
            assert!(judge.admits(address.parse().unwrap()), "{address} with {allowed:?}");
        }
        for address in refused {
            assert!(!judge.admits(address.parse().unwrap()), "{address} with {allowed:?}");
        }
    }

    #[test]
    fn everything_public_and_nothing_private() {
        let private = ["10.0.2.2", "10.1.2.3", "192.168.1.1", "172.16.0.1", "169.254.169.254", "100.64.0.1"];
        let never = ["127.0.0.1", "127.9.9.9", "0.0.0.0", "0.1.2.3", "224.0.0.1", "255.255.255.255"];
        check(Outbound::Nat, &[], &["9.9.9.9", "203.0.113.2", "172.32.0.1"], &[&private[..], &never].concat());
        check(Outbound::Off, &["10.0.0.0/8"], &[], &["9.9.9.9", "10.1.2.3"]);
        check(Outbound::Nat, &["10.0.0.0/8"], &["10.1.2.3"], &["10.0.2.2", "192.168.1.1", "127.0.0.1"]);
        check(Outbound::Nat, &["0.0.0.0/0"], &["10.1.2.3", "192.168.1.1"], &never);
        check(Outbound::Nat, &["0.0.0.0/0"], &[], &["169.254.169.254", "10.0.2.3"]);
        check(Outbound::Nat, &["169.254.169.254"], &["169.254.169.254"], &["169.254.1.1"]);
    }

    #[test]
    fn this_host_is_known_by_its_own_addresses() {
        assert!(is_this_host(Ipv4Addr::LOCALHOST));
        assert!(!is_this_host(Ipv4Addr::new(203, 0, 113, 77)));
    }
}
