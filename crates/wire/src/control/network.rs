//! How sandboxes are connected, on the control API.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// How one sandbox is connected, and what it may reach.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NetFacts {
    pub id: String,
    pub name: String,
    /// `bridged`, `user`, `none`; absent while it does not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    #[serde(default)]
    pub addresses: Vec<String>,
    #[serde(default)]
    pub gateways: Vec<String>,
    #[serde(default)]
    pub name_servers: Vec<String>,
    /// `nat`, `off` or `none`.
    pub outbound: String,
    /// Private networks opened on purpose (CIDR).
    #[serde(default)]
    pub allow_networks: Vec<String>,
    /// Names of other sandboxes that it may open connections to.
    #[serde(default)]
    pub allow_vms: Vec<String>,
}

/// Each target is a network in CIDR notation, an address, or another sandbox.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct NetChange {
    pub allow: Vec<String>,
    /// Withdraws what was allowed.
    pub deny: Vec<String>,
}

/// Connections of one sandbox that were refused lately, the newest first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NetLog {
    pub entries: Vec<RefusedConnection>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RefusedConnection {
    pub destination: String,
    /// `tcp`, `udp`, `icmp`, or the protocol's number.
    pub protocol: String,
    /// 0 where the protocol has no ports.
    pub port: u16,
    pub packets: u64,
    /// Seconds since the last of them.
    pub last_s: u64,
}

/// The network of this host as far as it is banger's.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NetworkStatus {
    /// What the configuration asks for: `auto`, `bridged`, `user`.
    pub wanted: String,
    /// What new sandboxes get: `bridged` or `user`.
    pub mode: String,
    /// One sentence: why this mode.
    pub reason: String,
    /// Absent while it is down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<String>,
    #[serde(default)]
    pub taps: u32,
    /// `none`, `in_sync`, `changed`; absent without a root helper.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rules: Option<String>,
    /// True when IPv4 forwarding was turned on by banger.
    #[serde(default)]
    pub forwarding_ours: bool,
    /// What others on this host do to our traffic, and what to do about it.
    #[serde(default)]
    pub obstacles: Vec<String>,
    /// The version of the root helper, where one answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub helper: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct NetworkUpRequest {
    /// A private IPv4 range; a free one where absent.
    pub range: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema, IntoParams)]
#[serde(default)]
pub struct NetworkDownRequest {
    /// Even if sandboxes that run lose their link.
    pub force: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NetworkDownAnswer {
    /// False when there was nothing to take down.
    pub changed: bool,
    /// What was left as it is on purpose, one sentence each.
    #[serde(default)]
    pub kept: Vec<String>,
}
