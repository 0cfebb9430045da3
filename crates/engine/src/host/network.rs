//! The network seam: a sandbox's link to the world. Two ways behind one face: *bridged* through the root helper,
//! *user* without any privilege; `None` when it was asked for.

use super::Result;
use model::egress::Egress;
use model::port::PortForward;
use model::{Backend, Change, SandboxId, SandboxName};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

pub trait Network: Send + Sync {
    /// The link, its addresses and its rules. The answer is stable: the same sandbox gets the same addresses.
    fn ensure_link(&self, wanted: &Link) -> Result<(Change, Attachment)>;
    /// Publishes exactly these ports, withdraws all others of this sandbox; answers the ports as bound
    /// (a wanted host port of 0 has become a real one). Allowed once the VMM runs.
    fn ensure_ports(&self, id: &SandboxId, ports: &[PortForward]) -> Result<(Change, Vec<PortForward>)>;
    /// Link, rules, published ports and name are gone.
    fn remove_link(&self, id: &SandboxId) -> Result<Change>;
    fn observe(&self) -> Result<Vec<LinkFacts>>;
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub id: SandboxId,
    pub name: SandboxName,
    pub backend: Backend,
    pub egress: Egress,
}

/// How the VMM plugs in, and what the guest has to know.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    pub mode: LinkMode,
    pub mac: Option<String>,
    /// The guest's addresses in CIDR notation.
    pub addresses: Vec<String>,
    pub gateways: Vec<IpAddr>,
    pub name_servers: Vec<IpAddr>,
    pub search: Vec<String>,
    pub mtu: Option<u32>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkMode {
    #[default]
    None,
    /// The VMM's own user-space network.
    User,
    /// A tap of this name, on our bridge.
    Tap { device: String },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkFacts {
    pub id: SandboxId,
    pub mode: LinkMode,
    pub ports: Vec<PortForward>,
}
