//! Why a request failed, for the reader at 3 a.m.: a kind that alone decides the exit code, the sentence of what was
//! attempted, the chain of causes, the next command, and the operation's id to grep for.

use crate::host::{HostError, HostErrorKind};
use model::OperationId;
use std::fmt;

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    NotFound,
    /// Somebody else has it or is at it: a name, a disk, an operation under way.
    Conflict,
    Invalid,
    /// The lifecycle table or a limit says no.
    Refused,
    HostUnfit,
    GuestSilent,
    TimedOut,
    Cancelled,
    Internal,
}

#[derive(Debug)]
pub struct Error {
    pub kind: Kind,
    /// What was attempted: lower case, no period.
    pub attempt: String,
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
    pub hint: Option<String>,
    pub operation: Option<OperationId>,
}

impl Error {
    pub fn new(kind: Kind, attempt: impl Into<String>) -> Self {
        Error { kind, attempt: attempt.into(), source: None, hint: None, operation: None }
    }

    pub fn with_source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub fn in_operation(mut self, operation: &OperationId) -> Self {
        self.operation = Some(operation.clone());
        self
    }

    /// The chain in one line, for the journal and for a record's failure.
    pub fn chain(&self) -> String {
        let mut text = self.attempt.clone();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            if !text.ends_with(&cause_text) {
                text.push_str(": ");
                text.push_str(&cause_text);
            }
            source = cause.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.attempt.fmt(f)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn std::error::Error + 'static))
    }
}

impl From<HostErrorKind> for Kind {
    fn from(kind: HostErrorKind) -> Kind {
        match kind {
            HostErrorKind::NotFound => Kind::NotFound,
            HostErrorKind::Unfit => Kind::HostUnfit,
            HostErrorKind::Busy => Kind::Conflict,
            HostErrorKind::Invalid => Kind::Invalid,
            HostErrorKind::GuestGone => Kind::GuestSilent,
            HostErrorKind::TimedOut => Kind::TimedOut,
            HostErrorKind::Cancelled => Kind::Cancelled,
            HostErrorKind::Broken => Kind::Internal,
        }
    }
}

/// The host's own sentence is the attempt; whoever knows more wraps it.
impl From<HostError> for Error {
    fn from(error: HostError) -> Error {
        Error {
            kind: error.kind.into(),
            attempt: error.attempt,
            source: error.source,
            hint: error.hint,
            operation: None,
        }
    }
}

/// The guest's last words, as a cause.
#[derive(Debug, thiserror::Error)]
#[error("the console ends with:\n{tail}")]
pub struct ConsoleTail {
    pub tail: String,
}
