//! The guest's link: a stream socket whose other end is QEMU's (`-netdev socket`), where each frame comes behind its
//! length in 4 bytes, or a packet socket on a tap, where each call carries a frame.
//!
//! Frames towards the guest wait in one buffer; at [`MAX_WAITING_BYTES`] nothing more is taken on, so that a guest which
//! does not read slows its connections and costs no memory.

use crate::frame::{ETHERNET_BYTES, IPV4, IPV6, Mac, ethernet};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use wire::gateway::MTU;

/// 2 MiB: some thirty of the largest frames.
const MAX_WAITING_BYTES: usize = 2 << 20;
/// 512 KiB a read: several of the largest frames.
const READ_BYTES: usize = 512 << 10;
const PREFIX_BYTES: usize = 4;
/// 64 frames of a packet socket in a row, before others have their turn.
const FRAMES_AT_ONCE: usize = 64;
/// A tap has the usual MTU: a larger one would have to be set on both sides of it.
const TAP_MTU: usize = 1500;
/// No frame is longer than this: the MTU, its header and a VLAN tag.
const MAX_FRAME_BYTES: usize = MTU as usize + ETHERNET_BYTES + 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Stream,
    Packets,
}

pub struct Link {
    file: OwnedFd,
    kind: Kind,
    inbox: Vec<u8>,
    /// What has arrived and is no whole frame yet begins here.
    begun: usize,
    /// What was not read yet ends here.
    end: usize,
    pub wire: Wire,
}

/// smoltcp's side: one packet in, frames out.
pub struct Wire {
    mac: Mac,
    mtu: usize,
    incoming: Vec<u8>,
    outbox: Vec<u8>,
    sent: usize,
}

impl Link {
    pub fn new(file: OwnedFd, kind: Kind, mac: Mac) -> io::Result<Link> {
        rustix::io::ioctl_fionbio(&file, true)?;
        let mtu = match kind {
            Kind::Stream => MTU as usize,
            Kind::Packets => TAP_MTU,
        };
        let wire = Wire { mac, mtu, incoming: Vec::new(), outbox: Vec::new(), sent: 0 };
        Ok(Link { file, kind, inbox: vec![0; READ_BYTES + PREFIX_BYTES + MAX_FRAME_BYTES], begun: 0, end: 0, wire })
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Reads what is there; false once the other end is closed.
    pub fn fill(&mut self) -> io::Result<bool> {
        self.inbox.copy_within(self.begun..self.end, 0);
        (self.begun, self.end) = (0, self.end - self.begun);
        if self.kind == Kind::Packets {
            return self.fill_with_packets();
        }
        match rustix::io::read(&self.file, &mut self.inbox[self.end..]) {
            Ok(0) => Ok(false),
            Ok(count) => {
                self.end += count;
                Ok(true)
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(true),
            // The VMM was killed.
            Err(rustix::io::Errno::CONNRESET) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Each packet gets the prefix that it would have on a stream.
    fn fill_with_packets(&mut self) -> io::Result<bool> {
        for _ in 0..FRAMES_AT_ONCE {
            let at = self.end + PREFIX_BYTES;
            let Some(room) = self.inbox.get_mut(at..).filter(|room| room.len() >= MAX_FRAME_BYTES) else { break };
            match rustix::net::recv(&self.file, room, rustix::net::RecvFlags::empty()) {
                Ok((count, _)) => {
                    self.inbox[self.end..at].copy_from_slice(&(count as u32).to_be_bytes());
                    self.end = at + count;
                }
                Err(rustix::io::Errno::INTR) => {}
                // The tap is down until its VMM opens it.
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::NETDOWN) => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }

    /// The next whole frame.
    pub fn take(&mut self, frame: &mut Vec<u8>) -> io::Result<bool> {
        let arrived = &self.inbox[self.begun..self.end];
        let Some(prefix) = arrived.first_chunk::<PREFIX_BYTES>() else { return Ok(false) };
        let length = u32::from_be_bytes(*prefix) as usize;
        if length > MAX_FRAME_BYTES {
            // QEMU never sends one; after it nothing can be told apart any more.
            return Err(ErrorKind::InvalidData.into());
        }
        let Some(bytes) = arrived.get(PREFIX_BYTES..PREFIX_BYTES + length) else { return Ok(false) };
        frame.clear();
        frame.extend_from_slice(bytes);
        self.begun += PREFIX_BYTES + length;
        Ok(true)
    }

    pub fn wants_to_write(&self) -> bool {
        self.wire.sent < self.wire.outbox.len()
    }

    /// Sends what waits, as far as the other end takes it.
    pub fn flush(&mut self) -> io::Result<()> {
        let wire = &mut self.wire;
        while wire.sent < wire.outbox.len() {
            let (bytes, prefix) = match self.kind {
                Kind::Stream => (&wire.outbox[wire.sent..], 0),
                Kind::Packets => (wire.next_frame(), PREFIX_BYTES),
            };
            match rustix::io::write(&self.file, bytes) {
                Ok(count) => wire.sent += prefix + count,
                Err(rustix::io::Errno::AGAIN) => return Ok(()),
                // A tap that nobody has open, or whose queue is full, loses frames as a wire does.
                Err(rustix::io::Errno::NOBUFS | rustix::io::Errno::NETDOWN | rustix::io::Errno::MSGSIZE)
                    if self.kind == Kind::Packets =>
                {
                    wire.sent += prefix + wire.next_frame().len();
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        wire.outbox.clear();
        wire.sent = 0;
        Ok(())
    }
}

impl Wire {
    /// The frame that is sent next, without its prefix.
    fn next_frame(&self) -> &[u8] {
        let waiting = &self.outbox[self.sent..];
        let (prefix, rest) = waiting.split_first_chunk().expect("each frame was put there behind its prefix");
        &rest[..u32::from_be_bytes(*prefix) as usize]
    }

    /// The packet that smoltcp takes next.
    pub fn put(&mut self, packet: &[u8]) {
        self.incoming.clear();
        self.incoming.extend_from_slice(packet);
    }

    /// A whole frame of ours; lost where too much waits already, as on any wire.
    pub fn send(&mut self, frame: &[u8]) {
        if self.has_room() {
            self.outbox.extend((frame.len() as u32).to_be_bytes());
            self.outbox.extend(frame);
        }
    }

    pub fn has_room(&self) -> bool {
        self.outbox.len() - self.sent < MAX_WAITING_BYTES
    }
}

impl Device for Wire {
    type RxToken<'a> = Packet<'a>;
    type TxToken<'a> = Outbox<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Packet<'_>, Outbox<'_>)> {
        if self.incoming.is_empty() {
            return None;
        }
        Some((Packet(&mut self.incoming), Outbox { mac: self.mac, bytes: &mut self.outbox }))
    }

    fn transmit(&mut self, _: Instant) -> Option<Outbox<'_>> {
        self.has_room().then_some(Outbox { mac: self.mac, bytes: &mut self.outbox })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        // Between two processes nothing is damaged; the guest checks what we send all the same.
        capabilities.checksum.ipv4 = Checksum::Tx;
        capabilities.checksum.tcp = Checksum::Tx;
        capabilities
    }
}

pub struct Packet<'a>(&'a mut Vec<u8>);

impl RxToken for Packet<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        let result = read(self.0);
        self.0.clear();
        result
    }
}

pub struct Outbox<'a> {
    mac: Mac,
    bytes: &'a mut Vec<u8>,
}

impl TxToken for Outbox<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, write: F) -> R {
        self.bytes.extend(((ETHERNET_BYTES + length) as u32).to_be_bytes());
        let header = self.bytes.len();
        self.bytes.extend(ethernet(self.mac, IPV4));
        let at = self.bytes.len();
        self.bytes.resize(at + length, 0);
        let result = write(&mut self.bytes[at..]);
        // Which one it is, a packet tells in its first four bits.
        if self.bytes[at..].first().is_some_and(|first| first >> 4 == 6) {
            self.bytes[header..at].copy_from_slice(&ethernet(self.mac, IPV6));
        }
        result
    }
}
