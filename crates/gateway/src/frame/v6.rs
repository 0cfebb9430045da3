//! IPv6 as far as it is read and written here: TCP, UDP and echo requests of the guest, neighbour discovery for our own
//! addresses, and the answers of ICMPv6 that make a program fail at once where it goes nowhere.
//!
//! No extension header is understood, and a fragment's is one of them: their sender hears so (RFC 8200, 4). What is sent
//! to many is never answered (RFC 4443, 2.4).

use super::{Frame, IPV6, Mac, OWN_MAC, TCP, UDP, UDP_BYTES, ethernet, is_own, number, read_tcp, read_udp, sum};
use std::net::{Ipv6Addr, SocketAddrV6};
use wire::gateway::{GATEWAY_V6, GUEST_V6};
use wire::privilege::address::GATEWAY_LINK_LOCAL;

pub const IPV6_BYTES: usize = 40;
pub const ICMPV6: u8 = 58;
const NO_NEXT_HEADER: u8 = 59;
const ECHO_REQUEST: u8 = 128;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// Neighbours discover each other with this hop limit only, so that nobody farther away takes part (RFC 4861, 7.1).
const NEIGHBOURS_HOPS: u8 = 255;
const HOPS: u8 = 64;
/// Of a packet complained about, as much as fits into the smallest MTU of IPv6 (RFC 4443, 2.4).
const QUOTED_BYTES: usize = 1280 - IPV6_BYTES - 8;

/// Why a packet goes nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// What follows the header is nothing that we read.
    Header,
    /// It may not go there, or there is no way from this host. "No route" would be the other word for the latter, but Linux
    /// keeps that one from a program which waits for a datagram.
    Refused,
}

pub(super) fn read(body: &[u8]) -> Option<Frame<'_>> {
    let header: &[u8; IPV6_BYTES] = body.first_chunk()?;
    let packet = body.get(..IPV6_BYTES + usize::from(number(header, 4)?))?;
    let (from, to) = (address(header, 8), address(header, 24));
    if header[0] >> 4 != 6 || to == GUEST_V6 || !(from == GUEST_V6 || from.is_unicast_link_local()) {
        return None;
    }
    match header[6] {
        ICMPV6 => read_icmp(from, to, packet),
        NO_NEXT_HEADER => None,
        // From an address that ends at the wire: it is answered there.
        TCP | UDP if from != GUEST_V6 => Some(Frame::Unfit { problem: Problem::Refused, packet }),
        TCP => read_tcp(to.into(), packet, IPV6_BYTES),
        UDP => read_udp(to.into(), packet, IPV6_BYTES),
        _ => Some(Frame::Unfit { problem: Problem::Header, packet }),
    }
}

fn read_icmp(from: Ipv6Addr, to: Ipv6Addr, packet: &[u8]) -> Option<Frame<'_>> {
    let message = &packet[IPV6_BYTES..];
    match *message.first()? {
        ECHO_REQUEST if message.len() >= 8 => Some(Frame::Icmp { to: to.into(), packet }),
        NEIGHBOUR_SOLICITATION if packet[7] == NEIGHBOURS_HOPS => {
            let wanted = address(message.get(8..24)?, 0);
            is_own(wanted.into()).then_some(Frame::Solicits { wanted, by: from })
        }
        _ => None,
    }
}

fn address(bytes: &[u8], at: usize) -> Ipv6Addr {
    let octets: [u8; 16] = bytes[at..at + 16].try_into().expect("sixteen bytes were asked for");
    octets.into()
}

/// "It is at our hardware address": solicited, in place of what was known, and from a router (RFC 4861, 4.4).
pub fn advertisement(wanted: Ipv6Addr, by: Ipv6Addr, mac: Mac) -> Vec<u8> {
    let mut message = vec![NEIGHBOUR_ADVERTISEMENT, 0, 0, 0, 0xe0, 0, 0, 0];
    message.extend(wanted.octets());
    message.extend([2, 1]);
    message.extend(OWN_MAC);
    let end = End { from: wanted, to: by, protocol: ICMPV6, hops: NEIGHBOURS_HOPS };
    frame(&end, message, 2, mac).expect("32 bytes are a packet")
}

/// Tells the sender of a packet what is wrong with it; `None` where nobody is to be told.
pub fn complaint(problem: Problem, packet: &[u8], mac: Mac) -> Option<Vec<u8>> {
    let header: &[u8; IPV6_BYTES] = packet.first_chunk()?;
    let (by, to) = (address(header, 8), address(header, 24));
    if to.is_multicast() || to.is_unspecified() {
        return None;
    }
    let mut message = match problem {
        // Type 4, code 1: an unknown next header, which the header names in its byte 6.
        Problem::Header => vec![4, 1, 0, 0, 0, 0, 0, 6],
        // Type 1, code 1: administratively prohibited.
        Problem::Refused => vec![1, 1, 0, 0, 0, 0, 0, 0],
    };
    message.extend(&packet[..packet.len().min(QUOTED_BYTES)]);
    let from = if by.is_unicast_link_local() { GATEWAY_LINK_LOCAL } else { GATEWAY_V6 };
    frame(&End { from, to: by, protocol: ICMPV6, hops: HOPS }, message, 2, mac)
}

/// A datagram for the guest; `None` where it is too long for one packet.
pub(super) fn datagram(from: SocketAddrV6, to: u16, payload: &[u8], mac: Mac) -> Option<Vec<u8>> {
    let length = u16::try_from(UDP_BYTES + payload.len()).ok()?;
    let mut message = Vec::with_capacity(usize::from(length));
    message.extend(from.port().to_be_bytes());
    message.extend(to.to_be_bytes());
    message.extend(length.to_be_bytes());
    message.extend([0, 0]);
    message.extend(payload);
    frame(&End { from: *from.ip(), to: GUEST_V6, protocol: UDP, hops: HOPS }, message, 6, mac)
}

/// What the header of a packet tells beside its length.
struct End {
    from: Ipv6Addr,
    to: Ipv6Addr,
    protocol: u8,
    hops: u8,
}

/// Puts the checksum into the message and both headers before it.
fn frame(end: &End, mut message: Vec<u8>, checksum_at: usize, mac: Mac) -> Option<Vec<u8>> {
    let length = u16::try_from(message.len()).ok()?;
    let mut frame = ethernet(mac, IPV6).to_vec();
    let header = frame.len();
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(length.to_be_bytes());
    frame.extend([end.protocol, end.hops]);
    frame.extend(end.from.octets());
    frame.extend(end.to.octets());
    // For UDP, 0 would mean "no checksum"; the sum's other form is right for all (RFC 8200, 8.1).
    let checksum = match !message_sum(&frame[header..], &message) {
        0 => 0xffff,
        checksum => checksum,
    };
    message[checksum_at..checksum_at + 2].copy_from_slice(&checksum.to_be_bytes());
    frame.append(&mut message);
    Some(frame)
}

/// Over the addresses, the length and the protocol, too (RFC 8200, 8.1).
pub(crate) fn message_sum(header: &[u8], message: &[u8]) -> u16 {
    let told = u32::from(header[6]) + message.len() as u32;
    sum(message, u32::from(sum(&header[8..IPV6_BYTES], told)))
}

#[cfg(test)]
mod tests {
    use super::super::{ETHERNET_BYTES, Segment, read};
    use super::*;
    use proptest::prelude::*;
    use std::net::SocketAddr;

    const MAC: Mac = [2, 1, 2, 3, 4, 5];
    const LINK_LOCAL: &str = "fe80::1:2ff:fe03:405";
    const WORLD: &str = "2001:db8::9";

    /// A guest's frame; no checksum is looked at.
    fn sent(from: &str, to: &str, protocol: u8, hops: u8, message: &[u8]) -> Vec<u8> {
        let mut frame = [&OWN_MAC[..], &MAC, &IPV6, &[0x60, 0, 0, 0]].concat();
        frame.extend((message.len() as u16).to_be_bytes());
        frame.extend([protocol, hops]);
        [from, to].iter().for_each(|end| frame.extend(end.parse::<Ipv6Addr>().unwrap().octets()));
        frame.extend(message);
        frame
    }

    fn guest() -> String {
        GUEST_V6.to_string()
    }

    fn sum_holds(frame: &[u8]) {
        let (header, message) = frame[ETHERNET_BYTES..].split_at(IPV6_BYTES);
        assert_eq!(usize::from(number(header, 4).unwrap()), message.len());
        assert_eq!(!message_sum(header, message), 0, "{frame:02x?}");
    }

    #[test]
    fn only_our_own_addresses_are_found_on_the_wire() {
        let ask = |wanted: &str, from: &str, hops: u8| {
            let target: Ipv6Addr = wanted.parse().unwrap();
            let message = [&[NEIGHBOUR_SOLICITATION, 0, 0, 0, 0, 0, 0, 0], &target.octets()[..]].concat();
            sent(from, "ff02::1:ff00:1", ICMPV6, hops, &message)
        };
        let own = GATEWAY_V6.to_string();
        for (wanted, from, hops, found) in [
            ("fe80::1", LINK_LOCAL, 255, true),
            ("fe80::1", &guest(), 255, true),
            (&own, &guest(), 255, true),
            (WORLD, &guest(), 255, false),
            // Is the guest's own free?
            (&guest(), "::", 255, false),
            ("fe80::1", "::", 255, false),
            ("fe80::1", WORLD, 255, false),
            ("fe80::1", LINK_LOCAL, 64, false),
        ] {
            let expected = Frame::Solicits { wanted: wanted.parse().unwrap(), by: from.parse().unwrap() };
            let frame = ask(wanted, from, hops);
            assert_eq!(read(&frame, MAC) == expected, found, "{wanted} by {from} with {hops}");
        }
        let told = advertisement(GATEWAY_V6, GUEST_V6, MAC);
        sum_holds(&told);
        assert_eq!((told[21], &told[told.len() - 6..]), (255, &OWN_MAC[..]));
    }

    #[test]
    fn a_datagram_reads_back() {
        let from = SocketAddrV6::new(WORLD.parse().unwrap(), 53, 0, 0);
        let told = super::super::datagram(from.into(), 4000, b"hello", MAC).unwrap();
        sum_holds(&told);
        let back = sent(&guest(), WORLD, UDP, 64, &told[ETHERNET_BYTES + IPV6_BYTES..]);
        let to = SocketAddr::new(WORLD.parse().unwrap(), 4000);
        let expected = Frame::Udp { from: 53, to, payload: b"hello", packet: &back[ETHERNET_BYTES..] };
        assert_eq!(read(&back, MAC), expected);
        assert!(super::super::datagram(from.into(), 1, &[0; 65528], MAC).is_none());
    }

    #[test]
    fn a_first_segment_is_told_from_the_others() {
        let segment = |flags: u8| [&[0x9c, 0x40, 0, 80], &[0; 8][..], &[0x50, flags, 0, 0, 0, 0, 0, 0]].concat();
        for (flags, first) in [(0x02, true), (0x12, false), (0x10, false)] {
            let frame = sent(&guest(), WORLD, TCP, 64, &segment(flags));
            let Frame::Tcp(Segment { from: 40000, to, opens, .. }) = read(&frame, MAC) else { panic!("{frame:02x?}") };
            assert_eq!((to.to_string(), opens), (format!("[{WORLD}]:80"), first));
        }
    }

    #[test]
    fn what_goes_nowhere_is_told_so_and_what_is_sent_to_many_is_not_answered() {
        let check = |from: &str, to: &str, protocol: u8, expected: Option<(u8, &str)>| {
            let frame = sent(from, to, protocol, 64, &[0; 2000]);
            let told = match read(&frame, MAC) {
                Frame::Unfit { problem, packet } => complaint(problem, packet, MAC),
                other => {
                    assert_eq!(other, Frame::Nothing);
                    None
                }
            };
            let heard = told.as_ref().map(|told| {
                sum_holds(told);
                assert!(told.len() <= ETHERNET_BYTES + 1280);
                assert_eq!(address(told, ETHERNET_BYTES + 24), from.parse::<Ipv6Addr>().unwrap());
                (told[ETHERNET_BYTES + IPV6_BYTES], address(told, ETHERNET_BYTES + 8).to_string())
            });
            assert_eq!(heard, expected.map(|(kind, by)| (kind, by.to_owned())), "{protocol} from {from} to {to}");
        };
        let own = GATEWAY_V6.to_string();
        // Hop by hop, routing, fragment, destination options, SCTP, and a number of nobody.
        for protocol in [0, 43, 44, 60, 132, 253] {
            check(&guest(), WORLD, protocol, Some((4, &own)));
            check(LINK_LOCAL, "fe80::1", protocol, Some((4, "fe80::1")));
            check(LINK_LOCAL, "ff02::16", protocol, None);
            check(WORLD, &guest(), protocol, None);
        }
        for protocol in [TCP, UDP, ICMPV6, 44] {
            check(&guest(), &guest(), protocol, None);
        }
        check(LINK_LOCAL, "fe80::1", TCP, Some((1, "fe80::1")));
        check(LINK_LOCAL, "ff02::fb", UDP, None);
        check(&guest(), WORLD, NO_NEXT_HEADER, None);
    }

    proptest! {
        #[test]
        fn garbage_is_survived(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..200), next in 0..6usize, own in any::<bool>(),
        ) {
            if bytes.len() > 54 {
                bytes[6..12].copy_from_slice(&MAC);
                bytes[12..14].copy_from_slice(&IPV6);
                bytes[14] = 0x60;
                let length = (bytes.len() - 54) as u8;
                bytes[18..20].copy_from_slice(&[0, length]);
                bytes[20] = [TCP, UDP, ICMPV6, NO_NEXT_HEADER, 0, 44][next];
                bytes[22..38].copy_from_slice(&GUEST_V6.octets());
                if own {
                    bytes[38..54].copy_from_slice(&GATEWAY_V6.octets());
                }
            }
            if let Frame::Unfit { problem, packet } = read(&bytes, MAC) {
                let _ = complaint(problem, packet, MAC);
            }
        }
    }
}
