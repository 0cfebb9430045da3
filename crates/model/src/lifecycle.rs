//! The life of a sandbox as a table: which request fits which state.
//!
//! ```text
//!  create ─► created ─start─► starting ─ready─► running ─stop─► stopping ─► stopped ─start─► …
//!                                │                │ ▲
//!                                └─► failed ◄─────┘ └─ pause/resume ─► paused
//! ```
//! [`answer`] is total: a new state or request makes the compiler ask for every pair. The whole matrix is a golden
//! file beside the tests; the manual's diagram comes from it. Snapshotting and restoring have their rows already,
//! so that code which meets them is written now.

use serde::{Deserialize, Serialize};
use std::fmt;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Recorded, with or without disks; never booted.
    Created,
    /// Between the first step of a start and the guest's first word.
    Starting,
    Running,
    Paused,
    Snapshotting,
    Restoring,
    Stopping,
    Stopped,
    /// The VMM ended without being asked to, or a start did not come up; the cause is in the record.
    Failed,
    /// A delete has begun and will be finished, whatever happens to the daemon.
    Removing,
}

impl State {
    pub const ALL: &'static [State] = &[
        State::Created,
        State::Starting,
        State::Running,
        State::Paused,
        State::Snapshotting,
        State::Restoring,
        State::Stopping,
        State::Stopped,
        State::Failed,
        State::Removing,
    ];

    pub const fn word(self) -> &'static str {
        match self {
            State::Created => "created",
            State::Starting => "starting",
            State::Running => "running",
            State::Paused => "paused",
            State::Snapshotting => "snapshotting",
            State::Restoring => "restoring",
            State::Stopping => "stopping",
            State::Stopped => "stopped",
            State::Failed => "failed",
            State::Removing => "removing",
        }
    }

    /// A VMM process may exist in this state.
    pub const fn may_have_vmm(self) -> bool {
        match self {
            State::Created | State::Stopped | State::Failed => false,
            State::Starting
            | State::Running
            | State::Paused
            | State::Snapshotting
            | State::Restoring
            | State::Stopping
            | State::Removing => true,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    Start,
    Stop,
    Kill,
    Restart,
    Delete,
    /// Change what only a machine that is off can change.
    SetOffline,
    /// Change what can change at any time: labels, restart policy, name.
    SetLive,
    Reset,
    Exec,
    Pause,
    Resume,
}

impl Request {
    pub const ALL: &'static [Request] = &[
        Request::Start,
        Request::Stop,
        Request::Kill,
        Request::Restart,
        Request::Delete,
        Request::SetOffline,
        Request::SetLive,
        Request::Reset,
        Request::Exec,
        Request::Pause,
        Request::Resume,
    ];

    pub const fn word(self) -> &'static str {
        match self {
            Request::Start => "start",
            Request::Stop => "stop",
            Request::Kill => "kill",
            Request::Restart => "restart",
            Request::Delete => "delete",
            Request::SetOffline => "set (offline)",
            Request::SetLive => "set (live)",
            Request::Reset => "reset",
            Request::Exec => "exec",
            Request::Pause => "pause",
            Request::Resume => "resume",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Begin,
    AlreadySo,
    Refused(Reason),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    NotRunning,
    StillRunning,
    StillStarting,
    StillStopping,
    Paused,
    BusySnapshotting,
    BeingRemoved,
}

impl Reason {
    /// Completes "cannot stop `web`: …".
    pub const fn sentence(self) -> &'static str {
        match self {
            Reason::NotRunning => "it is not running",
            Reason::StillRunning => "it is running",
            Reason::StillStarting => "it is still starting",
            Reason::StillStopping => "it is still stopping",
            Reason::Paused => "it is paused",
            Reason::BusySnapshotting => "a snapshot of it is being made or restored",
            Reason::BeingRemoved => "it is being removed",
        }
    }
}

/// The whole table. Stop, kill and delete are answered in every phase of a start, so that nobody waits for a boot.
pub const fn answer(state: State, request: Request) -> Answer {
    use Answer::{AlreadySo, Begin, Refused};
    match request {
        Request::Start => match state {
            State::Created | State::Stopped | State::Failed => Begin,
            State::Starting | State::Running => AlreadySo,
            State::Paused => Refused(Reason::Paused),
            State::Snapshotting | State::Restoring => Refused(Reason::BusySnapshotting),
            State::Stopping => Refused(Reason::StillStopping),
            State::Removing => Refused(Reason::BeingRemoved),
        },
        Request::Stop | Request::Kill => match state {
            State::Created | State::Stopped | State::Failed => AlreadySo,
            State::Starting | State::Running | State::Paused => Begin,
            State::Snapshotting | State::Restoring => Refused(Reason::BusySnapshotting),
            State::Stopping => Begin,
            State::Removing => Refused(Reason::BeingRemoved),
        },
        Request::Restart => match state {
            State::Created | State::Stopped | State::Failed | State::Running | State::Paused => Begin,
            State::Starting => Refused(Reason::StillStarting),
            State::Snapshotting | State::Restoring => Refused(Reason::BusySnapshotting),
            State::Stopping => Refused(Reason::StillStopping),
            State::Removing => Refused(Reason::BeingRemoved),
        },
        Request::Delete => match state {
            State::Created | State::Stopped | State::Failed => Begin,
            State::Starting | State::Running | State::Paused | State::Stopping => Begin,
            State::Snapshotting | State::Restoring => Refused(Reason::BusySnapshotting),
            State::Removing => Begin,
        },
        Request::SetOffline | Request::Reset => match state {
            State::Created | State::Stopped | State::Failed => Begin,
            State::Running => Refused(Reason::StillRunning),
            State::Starting => Refused(Reason::StillStarting),
            State::Paused => Refused(Reason::Paused),
            State::Snapshotting | State::Restoring => Refused(Reason::BusySnapshotting),
            State::Stopping => Refused(Reason::StillStopping),
            State::Removing => Refused(Reason::BeingRemoved),
        },
        Request::SetLive => match state {
            State::Removing => Refused(Reason::BeingRemoved),
            State::Created
            | State::Starting
            | State::Running
            | State::Paused
            | State::Snapshotting
            | State::Restoring
            | State::Stopping
            | State::Stopped
            | State::Failed => Begin,
        },
        Request::Exec => match state {
            State::Running => Begin,
            State::Created | State::Stopped | State::Failed => Refused(Reason::NotRunning),
            State::Starting => Refused(Reason::StillStarting),
            State::Paused => Refused(Reason::Paused),
            State::Snapshotting | State::Restoring => Refused(Reason::BusySnapshotting),
            State::Stopping => Refused(Reason::StillStopping),
            State::Removing => Refused(Reason::BeingRemoved),
        },
        Request::Pause => match state {
            State::Running => Begin,
            State::Paused => AlreadySo,
            State::Created | State::Stopped | State::Failed => Refused(Reason::NotRunning),
            State::Starting => Refused(Reason::StillStarting),
            State::Snapshotting | State::Restoring => Refused(Reason::BusySnapshotting),
            State::Stopping => Refused(Reason::StillStopping),
            State::Removing => Refused(Reason::BeingRemoved),
        },
        Request::Resume => match state {
            State::Paused => Begin,
            State::Running => AlreadySo,
            State::Created | State::Stopped | State::Failed => Refused(Reason::NotRunning),
            State::Starting => Refused(Reason::StillStarting),
            State::Snapshotting | State::Restoring => Refused(Reason::BusySnapshotting),
            State::Stopping => Refused(Reason::StillStopping),
            State::Removing => Refused(Reason::BeingRemoved),
        },
    }
}

/// The matrix as a Markdown table: the golden file and the manual show the same.
pub fn matrix() -> String {
    let mut table = String::from("| |");
    for state in State::ALL {
        table.push_str(&format!(" {state} |"));
    }
    table.push_str("\n|---|");
    table.push_str(&"---|".repeat(State::ALL.len()));
    for &request in Request::ALL {
        table.push_str(&format!("\n| {} |", request.word()));
        for &state in State::ALL {
            let cell = match answer(state, request) {
                Answer::Begin => "begins".to_owned(),
                Answer::AlreadySo => "already so".to_owned(),
                Answer::Refused(reason) => format!("refused: {}", reason.sentence()),
            };
            table.push_str(&format!(" {cell} |"));
        }
    }
    table.push('\n');
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_matrix_is_the_golden_one() {
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/lifecycle.md");
        let wanted = format!(
            "# Which request fits which state\n\nGenerated from `model::lifecycle`; `UPDATE_GOLDEN=1` writes it anew.\n\n{}",
            matrix()
        );
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(golden, &wanted).expect("the golden file can be written");
        }
        let found = std::fs::read_to_string(golden).unwrap_or_default();
        assert_eq!(found, wanted, "run with UPDATE_GOLDEN=1 and read the difference");
    }

    #[test]
    fn nobody_waits_for_a_boot() {
        for request in [Request::Stop, Request::Kill, Request::Delete] {
            assert_eq!(answer(State::Starting, request), Answer::Begin);
        }
    }
}
