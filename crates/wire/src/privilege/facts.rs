//! What the helper answers.

use super::address::Range;
use model::{Change, SandboxId};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// The helper's own version.
    pub helper: String,
    /// [`crate::version::PRIVILEGE`].
    pub interface: u32,
    pub pid: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    pub change: Change,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BridgeMade {
    pub change: Change,
    pub range: Range,
    /// False where the host has no IPv6 at all.
    pub ipv6: bool,
    /// What other firewalls of this host do to our traffic.
    #[serde(default)]
    pub obstacles: Vec<Obstacle>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TapMade {
    pub change: Change,
    pub device: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    pub version: Version,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<BridgeFacts>,
    pub taps: Vec<TapFacts>,
    pub rules: RulesState,
    pub forwarding: Forwarding,
    pub obstacles: Vec<Obstacle>,
    /// Devices with our names that the ledger does not know.
    #[serde(default)]
    pub strangers: Vec<String>,
    /// False where the owner may not open `/dev/net/tun`, and so no VMM of theirs can use a tap.
    pub tun_open: bool,
    /// The file by which NetworkManager's dnsmasq asks us for names, while there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub names_file: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BridgeFacts {
    pub range: Range,
    /// False when somebody removed it, or took it down.
    pub up: bool,
    pub ipv6: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TapFacts {
    pub id: SandboxId,
    pub device: String,
    /// False when somebody removed the device.
    pub present: bool,
    /// True while a VMM holds it open.
    pub in_use: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RulesState {
    /// None were applied.
    None,
    InSync,
    /// Somebody else changed or removed them: apply the policy again.
    Changed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forwarding {
    pub ipv4: bool,
    /// True when the helper turned it on, and will turn it off again.
    pub ipv4_ours: bool,
    /// Never touched: turning it on would stop the host from learning its own routes from router advertisements.
    pub ipv6: bool,
}

/// Something on this host that can block our traffic. It is told, never touched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Obstacle {
    /// Whose it is: `docker`, `firewalld`, or a table's name.
    pub holder: String,
    /// What it does: one sentence.
    pub effect: String,
    /// The command that would let us through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedLog {
    pub entries: Vec<RefusedEntry>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedEntry {
    pub destination: IpAddr,
    /// `tcp`, `udp`, or the protocol's number.
    pub protocol: String,
    pub port: u16,
    pub packets: u64,
    /// Seconds since the last of them.
    pub last_s: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Down {
    pub change: Change,
    /// What was left as it is on purpose, one sentence each.
    #[serde(default)]
    pub kept: Vec<String>,
}
