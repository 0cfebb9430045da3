//! Stop and kill. A stop asks the guest to sync, stop its services and power off, waits, and only then ends the VMM;
//! a kill ends the VMM. Both are heeded in every phase of a start.

use super::Sandbox;
use crate::engine::{Engine, Entry, Saving};
use crate::error::{Error, Result};
use crate::gate::Seat;
use crate::host::Watch;
use crate::host::vmm::VmmState;
use crate::plan::{self, Plan, Verb};
use crate::run::Drive;
use crate::store::journal::{Operation, Outcome};
use model::lifecycle::Request;
use model::{OperationId, SandboxId, State};
use std::sync::Arc;

impl Engine {
    pub fn plan_stop(&self, id: &SandboxId, grace_ms: Option<u64>) -> Result<Plan> {
        Ok(plan::stop(&*self.get(id)?, grace_ms.unwrap_or(self.settings.grace_ms)))
    }

    pub fn plan_kill(&self, id: &SandboxId, signal: Option<i32>) -> Result<Plan> {
        Ok(plan::kill(&*self.get(id)?, signal))
    }

    pub fn stop(&self, id: &SandboxId, grace_ms: Option<u64>, watch: &dyn Watch) -> Result<Arc<Sandbox>> {
        let operation = self.new_operation();
        match self.enter(id, Request::Stop, Verb::Stop, &operation, watch)? {
            Entry::AlreadySo(record) => Ok(self.forgo_restart(record)),
            Entry::Seated(seat, record) => {
                let plan = plan::stop(&record, grace_ms.unwrap_or(self.settings.grace_ms));
                self.take_off(&seat, &plan, operation, watch)
            }
        }
    }

    pub fn kill(&self, id: &SandboxId, signal: Option<i32>, watch: &dyn Watch) -> Result<Arc<Sandbox>> {
        let operation = self.new_operation();
        match self.enter(id, Request::Kill, Verb::Kill, &operation, watch)? {
            Entry::AlreadySo(record) => Ok(self.forgo_restart(record)),
            Entry::Seated(seat, record) => self.take_off(&seat, &plan::kill(&record, signal), operation, watch),
        }
    }

    fn take_off(&self, seat: &Seat, plan: &Plan, operation: OperationId, watch: &dyn Watch) -> Result<Arc<Sandbox>> {
        let operation = Operation::begin(operation, plan, self.now());
        let mut drive = Drive::begin(self, seat, plan, operation, watch)?;
        match drive.carry_out(plan) {
            Ok(()) => {
                let record = drive.record();
                drive.finish(Outcome::Done, None);
                record
            }
            Err(failed) => {
                let failed = self.after_failed_stop(&mut drive, failed);
                drive.finish(Outcome::Failed, Some(&failed));
                Err(failed)
            }
        }
    }

    /// Whoever stops what is off already does not want it back by its restart policy.
    fn forgo_restart(&self, record: Arc<Sandbox>) -> Arc<Sandbox> {
        let forgone = self.update(&record.id, Saving::Anyway, None, |record| {
            record.restart_due = None;
            Ok(())
        });
        forgone.unwrap_or(record)
    }

    /// The machine is asked what is so: a VMM that would not go keeps the sandbox running.
    pub(crate) fn after_failed_stop(&self, drive: &mut Drive, failed: Error) -> Error {
        self.look_again();
        let vmms = self.host.vmm.observe().unwrap_or_default();
        let state = match vmms.iter().find(|facts| facts.id == drive.id).map(|facts| &facts.state) {
            Some(VmmState::Running) => State::Running,
            Some(VmmState::Paused) => State::Paused,
            Some(VmmState::Ended(_) | VmmState::Remains { .. }) | None => {
                self.record_failure(drive, &failed, String::new());
                return failed;
            }
        };
        let _record = drive.update(Saving::Anyway, |record| record.state = state);
        failed
    }
}
