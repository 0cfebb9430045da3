//! The image's own command on the control API.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// What shall differ from what the image says of its command; absent fields leave it as it is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ServiceRequest {
    /// Replaces the entrypoint, and with it the image's command.
    pub entrypoint: Option<Vec<String>>,
    /// Replaces the image's command.
    pub command: Option<Vec<String>>,
    pub env: BTreeMap<String, String>,
    pub user: Option<String>,
    pub cwd: Option<String>,
    /// Do not start it with the guest.
    pub off: bool,
    /// `no`, `on-failure` (default) or `always`.
    pub restart: Option<String>,
}

/// How the image's command fares in a running guest.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Service {
    pub argv: Vec<String>,
    /// `waiting`, `running`, `restarting` or `ended`.
    pub phase: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Its exit status the last time it ended, 128 and the signal's number where one ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<u8>,
    /// Why it could not be started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    pub restarts: u32,
}
