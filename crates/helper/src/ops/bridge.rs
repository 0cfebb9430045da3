//! The bridge `br-banger`: its range, its addresses, and everything that has to hold before a guest's first frame.

use super::{Root, forwarding, observe, rules};
use crate::checkpoint;
use crate::failure::{Attempt, Failure, Result};
use crate::ledger::BridgeNote;
use crate::netlink::{KnownNetwork, Link};
use crate::sysctl;
use model::Change;
use netlink_packet_route::link::InfoKind;
use std::fs::File;
use std::io::{self, Read};
use std::net::IpAddr;
use wire::FaultKind;
use wire::privilege::address::{BRIDGE, GATEWAY_LINK_LOCAL, Mac, Range};
use wire::privilege::facts::BridgeMade;

pub fn ensure(root: &mut Root, wanted: Option<Range>) -> Result<BridgeMade> {
    let note = claim(root, wanted)?;
    let (made, link) = ensure_link(root, &note)?;
    let ruled = rules::ensure_floor(root, note.range)?;
    let ipv6 = sysctl::has_ipv6();
    let raised = ensure_addresses(root, &link, note.range, ipv6)?;
    let forwarded = forwarding::ensure(root)?;
    let change = made.and(ruled).and(raised).and(forwarded);
    Ok(BridgeMade { change, range: note.range, ipv6, obstacles: observe::obstacles() })
}

/// The device, if it is there and is the one that the ledger tells of.
pub fn find(root: &mut Root) -> Result<Option<Link>> {
    let Some(note) = root.ledger.notes().bridge.clone() else { return Ok(None) };
    let link = root.netlink.link(BRIDGE).attempt(|| "cannot look for the bridge")?;
    Ok(link.filter(|link| is_ours(link, &note)))
}

/// The device, or the sentence for whoever asks for something that needs it.
pub fn require(root: &mut Root) -> Result<(Link, Range)> {
    let link = find(root)?;
    match (link, root.ledger.notes().bridge.as_ref()) {
        (Some(link), Some(note)) => Ok((link, note.range)),
        _ => Err(Failure::new(FaultKind::Conflict, format!("there is no bridge `{BRIDGE}`"))
            .with_hint("run `banger system network up`")),
    }
}

pub fn is_ours(link: &Link, note: &BridgeNote) -> bool {
    link.kind == Some(InfoKind::Bridge) && link.mac == Some(Mac(note.mac))
}

/// Settles range and hardware address and notes them, unless they are settled.
fn claim(root: &mut Root, wanted: Option<Range>) -> Result<BridgeNote> {
    let device = root.netlink.link(BRIDGE).attempt(|| "cannot look for the bridge")?;
    let noted = root.ledger.notes().bridge.clone();
    match (device, noted) {
        (Some(device), Some(note)) if is_ours(&device, &note) => match wanted {
            Some(range) if range != note.range => Err(range_is_fixed(note.range, range)),
            _ => Ok(note),
        },
        (Some(_), _) => Err(name_is_taken()),
        (None, Some(note)) if wanted.is_none_or(|range| range == note.range) => {
            refuse_overlap(root, note.range)?;
            Ok(note)
        }
        (None, _) => claim_range(root, wanted),
    }
}

fn claim_range(root: &mut Root, wanted: Option<Range>) -> Result<BridgeNote> {
    let range = match wanted {
        Some(range) => refuse_overlap(root, range).map(|()| range)?,
        None => choose(root)?,
    };
    let note = BridgeNote { mac: random_mac().attempt(|| "cannot draw a hardware address")?, range };
    root.ledger.note(|notes| notes.bridge = Some(note.clone()))?;
    checkpoint::reached("the bridge is noted");
    Ok(note)
}

fn choose(root: &mut Root) -> Result<Range> {
    let in_use: Vec<_> = known_networks(root)?.into_iter().map(|known| known.net).collect();
    Range::choose(&in_use).ok_or_else(|| {
        Failure::new(FaultKind::Conflict, "every range that banger would take is in use on this host")
            .with_hint("name a free private one, such as `banger system network up --range 10.20.30.0/24`")
    })
}

fn refuse_overlap(root: &mut Root, range: Range) -> Result<()> {
    let Some(known) = known_networks(root)?.into_iter().find(|known| range.overlaps(known.net)) else { return Ok(()) };
    let links = root.netlink.links().attempt(|| "cannot list the links")?;
    let holder = links.iter().find(|link| Some(link.index) == known.index).map_or("a route", |link| &link.name);
    let sentence = format!("range {range} overlaps {} of `{holder}`", known.net);
    Err(Failure::new(FaultKind::Conflict, sentence).with_hint("leave the range out, or name a free one"))
}

/// All that this host has, but what our own bridge brought.
fn known_networks(root: &mut Root) -> Result<Vec<KnownNetwork>> {
    let ours = find(root)?.map(|link| link.index);
    let networks = root.netlink.networks().attempt(|| "cannot list the routes")?;
    Ok(networks.into_iter().filter(|known| ours.is_none() || known.index != ours).collect())
}

fn ensure_link(root: &mut Root, note: &BridgeNote) -> Result<(Change, Link)> {
    if let Some(link) = find(root)? {
        return Ok((Change::Unchanged, link));
    }
    // A new bridge after a reboot: the kernel counts its rules from the start again, and an old number proves nothing.
    root.applied = None;
    root.ledger.forget_applied()?;
    root.netlink.add_bridge(BRIDGE, Mac(note.mac)).attempt(|| format!("cannot make the bridge `{BRIDGE}`"))?;
    checkpoint::reached("the bridge is made");
    let link =
        find(root)?.ok_or_else(|| Failure::new(FaultKind::HostUnfit, "the bridge vanished while it was made"))?;
    Ok((Change::Changed, link))
}

/// Settings before addresses, addresses before `up`: from its first packet on the bridge behaves as it shall.
fn ensure_addresses(root: &mut Root, link: &Link, range: Range, ipv6: bool) -> Result<Change> {
    settle(ipv6).attempt(|| format!("cannot set up `{BRIDGE}`"))?;
    let mut addresses = vec![(IpAddr::V4(range.gateway()), range.network().prefix_len())];
    if ipv6 {
        addresses.push((IpAddr::V6(range.gateway_v6()), range.network_v6().prefix_len()));
        addresses.push((IpAddr::V6(GATEWAY_LINK_LOCAL), 64));
    }
    for (address, prefix) in addresses {
        root.netlink
            .ensure_address(link.index, address, prefix)
            .attempt(|| format!("cannot give `{BRIDGE}` the address {address}"))?;
    }
    checkpoint::reached("the bridge has addresses");
    root.netlink.set_up(link.index).attempt(|| format!("cannot bring `{BRIDGE}` up"))?;
    checkpoint::reached("the bridge is up");
    Ok(if link.up { Change::Unchanged } else { Change::Changed })
}

/// The gateway answers for every guest's address (proxy ARP back to the same link, RFC 3069), so that guests, whose
/// ports are isolated, reach each other through the firewall or not at all. Router advertisements of guests are deaf.
fn settle(ipv6: bool) -> io::Result<()> {
    sysctl::set(&format!("ipv4/conf/{BRIDGE}/proxy_arp_pvlan"), "1")?;
    sysctl::set(&format!("ipv4/conf/{BRIDGE}/send_redirects"), "0")?;
    sysctl::set(&format!("ipv4/conf/{BRIDGE}/accept_redirects"), "0")?;
    if ipv6 {
        sysctl::set(&format!("ipv6/conf/{BRIDGE}/accept_ra"), "0")?;
        sysctl::set(&format!("ipv6/conf/{BRIDGE}/accept_redirects"), "0")?;
        // 1: no link-local address of its own making; the gateway's is fe80::1 everywhere.
        sysctl::set(&format!("ipv6/conf/{BRIDGE}/addr_gen_mode"), "1")?;
    }
    Ok(())
}

fn random_mac() -> io::Result<[u8; 6]> {
    let mut mac = [0; 6];
    File::open("/dev/urandom")?.read_exact(&mut mac)?;
    // A locally administered unicast address, in a block that sandboxes rarely share.
    mac[0] = 0x06;
    Ok(mac)
}

fn name_is_taken() -> Failure {
    Failure::new(FaultKind::Conflict, format!("a device `{BRIDGE}` exists that banger did not make"))
        .with_hint(format!("rename or remove it: `ip link show {BRIDGE}` tells what it is"))
}

fn range_is_fixed(held: Range, wanted: Range) -> Failure {
    Failure::new(FaultKind::Conflict, format!("the bridge already serves {held}, not {wanted}"))
        .with_hint("stop the sandboxes, run `banger system network down`, then `up` with the new range")
}
