//! What fuzzers call, and what every ordinary test calls over their corpus: a guest's frames through a whole gateway, which
//! may reach nothing, so that no case ever leaves this machine. A finding is a panic, a case that does not end, or an answer
//! that is no well-formed frame for this guest.
//!
//! A case is a row of frames: a byte that says what is put around it, two bytes of length (big-endian, cut to what is left),
//! and the bytes themselves.
//!
//! | first byte modulo 10 | around the bytes |
//! |---|---|
//! | 0 | nothing: they are the frame |
//! | 1 | Ethernet for ARP |
//! | 2, 3, 4 | Ethernet and an IPv4 header from the guest for TCP, UDP, ICMP; they begin with the destination |
//! | 5 | Ethernet for IPv6 |
//! | 6, 7, 8 | Ethernet and an IPv6 header from the guest for TCP, UDP, ICMPv6, this one with its checksum |
//! | 9 | the same, and the first byte says what for |
//!
//! What has an IPv6 header begins with the destination, too.

use crate::frame::v6::{ICMPV6, IPV6_BYTES, message_sum};
use crate::frame::{self, ETHERNET_BYTES, Mac, OWN_MAC};
use crate::gateway::{Gateway, Settings};
use crate::link::Kind;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::OnceLock;
use wire::gateway::{GUEST, GUEST_V6, MTU};

const MAC: Mac = [2, 1, 2, 3, 4, 5];
const IPV4_BYTES: usize = 20;
const ADDRESS_BYTES: usize = 4;
const ADDRESS_V6_BYTES: usize = 16;
const HOPS: u8 = 255;

pub fn frames(case: &[u8]) {
    let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
    theirs.set_nonblocking(true).expect("a socket can be told not to wait");
    let mut rest = case;
    while let Some((frame, after)) = next(rest) {
        rest = after;
        let length = (frame.len() as u32).to_be_bytes();
        // What a socket takes at once is more than a fuzzer makes; the rest of a longer case is left out.
        if (&theirs).write_all(&[&length[..], &frame].concat()).is_err() {
            break;
        }
    }
    // The guest says no more, and still hears.
    theirs.shutdown(Shutdown::Write).expect("a direction can be ended");
    let gateway = Gateway::new(ours.into(), Kind::Stream, None, settings()).expect("a gateway begins");
    // A link on which a frame is too long to be one ends with an error.
    let _ = gateway.serve();
    let mut heard = Vec::new();
    let _ = (&theirs).read_to_end(&mut heard);
    check(&heard);
}

/// One set for the life of the process: nothing of it changes.
fn settings() -> &'static Settings {
    static MADE: OnceLock<Settings> = OnceLock::new();
    MADE.get_or_init(|| {
        let place = |kind: &str| -> PathBuf {
            std::env::temp_dir().join(format!("gateway-fuzz-{}.{kind}", std::process::id()))
        };
        let policy = place("policy");
        std::fs::write(&policy, br#"{"outbound":"off"}"#).expect("a policy can be written");
        Settings { policy, control: place("control"), mac: MAC }
    })
}

/// The next frame of a case, and what follows it.
fn next(case: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let ([kind, high, low], rest) = case.split_first_chunk()?;
    let length = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
    let (bytes, after) = rest.split_at(length);
    let frame = match kind % 10 {
        0 => bytes.to_vec(),
        1 => ethernet([0x08, 0x06], bytes),
        2 => ethernet([0x08, 0x00], &ipv4(6, bytes)),
        3 => ethernet([0x08, 0x00], &ipv4(17, bytes)),
        4 => ethernet([0x08, 0x00], &ipv4(1, bytes)),
        5 => ethernet([0x86, 0xdd], bytes),
        6 => ethernet([0x86, 0xdd], &ipv6(6, bytes)),
        7 => ethernet([0x86, 0xdd], &ipv6(17, bytes)),
        8 => ethernet([0x86, 0xdd], &ipv6(ICMPV6, bytes)),
        _ => bytes.split_first().map_or(Vec::new(), |(next, bytes)| ethernet([0x86, 0xdd], &ipv6(*next, bytes))),
    };
    Some((frame, after))
}

fn ethernet(kind: [u8; 2], body: &[u8]) -> Vec<u8> {
    [&OWN_MAC[..], &MAC, &kind, body].concat()
}

fn ipv4(protocol: u8, bytes: &[u8]) -> Vec<u8> {
    let (to, payload) = bytes.split_at(bytes.len().min(ADDRESS_BYTES));
    let total = (IPV4_BYTES + payload.len()).min(usize::from(u16::MAX)) as u16;
    let mut packet = vec![0x45, 0];
    packet.extend(total.to_be_bytes());
    packet.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
    packet.extend(GUEST.octets());
    packet.extend(to);
    packet.resize(IPV4_BYTES, 0);
    packet.extend(payload);
    packet
}

fn ipv6(next: u8, bytes: &[u8]) -> Vec<u8> {
    let (to, payload) = bytes.split_at(bytes.len().min(ADDRESS_V6_BYTES));
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next, HOPS]);
    packet.extend(GUEST_V6.octets());
    packet.extend(to);
    packet.resize(IPV6_BYTES, 0);
    let mut message = payload.to_vec();
    if next == ICMPV6 && message.len() >= 4 {
        message[2..4].fill(0);
        let checksum = !message_sum(&packet, &message);
        message[2..4].copy_from_slice(&checksum.to_be_bytes());
    }
    packet.extend(message);
    packet
}

/// What the guest hears are whole frames from us to it, with sums that hold. The last one may be cut: nobody read it.
fn check(heard: &[u8]) {
    let mut rest = heard;
    while let Some((prefix, after)) = rest.split_first_chunk::<4>() {
        let length = u32::from_be_bytes(*prefix) as usize;
        assert!(length >= ETHERNET_BYTES && length <= MTU as usize + ETHERNET_BYTES, "a frame of {length} bytes");
        let Some((frame, after)) = after.split_at_checked(length) else { return };
        assert_eq!((&frame[..6], &frame[6..12]), (&MAC[..], &OWN_MAC[..]), "from us to the guest");
        match [frame[12], frame[13]] {
            [0x08, 0x06] => assert_eq!(length, 42, "an answer to ARP"),
            [0x08, 0x00] => check_packet(&frame[ETHERNET_BYTES..]),
            [0x86, 0xdd] => check_packet_v6(&frame[ETHERNET_BYTES..]),
            other => panic!("a frame of kind {other:02x?}"),
        }
        rest = after;
    }
}

fn check_packet(packet: &[u8]) {
    assert!(packet.len() >= IPV4_BYTES && packet[0] == 0x45, "an IPv4 header without options");
    assert_eq!(usize::from(u16::from_be_bytes([packet[2], packet[3]])), packet.len(), "the length that it tells");
    assert_eq!(!frame::sum(&packet[..IPV4_BYTES], 0), 0, "the header's checksum");
    assert_eq!(packet[16..20], GUEST.octets(), "for the guest");
    let from = Ipv4Addr::from(<[u8; ADDRESS_BYTES]>::try_from(&packet[12..16]).expect("4 bytes"));
    let is_many = from.is_multicast() || from.is_broadcast() || from.is_unspecified();
    assert!(from != GUEST && !is_many, "from somebody else: {from}");
}

fn check_packet_v6(packet: &[u8]) {
    let (header, message) = packet.split_at_checked(IPV6_BYTES).expect("an IPv6 header");
    let end = |at: usize| Ipv6Addr::from(<[u8; ADDRESS_V6_BYTES]>::try_from(&header[at..at + 16]).expect("16 bytes"));
    let (from, to) = (end(8), end(24));
    assert_eq!(header[0] >> 4, 6, "the version");
    assert_eq!(usize::from(u16::from_be_bytes([header[4], header[5]])), message.len(), "the length that it tells");
    assert!([6, 17, ICMPV6].contains(&header[6]), "a protocol of ours: {}", header[6]);
    assert_eq!(!message_sum(header, message), 0, "the checksum");
    assert!(to == GUEST_V6 || to.is_unicast_link_local(), "for the guest: {to}");
    assert!(from != GUEST_V6 && !from.is_multicast() && !from.is_unspecified(), "from somebody else: {from}");
}
