//! Links, addresses and neighbours through a route netlink socket (rtnetlink(7)). The kernel answers each request
//! before `sendto` returns, so a blocking socket waits for nobody.

use ipnet::Ipv4Net;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, LinkAttribute, LinkFlags, LinkInfo,
    LinkMessage,
};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage as Message};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use wire::privilege::address::Mac;

/// A dump that never ends would be the kernel's fault; 4096 datagrams are some 100,000 links.
const MAX_DATAGRAMS: usize = 4096;

/// A device as far as the helper cares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub kind: Option<InfoKind>,
    pub mac: Option<Mac>,
    pub up: bool,
    /// For a tap: somebody holds it open.
    pub carrier: bool,
    /// The bridge it is a port of.
    pub bridge: Option<u32>,
}

/// An IPv4 network that this host already knows, and through which device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownNetwork {
    pub net: Ipv4Net,
    pub index: Option<u32>,
}

pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    pub fn open() -> io::Result<Netlink> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Netlink { socket, sequence: 0 })
    }

    pub fn links(&mut self) -> io::Result<Vec<Link>> {
        let answers = self.request(Message::GetLink(LinkMessage::default()), NLM_F_DUMP)?;
        Ok(answers.into_iter().filter_map(read_link).collect())
    }

    pub fn link(&mut self, name: &str) -> io::Result<Option<Link>> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        match self.request(Message::GetLink(message), 0) {
            Ok(answers) => Ok(answers.into_iter().find_map(read_link)),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a bridge, down, with this hardware address from its first moment: the proof that it is ours.
    pub fn add_bridge(&mut self, name: &str, mac: Mac) -> io::Result<()> {
        let mut message = LinkMessage::default();
        let data = vec![InfoBridge::ForwardDelay(0), InfoBridge::MulticastSnooping(false)];
        message.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Address(mac.0.to_vec()),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge), LinkInfo::Data(InfoData::Bridge(data))]),
        ];
        self.request(Message::NewLink(message), NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL).map(drop)
    }

    pub fn delete_link(&mut self, index: u32) -> io::Result<()> {
        self.request(Message::DelLink(link_message(index)), NLM_F_ACK).map(drop)
    }

    pub fn set_up(&mut self, index: u32) -> io::Result<()> {
        let mut message = link_message(index);
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        self.request(Message::SetLink(message), NLM_F_ACK).map(drop)
    }

    /// Makes a device a port of the bridge that talks to the bridge only, not to other such ports.
    pub fn attach_isolated(&mut self, index: u32, bridge: u32) -> io::Result<()> {
        let mut message = link_message(index);
        message.attributes.push(LinkAttribute::Controller(bridge));
        self.request(Message::SetLink(message), NLM_F_ACK)?;
        // The kernel takes a port's data only once it is a port.
        let mut message = link_message(index);
        let port = vec![InfoBridgePort::Isolated(true)];
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(port)),
        ]));
        self.request(Message::NewLink(message), NLM_F_ACK).map(drop)
    }

    /// An address that is there already is fine.
    pub fn ensure_address(&mut self, index: u32, address: IpAddr, prefix: u8) -> io::Result<()> {
        let mut message = AddressMessage::default();
        message.header.index = index;
        message.header.prefix_len = prefix;
        message.attributes.push(AddressAttribute::Local(address));
        match address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
                message.header.family = AddressFamily::Inet;
                message.attributes.push(AddressAttribute::Broadcast(Ipv4Addr::from_bits(v4.to_bits() | mask)));
            }
            IpAddr::V6(v6) => {
                message.header.family = AddressFamily::Inet6;
                if v6.is_unicast_link_local() {
                    message.header.scope = AddressScope::Link;
                }
                // Nobody else can hold it, and a tentative address answers nobody for a second.
                message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
            }
        }
        message.attributes.push(AddressAttribute::Address(address));
        self.request(Message::NewAddress(message), NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE).map(drop)
    }

    /// Nails an address to a hardware address: no answer to a neighbour query can move it.
    pub fn ensure_neighbour(&mut self, index: u32, address: IpAddr, mac: Mac) -> io::Result<()> {
        let mut message = NeighbourMessage::default();
        message.header.ifindex = index;
        message.header.state = NeighbourState::Permanent;
        (message.header.family, message.attributes) = neighbour(address);
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
        self.request(Message::NewNeighbour(message), NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE).map(drop)
    }

    pub fn remove_neighbour(&mut self, index: u32, address: IpAddr) -> io::Result<()> {
        let mut message = NeighbourMessage::default();
        message.header.ifindex = index;
        (message.header.family, message.attributes) = neighbour(address);
        self.request(Message::DelNeighbour(message), NLM_F_ACK).map(drop)
    }

    /// The nailed addresses of one device.
    pub fn permanent_neighbours(&mut self, index: u32) -> io::Result<BTreeMap<IpAddr, Mac>> {
        let answers = self.request(Message::GetNeighbour(NeighbourMessage::default()), NLM_F_DUMP)?;
        Ok(answers.into_iter().filter_map(|answer| read_permanent(answer, index)).collect())
    }

    /// Every IPv4 network with a route or an address here, but the default route.
    pub fn networks(&mut self) -> io::Result<Vec<KnownNetwork>> {
        let mut addresses = AddressMessage::default();
        addresses.header.family = AddressFamily::Inet;
        let mut routes = RouteMessage::default();
        routes.header.address_family = AddressFamily::Inet;
        let mut answers = self.request(Message::GetAddress(addresses), NLM_F_DUMP)?;
        answers.extend(self.request(Message::GetRoute(routes), NLM_F_DUMP)?);
        Ok(answers.into_iter().filter_map(read_network).collect())
    }

    fn request(&mut self, message: Message, flags: u16) -> io::Result<Vec<Message>> {
        self.sequence += 1;
        let mut packet = NetlinkMessage::from(message);
        packet.header.flags = NLM_F_REQUEST | flags;
        packet.header.sequence_number = self.sequence;
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;

        let mut answers = Vec::new();
        let awaited = if flags & NLM_F_DUMP == NLM_F_DUMP { Awaited::End } else { Awaited::One };
        for _ in 0..MAX_DATAGRAMS {
            let (datagram, _) = self.socket.recv_from_full()?;
            if read_datagram(&datagram, self.sequence, awaited, &mut answers)? {
                return Ok(answers);
            }
        }
        Err(io::Error::other("the kernel's answer has no end"))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaited {
    One,
    End,
}

/// True once the answer is complete.
fn read_datagram(mut bytes: &[u8], sequence: u32, awaited: Awaited, answers: &mut Vec<Message>) -> io::Result<bool> {
    while !bytes.is_empty() {
        let packet = NetlinkMessage::<Message>::deserialize(bytes).map_err(io::Error::other)?;
        // Messages are padded to 4 bytes (netlink(7)); a length of 0 would never end.
        let length = (packet.header.length as usize).next_multiple_of(4).clamp(4, bytes.len());
        bytes = &bytes[length..];
        if packet.header.sequence_number != sequence {
            continue;
        }
        match packet.payload {
            NetlinkPayload::Done(_) => return Ok(true),
            NetlinkPayload::Error(error) if error.code.is_none() => return Ok(true),
            NetlinkPayload::Error(error) => return Err(error.to_io()),
            NetlinkPayload::InnerMessage(message) => answers.push(message),
            _ => {}
        }
    }
    Ok(awaited == Awaited::One && !answers.is_empty())
}

fn link_message(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message
}

fn neighbour(address: IpAddr) -> (AddressFamily, Vec<NeighbourAttribute>) {
    match address {
        IpAddr::V4(v4) => (AddressFamily::Inet, vec![NeighbourAttribute::Destination(NeighbourAddress::Inet(v4))]),
        IpAddr::V6(v6) => (AddressFamily::Inet6, vec![NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6))]),
    }
}

fn read_link(message: Message) -> Option<Link> {
    let Message::NewLink(message) = message else { return None };
    let flags = message.header.flags;
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        kind: None,
        mac: None,
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::LowerUp),
        bridge: None,
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Address(bytes) => link.mac = bytes.try_into().ok().map(Mac),
            LinkAttribute::Controller(index) => link.bridge = Some(index),
            LinkAttribute::LinkInfo(infos) => {
                link.kind = infos.into_iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    Some(link)
}

fn read_permanent(message: Message, index: u32) -> Option<(IpAddr, Mac)> {
    let Message::NewNeighbour(message) = message else { return None };
    if message.header.ifindex != index || message.header.state != NeighbourState::Permanent {
        return None;
    }
    let (mut address, mut mac) = (None, None);
    for attribute in message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => address = Some(IpAddr::V4(v4)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => address = Some(IpAddr::V6(v6)),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.try_into().ok().map(Mac),
            _ => {}
        }
    }
    address.zip(mac)
}

fn read_network(message: Message) -> Option<KnownNetwork> {
    match message {
        Message::NewAddress(message) => {
            let address = message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Address(IpAddr::V4(address)) => Some(*address),
                _ => None,
            })?;
            let net = Ipv4Net::new(address, message.header.prefix_len).ok()?;
            Some(KnownNetwork { net: net.trunc(), index: Some(message.header.index) })
        }
        Message::NewRoute(message) => {
            let destination = message.attributes.iter().find_map(|attribute| match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(*address),
                _ => None,
            })?;
            let index = message.attributes.iter().find_map(|attribute| match attribute {
                RouteAttribute::Oif(index) => Some(*index),
                _ => None,
            });
            let net = Ipv4Net::new(destination, message.header.destination_prefix_length).ok()?;
            Some(KnownNetwork { net: net.trunc(), index })
        }
        _ => None,
    }
}
