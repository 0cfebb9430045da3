//! What `bangerd` and a sandbox's user-space gateway say to each other: a file with the policy, and one short question a
//! connection on the gateway's control socket, a line of JSON each way.
//!
//! The gateway reads [`Policy`] from its file when it starts and whenever it hears [`Ask::Reload`]; it lives as long as
//! its VMM, whatever becomes of `bangerd`.

use crate::privilege::address::Network;
use crate::privilege::facts::RefusedEntry;
use model::egress::Outbound;
use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

/// The small network that every guest in user mode sees, alone with its gateway.
pub const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
pub const PREFIX_LENGTH: u8 = 24;
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
/// Answers questions for names on port 53.
pub const NAME_SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);
/// Its IPv6 address. The network is what a bridge with the range 10.0.2.0/24 would have (`privilege::address`).
pub const GUEST_V6: Ipv6Addr = Ipv6Addr::new(0xfd62, 0x6772, 0x0a00, 0x0200, 0, 0, 0, 0x15);
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfd62, 0x6772, 0x0a00, 0x0200, 0, 0, 0, 2);
/// Of that network. The guest's own address is a /128: whoever it asks for is reached through the gateway.
pub const PREFIX_LENGTH_V6: u8 = 64;
/// 65520 bytes: the largest packet, a little less than IPv4's limit, so that one system call carries much.
pub const MTU: u32 = 65520;
/// The one device of the namespace that a gateway makes for a VMM which wants a tap.
pub const TAP: &str = "tap0";
/// Where a gateway keeps that namespace open, for the VMM to enter through `/proc/<pid>/fd`.
pub const NAMESPACE_FD: i32 = 99;
/// 64 KiB: a policy, a question and an answer are far below.
pub const MAX_MESSAGE_BYTES: u64 = 64 * 1024;

/// An unknown field is a restriction that would be skipped, so there is none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    pub outbound: Outbound,
    /// Private networks opened on purpose. The metadata address is only opened by a network inside 169.254.0.0/16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_networks: Vec<Network>,
    /// Who answers for names below `.vm`, on this host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub names: Option<SocketAddr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// Read the policy again; what it forbids ends.
    Reload,
    /// Which connections were refused lately?
    Refused,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    Done,
    /// The newest first.
    Refused(Vec<RefusedEntry>),
    /// It could not, and why; what held before holds on.
    Failed(String),
}
