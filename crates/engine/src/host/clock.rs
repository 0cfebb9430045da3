//! Time, chance and the shape the machine is in: what a plan may depend on that no record holds.

use model::ByteSize;

/// Nanoseconds since 1970-01-01 UTC.
pub type Timestamp = u64;

pub trait Clock: Send + Sync {
    fn now(&self) -> Timestamp;
    /// 64 bits nobody can guess: ids come from them.
    fn random(&self) -> u64;
    /// Changes whenever the host boots, and at no other time: tells a reboot from a crashed VMM. Empty where unknown.
    fn boot_id(&self) -> String {
        String::new()
    }
    /// Memory that new machines may take without making the host swap; none where unknown.
    fn free_memory(&self) -> Option<ByteSize> {
        None
    }
}
