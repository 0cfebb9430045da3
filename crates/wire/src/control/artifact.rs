//! Images and kernels on the control API.

use serde::{Deserialize, Serialize};
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
    /// Absolute path on the host of an ELF `vmlinux` or a bzImage.
    pub vmlinux: String,
    /// Words this kernel needs on its command line.
    pub boot_args: String,
    /// Absolute path on the host of a folder with modules (`lib/modules/<version>`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modules: Option<String>,
}
