//! VMM processes without a process. Each holds a lock on its sandbox's disks, so that a second one is refused.

use super::{Shutdown, SimVmm, State, World, refuse};
use crate::host::network::LinkMode;
use crate::host::vmm::{BackendFacts, Features, Machine, Vmm, VmmExit, VmmFacts, VmmState};
use crate::host::{HostErrorKind, Result};
use crate::lock;
use model::{Backend, Change, SandboxId};
use std::sync::Arc;

pub(super) struct SimVmms(pub Arc<World>);

impl Vmm for SimVmms {
    fn backends(&self) -> Vec<BackendFacts> {
        vec![BackendFacts {
            backend: Backend::Sim,
            usable: true,
            reason: "the simulated host was asked for".into(),
            version: None,
            accelerated: false,
            features: Features {
                vsock: true,
                network: true,
                pause: true,
                snapshot: false,
                balloon: false,
                entropy: true,
            },
        }]
    }

    fn ensure_running(&self, machine: &Machine) -> Result<Change> {
        self.0.call("cannot start a VMM", |state| {
            let id = &machine.id;
            if let Some(vmm) = state.vmms.get(id).filter(|vmm| vmm.ended.is_none()) {
                return match vmm.machine == *machine {
                    true => Ok(Change::Unchanged),
                    false => refuse(HostErrorKind::Busy, format!("cannot start a VMM for {id}: its disks are locked")),
                };
            }
            check_parts(state, machine)?;
            let (pid, boot_id) = (state.next_pid, format!("{:016x}", state.next_random()));
            state.next_pid += 1;
            let console = format!("Linux version 6.1.0-sim\nBooting {} for {id}\n", machine.image);
            state.consoles.insert(id.clone(), console);
            let vmm = SimVmm {
                machine: machine.clone(),
                pid,
                started_at: self.0.time(state),
                paused: false,
                ended: None,
                boot_id,
                name: None,
            };
            if state.vmms.insert(id.clone(), vmm).is_some_and(|before| before.ended.is_none()) {
                state.doubled.push(id.clone());
            }
            Ok(Change::Changed)
        })
    }

    fn ensure_stopped(&self, id: &SandboxId, _signal: Option<i32>) -> Result<Change> {
        self.0.call("cannot end a VMM", |state| {
            Ok(if state.vmms.remove(id).is_some() { Change::Changed } else { Change::Unchanged })
        })
    }

    fn await_exit(&self, id: &SandboxId, timeout_ms: u64) -> Result<Option<VmmExit>> {
        let begun = self.0.call("cannot wait for a VMM", |state| Ok(exit(state, id, timeout_ms)))?;
        if let Some(outcome) = begun {
            return Ok(outcome);
        }
        let mut state = lock(&self.0.state);
        loop {
            if let Some(outcome) = exit(&mut state, id, timeout_ms) {
                return Ok(outcome);
            }
            state = self.0.wait(state);
        }
    }

    fn ensure_drives(&self, id: &SandboxId) -> Result<()> {
        self.0.call("cannot tell a VMM of its disks", |state| match state.runs(id) {
            true => Ok(()),
            false => refuse(HostErrorKind::NotFound, format!("cannot tell the VMM of {id} of its disks: none runs")),
        })
    }

    fn ensure_paused(&self, id: &SandboxId) -> Result<Change> {
        self.0.call("cannot pause a VMM", |state| set_paused(state, id, true))
    }

    fn ensure_resumed(&self, id: &SandboxId) -> Result<Change> {
        self.0.call("cannot resume a VMM", |state| set_paused(state, id, false))
    }

    fn observe(&self) -> Result<Vec<VmmFacts>> {
        self.0.call("cannot look at VMMs", |state| {
            let facts = |(id, vmm): (&SandboxId, &SimVmm)| VmmFacts {
                id: id.clone(),
                backend: Backend::Sim,
                pid: vmm.pid,
                started_at: vmm.started_at,
                state: match (&vmm.ended, vmm.paused) {
                    (Some(exit), _) => VmmState::Ended(exit.clone()),
                    (None, true) => VmmState::Paused,
                    (None, false) => VmmState::Running,
                },
            };
            Ok(state.vmms.iter().map(facts).collect())
        })
    }

    fn console_tail(&self, id: &SandboxId, bytes: usize) -> String {
        let state = lock(&self.0.state);
        let console = state.consoles.get(id).map(String::as_str).unwrap_or_default();
        let from = console.len().saturating_sub(bytes);
        console.get(from..).unwrap_or_default().to_owned()
    }
}

/// How the wait for an end went, or nothing yet.
fn exit(state: &mut State, id: &SandboxId, timeout_ms: u64) -> Option<Option<VmmExit>> {
    let Some(vmm) = state.vmms.get(id) else { return Some(Some(VmmExit::default())) };
    match (&vmm.ended, state.shutdown) {
        (Some(exit), _) => Some(Some(exit.clone())),
        (None, Shutdown::Hangs) => None,
        (None, Shutdown::Obeys | Shutdown::Ignores | Shutdown::Silent) => {
            state.now += timeout_ms * 1_000_000;
            Some(None)
        }
    }
}

fn check_parts(state: &State, machine: &Machine) -> Result<()> {
    let id = &machine.id;
    let missing = |what: &str| refuse(HostErrorKind::NotFound, format!("cannot start a VMM for {id}: {what}"));
    if !state.images.contains(&machine.image) {
        return missing("its image is missing");
    }
    if !state.kernels.contains(&machine.kernel) {
        return missing("its kernel is missing");
    }
    if !state.disks.contains_key(id) {
        return missing("its disks are missing");
    }
    match (&machine.attachment.mode, state.links.contains_key(id)) {
        (LinkMode::Tap { device }, false) => missing(&format!("there is no tap {device}")),
        _ => Ok(()),
    }
}

fn set_paused(state: &mut State, id: &SandboxId, paused: bool) -> Result<Change> {
    match state.vmms.get_mut(id).filter(|vmm| vmm.ended.is_none()) {
        None => refuse(HostErrorKind::NotFound, format!("cannot pause or resume {id}: no VMM runs")),
        Some(vmm) if vmm.paused == paused => Ok(Change::Unchanged),
        Some(vmm) => {
            vmm.paused = paused;
            Ok(Change::Changed)
        }
    }
}
