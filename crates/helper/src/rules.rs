//! From a policy to the firewall's script: a pure function, held to golden text by `tests/rules.rs`.
//!
//! The rules never change; only the elements of their sets do. So the script is a page that can be read once, and a
//! thousand guests cost a thousand set elements, not rules. Everything lives in two tables of our own:
//!
//! ```text
//! bridge banger   every frame from a tap: is it the device, hardware address and address of the same sandbox?
//! inet banger     input    guest → host     DNS, ping and named ports
//!                 forward  guest → world    policy;   guest → guest  policy;   world → guest  replies only
//!                 nat      guest → world    masquerade;   guest → gateway:53  the owner's resolver
//! ```
//!
//! Taps are isolated ports: what one guest sends to another goes through `forward` by way of the gateway, which answers
//! for all addresses of the range (proxy ARP). So one stateful table decides everything, and without rules guests
//! still do not reach each other.
//!
//! Protocols stand there by number (6 TCP, 17 UDP, 1 and 58 ICMP, 0 hop-by-hop options): a small host has no
//! /etc/protocols for `nft` to find their names in.
//!
//! Packets in the direction of the one who opened a connection are judged each time, established or not: a policy that
//! becomes stricter ends what it forbids.

use crate::batch::{Element, Part, Step, Verb};
use ipnet::IpNet;
use model::egress::{Outbound, PRIVATE_V4, PRIVATE_V6};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::Ipv4Addr;
use wire::privilege::address::{self, BRIDGE, Range, TAP_PREFIX};
use wire::privilege::policy::{GuestPolicy, Policy};

/// The name of both tables.
pub const TABLE: &str = "banger";
/// 4096 refused connections are remembered for an hour each; a guest that scans fills its share of memory, no more.
const REFUSED_SIZE: u32 = 4096;
const REFUSED_KEPT: &str = "1h";

/// How the new rules arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// Rules and elements are replaced, the record of refused connections stays.
    Keep,
    /// The tables are made anew: when sets of another version are in the way.
    Afresh,
}

/// The whole script. One transaction: `nft -f` commits all of it or nothing.
pub fn render(policy: &Policy, range: Range, arrival: Arrival) -> String {
    let mut script = String::from("# Rendered by bangerd-root from a policy. Replaced as a whole: do not edit.\n");
    for family in ["inet", "bridge"] {
        let _ = writeln!(script, "add table {family} {TABLE}");
        match arrival {
            Arrival::Keep => writeln!(script, "flush table {family} {TABLE}"),
            Arrival::Afresh => writeln!(script, "delete table {family} {TABLE}\nadd table {family} {TABLE}"),
        }
        .expect("a string takes text");
    }
    script.push_str(&bridge_table());
    script.push_str(&inet_table(policy, range));
    script.push_str(&fill(policy, range));
    script
}

/// Removes both tables, whether they are there or not.
pub fn render_removal() -> String {
    ["inet", "bridge"].map(|family| format!("add table {family} {TABLE}\ndelete table {family} {TABLE}\n")).concat()
}

/// Who may send what on which tap. Nothing else than ARP, IPv4 and IPv6 leaves a guest.
fn bridge_table() -> String {
    format!(
        r#"
table bridge {TABLE} {{
	set guests {{ type ifname . ether_addr; }}
	set guests4 {{ type ifname . ether_addr . ipv4_addr; }}
	set guests6 {{ type ifname . ether_addr . ipv6_addr; }}

	chain prerouting {{
		type filter hook prerouting priority -300; policy accept;
		iifname "{TAP_PREFIX}*" goto from_tap
	}}

	chain from_tap {{
		iifname . ether saddr != @guests counter drop comment "no guest of this tap"
		ether type ip iifname . ether saddr . ip saddr @guests4 accept
		ether type arp iifname . arp saddr ether . arp saddr ip @guests4 accept
		ether type arp iifname . arp saddr ether @guests arp operation request arp saddr ip 0.0.0.0 accept comment "is my address free?"
		ether type ip6 icmpv6 type {{ nd-router-advert, nd-redirect }} counter drop comment "a guest is no router"
		ether type ip6 iifname . ether saddr . ip6 saddr @guests6 accept
		ether type ip6 ip6 saddr fe80::/10 accept
		ether type ip6 ip6 saddr :: ip6 nexthdr {{ 58, 0 }} accept comment "is my address free?"
		counter drop comment "spoofed address or foreign protocol"
	}}
}}
"#
    )
}

fn inet_table(policy: &Policy, range: Range) -> String {
    let gateway = range.gateway();
    let (range4, range6) = (range.network(), range.network_v6());
    let (dns_redirect, dns_accept) = dns(policy.dns_port, gateway);
    let (private4, private6) = (PRIVATE_V4.join(", "), PRIVATE_V6.join(", "));
    format!(
        r#"
table inet {TABLE} {{
	set private4 {{ type ipv4_addr; flags interval; elements = {{ {private4} }}; }}
	set private6 {{ type ipv6_addr; flags interval; elements = {{ {private6} }}; }}
	set outbound4 {{ type ipv4_addr; }}
	set outbound6 {{ type ipv6_addr; }}
	set allowed_networks4 {{ type ipv4_addr . ipv4_addr; flags interval; }}
	set allowed_networks6 {{ type ipv6_addr . ipv6_addr; flags interval; }}
	set allowed_metadata4 {{ type ipv4_addr . ipv4_addr; flags interval; }}
	set allowed_guests4 {{ type ipv4_addr . ipv4_addr; }}
	set allowed_guests6 {{ type ipv6_addr . ipv6_addr; }}
	set resolvers4 {{ type ipv4_addr; }}
	set host_ports {{ type inet_service; }}
	set refused4 {{ type ipv4_addr . ipv4_addr . inet_proto . inet_service; size {REFUSED_SIZE}; flags dynamic,timeout; timeout {REFUSED_KEPT}; counter; }}
	set refused6 {{ type ipv6_addr . ipv6_addr . inet_proto . inet_service; size {REFUSED_SIZE}; flags dynamic,timeout; timeout {REFUSED_KEPT}; counter; }}

	chain prerouting {{
		type nat hook prerouting priority -100; policy accept;{dns_redirect}
	}}

	chain postrouting {{
		type nat hook postrouting priority 100; policy accept;
		ip saddr {range4} oifname != "{BRIDGE}" masquerade
		ip6 saddr {range6} oifname != "{BRIDGE}" masquerade
	}}

	chain input {{
		type filter hook input priority 0; policy accept;
		iifname "{BRIDGE}" goto guest_to_host
	}}

	chain output {{
		type filter hook output priority 0; policy accept;
		oifname "{BRIDGE}" icmp type redirect drop comment "guests reach each other through the gateway only"
	}}

	chain forward {{
		type filter hook forward priority 0; policy accept;
		iifname "{BRIDGE}" goto guest_to_world
		oifname "{BRIDGE}" goto world_to_guest
	}}

	chain guest_to_host {{
		ct direction reply ct state established,related accept
		icmp type echo-request accept
		icmpv6 type {{ echo-request, nd-neighbor-solicit, nd-neighbor-advert }} accept{dns_accept}
		ip daddr {gateway} tcp dport @host_ports accept
		ip6 daddr {gateway6} tcp dport @host_ports accept
		goto refused
	}}

	chain guest_to_world {{
		ct state invalid counter drop
		ct direction reply ct state established,related accept
		oifname "{BRIDGE}" ip saddr . ip daddr @allowed_guests4 accept
		oifname "{BRIDGE}" ip6 saddr . ip6 daddr @allowed_guests6 accept
		oifname "{BRIDGE}" goto refused
		ip daddr 169.254.0.0/16 ip saddr . ip daddr @allowed_metadata4 accept
		ip daddr 169.254.0.0/16 goto refused
		ip saddr . ip daddr @allowed_networks4 accept
		ip6 saddr . ip6 daddr @allowed_networks6 accept
		ip saddr @outbound4 ip daddr @resolvers4 meta l4proto {{ 6, 17 }} th dport 53 accept
		ip daddr @private4 goto refused
		ip6 daddr @private6 goto refused
		ip saddr @outbound4 accept
		ip6 saddr @outbound6 accept
		goto refused
	}}

	chain world_to_guest {{
		ct state established,related accept
		counter drop comment "nobody outside opens a connection to a guest"
	}}

	chain refused {{
		meta l4proto {{ 6, 17 }} update @refused4 {{ ip saddr . ip daddr . meta l4proto . th dport }}
		meta l4proto {{ 6, 17 }} update @refused6 {{ ip6 saddr . ip6 daddr . meta l4proto . th dport }}
		ip protocol 1 update @refused4 {{ ip saddr . ip daddr . meta l4proto . 0 }}
		counter reject with icmpx admin-prohibited
	}}
}}
"#,
        gateway6 = range.gateway_v6(),
    )
}

/// Guests ask the gateway's port 53; the owner's resolver is no root process and listens on a high port.
fn dns(port: Option<u16>, gateway: Ipv4Addr) -> (String, String) {
    let Some(port) = port else { return Default::default() };
    (
        format!(
            "\n\t\tiifname \"{BRIDGE}\" ip daddr {gateway} udp dport 53 redirect to :{port}\
             \n\t\tiifname \"{BRIDGE}\" ip daddr {gateway} tcp dport 53 redirect to :{port}"
        ),
        format!("\n\t\tip daddr {gateway} meta l4proto {{ 6, 17 }} th dport {port} ct status dnat accept"),
    )
}

/// The sets that a policy fills, in the order of the script.
const FILLED: [(&str, &str); 12] = [
    ("bridge", "guests"),
    ("bridge", "guests4"),
    ("bridge", "guests6"),
    ("inet", "outbound4"),
    ("inet", "outbound6"),
    ("inet", "allowed_networks4"),
    ("inet", "allowed_networks6"),
    ("inet", "allowed_metadata4"),
    ("inet", "allowed_guests4"),
    ("inet", "allowed_guests6"),
    ("inet", "resolvers4"),
    ("inet", "host_ports"),
];

/// From one policy that holds to the next, as one transaction over single elements; empty when nothing differs.
/// `None` when the rules themselves differ.
pub fn change(from: &Policy, to: &Policy, range: Range) -> Option<Vec<Step>> {
    if from.dns_port != to.dns_port {
        return None;
    }
    let (old, new) = (Elements::of(from, range), Elements::of(to, range));
    let gone = FILLED.map(|(family, set)| step(Verb::Delete, family, set, old.in_set(set).difference(new.in_set(set))));
    let come = FILLED.map(|(family, set)| step(Verb::Add, family, set, new.in_set(set).difference(old.in_set(set))));
    Some(gone.into_iter().chain(come).filter(|step| !step.elements.is_empty()).collect())
}

/// The same steps for `nft`.
pub fn render_change(steps: &[Step]) -> String {
    steps.iter().map(render_step).collect()
}

fn step<'a>(verb: Verb, family: &'static str, set: &'static str, elements: impl Iterator<Item = &'a Element>) -> Step {
    Step { verb, family, set, elements: elements.cloned().collect() }
}

fn render_step(step: &Step) -> String {
    let Step { verb, family, set, elements } = step;
    let elements: Vec<&str> = elements.iter().map(Element::text).collect();
    match elements.is_empty() {
        true => String::new(),
        false => format!("{} element {family} {TABLE} {set} {{\n\t{}\n}}\n", verb.word(), elements.join(",\n\t")),
    }
}

/// Empties the sets and fills them.
fn fill(policy: &Policy, range: Range) -> String {
    let new = Elements::of(policy, range);
    let mut script = String::new();
    for (family, set) in FILLED {
        let _ = writeln!(script, "flush set {family} {TABLE} {set}");
        script.push_str(&render_step(&step(Verb::Add, family, set, new.in_set(set).iter())));
    }
    script
}

#[derive(Default)]
struct Elements(BTreeMap<&'static str, BTreeSet<Element>>);

impl Elements {
    fn of(policy: &Policy, range: Range) -> Elements {
        let mut sets = Elements::default();
        let addresses: BTreeMap<_, _> = policy.guests.iter().map(|guest| (&guest.id, guest.ipv4)).collect();
        for guest in &policy.guests {
            sets.add_identity(guest, range);
            sets.add_outbound(guest, range);
            for (other, other_v4) in guest.allow_guests.iter().filter_map(|id| addresses.get_key_value(id)) {
                let (from6, to6) = (range.address_v6(&guest.id), range.address_v6(other));
                sets.add("allowed_guests4", &[Part::V4(guest.ipv4), Part::V4(*other_v4)]);
                sets.add("allowed_guests6", &[Part::V6(from6), Part::V6(to6)]);
            }
        }
        for resolver in &policy.resolvers {
            sets.add("resolvers4", &[Part::V4(*resolver)]);
        }
        for port in &policy.host_ports {
            sets.add("host_ports", &[Part::Port(*port)]);
        }
        sets
    }

    fn in_set(&self, set: &str) -> &BTreeSet<Element> {
        static NONE: BTreeSet<Element> = BTreeSet::new();
        self.0.get(set).unwrap_or(&NONE)
    }

    fn add(&mut self, set: &'static str, parts: &[Part]) {
        self.0.entry(set).or_default().insert(Element::of(parts));
    }

    fn add_identity(&mut self, guest: &GuestPolicy, range: Range) {
        let (tap, mac) = (address::tap(&guest.id), address::mac(&guest.id));
        let device = || Part::Device(tap.clone());
        self.add("guests", &[device(), Part::Mac(mac)]);
        self.add("guests4", &[device(), Part::Mac(mac), Part::V4(guest.ipv4)]);
        self.add("guests6", &[device(), Part::Mac(mac), Part::V6(range.address_v6(&guest.id))]);
    }

    fn add_outbound(&mut self, guest: &GuestPolicy, range: Range) {
        if guest.outbound != Outbound::Nat {
            return;
        }
        let (v4, v6) = (guest.ipv4, range.address_v6(&guest.id));
        self.add("outbound4", &[Part::V4(v4)]);
        self.add("outbound6", &[Part::V6(v6)]);
        // Kept apart from the rest: a wide network that contains the metadata address does not open it.
        let (local, wide): (Vec<IpNet>, Vec<IpNet>) =
            guest.allow_networks.iter().map(|network| network.net()).partition(is_metadata);
        // One network inside another would overlap, which the kernel refuses in a set of ranges.
        for network in IpNet::aggregate(&local) {
            self.add("allowed_metadata4", &[Part::V4(v4), Part::Net(network)]);
        }
        for network in IpNet::aggregate(&wide) {
            match network {
                IpNet::V4(_) => self.add("allowed_networks4", &[Part::V4(v4), Part::Net(network)]),
                IpNet::V6(_) => self.add("allowed_networks6", &[Part::V6(v6), Part::Net(network)]),
            }
        }
    }
}

/// Inside 169.254.0.0/16, where clouds serve an instance's credentials.
fn is_metadata(network: &IpNet) -> bool {
    matches!(network, IpNet::V4(net) if net.prefix_len() >= 16 && net.addr().is_link_local())
}
