//! Elements of sets, added and removed by one netlink batch (nf_tables): what `nft` does with a script of them, without the
//! process, which costs 7 ms here, most of it for reading what the kernel holds already.
//!
//! ```text
//! BATCH_BEGIN (generation) │ DELSETELEM … │ NEWSETELEM … │ BATCH_END      committed as a whole, or not at all
//! ```
//! Where anything is unusual (too large for one datagram, somebody else's transaction in between) it is refused here, and
//! the caller goes by `nft`. Numbers and layouts: the kernel's `nfnetlink.h` and `nf_tables.h`.

use crate::generation::Generation;
use ipnet::IpNet;
use netlink_sys::Socket;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use wire::privilege::address::Mac;

/// One of a set: how `nft` writes it, and how the kernel compares it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Element {
    text: String,
    from: Vec<u8>,
    /// Where it is a range of keys.
    to: Option<Vec<u8>>,
}

impl Element {
    /// A key of several parts, in the order of the set's type.
    pub fn of(parts: &[Part]) -> Element {
        let text: Vec<String> = parts.iter().map(Part::text).collect();
        let is_range = parts.iter().any(|part| matches!(part, Part::Net(_)));
        let (mut from, mut to) = (Vec::new(), Vec::new());
        for part in parts {
            let (first, last) = part.bounds();
            for (key, bytes) in [(&mut from, first), (&mut to, last)] {
                key.extend(bytes);
                if parts.len() > 1 {
                    // The parts of a concatenation begin at whole registers of 4 bytes.
                    key.resize(key.len().next_multiple_of(4), 0);
                }
            }
        }
        Element { text: text.join(" . "), from, to: is_range.then_some(to) }
    }

    pub fn text(&self) -> &str {
        &self.text
    }
}

pub enum Part {
    Device(String),
    Mac(Mac),
    V4(Ipv4Addr),
    V6(Ipv6Addr),
    Net(IpNet),
    Port(u16),
}

/// IFNAMSIZ.
const DEVICE_BYTES: usize = 16;

impl Part {
    fn text(&self) -> String {
        match self {
            Part::Device(name) => format!("\"{name}\""),
            Part::Mac(mac) => mac.to_string(),
            Part::V4(address) => address.to_string(),
            Part::V6(address) => address.to_string(),
            Part::Net(net) => net.to_string(),
            Part::Port(port) => port.to_string(),
        }
    }

    /// The first and the last value of it.
    fn bounds(&self) -> (Vec<u8>, Vec<u8>) {
        let bytes = match self {
            Part::Device(name) => {
                let mut bytes = name.as_bytes().to_vec();
                bytes.resize(DEVICE_BYTES, 0);
                bytes
            }
            Part::Mac(mac) => mac.0.to_vec(),
            Part::V4(address) => address.octets().to_vec(),
            Part::V6(address) => address.octets().to_vec(),
            Part::Port(port) => port.to_be_bytes().to_vec(),
            Part::Net(IpNet::V4(net)) => {
                return (net.network().octets().to_vec(), net.broadcast().octets().to_vec());
            }
            Part::Net(IpNet::V6(net)) => {
                return (net.network().octets().to_vec(), net.broadcast().octets().to_vec());
            }
        };
        (bytes.clone(), bytes)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Add,
    Delete,
}

impl Verb {
    pub const fn word(self) -> &'static str {
        match self {
            Verb::Add => "add",
            Verb::Delete => "delete",
        }
    }
}

/// Elements of one set that come or go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub verb: Verb,
    pub family: &'static str,
    pub set: &'static str,
    pub elements: Vec<Element>,
}

/// The table that all sets are in.
const TABLE: &str = crate::rules::TABLE;
/// 500 elements of at most 92 bytes: their list stays below 64 KiB, which an attribute can hold.
const AT_ONCE: usize = 500;
/// 96 KiB: a socket sends 208 KiB at once unless told otherwise (net.core.wmem_default), its own bookkeeping included.
const MOST_BYTES: usize = 96 * 1024;
/// An answer repeats the message that it is about.
const ANSWER_BYTES: usize = 128 * 1024;

const NFNL_MSG_BATCH_BEGIN: u16 = 16;
const NFNL_MSG_BATCH_END: u16 = 17;
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NEWSETELEM: u16 = NFNL_SUBSYS_NFTABLES << 8 | 12;
const DELSETELEM: u16 = NFNL_SUBSYS_NFTABLES << 8 | 14;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_CREATE: u16 = 0x400;
/// `NFNL_BATCH_GENID`: the kernel refuses the batch when the rules are of another generation.
const NFNL_BATCH_GENID: u16 = 1;
const NLA_F_NESTED: u16 = 1 << 15;
const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
const NFTA_SET_ELEM_LIST_SET: u16 = 2;
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3 | NLA_F_NESTED;
const NFTA_LIST_ELEM: u16 = 1 | NLA_F_NESTED;
const NFTA_SET_ELEM_KEY: u16 = 1 | NLA_F_NESTED;
const NFTA_SET_ELEM_KEY_END: u16 = 10 | NLA_F_NESTED;
const NFTA_DATA_VALUE: u16 = 1;
const NFPROTO_INET: u8 = 1;
const NFPROTO_BRIDGE: u8 = 7;
const HEADER_BYTES: usize = 16;

/// Commits all of it, if the rules are of this generation still.
pub fn commit(socket: &Socket, steps: &[Step], from: Generation) -> io::Result<()> {
    let batch = Batch::of(steps, from);
    if batch.bytes.len() > MOST_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "more elements than one batch holds"));
    }
    socket.send(&batch.bytes, 0)?;
    // The kernel has answered when `sendto` returns: nobody waits, and an answer that is not there never comes.
    let mut answer = Vec::with_capacity(ANSWER_BYTES);
    let mut acknowledged = 0;
    while acknowledged < batch.messages {
        answer.clear();
        socket.recv(&mut answer, libc::MSG_DONTWAIT)?;
        acknowledged += acknowledgements(&answer, FIRST)?;
    }
    Ok(())
}

/// The sequence number of the batch's begin; each message has the next one. Generations are asked for with 0.
const FIRST: u32 = 1;

struct Batch {
    bytes: Vec<u8>,
    /// How many have to be acknowledged.
    messages: usize,
}

impl Batch {
    fn of(steps: &[Step], from: Generation) -> Batch {
        let mut batch = Batch { bytes: Vec::new(), messages: 0 };
        let generation = attribute(NFNL_BATCH_GENID, &from.number().to_be_bytes());
        batch.push(NFNL_MSG_BATCH_BEGIN, NLM_F_REQUEST, 0, FIRST, &generation);
        for step in steps {
            let (kind, flags) = match step.verb {
                Verb::Add => (NEWSETELEM, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE),
                Verb::Delete => (DELSETELEM, NLM_F_REQUEST | NLM_F_ACK),
            };
            let family = if step.family == "bridge" { NFPROTO_BRIDGE } else { NFPROTO_INET };
            for elements in step.elements.chunks(AT_ONCE) {
                batch.messages += 1;
                let sequence = FIRST + batch.messages as u32;
                batch.push(kind, flags, family, sequence, &list(step.set, elements));
            }
        }
        let end = FIRST + batch.messages as u32 + 1;
        batch.push(NFNL_MSG_BATCH_END, NLM_F_REQUEST, 0, end, &[]);
        batch
    }

    /// nlmsghdr, nfgenmsg, attributes.
    fn push(&mut self, kind: u16, flags: u16, family: u8, sequence: u32, attributes: &[u8]) {
        let length = HEADER_BYTES + 4 + attributes.len();
        let bytes = &mut self.bytes;
        bytes.extend((length as u32).to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend(0u32.to_ne_bytes());
        bytes.extend([family, 0]);
        bytes.extend(NFNL_SUBSYS_NFTABLES.to_be_bytes());
        bytes.extend(attributes);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
}

fn list(set: &str, elements: &[Element]) -> Vec<u8> {
    let key = |kind, bytes: &[u8]| attribute(kind, &attribute(NFTA_DATA_VALUE, bytes));
    let mut members = Vec::new();
    for element in elements {
        let mut member = key(NFTA_SET_ELEM_KEY, &element.from);
        if let Some(to) = &element.to {
            member.extend(key(NFTA_SET_ELEM_KEY_END, to));
        }
        members.extend(attribute(NFTA_LIST_ELEM, &member));
    }
    let mut list = attribute(NFTA_SET_ELEM_LIST_TABLE, &[TABLE.as_bytes(), &[0]].concat());
    list.extend(attribute(NFTA_SET_ELEM_LIST_SET, &[set.as_bytes(), &[0]].concat()));
    list.extend(attribute(NFTA_SET_ELEM_LIST_ELEMENTS, &members));
    list
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(4 + value.len().next_multiple_of(4));
    bytes.extend(u16::try_from(4 + value.len()).expect("lists are cut").to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// How many messages of this batch the datagram acknowledges; an error for the first that was refused.
fn acknowledgements(mut datagram: &[u8], first: u32) -> io::Result<usize> {
    let mut count = 0;
    while let Some((header, rest)) = datagram.split_at_checked(HEADER_BYTES) {
        let half = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
        let word = |from: &[u8]| u32::from_ne_bytes([from[0], from[1], from[2], from[3]]);
        if half(4) == NLMSG_ERROR && word(&header[8..]) >= first {
            let code = rest.get(..4).map(word).ok_or(io::ErrorKind::UnexpectedEof)? as i32;
            if code != 0 {
                return Err(io::Error::from_raw_os_error(code.wrapping_neg()));
            }
            count += 1;
        }
        let length = (word(header) as usize).next_multiple_of(4).max(HEADER_BYTES);
        datagram = datagram.get(length..).unwrap_or_default();
    }
    match count {
        0 => Err(io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer says nothing about the batch")),
        count => Ok(count),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_begin_at_whole_registers() {
        let element = Element::of(&[Part::Device("bt0".into()), Part::Mac(Mac([2, 0, 0, 0, 0, 1]))]);
        assert_eq!(element.text(), "\"bt0\" . 02:00:00:00:00:01");
        assert_eq!((element.from.len(), element.from[16], element.to), (24, 2, None));
        assert_eq!(Element::of(&[Part::Port(8080)]).from, [0x1f, 0x90]);
    }

    #[test]
    fn a_network_is_a_range_of_keys() {
        let element = Element::of(&[Part::V4([10, 0, 0, 2].into()), Part::Net("192.168.4.0/22".parse().unwrap())]);
        assert_eq!(element.from, [10, 0, 0, 2, 192, 168, 4, 0]);
        assert_eq!(element.to.as_deref(), Some(&[10, 0, 0, 2, 192, 168, 7, 255][..]));
    }

    /// nlmsgerr for the message of this number.
    fn answer(sequence: u32, code: i32) -> Vec<u8> {
        let mut bytes = 36u32.to_ne_bytes().to_vec();
        bytes.extend([NLMSG_ERROR.to_ne_bytes(), [0, 0]].concat());
        bytes.extend([sequence.to_ne_bytes(), [0; 4], code.to_ne_bytes()].concat());
        bytes.resize(36, 0);
        bytes
    }

    #[test]
    fn whatever_is_no_yes_is_an_error() {
        let stale = answer(0, 0);
        assert!(acknowledgements(&[], FIRST).is_err() && acknowledgements(&stale, FIRST).is_err());
        let (yes, no) = (answer(2, 0), answer(3, -libc::ENOENT));
        assert_eq!(acknowledgements(&[stale, yes.clone(), yes.clone()].concat(), FIRST).unwrap(), 2);
        let refused = acknowledgements(&[yes.clone(), no.clone()].concat(), FIRST).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::ENOENT));
        for cut in 1..no.len() {
            let _ = acknowledgements(&no[..cut], FIRST);
        }
    }
}
