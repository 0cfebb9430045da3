//! Whom a question for a name goes to: names below `.vm` to `bangerd`, all others to whom this host asks.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

/// 5 s: how late a change of the host's resolv.conf is noticed.
const SERVERS_KEPT: Duration = Duration::from_secs(5);
/// The header (RFC 1035, 4.1.1).
const HEADER_BYTES: usize = 12;

#[derive(Debug)]
pub enum Way {
    Ask(SocketAddr),
    /// The answer itself: refused.
    Refuse(Vec<u8>),
    Drop,
}

#[derive(Debug, Default)]
pub struct Servers {
    read: Option<(Instant, Vec<SocketAddr>)>,
    next: usize,
}

impl Servers {
    /// `ours` answers for `.vm`; `world`: whether other names may be asked for.
    pub fn way(&mut self, question: &[u8], ours: Option<SocketAddr>, world: bool) -> Way {
        let Some(below_vm) = is_below_vm(question) else { return Way::Drop };
        match (below_vm, ours) {
            (true, Some(ours)) => Way::Ask(ours),
            (true, None) => Way::Refuse(refusal(question)),
            (false, _) if world => self.upstream().map_or(Way::Drop, Way::Ask),
            (false, _) => Way::Refuse(refusal(question)),
        }
    }

    /// One after the other: a guest that asks again asks another one.
    pub fn upstream(&mut self) -> Option<SocketAddr> {
        if self.read.as_ref().is_none_or(|(at, _)| at.elapsed() > SERVERS_KEPT) {
            let text = std::fs::read_to_string(Path::new("/etc/resolv.conf")).unwrap_or_default();
            self.read = Some((Instant::now(), servers_of(&text)));
        }
        let (_, servers) = self.read.as_ref()?;
        self.next = self.next.wrapping_add(1);
        servers.get(self.next % servers.len().max(1)).copied()
    }
}

/// `None` for what is no question.
fn is_below_vm(question: &[u8]) -> Option<bool> {
    let mut at = HEADER_BYTES;
    let mut last: &[u8] = &[];
    loop {
        let length = usize::from(*question.get(at)?);
        match length {
            0 => return Some(last.eq_ignore_ascii_case(b"vm")),
            // A name in a question is never compressed.
            64.. => return None,
            _ => last = question.get(at + 1..at + 1 + length)?,
        }
        at += 1 + length;
    }
}

/// The question once more, as an answer with the code 5.
fn refusal(question: &[u8]) -> Vec<u8> {
    let mut told = question.to_vec();
    told[2] |= 0x80;
    told[3] = 0x85;
    told
}

/// Those with an IPv4 address; one with an IPv6 address where there is no other. (A link-local one is named with its
/// device, and is no address here.)
fn servers_of(text: &str) -> Vec<SocketAddr> {
    let addresses = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    let addresses = addresses.filter_map(|rest| rest.trim().parse::<IpAddr>().ok());
    let usable: Vec<IpAddr> = addresses.filter(|address| !address.is_unspecified()).collect();
    let family = usable.iter().any(IpAddr::is_ipv4);
    let chosen = usable.into_iter().filter(|address| address.is_ipv4() == family);
    chosen.take(3).map(|address| SocketAddr::new(address, 53)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(labels: &[&str]) -> Vec<u8> {
        let mut bytes = vec![7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in labels {
            bytes.push(label.len() as u8);
            bytes.extend(label.as_bytes());
        }
        bytes.extend([0, 0, 1, 0, 1]);
        bytes
    }

    #[test]
    fn names_below_vm_are_ours_whatever_their_case() {
        for (labels, ours) in
            [(&["web", "vm"][..], true), (&["WEB", "Vm"], true), (&["web", "vms"], false), (&[], false)]
        {
            assert_eq!(is_below_vm(&question(labels)), Some(ours), "{labels:?}");
        }
        assert_eq!(is_below_vm(&[0; 5]), None);
        assert_eq!(is_below_vm(&[192; 40]), None);
    }

    #[test]
    fn a_server_is_asked_over_ipv6_where_there_is_no_other() {
        let check = |text: &str, expected: &[&str]| {
            let expected: Vec<SocketAddr> = expected.iter().map(|text| text.parse().unwrap()).collect();
            assert_eq!(servers_of(text), expected, "{text}");
        };
        check("nameserver 2001:db8::53\nnameserver 9.9.9.9\n", &["9.9.9.9:53"]);
        check("search vm\nnameserver 2001:db8::53\n", &["[2001:db8::53]:53"]);
        check("nameserver ::\nnameserver fe80::1%eth0\n", &[]);
    }

    #[test]
    fn without_a_way_out_only_our_names_are_asked_for() {
        let ours = "127.0.0.1:5300".parse().ok();
        let mut servers = Servers::default();
        assert!(matches!(servers.way(&question(&["web", "vm"]), ours, false), Way::Ask(_)));
        let Way::Refuse(told) = servers.way(&question(&["example", "org"]), ours, false) else { panic!("refused") };
        assert_eq!((told[2] & 0x80, told[3] & 0x0f), (0x80, 5));
        assert!(matches!(servers.way(&question(&["web", "vm"]), None, true), Way::Refuse(_)));
    }
}
