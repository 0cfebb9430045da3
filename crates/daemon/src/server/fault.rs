//! A failure as an HTTP answer: the [`Fault`] as JSON under its own status.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use wire::{Fault, FaultKind};

#[derive(Debug)]
pub struct Refusal(pub Fault);

impl Refusal {
    pub fn invalid(message: impl Into<String>) -> Refusal {
        Refusal(Fault::new(FaultKind::Invalid, message))
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.kind.http_status()).expect("every kind has a valid status");
        (status, axum::Json(self.0)).into_response()
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Refusal {
        Refusal(fault)
    }
}

impl From<engine::Error> for Refusal {
    fn from(error: engine::Error) -> Refusal {
        Refusal(fault(error))
    }
}

impl From<engine::host::HostError> for Refusal {
    fn from(error: engine::host::HostError) -> Refusal {
        Refusal(fault(error.into()))
    }
}

/// The engine's error in the words of the wire; what is internal is logged, too, since nobody expected it.
pub fn fault(error: engine::Error) -> Fault {
    let kind = kind(error.kind);
    let mut fault = Fault::new(kind, error.attempt.clone()).with_sources(&error);
    fault.hint = error.hint.clone();
    fault.operation = error.operation.as_ref().map(ToString::to_string);
    if kind == FaultKind::Internal {
        tracing::error!(operation = fault.operation, causes = ?fault.causes, "{}", fault.message);
    }
    fault
}

fn kind(kind: engine::Kind) -> FaultKind {
    use engine::Kind;
    match kind {
        Kind::NotFound => FaultKind::NotFound,
        Kind::Conflict => FaultKind::Conflict,
        Kind::Invalid => FaultKind::Invalid,
        Kind::Refused => FaultKind::Refused,
        Kind::HostUnfit => FaultKind::HostUnfit,
        Kind::GuestSilent => FaultKind::GuestSilent,
        Kind::TimedOut => FaultKind::TimedOut,
        Kind::Cancelled => FaultKind::Cancelled,
        Kind::Internal => FaultKind::Internal,
    }
}

/// A guest that does not answer, in the words of the wire.
pub fn guest_fault(name: &model::SandboxName, error: &crate::guest::GuestError) -> Fault {
    Fault::new(FaultKind::GuestSilent, format!("cannot talk to the guest of {name}"))
        .with_cause(error.to_string())
        .with_sources(error)
        .with_hint(format!("`banger vm logs {name}` shows its console"))
}
