//! May the guest reach this address? A pure function of the policy, and one question to the host: is it the host itself?

use crate::host::is_this_host;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use model::egress::{Outbound, PRIVATE_V4, PRIVATE_V6};
use std::net::{IpAddr, Ipv4Addr};
use wire::gateway::{GATEWAY, GATEWAY_V6, PREFIX_LENGTH, PREFIX_LENGTH_V6, Policy};

/// Where clouds serve an instance's credentials: a wider network does not open it. The last two are Amazon's and Google's
/// in IPv6.
const METADATA: &[&str] = &["169.254.0.0/16", "fd00:ec2::/32", "fd20:ce::/32"];
/// IPv4 in IPv6's clothes, and local: mapped and compatible addresses (a socket would reach IPv4 itself by them; `::` and
/// `::1` are among these), link-local ones, those of many.
const NEVER_V6: &[&str] = &["::/96", "::ffff:0:0/96", "fe80::/10", "ff00::/8"];

#[derive(Debug, Clone)]
pub struct Judge {
    outbound: Outbound,
    allowed: Vec<IpNet>,
    private: Vec<IpNet>,
    metadata: Vec<IpNet>,
    /// No rule opens these.
    never: Vec<IpNet>,
}

impl Judge {
    pub fn new(policy: &Policy) -> Judge {
        let nets = |texts: &[&str]| -> Vec<IpNet> {
            texts.iter().map(|text| text.parse().expect("the blocks are networks")).collect()
        };
        let mut never = nets(NEVER_V6);
        never.push(Ipv4Net::new(GATEWAY, PREFIX_LENGTH).expect("a prefix length").trunc().into());
        never.push(Ipv6Net::new(GATEWAY_V6, PREFIX_LENGTH_V6).expect("a prefix length").trunc().into());
        Judge {
            outbound: policy.outbound,
            allowed: policy.allow_networks.iter().map(|network| network.net()).collect(),
            private: nets(&[PRIVATE_V4, PRIVATE_V6].concat()),
            metadata: nets(METADATA),
            never,
        }
    }

    pub fn has_way_out(&self) -> bool {
        self.outbound == Outbound::Nat
    }

    /// By its number alone.
    pub fn admits(&self, address: IpAddr) -> bool {
        if !self.has_way_out() || contains(&self.never, address) || is_never_remote(address) {
            return false;
        }
        // Whoever translates the one into the other reaches what is inside.
        if inner_of(address).is_some_and(|inner| !self.admits(inner.into())) {
            return false;
        }
        if let Some(block) = self.metadata.iter().find(|block| block.contains(&address)) {
            return self.opens(address, block.prefix_len());
        }
        self.opens(address, 0) || !contains(&self.private, address)
    }

    /// As [`Judge::admits`], and not this host under one of its own addresses, unless that very network was opened.
    pub fn lets_through(&self, address: IpAddr) -> bool {
        let is_own = |address: IpAddr| !self.opens(address, 1) && is_this_host(address);
        self.admits(address) && !is_own(address) && !inner_of(address).is_some_and(|inner| is_own(inner.into()))
    }

    fn opens(&self, address: IpAddr, least_prefix: u8) -> bool {
        self.allowed.iter().any(|net| net.prefix_len() >= least_prefix && net.contains(&address))
    }
}

fn contains(nets: &[IpNet], address: IpAddr) -> bool {
    nets.iter().any(|net| net.contains(&address))
}

/// Loopback, "this host", multicast and broadcast: no rule opens them.
fn is_never_remote(address: IpAddr) -> bool {
    let IpAddr::V4(address) = address else { return address.is_loopback() || address.is_multicast() };
    address.is_loopback() || address.octets()[0] == 0 || address.is_multicast() || address.octets()[0] >= 240
}

/// The IPv4 address within one of NAT64 (RFC 6052) or 6to4 (RFC 3056).
fn inner_of(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(address) = address else { return None };
    let octets = address.octets();
    let at = match address.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, ..] => 12,
        [0x2002, ..] => 2,
        _ => return None,
    };
    Some(Ipv4Addr::new(octets[at], octets[at + 1], octets[at + 2], octets[at + 3]))
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
    fn the_same_in_ipv6() {
        let public = ["2001:db8::2", "2606:4700::1111", "2a00::1"];
        let never = [
            "::",
            "::1",
            "::127.0.0.1",
            "::9.9.9.9",
            "::ffff:127.0.0.1",
            "::ffff:10.1.2.3",
            "::ffff:9.9.9.9",
            "fe80::1",
            "febf::1",
            "ff02::1",
            "ff0e::1",
            // The guest's own network.
            "fd62:6772:a00:200::2",
            "fd62:6772:a00:200::99",
        ];
        let metadata = ["fd00:ec2::254", "fd20:ce::254"];
        let private = ["fc00::1", "fd12:3456::1", "100::1", "64:ff9b::a01:203", "64:ff9b::909:909", "2002:a01:203::1"];
        check(Outbound::Nat, &[], &public, &[&never[..], &metadata, &private].concat());
        check(Outbound::Nat, &["10.0.0.0/8", "0.0.0.0/0"], &public, &[&never[..], &metadata, &private].concat());
        check(Outbound::Nat, &["::/0"], &["fc00::1", "fd12:3456::1"], &[&never[..], &metadata].concat());
        check(Outbound::Nat, &["fd12::/16"], &["fd12:3456::1"], &["fd13::1", "fc00::1"]);
        check(Outbound::Nat, &["fd00:ec2::254"], &["fd00:ec2::254"], &["fd00:ec2::1", "fd00::1"]);
        check(Outbound::Off, &["::/0"], &[], &["2001:db8::2", "fd12::1"]);
    }

    #[test]
    fn an_address_that_holds_another_reaches_no_more_than_that_one() {
        let open = ["64:ff9b::/96", "2002::/16"];
        let wrapped = ["64:ff9b::a01:203", "2002:a01:203::1"];
        let loopback = ["64:ff9b::7f00:1", "2002:7f00:1::1", "64:ff9b::a9fe:a9fe", "64:ff9b::a00:202"];
        check(Outbound::Nat, &open, &["64:ff9b::909:909", "2002:909:909::1"], &[&wrapped[..], &loopback].concat());
        check(Outbound::Nat, &[&open[..], &["10.0.0.0/8"]].concat(), &wrapped, &loopback);
    }
}
