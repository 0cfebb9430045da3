//! One question to the kernel: would a packet to this address stay on this host? Nothing is sent for it.

use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

// From linux/netlink.h and linux/rtnetlink.h.
const HEADER_BYTES: usize = 16;
const ROUTE_BYTES: usize = 12;
const ADDRESS_BYTES: usize = 4 + 16;
const NLMSG_ERROR: u16 = 2;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const NLM_F_REQUEST: u16 = 1;
const RTA_DST: u16 = 1;
const RTN_UNICAST: u8 = 1;

pub fn is_this_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_own_source(address),
        // Who cannot ask keeps out: the guest has IPv4.
        IpAddr::V6(address) => !leads_away(address).unwrap_or(false),
    }
}

/// The kernel takes a host's own address as the source towards itself. Connecting a datagram socket sends nothing.
fn is_own_source(address: Ipv4Addr) -> bool {
    let source = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| {
        socket.connect((address, 9))?;
        socket.local_addr()
    });
    source.is_ok_and(|source| source.ip() == address)
}

/// Asks for the route. In IPv6 the source tells nothing: towards a network's anycast address, which every router in it
/// has (RFC 4291, 2.6.1), and towards a whole network routed to the host itself, it is another one of the host's.
fn leads_away(address: Ipv6Addr) -> io::Result<bool> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    net::send(&socket, &question(address), SendFlags::empty())?;
    let mut answer = [0; 4096];
    let (length, _) = net::recv(&socket, &mut answer[..], RecvFlags::empty())?;
    read(&answer[..length])
}

fn question(address: Ipv6Addr) -> Vec<u8> {
    let length = HEADER_BYTES + ROUTE_BYTES + ADDRESS_BYTES;
    let mut message = Vec::with_capacity(length);
    message.extend((length as u32).to_ne_bytes());
    message.extend(RTM_GETROUTE.to_ne_bytes());
    message.extend(NLM_F_REQUEST.to_ne_bytes());
    // Neither a number of the question nor of the asker: there is one of each.
    message.extend([0; 8]);
    message.extend([libc::AF_INET6 as u8, 128, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    message.extend((ADDRESS_BYTES as u16).to_ne_bytes());
    message.extend(RTA_DST.to_ne_bytes());
    message.extend(address.octets());
    message
}

/// True for a route to somebody else, and for none at all: there connecting fails.
fn read(answer: &[u8]) -> io::Result<bool> {
    let broken = || io::Error::from(io::ErrorKind::InvalidData);
    let (header, body) = answer.split_first_chunk::<HEADER_BYTES>().ok_or_else(broken)?;
    match u16::from_ne_bytes([header[4], header[5]]) {
        RTM_NEWROUTE => Ok(*body.get(7).ok_or_else(broken)? == RTN_UNICAST),
        NLMSG_ERROR => Ok(true),
        _ => Err(broken()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_is_known_by_its_own_addresses() {
        assert!(is_this_host(Ipv4Addr::LOCALHOST.into()));
        assert!(!is_this_host(Ipv4Addr::new(203, 0, 113, 77).into()));
        assert!(!is_this_host("2001:db8::77".parse().unwrap()));
        if std::path::Path::new("/proc/net/if_inet6").exists() {
            assert!(is_this_host(Ipv6Addr::LOCALHOST.into()), "it has an address on `lo`");
        }
    }

    #[test]
    fn only_a_route_to_somebody_else_leads_away() {
        let route = |kind: u8| {
            let mut answer = vec![0; HEADER_BYTES + ROUTE_BYTES];
            answer[4..6].copy_from_slice(&RTM_NEWROUTE.to_ne_bytes());
            answer[HEADER_BYTES + 7] = kind;
            answer
        };
        // Local and anycast.
        for (kind, away) in [(RTN_UNICAST, true), (2, false), (4, false)] {
            assert_eq!(read(&route(kind)).ok(), Some(away), "{kind}");
        }
        let mut none = route(0);
        none[4..6].copy_from_slice(&NLMSG_ERROR.to_ne_bytes());
        assert_eq!(read(&none).ok(), Some(true));
        assert!(read(&[0; 40]).is_err() && read(&route(1)[..20]).is_err());
    }
}
