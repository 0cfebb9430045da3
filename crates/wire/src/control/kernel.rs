//! Kernels on the control API: what else is known of one, and how one is built.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// What is known of a kernel that is here; all of it is absent for one of the catalog.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct KernelDetails {
    /// The VMMs that can boot it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<String>,
    /// Words that it needs on its command line.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub boot_args: String,
    /// How many drivers come with it as files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modules: Option<u64>,
    /// Its files on the host, by what they are: `vmlinux`, `modules`, `config`, `manifest`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, String>,
    /// Names of the sandboxes that use it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub used_by: Vec<String>,
}

/// A generic guest kernel to build from source: of a Debian package, or of an archive on the host.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct KernelBuild {
    /// `linux-source-6.1`; the newest where neither it nor an archive is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub package: Option<String>,
    /// Absolute path of a packed source archive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub archive: Option<String>,
    /// Absolute path of the archive's detached OpenPGP signature.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
    /// Absolute path of the keyring that alone is believed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keyring: Option<String>,
    /// Build an archive without a signature.
    pub unverified: bool,
    /// Compilers at once; as many as the host has CPUs where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jobs: Option<u32>,
}
