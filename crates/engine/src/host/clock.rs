//! Time and chance: the two things a plan may depend on that no record holds.

/// Nanoseconds since 1970-01-01 UTC.
pub type Timestamp = u64;

pub trait Clock: Send + Sync {
    fn now(&self) -> Timestamp;
    /// 64 bits nobody can guess: ids come from them.
    fn random(&self) -> u64;
}
