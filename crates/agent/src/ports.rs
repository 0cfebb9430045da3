//! `GET /ports`: what listens in the guest and which process it is, from /proc; once, or again after each change.

use crate::http::{Answer, Body};
use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper::{Response, header};
use std::collections::HashMap;
use std::fs::{read_dir, read_link, read_to_string};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;
use wire::guest::{ListeningSocket, PORTS_WATCH_MS, Ports};
use wire::{Fault, FaultKind};

/// A line of /proc/net/{tcp,tcp6,udp,udp6} that waits for peers.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    address: IpAddr,
    port: u16,
    inode: u64,
}

const TABLES: &[(&str, &str)] =
    &[("tcp", "/proc/net/tcp"), ("tcp", "/proc/net/tcp6"), ("udp", "/proc/net/udp"), ("udp", "/proc/net/udp6")];

pub fn listening() -> Ports {
    let found = entries(|_| true);
    let wanted: Vec<u64> = found.iter().map(|(_, entry)| entry.inode).collect();
    let owners = owners(&wanted);
    let mut listening: Vec<ListeningSocket> = found
        .into_iter()
        .map(|(protocol, entry)| {
            let owner = owners.get(&entry.inode);
            ListeningSocket {
                protocol: protocol.to_owned(),
                address: entry.address.to_string(),
                port: entry.port,
                pid: owner.map(|(pid, _)| *pid),
                process: owner.map(|(_, name)| name.clone()),
            }
        })
        .collect();
    listening.sort_by(|a, b| (a.port, &a.protocol, &a.address).cmp(&(b.port, &b.protocol, &b.address)));
    Ports { listening }
}

/// Where this port is listened on.
pub fn addresses(protocol: &str, port: u16) -> Vec<IpAddr> {
    let found = entries(|other| other == protocol).into_iter();
    found.filter(|(_, entry)| entry.port == port).map(|(_, entry)| entry.address).collect()
}

/// `?watch=true`: what listens, again after each change of what listens on TCP; `wire::guest` says why by looking.
pub fn watch() -> Answer {
    let interval = tokio::time::interval(Duration::from_millis(PORTS_WATCH_MS));
    let lines = stream::unfold((interval, None), async |(mut interval, mut before)| {
        loop {
            interval.tick().await;
            let now = entries(|protocol| protocol == "tcp");
            if before.as_ref() != Some(&now) {
                before = Some(now);
                break;
            }
        }
        let line = serde_json::to_vec(&listening()).map_err(std::io::Error::other).map(|mut line| {
            line.push(b'\n');
            Frame::data(Bytes::from(line))
        });
        Some((line, (interval, before)))
    });
    let body: Body = BodyExt::boxed(StreamBody::new(lines));
    Response::builder()
        .header(header::CONTENT_TYPE, "application/x-ndjson")
        .body(body)
        .map_err(|error| Fault::new(FaultKind::Internal, "cannot answer").with_cause(error.to_string()))
}

fn entries(wanted: impl Fn(&str) -> bool) -> Vec<(&'static str, Entry)> {
    let mut found = Vec::new();
    for (protocol, path) in TABLES.iter().filter(|(protocol, _)| wanted(protocol)) {
        let table = read_to_string(path).unwrap_or_default();
        found.extend(table.lines().filter_map(|line| parse(protocol, line)).map(|entry| (*protocol, entry)));
    }
    found
}

/// Columns: number, local, remote, state, queues, timer, retransmits, uid, timeout, inode. A listening TCP socket is in
/// state 0A; a UDP socket without a peer is in 07.
fn parse(protocol: &str, line: &str) -> Option<Entry> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let waits = if protocol == "tcp" { "0A" } else { "07" };
    if *fields.get(3)? != waits {
        return None;
    }
    let (address, port) = fields.get(1)?.split_once(':')?;
    Some(Entry {
        address: parse_address(address)?,
        port: u16::from_str_radix(port, 16).ok()?,
        inode: fields.get(9)?.parse().ok()?,
    })
}

/// Words of 32 bits, each printed as the number that its bytes are on this machine.
fn parse_address(hex: &str) -> Option<IpAddr> {
    let words: Option<Vec<u8>> = (0..hex.len() / 8)
        .map(|at| u32::from_str_radix(hex.get(at * 8..at * 8 + 8)?, 16).ok().map(u32::to_ne_bytes))
        .collect::<Option<Vec<_>>>()
        .map(|words| words.concat());
    let bytes = words?;
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(|bytes| Ipv4Addr::from(bytes).into()),
        16 => <[u8; 16]>::try_from(bytes).ok().map(|bytes| Ipv6Addr::from(bytes).into()),
        _ => None,
    }
}

/// The first process, by number, that holds each of the sockets. A process that ends meanwhile is none.
fn owners(wanted: &[u64]) -> HashMap<u64, (u32, String)> {
    let mut owners: HashMap<u64, (u32, String)> = HashMap::new();
    let mut pids: Vec<u32> = read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    pids.sort_unstable();
    for pid in pids {
        for descriptor in read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
            let Some(inode) = read_link(descriptor.path()).ok().and_then(|target| socket_inode(target.to_str()?))
            else {
                continue;
            };
            if wanted.contains(&inode) && !owners.contains_key(&inode) {
                let name = read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                owners.insert(inode, (pid, name.trim().to_owned()));
            }
        }
    }
    owners
}

fn socket_inode(target: &str) -> Option<u64> {
    target.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listening_sockets_are_read_and_others_are_not() {
        let listen = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0  0 12345 1 0000000000000000 100 0 0 10 0";
        let entry = Entry { address: Ipv4Addr::LOCALHOST.into(), port: 8080, inode: 12345 };
        assert_eq!(parse("tcp", listen), Some(entry));
        assert_eq!(parse("tcp", &listen.replace(" 0A ", " 01 ")), None);
        assert_eq!(parse("udp", &listen.replace(" 0A ", " 07 ")).map(|entry| entry.port), Some(8080));
        assert_eq!(parse("tcp", "  sl  local_address rem_address   st tx_queue"), None);
    }

    #[test]
    fn ipv6_addresses_are_words_in_machine_order() {
        assert_eq!(parse_address("00000000000000000000000001000000"), Some(Ipv6Addr::LOCALHOST.into()));
        assert_eq!(parse_address("00000000000000000000000000000000"), Some(Ipv6Addr::UNSPECIFIED.into()));
        assert_eq!(parse_address("0100"), None);
    }

    #[test]
    fn a_listener_of_this_process_is_found_with_its_owner() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("listen");
        let port = socket.local_addr().expect("address").port();
        let found = listening().listening.into_iter().find(|entry| entry.port == port).expect("entry");
        assert_eq!((found.protocol.as_str(), found.pid), ("tcp", Some(std::process::id())));
    }
}
