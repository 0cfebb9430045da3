//! The disk seam: the two writable disks of a sandbox. The image under them is shared, read-only and not theirs.
//!
//! *root*: a sparse ext4, the upper layer of the overlay over the image. *work*: cloned from the image's work-seed,
//! grown to its size, mounted on `/root`; it survives a reset. Both cost O(1) to make, whatever the image's size.

use super::Result;
use model::{ByteSize, Change, ImageName, SandboxId, WorkTemplate};

pub trait Disk: Send + Sync {
    /// Makes both disks where they are missing, grows them where they are smaller; a larger one is left as it is.
    fn ensure_disks(&self, wanted: &Disks) -> Result<Change>;
    /// Gives both disks this much room while a guest has them; the file systems on them are the guest's to grow.
    fn extend(&self, wanted: &Disks) -> Result<Change>;
    /// Puts an empty root disk in place of the present one.
    fn renew_root(&self, wanted: &Disks) -> Result<Change>;
    fn remove_disks(&self, id: &SandboxId) -> Result<Change>;
    fn observe(&self) -> Result<Vec<DiskFacts>>;
    /// Room left where disks live.
    fn free_bytes(&self) -> Result<ByteSize>;
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disks {
    pub id: SandboxId,
    pub image: ImageName,
    pub root_size: ByteSize,
    pub work_size: ByteSize,
    /// What a work disk that is missing begins as, instead of the image's seed; passed over when it is gone.
    pub work_template: Option<WorkTemplate>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskFacts {
    pub id: SandboxId,
    pub root_size: ByteSize,
    pub work_size: ByteSize,
    /// What both take on the host now.
    pub allocated: ByteSize,
}
