//! What can go wrong between us and the daemon, and what a person can do about it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;
use wire::{Fault, FaultKind};

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The daemon's own words.
    #[error("{0}")]
    Fault(Fault),
    #[error("an empty name names nothing")]
    Nameless,
    #[error("bangerd is not running: nobody listens on {}", socket.display())]
    NotRunning { socket: PathBuf },
    #[error("cannot connect to bangerd on {}", socket.display())]
    Connect { socket: PathBuf, source: io::Error },
    #[error("refusing to talk to {}: the user {uid} listens there, not you", socket.display())]
    Stranger { socket: PathBuf, uid: u32 },
    #[error("cannot start bangerd: {reason}")]
    Start { reason: String },
    #[error("bangerd did not answer within {} s", within.as_secs())]
    NoAnswer { within: Duration },
    #[error("bangerd ended the connection before the work was done")]
    Broken,
    #[error("lost the connection to bangerd")]
    Transport(#[source] hyper::Error),
    #[error("the conversation with the guest broke off: {0}")]
    Conversation(String),
    #[error("bangerd answered with something that is no answer: {0}")]
    Http(String),
    #[error("cannot read the answer of bangerd")]
    Json(#[source] serde_json::Error),
}

impl ClientError {
    pub fn into_fault(self) -> Fault {
        let (kind, hint) = match &self {
            ClientError::Fault(fault) => return fault.clone(),
            ClientError::Nameless => (FaultKind::Invalid, Some("`banger vm list` shows the names there are")),
            ClientError::NotRunning { .. } => (FaultKind::Refused, Some("`banger daemon start` starts it")),
            ClientError::Connect { .. } => (FaultKind::HostUnfit, None),
            ClientError::Start { .. } => (FaultKind::HostUnfit, Some("run `bangerd` by hand to see what it says")),
            ClientError::Stranger { .. } => (FaultKind::Refused, Some("set `BANGER_SOCKET` if you mean that one")),
            ClientError::NoAnswer { .. } => (FaultKind::TimedOut, None),
            ClientError::Broken | ClientError::Transport(_) | ClientError::Conversation(_) => {
                (FaultKind::Internal, Some("`banger daemon status` names its log file"))
            }
            ClientError::Http(_) | ClientError::Json(_) => {
                (FaultKind::Internal, Some("`banger version` shows whether banger and bangerd fit each other"))
            }
        };
        let mut fault = Fault::new(kind, self.to_string()).with_sources(&self);
        fault.hint = hint.map(str::to_owned);
        fault
    }

    pub fn is_not_found(&self) -> bool {
        matches!(self, ClientError::Fault(fault) if fault.kind == FaultKind::NotFound)
    }
}
