//! The record of what was refused: the last hour, at most [`MAX_ENTRIES`] destinations.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use wire::privilege::facts::RefusedEntry;

/// A guest that scans fills this and no more; the oldest go.
const MAX_ENTRIES: usize = 1024;
const KEPT: Duration = Duration::from_secs(3600);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    Tcp,
    Udp,
    Icmp,
}

#[derive(Debug, Default)]
pub struct Refused(HashMap<(Protocol, SocketAddr), (Instant, u64)>);

impl Refused {
    pub fn note(&mut self, protocol: Protocol, destination: SocketAddr) {
        let now = Instant::now();
        if self.0.len() >= MAX_ENTRIES && !self.0.contains_key(&(protocol, destination)) {
            self.0.retain(|_, (last, _)| last.elapsed() < KEPT);
            let oldest = self.0.iter().min_by_key(|(_, (last, _))| *last).map(|(key, _)| *key);
            if let Some(oldest) = oldest.filter(|_| self.0.len() >= MAX_ENTRIES) {
                self.0.remove(&oldest);
            }
        }
        let entry = self.0.entry((protocol, destination)).or_insert((now, 0));
        *entry = (now, entry.1 + 1);
    }

    /// The newest first.
    pub fn entries(&self) -> Vec<RefusedEntry> {
        let fresh = self.0.iter().filter(|(_, (last, _))| last.elapsed() < KEPT);
        let entry = |(&(protocol, destination), &(last, packets)): (&(Protocol, SocketAddr), &(Instant, u64))| {
            let protocol = match protocol {
                Protocol::Tcp => "tcp",
                Protocol::Udp => "udp",
                Protocol::Icmp => "icmp",
            };
            RefusedEntry {
                destination: destination.ip(),
                protocol: protocol.to_owned(),
                port: destination.port(),
                packets,
                last_s: last.elapsed().as_secs(),
            }
        };
        let mut entries: Vec<RefusedEntry> = fresh.map(entry).collect();
        entries.sort_by_key(|entry| entry.last_s);
        entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scan_is_remembered_within_bounds() {
        let mut refused = Refused::default();
        for port in 1..=3000 {
            refused.note(Protocol::Tcp, SocketAddr::from(([10, 0, 0, 1], port)));
        }
        refused.note(Protocol::Udp, SocketAddr::from(([10, 0, 0, 1], 53)));
        refused.note(Protocol::Udp, SocketAddr::from(([10, 0, 0, 1], 53)));
        let entries = refused.entries();
        assert_eq!(entries.len(), MAX_ENTRIES);
        assert!(entries.iter().any(|entry| entry.protocol == "udp" && entry.packets == 2));
    }
}
