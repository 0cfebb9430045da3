//! Images as files, and what everything takes on the disk, on the control API.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An image in a file or folder of the host: an OCI layout, the archive of `docker save`, a bundle.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ImageLoad {
    /// Absolute path on the host.
    pub path: String,
    /// Which of its images; the only one where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// What to call it here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ImageSave {
    /// Absolute path on the host of the archive to write.
    pub path: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ImageBundle {
    /// Absolute path on the host of a folder; the file's name holds its hash.
    pub folder: String,
    /// The image's own kernel, or the default one, where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
}

/// A file that was written.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ImageFile {
    pub path: String,
    pub bytes: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ImageTag {
    /// The other name.
    pub name: String,
}

/// Files of the host that become an image without being copied.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ImageRegister {
    /// Absolute path of an ext4 file system.
    pub rootfs: String,
    /// Absolute path of an ext4 file system that work disks are cloned from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub work_seed: Option<String>,
    /// A kernel by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel_ref: Option<String>,
    /// Absolute path of a kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// Absolute path of an initramfs that is unpacked before ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initrd: Option<String>,
    /// Absolute path of a folder with that kernel's modules.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modules: Option<String>,
    /// Words that kernel needs on its command line.
    pub boot_args: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct PruneRequest {
    /// Of the cache: also what images here were made of.
    pub all: bool,
    /// Tell what would go, and remove nothing.
    pub dry_run: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Pruned {
    /// Names of images, or digests of blobs.
    pub removed: Vec<String>,
    pub freed_bytes: u64,
    pub dry_run: bool,
}

/// What banger takes on the disk.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DiskUse {
    pub rows: Vec<DiskRow>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DiskRow {
    /// `sandboxes`, `images`, `kernels`, `templates` or `cache`.
    pub what: String,
    pub count: u64,
    pub bytes: u64,
    /// What could go without a sandbox missing it.
    pub reclaimable_bytes: u64,
}
