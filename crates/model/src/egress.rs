//! What a guest may reach. The floor: everything public, nothing private, and no network at all when asked.
//! Names, TLS identity and secrets come later and will be further fields of [`Egress`].

use crate::id::SandboxId;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outbound {
    /// The guest reaches the world through the host's address.
    Nat,
    /// The guest reaches nothing beyond its link.
    Off,
    /// The guest has no link at all.
    None,
}

impl Outbound {
    pub const fn word(self) -> &'static str {
        match self {
            Outbound::Nat => "nat",
            Outbound::Off => "off",
            Outbound::None => "none",
        }
    }

    /// Whether there is a network device in the guest; what a machine has of those is settled when it boots.
    pub const fn has_link(self) -> bool {
        match self {
            Outbound::Nat | Outbound::Off => true,
            Outbound::None => false,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is no outbound policy: it is one of `nat`, `off`, `none`")]
pub struct OutboundError {
    pub given: String,
}

impl FromStr for Outbound {
    type Err = OutboundError;
    fn from_str(given: &str) -> Result<Self, OutboundError> {
        let all = [Outbound::Nat, Outbound::Off, Outbound::None];
        let found = all.into_iter().find(|outbound| outbound.word() == given);
        found.ok_or_else(|| OutboundError { given: given.chars().take(40).collect() })
    }
}

impl fmt::Display for Outbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Egress {
    pub outbound: Outbound,
    /// Private ranges opened on purpose, in CIDR notation; checked where they are enforced.
    #[serde(default)]
    pub allow_networks: Vec<String>,
    /// Other sandboxes that it may open connections to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_vms: Vec<SandboxId>,
}

impl Default for Egress {
    fn default() -> Self {
        Egress { outbound: Outbound::Nat, allow_networks: Vec::new(), allow_vms: Vec::new() }
    }
}

/// Not the public internet: private, shared, local, benchmark and multicast blocks (IANA special-purpose registries).
/// Opened one by one with allowed networks.
pub const PRIVATE_V4: &[&str] = &[
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "224.0.0.0/3",
];
/// As above; `64:ff9b::/96` and `2002::/16` wrap IPv4 addresses, private ones too.
pub const PRIVATE_V6: &[&str] =
    &["::/96", "::ffff:0:0/96", "64:ff9b::/96", "100::/64", "2002::/16", "fc00::/7", "fe80::/10", "ff00::/8"];
