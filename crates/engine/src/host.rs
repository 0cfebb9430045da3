//! The seams: everything the engine wants of the machine, in seven traits, one file each.
//!
//! Seams speak in declarations: `ensure_…` makes something so and says whether it had to, `remove_…` makes it gone,
//! `observe` tells what is there. Each may be repeated at any time, after any crash. They block; a long one takes a
//! [`Watch`] through which it reports progress and learns that nobody wants the result any more.
//!
//! What crosses a seam is ids, validated names and sizes, never a path: the host derives every path itself.
//! The real side lives in `daemon/src/host/`, the fake in `sim/`, file for file; `contract.rs` holds both to the same.

pub mod clock;
#[cfg(any(test, feature = "contract"))]
pub mod contract;
pub mod disk;
pub mod guest;
pub mod images;
pub mod network;
pub mod repository;
pub mod vmm;

use model::OperationId;
use std::sync::Arc;

/// The whole machine as the engine sees it.
#[derive(Clone)]
pub struct Host {
    pub vmm: Arc<dyn vmm::Vmm>,
    pub network: Arc<dyn network::Network>,
    pub disk: Arc<dyn disk::Disk>,
    pub images: Arc<dyn images::Images>,
    pub guest: Arc<dyn guest::Guest>,
    pub repository: Arc<dyn repository::Repository>,
    pub clock: Arc<dyn clock::Clock>,
}

/// Somebody who waits for long work: hears of its progress, and may stop wanting it.
pub trait Watch: Send + Sync {
    fn report(&self, report: Report);
    /// True once the person pressed Ctrl-C, the connection closed or the sandbox was told to stop.
    fn cancelled(&self) -> bool;
}

/// For work that nobody looks at.
pub struct Unwatched;

impl Watch for Unwatched {
    fn report(&self, _: Report) {}
    fn cancelled(&self) -> bool {
        false
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// The operation has begun; its id stands in every log line and in the error, if there is one.
    Began { operation: OperationId },
    /// Work on something a person can follow has begun: `building image debian-bookworm`.
    Stage { text: String },
    /// How far the current stage is.
    Progress { done: u64, total: Option<u64>, unit: Unit },
    /// How far one of several parts of the current stage is, such as a layer.
    Part { name: String, done: u64, total: Option<u64>, unit: Unit },
    /// Worth a line of its own, and no failure.
    Note { text: String },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Bytes,
    Items,
}

/// Why a deed on the machine failed. The kind decides what the engine does next; the sentence and its cause are for people.
#[derive(Debug, thiserror::Error)]
#[error("{attempt}")]
pub struct HostError {
    pub kind: HostErrorKind,
    /// What was attempted: `cannot start Firecracker for 0123456789abcdef`.
    pub attempt: String,
    /// The command to type next, when one exists.
    pub hint: Option<String>,
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostErrorKind {
    /// What was named is not there: image, kernel, disk.
    NotFound,
    /// The request can never work here: a backend that lacks the feature, a full disk, a missing tool.
    Unfit,
    /// Somebody else holds it: a disk's lock, a port.
    Busy,
    /// What arrived from outside is malformed: a wrong digest, a hostile archive.
    Invalid,
    /// The guest ended or never spoke.
    GuestGone,
    TimedOut,
    Cancelled,
    /// The machine failed where it should not.
    Broken,
}

impl HostError {
    pub fn new(kind: HostErrorKind, attempt: impl Into<String>) -> Self {
        HostError { kind, attempt: attempt.into(), hint: None, source: None }
    }

    pub fn with_source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

pub type Result<T> = std::result::Result<T, HostError>;
