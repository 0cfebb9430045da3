//! Sandboxes on the control API.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::{IntoParams, ToSchema};

/// Fields that came later are left out where they say nothing.
fn is_false(value: &bool) -> bool {
    !*value
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SandboxList {
    pub vms: Vec<Sandbox>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Sandbox {
    pub id: String,
    pub name: String,
    /// A word of the lifecycle table: `created`, `starting`, `running`, …
    pub state: String,
    /// Why it is `failed`, and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    pub image: String,
    pub kernel: String,
    /// The backend that runs it, or ran it last: `firecracker`, `qemu`, `sim`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vmm: Option<String>,
    pub vcpus: u8,
    pub memory_bytes: u64,
    /// The work disk on `/root`.
    pub disk_bytes: u64,
    /// The overlay's upper layer.
    pub root_bytes: u64,
    pub init: String,
    pub ephemeral: bool,
    pub restart: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_when_idle_s: Option<u64>,
    /// `nat`, `off` or `none`.
    pub outbound: String,
    #[serde(default)]
    pub addresses: Vec<String>,
    /// As bound on the host: `127.0.0.1:8080:80`.
    #[serde(default)]
    pub ports: Vec<String>,
    /// What the guest listens on is published as it appears.
    #[serde(default, skip_serializing_if = "is_false")]
    pub auto_forward: bool,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    #[serde(default)]
    pub workspaces: Vec<WorkspaceFacts>,
    pub created_at_ns: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at_ns: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vmm_pid: Option<u32>,
    /// The image's own command, where the guest runs it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub service: Vec<String>,
    /// The span tree of the last start; a list leaves it out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub timing: Vec<Span>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WorkspaceFacts {
    pub guest_path: String,
    pub host_path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head_commit: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// `shallow`, `full` or `files`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub readonly: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prepared_at_ns: Option<u64>,
    /// What the guest did there, as of the last look.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub work: Option<super::WorkFacts>,
    /// Variables for commands that run in it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
}

/// One span of a launch, in order of start; `depth` makes the tree.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Span {
    pub name: String,
    pub depth: u8,
    /// Microseconds after the launch began.
    pub start_us: u64,
    pub duration_us: u64,
}

/// What a person asked for; absent fields are filled in by the daemon.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct CreateRequest {
    pub name: Option<String>,
    pub image: Option<String>,
    pub kernel: Option<String>,
    pub vmm: Option<String>,
    pub vcpus: Option<u8>,
    pub memory_bytes: Option<u64>,
    pub disk_bytes: Option<u64>,
    pub root_bytes: Option<u64>,
    pub init: Option<String>,
    /// `nat` (default), `off` or `none`.
    pub outbound: Option<String>,
    /// Private ranges opened on purpose (CIDR).
    pub allow_networks: Vec<String>,
    pub ports: Vec<String>,
    /// Publish what the guest listens on, as it appears.
    #[serde(skip_serializing_if = "is_false")]
    pub auto_forward: bool,
    pub labels: BTreeMap<String, String>,
    pub restart: Option<String>,
    pub stop_when_idle_s: Option<u64>,
    pub ephemeral: bool,
    pub no_start: bool,
    /// What to change of the image's own command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<super::ServiceRequest>,
    /// The workspace that is to be shipped next: the work disk may begin with what of it is known already.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workspace: Option<super::PrepareRequest>,
    /// Answer with the plan instead of carrying it out.
    pub dry_run: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct StartRequest {
    pub dry_run: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct StopRequest {
    /// How long the guest's services may take; the daemon's default where absent.
    pub grace_ms: Option<u64>,
    pub dry_run: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct KillRequest {
    /// `KILL` where absent; one of TERM KILL INT HUP QUIT USR1 USR2 ABRT.
    pub signal: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema, IntoParams)]
#[serde(default)]
pub struct DeleteRequest {
    /// Go on past anything that cannot be undone cleanly.
    pub force: bool,
    /// Give up work that is in the guest and not on the host; without it such a sandbox is not removed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub discard: bool,
    pub dry_run: bool,
}

/// Every present field is changed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct SetRequest {
    pub name: Option<String>,
    pub vcpus: Option<u8>,
    pub memory_bytes: Option<u64>,
    pub disk_bytes: Option<u64>,
    pub root_bytes: Option<u64>,
    pub restart: Option<String>,
    pub outbound: Option<String>,
    /// Added to the private ranges that are open (CIDR).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow_networks: Vec<String>,
    /// 0 switches it off.
    pub stop_when_idle_s: Option<u64>,
    /// An empty value removes the label.
    pub labels: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SetAnswer {
    pub vm: Sandbox,
    /// Changes in force now.
    pub live: Vec<String>,
    /// Changes that wait for the next start.
    pub at_next_start: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SandboxHealth {
    pub healthy: bool,
    pub boot_id: String,
    pub agent_version: String,
    pub uptime_ms: u64,
    pub init: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_state: Option<String>,
    pub sessions: u32,
    /// Round trip to the agent.
    pub latency_us: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Stats {
    pub id: String,
    pub name: String,
    pub uptime_ms: u64,
    /// CPU time of the VMM process.
    pub cpu_ms: u64,
    /// What the VMM holds of the host's memory.
    pub host_memory_bytes: u64,
    pub guest_memory_total_bytes: u64,
    pub guest_memory_available_bytes: u64,
    pub load_percent: u32,
    pub disk_logical_bytes: u64,
    pub disk_allocated_bytes: u64,
    pub network_received_bytes: u64,
    pub network_sent_bytes: u64,
}

/// Which ports shall be published and which no more; all or none of it happens.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct PortsRequest {
    /// `8080:80`, `0.0.0.0:8080:80/tcp`, `5353:53/udp`.
    pub add: Vec<String>,
    /// The guest's port, else the host's (`80`, `53/udp`), or a whole one (`8080:80`).
    pub remove: Vec<String>,
    /// Whether to publish what the guest listens on, as it appears.
    pub auto_forward: Option<bool>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PortsAnswer {
    pub ports: Vec<PortRow>,
}

/// A listening socket in the guest and how the host reaches it; or a published port on which nothing listens.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PortRow {
    pub protocol: String,
    pub guest_address: String,
    pub guest_port: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_address: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Published because the guest listens there, and only as long.
    #[serde(default, skip_serializing_if = "is_false")]
    pub auto: bool,
    /// Published, and nothing in the guest listens there.
    #[serde(default, skip_serializing_if = "is_false")]
    pub idle: bool,
}

/// Files of the guest, as `wire::guest` tells of them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema, IntoParams)]
#[serde(default)]
pub struct FilesRequest {
    /// An absolute path in the guest.
    pub path: String,
    /// Reading: what the tree is called in the archive, where not by its own name.
    pub name: Option<String>,
    /// Reading: take what a link leads to.
    pub follow: bool,
    /// Writing: `root` for files that shall be root's, whoever the archive says.
    pub owner: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema, IntoParams)]
#[serde(default)]
pub struct StreamRequest {
    /// A TCP port on the guest's loopback.
    pub port: u16,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema, IntoParams)]
#[serde(default)]
pub struct LogsRequest {
    /// `console` (default), `vmm`, `agent`, `service` or `bootstrap`.
    pub source: Option<String>,
    pub follow: bool,
    /// Only the last so many lines.
    pub tail: Option<u64>,
    /// Only what was written after this moment, to within a few seconds before it.
    pub since_ns: Option<u64>,
}
