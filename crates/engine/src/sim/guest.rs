//! Guests that are ready, silent or dying, as the world was told.

use super::{Boot, Shutdown, State, World, refuse};
use crate::host::disk::Disks;
use crate::host::guest::{Guest, GuestHealth, GuestIdentity, Readiness};
use crate::host::vmm::VmmExit;
use crate::host::{HostErrorKind, Result, Watch};
use crate::lock;
use model::SandboxId;
use model::service::Service;
use std::sync::Arc;

const AGENT_VERSION: &str = "sim";
const INIT: &str = "sim";
const BOOT_MS: u64 = 3;

pub(super) struct SimGuests(pub Arc<World>);

impl Guest for SimGuests {
    fn await_ready(&self, id: &SandboxId, timeout_ms: u64, watch: &dyn Watch) -> Result<Readiness> {
        let begun = self.0.call("cannot wait for a guest", |state| Ok(boot(state, id, timeout_ms)))?;
        if let Some(outcome) = begun {
            return outcome;
        }
        let mut state = lock(&self.0.state);
        loop {
            if watch.cancelled() {
                return refuse(
                    HostErrorKind::Cancelled,
                    format!("cannot wait for the guest of {id}: it was cancelled"),
                );
            }
            if let Some(outcome) = boot(&mut state, id, timeout_ms) {
                return outcome;
            }
            state = self.0.wait(state);
        }
    }

    fn identify(&self, id: &SandboxId, identity: &GuestIdentity) -> Result<()> {
        self.0.call("cannot identify a guest", |state| {
            answers(state, id)?;
            if let Some(vmm) = state.vmms.get_mut(id) {
                vmm.name = Some(identity.name.clone());
            }
            Ok(())
        })
    }

    fn ensure_service(&self, id: &SandboxId, _service: &Service) -> Result<()> {
        self.0.call("cannot give a guest its service", |state| answers(state, id))
    }

    fn sync_files(&self, id: &SandboxId, _: &dyn Watch) -> Result<()> {
        self.0.call("cannot sync files to a guest", |state| answers(state, id).map(drop))
    }

    fn ensure_file_systems(&self, wanted: &Disks) -> Result<()> {
        self.0.call("cannot grow a guest's file systems", |state| answers(state, &wanted.id))
    }

    fn request_shutdown(&self, id: &SandboxId, _grace_ms: u64) -> Result<()> {
        self.0.call("cannot ask a guest to power off", |state| {
            answers(state, id)?;
            match (state.shutdown, state.vmms.get_mut(id)) {
                (Shutdown::Obeys, Some(vmm)) => {
                    vmm.ended = Some(VmmExit { code: Some(0), signal: None });
                    Ok(())
                }
                (Shutdown::Ignores | Shutdown::Hangs, _) | (_, None) => Ok(()),
                (Shutdown::Silent, _) => refuse(HostErrorKind::TimedOut, format!("the guest of {id} does not answer")),
            }
        })
    }

    fn health(&self, id: &SandboxId) -> Result<GuestHealth> {
        self.0.call("cannot ask a guest for its health", |state| {
            answers(state, id)?;
            let now = self.0.time(state);
            let vmm = &state.vmms[id];
            Ok(GuestHealth {
                boot_id: vmm.boot_id.clone(),
                agent_version: AGENT_VERSION.into(),
                uptime_ms: now.saturating_sub(vmm.started_at) / 1_000_000,
                init: INIT.into(),
                system_state: Some("running".into()),
                sessions: state.sessions,
                load_percent: state.load_percent,
            })
        })
    }
}

/// How the boot went, or nothing yet.
fn boot(state: &mut State, id: &SandboxId, timeout_ms: u64) -> Option<Result<Readiness>> {
    let gone = || Some(refuse(HostErrorKind::GuestGone, format!("the VMM of {id} has ended")));
    let behaviour = state.boot;
    let Some(vmm) = state.vmms.get_mut(id) else { return gone() };
    if vmm.ended.is_some() {
        return gone();
    }
    match behaviour {
        Boot::Held => None,
        Boot::Ready => Some(Ok(Readiness {
            boot_id: vmm.boot_id.clone(),
            agent_version: AGENT_VERSION.into(),
            guest_uptime_ms: BOOT_MS,
            init: INIT.into(),
        })),
        Boot::Dies(code) => {
            vmm.ended = Some(VmmExit { code: Some(code), signal: None });
            gone()
        }
        Boot::Silent => {
            state.now += timeout_ms * 1_000_000;
            Some(refuse(HostErrorKind::TimedOut, format!("the guest of {id} said nothing for {timeout_ms} ms")))
        }
    }
}

fn answers(state: &State, id: &SandboxId) -> Result<()> {
    match state.vmms.get(id) {
        Some(vmm) if vmm.ended.is_none() && !vmm.paused => Ok(()),
        _ => refuse(HostErrorKind::GuestGone, format!("the guest of {id} does not answer: it does not run")),
    }
}
