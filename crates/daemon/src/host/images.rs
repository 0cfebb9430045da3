//! (in the making)
use engine::host::{HostError, HostErrorKind, Result, Watch};
use model::{ImageName, KernelName};
use std::path::{Path, PathBuf};

pub struct Library;
pub struct KernelFiles {
    pub vmlinux: PathBuf,
    pub modules: Option<PathBuf>,
    pub boot_args: String,
}
impl Library {
    pub fn catalog_images(&self) -> Vec<(ImageName, String)> {
        Vec::new()
    }
    pub fn catalog_kernels(&self) -> Vec<(KernelName, String)> {
        Vec::new()
    }
    pub fn import_image(&self, _: &ImageName, _: &Path, _: &dyn Watch) -> Result<()> {
        Err(HostError::new(HostErrorKind::Unfit, "cannot import yet"))
    }
    pub fn import_kernel(&self, _: &KernelName, _: &KernelFiles, _: &dyn Watch) -> Result<()> {
        Err(HostError::new(HostErrorKind::Unfit, "cannot import yet"))
    }
}
