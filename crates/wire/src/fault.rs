//! How a failure travels: a kind that decides the exit code, a sentence, the chain of causes, the next command, and
//! the operation's id to grep for. The same shape on every boundary.

use serde::{Deserialize, Serialize};
use std::fmt;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "control", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    NotFound,
    Conflict,
    Invalid,
    Refused,
    HostUnfit,
    GuestSilent,
    TimedOut,
    /// Asked for by the person: Ctrl-C, a closed connection, a stop during a start.
    Cancelled,
    #[serde(other)]
    Internal,
}

impl FaultKind {
    pub const ALL: &'static [FaultKind] = &[
        FaultKind::NotFound,
        FaultKind::Conflict,
        FaultKind::Invalid,
        FaultKind::Refused,
        FaultKind::HostUnfit,
        FaultKind::GuestSilent,
        FaultKind::TimedOut,
        FaultKind::Cancelled,
        FaultKind::Internal,
    ];

    /// The status of an HTTP answer that carries this fault.
    pub const fn http_status(self) -> u16 {
        match self {
            FaultKind::NotFound => 404,
            FaultKind::Conflict => 409,
            FaultKind::Invalid => 400,
            FaultKind::Refused => 422,
            FaultKind::HostUnfit => 503,
            FaultKind::GuestSilent => 502,
            FaultKind::TimedOut => 504,
            FaultKind::Cancelled => 499,
            FaultKind::Internal => 500,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "control", derive(utoipa::ToSchema))]
pub struct Fault {
    pub kind: FaultKind,
    /// What was attempted and did not work: one sentence, lower case, no period.
    pub message: String,
    /// Why, outermost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<String>,
    /// The next command to type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The operation's id; stands in every log line of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
}

impl Fault {
    pub fn new(kind: FaultKind, message: impl Into<String>) -> Self {
        Fault { kind, message: message.into(), causes: Vec::new(), hint: None, operation: None }
    }

    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub fn with_cause(mut self, cause: impl Into<String>) -> Self {
        self.causes.push(cause.into());
        self
    }

    /// Takes the chain below `error` as causes, each said once.
    pub fn with_sources(mut self, error: &dyn std::error::Error) -> Self {
        let mut source = error.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            if self.causes.last() != Some(&text) {
                self.causes.push(text);
            }
            source = cause.source();
        }
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.message.fmt(f)
    }
}

impl std::error::Error for Fault {}
