//! The generation of the firewall's rules: a number that the kernel raises by one with every transaction of anybody in
//! this network namespace (nf_tables, `NFT_MSG_GETGEN`). While it stands still, the rules are those that we left.

use crate::batch::{self, Step};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use serde::{Deserialize, Serialize};
use std::io;

/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETGEN`, from the kernel's nfnetlink.h and nf_tables.h.
const GET_GENERATION: u16 = 10 << 8 | 16;
const NEW_GENERATION: u16 = 10 << 8 | 15;
const REQUEST: u16 = 1;
/// `NFTA_GEN_ID`.
const ATTRIBUTE_ID: u16 = 1;
/// As much of an answer that nobody reads; the rest of it is dropped by the kernel.
const STALE_BYTES: usize = 64;
/// nlmsghdr (16 bytes) and nfgenmsg (4 bytes).
const HEADERS: usize = 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generation(u32);

/// Asks for the generation, and makes the next one. The socket stays open for the helper's life: closing one waits until
/// the kernel has freed what the last transaction removed, 20 ms that nobody needs to wait for.
pub struct Generations {
    socket: Socket,
}

impl Generations {
    pub fn open() -> io::Result<Generations> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Generations { socket })
    }

    /// Changes elements of sets in the rules of this generation; no others.
    pub fn commit(&self, steps: &[Step], from: Generation) -> io::Result<()> {
        batch::commit(&self.socket, steps, from)
    }

    pub fn current(&self) -> io::Result<Generation> {
        let mut request = Vec::with_capacity(HEADERS);
        request.extend((HEADERS as u32).to_ne_bytes());
        request.extend(GET_GENERATION.to_ne_bytes());
        request.extend(REQUEST.to_ne_bytes());
        // Sequence and port number, then nfgenmsg: family, version, resource.
        request.extend([0; 12]);
        // Answers to a batch that was given up would be taken for this one's.
        let mut stale = Vec::with_capacity(STALE_BYTES);
        while self.socket.recv(&mut stale, libc::MSG_DONTWAIT).is_ok() {
            stale.clear();
        }
        self.socket.send(&request, 0)?;
        let (answer, _) = self.socket.recv_from_full()?;
        parse(&answer).map(Generation).ok_or_else(|| io::Error::other("the kernel tells no generation of its rules"))
    }
}

impl Generation {
    pub fn number(self) -> u32 {
        self.0
    }

    /// What it is after exactly one more transaction; 0 is left out.
    pub fn next(self) -> Generation {
        Generation(self.0.wrapping_add(1).max(1))
    }
}

fn parse(answer: &[u8]) -> Option<u32> {
    let half = |at: usize| Some(u16::from_ne_bytes(answer.get(at..at + 2)?.try_into().ok()?));
    if half(4)? != NEW_GENERATION {
        return None;
    }
    let mut at = HEADERS;
    loop {
        let (length, kind) = (usize::from(half(at)?), half(at + 2)?);
        if kind == ATTRIBUTE_ID {
            return Some(u32::from_be_bytes(answer.get(at + 4..at + 8)?.try_into().ok()?));
        }
        at += length.max(4).next_multiple_of(4);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_answer_is_no_generation() {
        assert_eq!(parse(&[]), None);
        assert_eq!(parse(&[0; 20]), None);
        let mut answer = vec![28, 0, 0, 0, 15, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(parse(&answer), None);
        answer.extend([8, 0, 1, 0, 0, 0, 1, 2]);
        assert_eq!(parse(&answer), Some(0x102));
    }
}
