//! Why a command does not end with 0, and the exit code that tells so.

use wire::control::exit;
use wire::{Fault, FaultKind};

pub type Outcome<T = ()> = Result<T, Failure>;

#[derive(Debug)]
pub enum Failure {
    /// Said by the daemon or by the client; shown as an error. Boxed, since it is five times as large as the rest.
    Fault(Box<Fault>),
    /// Nobody reads our stdout any more (`| head`): ends quietly, as SIGPIPE would end us.
    Unread,
    /// Everything has been said; only the code remains: a guest's own status, or "some of them failed".
    Status(u8),
}

/// 128 + SIGPIPE, what a shell shows for a program that SIGPIPE ended.
const UNREAD: u8 = 128 + 13;

impl Failure {
    pub fn new(kind: FaultKind, message: impl Into<String>) -> Self {
        Fault::new(kind, message).into()
    }

    pub fn with_hint(self, hint: impl Into<String>) -> Self {
        match self {
            Failure::Fault(fault) => fault.with_hint(hint).into(),
            other => other,
        }
    }

    pub fn exit_code(&self) -> u8 {
        match self {
            Failure::Fault(fault) if fault.kind == FaultKind::Cancelled => exit::CANCELLED,
            Failure::Fault(_) => exit::FAILED,
            Failure::Unread => UNREAD,
            Failure::Status(code) => *code,
        }
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Failure::Fault(Box::new(fault))
    }
}

impl From<crate::client::ClientError> for Failure {
    fn from(error: crate::client::ClientError) -> Self {
        error.into_fault().into()
    }
}
