//! Why an operation failed, in the shape that travels: a kind, what was attempted, the cause, the next command.

use std::error::Error;
use wire::{Fault, FaultKind};

pub type Result<T> = std::result::Result<T, Failure>;

#[derive(Debug, thiserror::Error)]
#[error("{attempt}")]
pub struct Failure {
    pub kind: FaultKind,
    pub attempt: String,
    pub hint: Option<String>,
    #[source]
    pub source: Option<Box<dyn Error + Send + Sync>>,
}

impl Failure {
    pub fn new(kind: FaultKind, attempt: impl Into<String>) -> Failure {
        Failure { kind, attempt: attempt.into(), hint: None, source: None }
    }

    pub fn with_source(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Failure {
        self.source = Some(source.into());
        self
    }

    pub fn with_hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = Some(hint.into());
        self
    }

    pub fn fault(&self) -> Fault {
        let fault = Fault::new(self.kind, self.attempt.clone()).with_sources(self);
        match &self.hint {
            Some(hint) => fault.with_hint(hint.clone()),
            None => fault,
        }
    }
}

/// For what the machine itself failed at: `netlink.links().attempt(|| "cannot list the links")?`.
pub trait Attempt<T> {
    fn attempt<S: Into<String>>(self, sentence: impl FnOnce() -> S) -> Result<T>;
}

impl<T, E: Error + Send + Sync + 'static> Attempt<T> for std::result::Result<T, E> {
    fn attempt<S: Into<String>>(self, sentence: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|source| Failure::new(FaultKind::HostUnfit, sentence()).with_source(source))
    }
}
