//! The daemon and its host on the control API: status, doctor, history, audit, events.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DaemonStatus {
    pub api_version: u32,
    pub version: String,
    pub pid: u32,
    pub socket: String,
    /// Where the name server answers; absent where it does not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<String>,
    pub state_folder: String,
    pub log_file: String,
    /// `real` or `sim`.
    pub host: String,
    pub started_at_ns: u64,
    pub vms: u32,
    pub running: u32,
    pub memory_bytes: u64,
}

/// Records, journal and keys into one file; disks and images stay where they are.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct BackupRequest {
    /// Absolute.
    pub path: String,
    /// A file that is there already goes; else it is refused.
    pub replace: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Backup {
    pub path: String,
    pub vms: u32,
    pub size_bytes: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Doctor {
    pub checks: Vec<Check>,
    pub backends: Vec<BackendRow>,
    pub defaults: Vec<DefaultRow>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    #[default]
    Pass,
    Warn,
    Fail,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Check {
    pub name: String,
    pub verdict: Verdict,
    /// One sentence.
    pub detail: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// A row of the capability table.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BackendRow {
    pub backend: String,
    pub usable: bool,
    pub chosen: bool,
    pub reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    pub accelerated: bool,
    pub features: Vec<String>,
}

/// A default with where it comes from: `config`, `host` or `built in`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DefaultRow {
    pub name: String,
    pub value: String,
    pub provenance: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema, IntoParams)]
#[serde(default)]
pub struct HistoryRequest {
    /// Only operations of this sandbox.
    pub vm: Option<String>,
    pub limit: Option<u32>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct History {
    pub operations: Vec<OperationFacts>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct OperationFacts {
    pub id: String,
    pub verb: String,
    pub vm_id: String,
    pub vm_name: String,
    pub began_at_ns: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at_ns: Option<u64>,
    /// `running`, `done`, `failed`, `undone`, `cancelled`, `interrupted`.
    pub outcome: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    pub steps: Vec<StepFacts>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StepFacts {
    pub name: String,
    /// `planned`, `begun`, `done`, `failed`, `undone`.
    pub state: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_us: Option<u64>,
}

/// The answer to `dry_run`: the very plan that would run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PlanFacts {
    pub verb: String,
    pub vm_name: String,
    pub steps: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StateChange {
    pub at_ns: u64,
    pub vm_id: String,
    pub vm_name: String,
    pub from: Option<String>,
    /// Absent once the sandbox is gone.
    pub to: Option<String>,
    pub operation: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Audit {
    /// Empty when all is well.
    pub findings: Vec<Finding>,
    pub fixed: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Finding {
    /// `process`, `link`, `disk`, `record`, `operation`, `host`, `file`, `lock`, `name`.
    pub what: String,
    pub subject: String,
    /// One sentence: what is there and should not be, or is not there and should.
    pub detail: String,
    pub mended: bool,
}
