//! Ethernet, ARP and IPv4 as far as they are read and written here; IPv6 is [`v6`]'s. Every frame is a guest's claim: lengths are checked
//! before anything is looked at, and what is not for us is nothing.

pub mod v6;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use v6::Problem;
use wire::gateway::{GATEWAY, GATEWAY_V6, GUEST};
use wire::privilege::address::GATEWAY_LINK_LOCAL;

pub const ETHERNET_BYTES: usize = 14;
/// What follows the Ethernet header.
pub type Kind = [u8; 2];
pub const IPV4: Kind = [0x08, 0x00];
pub const IPV6: Kind = [0x86, 0xdd];
const ARP: Kind = [0x08, 0x06];
const ARP_BYTES: usize = 28;
const IPV4_BYTES: usize = 20;
const UDP_BYTES: usize = 8;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
/// The gateway's hardware address; `02` marks it as nobody's product (IEEE 802).
pub const OWN_MAC: Mac = [0x02, 0x62, 0x67, 0x72, 0x00, 0x02];

pub type Mac = [u8; 6];

/// What a frame of the guest is to us.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// Whoever is asked for, we are it: the guest is alone with us.
    WhoHas(Ipv4Addr),
    /// The same in IPv6, where only our own addresses are asked for; `by` is told.
    Solicits {
        wanted: Ipv6Addr,
        by: Ipv6Addr,
    },
    Tcp(Segment<'a>),
    Udp {
        from: u16,
        to: SocketAddr,
        payload: &'a [u8],
        packet: &'a [u8],
    },
    Icmp {
        to: IpAddr,
        packet: &'a [u8],
    },
    /// An IPv6 packet that goes nowhere, and whose sender hears why.
    Unfit {
        problem: Problem,
        packet: &'a [u8],
    },
    Nothing,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Segment<'a> {
    pub from: u16,
    pub to: SocketAddr,
    /// A first segment: SYN without ACK.
    pub opens: bool,
    /// The whole IP packet.
    pub packet: &'a [u8],
}

/// `mac` is the guest's: a frame of any other sender is nothing.
pub fn read(frame: &[u8], mac: Mac) -> Frame<'_> {
    if frame.len() < ETHERNET_BYTES || frame[6..12] != mac {
        return Frame::Nothing;
    }
    let kind = [frame[12], frame[13]];
    let body = &frame[ETHERNET_BYTES..];
    match kind {
        ARP => read_arp(body, mac).map_or(Frame::Nothing, Frame::WhoHas),
        IPV4 => read_ipv4(body).unwrap_or(Frame::Nothing),
        IPV6 => v6::read(body).unwrap_or(Frame::Nothing),
        _ => Frame::Nothing,
    }
}

/// A request for any address but the guest's own, which it asks for to learn whether it is free.
fn read_arp(body: &[u8], mac: Mac) -> Option<Ipv4Addr> {
    let body = body.get(..ARP_BYTES)?;
    let is_request = body[..8] == [0, 1, 8, 0, 6, 4, 0, 1] && body[8..14] == mac;
    let wanted = address(&body[24..28]);
    (is_request && wanted != GUEST).then_some(wanted)
}

fn read_ipv4(body: &[u8]) -> Option<Frame<'_>> {
    let header = body.get(..IPV4_BYTES)?;
    let header_bytes = usize::from(header[0] & 0x0f) * 4;
    let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let fragmented = u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0;
    let well_formed = header[0] >> 4 == 4 && header_bytes >= IPV4_BYTES && total >= header_bytes;
    if !well_formed || fragmented || address(&header[12..16]) != GUEST {
        return None;
    }
    let packet = body.get(..total)?;
    let to = address(&header[16..20]);
    if to == GUEST {
        // Its own address is behind no wire: an answer would come from itself.
        return None;
    }
    match header[9] {
        TCP => read_tcp(to.into(), packet, header_bytes),
        UDP => read_udp(to.into(), packet, header_bytes),
        ICMP => Some(Frame::Icmp { to: to.into(), packet }),
        _ => None,
    }
}

fn read_tcp(to: IpAddr, packet: &[u8], header_bytes: usize) -> Option<Frame<'_>> {
    let segment = &packet[header_bytes..];
    let flags = *segment.get(13)?;
    let opens = flags & 0x02 != 0 && flags & 0x10 == 0;
    let to = SocketAddr::new(to, number(segment, 2)?);
    Some(Frame::Tcp(Segment { from: number(segment, 0)?, to, opens, packet }))
}

fn read_udp(to: IpAddr, packet: &[u8], header_bytes: usize) -> Option<Frame<'_>> {
    let datagram = &packet[header_bytes..];
    let length = usize::from(number(datagram, 4)?);
    let payload = datagram.get(UDP_BYTES..length)?;
    let to = SocketAddr::new(to, number(datagram, 2)?);
    Some(Frame::Udp { from: number(datagram, 0)?, to, payload, packet })
}

fn number(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

fn address(bytes: &[u8]) -> Ipv4Addr {
    Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3])
}

/// The header of a frame of ours.
pub fn ethernet(mac: Mac, kind: Kind) -> [u8; ETHERNET_BYTES] {
    let mut header = [0; ETHERNET_BYTES];
    header[..6].copy_from_slice(&mac);
    header[6..12].copy_from_slice(&OWN_MAC);
    header[12..].copy_from_slice(&kind);
    header
}

/// "It is at our hardware address" (RFC 826).
pub fn arp_reply(wanted: Ipv4Addr, mac: Mac) -> Vec<u8> {
    let mut frame = Vec::with_capacity(ETHERNET_BYTES + ARP_BYTES);
    frame.extend(mac);
    frame.extend(OWN_MAC);
    frame.extend(ARP);
    frame.extend([0, 1, 8, 0, 6, 4, 0, 2]);
    frame.extend(OWN_MAC);
    frame.extend(wanted.octets());
    frame.extend(mac);
    frame.extend(GUEST.octets());
    frame
}

/// A datagram for the guest; `None` where it is too long for one packet.
pub fn datagram(from: SocketAddr, to: u16, payload: &[u8], mac: Mac) -> Option<Vec<u8>> {
    match from {
        SocketAddr::V4(from) => datagram_v4(from, to, payload, mac),
        SocketAddr::V6(from) => v6::datagram(from, to, payload, mac),
    }
}

fn datagram_v4(from: SocketAddrV4, to: u16, payload: &[u8], mac: Mac) -> Option<Vec<u8>> {
    let length = u16::try_from(UDP_BYTES + payload.len()).ok()?;
    let total = u16::try_from(IPV4_BYTES + usize::from(length)).ok()?;
    let mut frame = ethernet(mac, IPV4).to_vec();
    frame.extend([0x45, 0]);
    frame.extend(total.to_be_bytes());
    frame.extend([0, 0, 0x40, 0, 64, UDP, 0, 0]);
    frame.extend(from.ip().octets());
    frame.extend(GUEST.octets());
    let checksum = !sum(&frame[ETHERNET_BYTES..], 0);
    frame[ETHERNET_BYTES + 10..ETHERNET_BYTES + 12].copy_from_slice(&checksum.to_be_bytes());
    let at = frame.len();
    frame.extend(from.port().to_be_bytes());
    frame.extend(to.to_be_bytes());
    frame.extend(length.to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(payload);
    let pseudo = sum(&frame[ETHERNET_BYTES + 12..ETHERNET_BYTES + 20], u32::from(UDP) + u32::from(length));
    // 0 means "no checksum" (RFC 768), so a sum of 0 is written as its other form.
    let checksum = match !sum(&frame[at..], u32::from(pseudo)) {
        0 => 0xffff,
        checksum => checksum,
    };
    frame[at + 6..at + 8].copy_from_slice(&checksum.to_be_bytes());
    Some(frame)
}

/// The Internet checksum's sum (RFC 1071).
pub(crate) fn sum(bytes: &[u8], start: u32) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)));
    let mut total = words.fold(start, |total, word| {
        let total = total.wrapping_add(word);
        // Folded early, so that 64 KiB never overflow.
        (total & 0xffff) + (total >> 16)
    });
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

pub fn parse_mac(text: &str) -> Option<Mac> {
    let bytes: Option<Vec<u8>> =
        text.split(':').map(|part| (part.len() == 2).then(|| u8::from_str_radix(part, 16).ok()).flatten()).collect();
    bytes?.try_into().ok()
}

/// True for the addresses that are this process itself.
pub fn is_own(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address == GATEWAY || address == wire::gateway::NAME_SERVER,
        IpAddr::V6(address) => address == GATEWAY_V6 || address == GATEWAY_LINK_LOCAL,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAC: Mac = [2, 1, 2, 3, 4, 5];

    /// As a guest would send what we sent, the other way round.
    fn turned(mut frame: Vec<u8>) -> Vec<u8> {
        frame[6..12].copy_from_slice(&MAC);
        let (from, to) = (frame[26..30].to_vec(), frame[30..34].to_vec());
        frame[26..30].copy_from_slice(&to);
        frame[30..34].copy_from_slice(&from);
        frame
    }

    #[test]
    fn a_datagram_reads_back() {
        let from = SocketAddr::from(([9, 9, 9, 9], 53));
        let frame = datagram(from, 4000, b"hello", MAC).unwrap();
        assert_eq!(!sum(&frame[14..34], 0), 0, "the header's checksum holds");
        let back = turned(frame.clone());
        let read = read(&back, MAC);
        assert!(matches!(read, Frame::Udp { from: 53, payload: b"hello", .. }), "{read:?}");
        assert_eq!(super::read(&turned(frame), [9; 6]), Frame::Nothing, "another sender");
        assert!(datagram(from, 1, &[0; 65536], MAC).is_none());
    }

    #[test]
    fn every_address_but_the_guests_own_is_ours() {
        let mut request = arp_reply(GATEWAY, MAC);
        request[6..12].copy_from_slice(&MAC);
        request[21] = 1;
        request[22..28].copy_from_slice(&MAC);
        request[38..42].copy_from_slice(&GATEWAY.octets());
        assert_eq!(read(&request, MAC), Frame::WhoHas(GATEWAY));
        request[38..42].copy_from_slice(&GUEST.octets());
        assert_eq!(read(&request, MAC), Frame::Nothing);
    }

    #[test]
    fn what_the_guest_sends_to_itself_is_nothing() {
        let mut frame = datagram(SocketAddr::from((GUEST, 53)), 4000, &[0; 20], MAC).unwrap();
        frame[6..12].copy_from_slice(&MAC);
        for protocol in [TCP, UDP, ICMP] {
            frame[ETHERNET_BYTES + 9] = protocol;
            assert_eq!(read(&frame, MAC), Frame::Nothing, "{protocol}");
        }
    }

    proptest! {
        #[test]
        fn garbage_is_survived(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0..3usize) {
            if bytes.len() > 14 {
                bytes[6..12].copy_from_slice(&MAC);
                bytes[12..14].copy_from_slice(&[IPV4, ARP, [8, 9]][kind]);
            }
            if bytes.len() > 34 {
                bytes[14] = 0x45;
                bytes[26..30].copy_from_slice(&GUEST.octets());
                bytes[20] = 0;
                bytes[21] = 0;
            }
            let _ = read(&bytes, MAC);
        }
    }
}
