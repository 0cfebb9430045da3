//! The images seam: images and kernels on this machine. An image that is listed is whole; a half-made one is never seen.

use super::clock::Timestamp;
use super::{Result, Watch};
use model::service::ImageCommand;
use model::{Backend, ByteSize, Change, Digest, ImageName, KernelName};

pub trait Images: Send + Sync {
    /// Makes the image available under this name, from the catalog where it is missing.
    /// Two callers at once share one piece of work.
    fn ensure_image(&self, name: &ImageName, watch: &dyn Watch) -> Result<Change>;
    fn ensure_kernel(&self, name: &KernelName, watch: &dyn Watch) -> Result<Change>;
    fn remove_image(&self, name: &ImageName) -> Result<Change>;
    fn remove_kernel(&self, name: &KernelName) -> Result<Change>;
    fn images(&self) -> Result<Vec<ImageFacts>>;
    /// The command that an image brings; nothing where it brings none or is not here.
    fn image_command(&self, name: &ImageName) -> Result<Option<ImageCommand>>;
    fn kernels(&self) -> Result<Vec<KernelFacts>>;
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageFacts {
    pub name: ImageName,
    pub digest: Digest,
    pub systemd: Systemd,
    /// The kernel this image brings or prefers.
    pub kernel: Option<KernelName>,
    pub size: ByteSize,
    pub allocated: ByteSize,
    pub created_at: Timestamp,
    /// Where it came from: `debian packages`, an OCI reference, a file.
    pub source: String,
}

/// How a guest of an image comes to systemd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Systemd {
    Present,
    /// The image's package manager installs it at the first boot, as far as is known.
    Installable,
    Unavailable {
        /// What the image calls itself: `Alpine Linux v3.20`.
        system: Option<String>,
    },
}

impl ImageFacts {
    pub fn has_systemd(&self) -> bool {
        self.systemd == Systemd::Present
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelFacts {
    pub name: KernelName,
    pub version: String,
    pub digest: Digest,
    pub size: ByteSize,
    pub created_at: Timestamp,
    pub source: String,
    /// Who can boot it.
    pub backends: Vec<Backend>,
    /// Words that it needs on its command line.
    pub boot_args: Vec<String>,
    /// Drivers that come with it as files.
    pub modules: usize,
}
