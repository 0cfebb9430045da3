//! Images and kernels on the control API.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ImageList {
    pub images: Vec<ImageFacts>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ImageFacts {
    pub name: String,
    /// False: known to the catalog, not on this machine.
    pub present: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    pub has_systemd: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    pub size_bytes: u64,
    pub allocated_bytes: u64,
    pub created_at_ns: u64,
    pub source: String,
    /// Names of the sandboxes that use it.
    #[serde(default)]
    pub used_by: Vec<String>,
    /// False: its files are its owner's, see [`crate::control::ImageRegister`].
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub managed: bool,
    /// References that stand for it, with tag or digest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub references: Vec<String>,
    /// What its system calls itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// What the image says about itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<ImageConfigFacts>,
    /// The files of its boot set on the host: `rootfs`, `work_seed`, `kernel`, `initrd`, `modules`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, String>,
}

fn yes() -> bool {
    true
}

fn is_yes(managed: &bool) -> bool {
    *managed
}

/// The configuration of an OCI image.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ImageConfigFacts {
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// `user`, `uid`, `user:group` or empty for root.
    pub user: String,
    pub working_dir: String,
    /// `80/tcp`.
    pub exposed_ports: Vec<String>,
    pub volumes: Vec<String>,
    pub labels: BTreeMap<String, String>,
    /// `SIGQUIT`; empty for SIGTERM.
    pub stop_signal: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<HealthcheckFacts>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct HealthcheckFacts {
    /// `["CMD", "curl", …]` or `["CMD-SHELL", "…"]`.
    pub test: Vec<String>,
    pub interval_ns: u64,
    pub timeout_ns: u64,
    pub start_period_ns: u64,
    pub retries: u32,
}

/// How an image is to be fetched.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ImagePull {
    /// What to call it here; made of the reference where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Talk to the registry without TLS. One on this machine is tried without by itself.
    pub plain_http: bool,
    /// Absolute path on the host of certificates (PEM) that count for this pull.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<String>,
    /// PEM of the public key by which the image must be signed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verify_key: Option<String>,
    /// Absolute path on the host of a file with logins, as Docker's `config.json`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth_file: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct KernelList {
    pub kernels: Vec<KernelFacts>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct KernelFacts {
    pub name: String,
    pub present: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    pub size_bytes: u64,
    pub created_at_ns: u64,
    pub source: String,
    #[serde(flatten)]
    pub details: super::KernelDetails,
}

/// A root file system to make an image of.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ImageImport {
    /// Absolute path on the host of a tar archive: plain, gzip or zstd.
    pub path: String,
}

/// A kernel to register.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct KernelImport {
    /// Absolute path on the host of an ELF `vmlinux`, a bzImage, or a folder that holds one.
    pub vmlinux: String,
    /// Words this kernel needs on its command line.
    pub boot_args: String,
    /// Absolute path on the host of a folder with modules (`lib/modules/<version>`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modules: Option<String>,
}
