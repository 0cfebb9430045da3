//! The guest's link, addresses and default routes through rtnetlink: declared by the host, repeatable, so that a restored
//! or forked guest takes a new address and drops the old one.
//!
//! Other links (a bridge of Docker's, a VPN) and other routes are left alone. Name resolution is [`crate::identity`]'s.

use futures_util::TryStreamExt;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol};
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use wire::guest::GuestNetwork;
use wire::{Fault, FaultKind};

/// 30 s: the kernel answers in microseconds, an emulated one in milliseconds, one under emulated KVM in seconds.
const DEADLINE: Duration = Duration::from_secs(30);

/// Has this agent met its link? One that a person took down later keeps addresses.
static SEEN: AtomicBool = AtomicBool::new(false);

/// A wanted network whose texts were understood.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    mac: Vec<u8>,
    addresses: Vec<(IpAddr, u8)>,
    gateways: Vec<IpAddr>,
    mtu: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Families {
    Both,
    OnlyIpv4,
}

impl Plan {
    /// A kernel without IPv6 gets the rest; it would refuse the whole of it otherwise.
    fn for_kernel_with(mut self, families: Families) -> Plan {
        if families == Families::OnlyIpv4 {
            self.addresses.retain(|(address, _)| address.is_ipv4());
            self.gateways.retain(IpAddr::is_ipv4);
        }
        self
    }
}

/// Absent where IPv6 was not built in, is no module that was loaded, or was switched off at boot.
fn has_ipv6() -> bool {
    std::path::Path::new("/proc/net/if_inet6").exists()
}

/// Makes the link with the given hardware address as the host wants it.
pub async fn ensure(wanted: &GuestNetwork) -> Result<(), Fault> {
    let plan = parse(wanted)?.for_kernel_with(if has_ipv6() { Families::Both } else { Families::OnlyIpv4 });
    within_deadline(async |handle| apply(&handle, &plan).await, "set up the network").await
}

pub async fn bring_up_loopback() -> Result<(), Fault> {
    let up = async |handle: Handle| {
        handle.link().set(LinkUnspec::new_with_name("lo").up().build()).execute().await.map_err(told("bring up lo"))
    };
    within_deadline(up, "bring up the loopback link").await
}

async fn within_deadline(work: impl AsyncFnOnce(Handle) -> Result<(), Fault>, attempt: &str) -> Result<(), Fault> {
    let (connection, handle, _) =
        rtnetlink::new_connection().map_err(crate::http::io_fault("open the kernel's route socket"))?;
    let connection = tokio::spawn(connection);
    let outcome = tokio::time::timeout(DEADLINE, work(handle)).await;
    connection.abort();
    outcome.map_err(|_| Fault::new(FaultKind::TimedOut, format!("cannot {attempt} in time")))?
}

fn told(attempt: &str) -> impl FnOnce(rtnetlink::Error) -> Fault {
    let message = format!("cannot {attempt}");
    move |error| Fault::new(FaultKind::Internal, message).with_cause(error.to_string())
}

async fn apply(handle: &Handle, plan: &Plan) -> Result<(), Fault> {
    let Link { index: link, fresh } = find_link(handle, &plan.mac).await?;
    let mut change = LinkUnspec::new_with_index(link).up();
    if let Some(mtu) = plan.mtu {
        change = change.mtu(mtu);
    }
    handle.link().set(change.build()).execute().await.map_err(told("bring up the link"))?;
    if !fresh {
        drop_other_addresses(handle, link, &plan.addresses).await?;
    }
    for &(address, prefix) in &plan.addresses {
        add_address(handle, link, address, prefix).await?;
    }
    if !fresh {
        drop_other_default_routes(handle, link, &plan.gateways).await?;
    }
    for &gateway in &plan.gateways {
        add_default_route(handle, link, gateway).await?;
    }
    Ok(())
}

struct Link {
    index: u32,
    /// Down, and not yet met by this agent: it has neither addresses nor routes to look through. On a cold start the three
    /// look-ups were a third of the time that the network took.
    fresh: bool,
}

async fn find_link(handle: &Handle, mac: &[u8]) -> Result<Link, Fault> {
    let mut links = handle.link().get().execute();
    while let Some(link) = links.try_next().await.map_err(told("list the links"))? {
        if has_mac(&link, mac) {
            let met = SEEN.swap(true, Ordering::Relaxed);
            let fresh = !met && !link.header.flags.contains(LinkFlags::Up);
            return Ok(Link { index: link.header.index, fresh });
        }
    }
    Err(Fault::new(FaultKind::NotFound, "the guest has no network link with the given hardware address"))
}

fn has_mac(link: &LinkMessage, mac: &[u8]) -> bool {
    link.attributes.iter().any(|attribute| matches!(attribute, LinkAttribute::Address(own) if own == mac))
}

/// Link-local addresses are the kernel's own and stay.
async fn drop_other_addresses(handle: &Handle, link: u32, wanted: &[(IpAddr, u8)]) -> Result<(), Fault> {
    let mut present = handle.address().get().set_link_index_filter(link).execute();
    let mut leaving = Vec::new();
    while let Some(address) = present.try_next().await.map_err(told("list the addresses"))? {
        let kept =
            wanted.iter().any(|&(ip, prefix)| address_of(&address) == Some(ip) && address.header.prefix_len == prefix);
        if !kept && address.header.scope == AddressScope::Universe {
            leaving.push(address);
        }
    }
    for address in leaving {
        handle.address().del(address).execute().await.map_err(told("drop an old address"))?;
    }
    Ok(())
}

fn address_of(message: &AddressMessage) -> Option<IpAddr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(ip) => Some(*ip),
        _ => None,
    })
}

/// IPv6 without duplicate address detection: the host gave the address to nobody else, and the detection costs a second.
async fn add_address(handle: &Handle, link: u32, address: IpAddr, prefix: u8) -> Result<(), Fault> {
    let mut request = handle.address().add(link, address, prefix).replace();
    if address.is_ipv6() {
        let message = request.message_mut();
        message.header.flags |= AddressHeaderFlags::Nodad;
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    request.execute().await.map_err(told(&format!("add the address {address}/{prefix}")))
}

/// Default routes that an earlier call made, by their mark `static`; what a router announced is the kernel's.
async fn drop_other_default_routes(handle: &Handle, link: u32, wanted: &[IpAddr]) -> Result<(), Fault> {
    let families = [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()];
    let mut leaving = Vec::new();
    for family in families {
        let mut routes = handle.route().get(family).execute();
        while let Some(route) = routes.try_next().await.map_err(told("list the routes"))? {
            let ours = route.header.destination_prefix_length == 0
                && route.header.protocol == RouteProtocol::Static
                && route
                    .attributes
                    .iter()
                    .any(|attribute| matches!(attribute, RouteAttribute::Oif(index) if *index == link));
            if ours && !gateway_of(&route).is_some_and(|gateway| wanted.contains(&gateway)) {
                leaving.push(route);
            }
        }
    }
    for route in leaving {
        handle.route().del(route).execute().await.map_err(told("drop an old default route"))?;
    }
    Ok(())
}

fn gateway_of(route: &RouteMessage) -> Option<IpAddr> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(RouteAddress::Inet(gateway)) => Some((*gateway).into()),
        RouteAttribute::Gateway(RouteAddress::Inet6(gateway)) => Some((*gateway).into()),
        _ => None,
    })
}

/// `onlink`: a gateway may lie outside of the address' prefix (a /32 on a routed tap).
async fn add_default_route(handle: &Handle, link: u32, gateway: IpAddr) -> Result<(), Fault> {
    let route = match gateway {
        IpAddr::V4(gateway) => {
            RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).output_interface(link).onlink().build()
        }
        IpAddr::V6(gateway) => {
            RouteMessageBuilder::<Ipv6Addr>::new().gateway(gateway).output_interface(link).onlink().build()
        }
    };
    handle.route().add(route).replace().execute().await.map_err(told(&format!("route through {gateway}")))
}

fn parse(wanted: &GuestNetwork) -> Result<Plan, Fault> {
    let invalid = |what: &str, text: &str| Fault::new(FaultKind::Invalid, format!("{text} is no {what}"));
    Ok(Plan {
        mac: parse_mac(&wanted.mac).ok_or_else(|| invalid("hardware address", &wanted.mac))?,
        addresses: wanted
            .addresses
            .iter()
            .map(|text| parse_address(text).ok_or_else(|| invalid("address with prefix length", text)))
            .collect::<Result<_, _>>()?,
        gateways: wanted
            .gateways
            .iter()
            .map(|text| text.parse().map_err(|_| invalid("gateway address", text)))
            .collect::<Result<_, _>>()?,
        mtu: wanted.mtu,
    })
}

fn parse_mac(text: &str) -> Option<Vec<u8>> {
    let bytes: Option<Vec<u8>> =
        text.split(':').map(|part| (part.len() == 2).then(|| u8::from_str_radix(part, 16).ok()).flatten()).collect();
    bytes.filter(|bytes| bytes.len() == 6)
}

fn parse_address(text: &str) -> Option<(IpAddr, u8)> {
    let (address, prefix) = text.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let prefix: u8 = prefix.parse().ok()?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    (prefix <= longest).then_some((address, prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(mac: &str, address: &str, gateway: &str) -> GuestNetwork {
        GuestNetwork {
            mac: mac.to_owned(),
            addresses: vec![address.to_owned()],
            gateways: vec![gateway.to_owned()],
            ..GuestNetwork::default()
        }
    }

    #[test]
    fn a_network_is_understood_whole_or_not_at_all() {
        let plan = parse(&network("06:00:AC:10:00:02", "172.16.0.2/30", "172.16.0.1")).expect("plan");
        assert_eq!(plan.mac, [6, 0, 0xac, 0x10, 0, 2]);
        assert_eq!(plan.addresses, [("172.16.0.2".parse().expect("ip"), 30)]);
        let mut both = network("06:00:AC:10:00:02", "172.16.0.2/30", "172.16.0.1");
        both.addresses.push("fd00::2/128".to_owned());
        both.gateways.push("fe80::1".to_owned());
        let both = || parse(&both).expect("plan");
        assert_eq!(both().for_kernel_with(Families::OnlyIpv4), plan);
        assert_eq!(both().for_kernel_with(Families::Both).addresses.len(), 2);
        for bad in [
            network("06:00", "172.16.0.2/30", "172.16.0.1"),
            network("06:00:ac:10:00:0g", "172.16.0.2/30", "172.16.0.1"),
            network("06:00:ac:10:00:02", "172.16.0.2", "172.16.0.1"),
            network("06:00:ac:10:00:02", "172.16.0.2/33", "172.16.0.1"),
            network("06:00:ac:10:00:02", "172.16.0.2/30", "gateway.example"),
        ] {
            assert_eq!(parse(&bad).map_err(|fault| fault.kind), Err(FaultKind::Invalid), "{bad:?}");
        }
    }
}
