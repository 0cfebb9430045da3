//! Who listens on a port of this host: best effort, for a sentence. Other people's processes hide their descriptors,
//! and a process may end while it is looked for.

use model::port::Protocol;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

/// 65536: more sockets or processes than that, and nobody is named.
const LOOK_LIMIT: usize = 65_536;
/// The states of a TCP socket that listens and of a UDP socket without a peer (include/net/tcp_states.h).
const LISTEN: &str = "0A";
const CLOSE: &str = "07";

#[derive(Debug, PartialEq, Eq)]
pub struct Holder {
    name: String,
    pid: u32,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` (pid {})", self.name, self.pid)
    }
}

pub fn of(address: SocketAddr, protocol: Protocol) -> Option<Holder> {
    let (tables, state) = match protocol {
        Protocol::Tcp => (["/proc/net/tcp", "/proc/net/tcp6"], LISTEN),
        Protocol::Udp => (["/proc/net/udp", "/proc/net/udp6"], CLOSE),
    };
    let inode = tables.iter().find_map(|table| {
        let text = std::fs::read_to_string(table).ok()?;
        listening_inode(&text, address, state).map(str::to_owned)
    })?;
    let wanted = format!("socket:[{inode}]");
    let processes = std::fs::read_dir("/proc").ok()?.take(LOOK_LIMIT).flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let pid = pids.find(|pid| holds(&Path::new("/proc").join(pid.to_string()).join("fd"), &wanted))?;
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(Holder { name: name.trim_end().to_owned(), pid })
}

fn holds(descriptors: &Path, wanted: &str) -> bool {
    let Ok(entries) = std::fs::read_dir(descriptors) else { return false };
    entries.flatten().any(|entry| std::fs::read_link(entry.path()).is_ok_and(|target| target.as_os_str() == wanted))
}

/// The socket that stands in the way: on the same port, at the same address or at all of them.
fn listening_inode<'a>(table: &'a str, wanted: SocketAddr, listens: &str) -> Option<&'a str> {
    table.lines().skip(1).take(LOOK_LIMIT).find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (local, state) = (fields.next()?, fields.nth(1)?);
        let inode = fields.nth(5)?;
        let (address, port) = local.split_once(':')?;
        let (address, port) = (parse_address(address)?, u16::from_str_radix(port, 16).ok()?);
        let meets = address == wanted.ip() || address.is_unspecified() || wanted.ip().is_unspecified();
        (state == listens && port == wanted.port() && meets).then_some(inode)
    })
}

/// Words of four bytes, each in the machine's order (proc_net_tcp in the kernel's documentation).
fn parse_address(text: &str) -> Option<IpAddr> {
    let word = |at: usize| Some(u32::from_str_radix(text.get(at * 8..at * 8 + 8)?, 16).ok()?.to_ne_bytes());
    match text.len() {
        8 => Some(IpAddr::V4(Ipv4Addr::from(word(0)?))),
        32 => {
            let bytes = [word(0)?, word(1)?, word(2)?, word(3)?].concat();
            let address = Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?);
            Some(address.to_canonical())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_listens_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let holder = of(address, Protocol::Tcp).expect("somebody listens");
        assert_eq!(holder.pid, std::process::id());
        drop(listener);
        assert_eq!(of(address, Protocol::Tcp), None);
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
        let holder = of(socket.local_addr().expect("bound"), Protocol::Udp).expect("somebody has it");
        assert_eq!(holder.pid, std::process::id());
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn only_a_listener_that_stands_in_the_way_counts() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            \x20  0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 111 1 0 100 0 0 10 0\n\
            \x20  1: 0100007F:1F91 0100007F:9999 01 00000000:00000000 00:00000000 00000000  1000        0 222 1 0 100 0 0 10 0\n\
            \x20  2: 00000000:1F92 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 333 1 0 100 0 0 10 0\n";
        let check = |address: &str, expected: Option<&str>| {
            assert_eq!(listening_inode(table, address.parse().expect("an address"), LISTEN), expected, "{address}");
        };
        check("127.0.0.1:8080", Some("111"));
        check("0.0.0.0:8080", Some("111"));
        check("127.0.0.2:8080", None);
        check("127.0.0.1:8081", None);
        check("127.0.0.2:8082", Some("333"));
        assert_eq!(
            listening_inode("garbage\nmore garbage: here\n", "127.0.0.1:1".parse().expect("an address"), LISTEN),
            None
        );
    }
}
