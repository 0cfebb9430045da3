//! What a guest may reach. The floor: everything public, nothing private, and no network at all when asked.
//! Names, TLS identity and secrets come later and will be further fields of [`Egress`].

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outbound {
    /// The guest reaches the world through the host's address.
    Nat,
    /// The guest reaches nothing beyond its link.
    Off,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Egress {
    pub outbound: Outbound,
    /// Private ranges opened on purpose, in CIDR notation; checked where they are enforced.
    #[serde(default)]
    pub allow_networks: Vec<String>,
}

impl Default for Egress {
    fn default() -> Self {
        Egress { outbound: Outbound::Nat, allow_networks: Vec::new() }
    }
}
