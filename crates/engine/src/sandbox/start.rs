//! Start and restart: from off to a guest that answers.
//!
//! What failed before its VMM was started leaves the sandbox as it was; later, `failed` with the console's end.
//! A start that somebody stopped ends `stopped`.

use super::{Failure, Sandbox};
use crate::engine::{Engine, Entry, Saving};
use crate::error::{ConsoleTail, Error, Result};
use crate::gate::{Seat, Wish};
use crate::host::Watch;
use crate::plan::{self, Plan, Step, Verb};
use crate::run::{Drive, TAIL_BYTES, turn_off};
use crate::store::journal::{Operation, Outcome};
use model::lifecycle::Request;
use model::{OperationId, SandboxId, State};
use std::sync::Arc;

impl Engine {
    pub fn plan_start(&self, id: &SandboxId) -> Result<Plan> {
        let record = self.get(id)?;
        Ok(plan::start(&record, self.choose_backend(&record.spec)?, &self.settings))
    }

    pub fn plan_restart(&self, id: &SandboxId) -> Result<Plan> {
        let record = self.get(id)?;
        Ok(plan::restart(&record, self.choose_backend(&record.spec)?, &self.settings))
    }

    /// Blocks until the guest is ready. Joins a start under way.
    pub fn start(&self, id: &SandboxId, watch: &dyn Watch) -> Result<Arc<Sandbox>> {
        let operation = self.new_operation();
        match self.enter(id, Request::Start, Verb::Start, &operation, watch)? {
            Entry::AlreadySo(record) => Ok(record),
            Entry::Seated(seat, record) => {
                let plan = plan::start(&record, self.choose_backend(&record.spec)?, &self.settings);
                self.launch(&seat, &plan, record.state, operation, watch)
            }
        }
    }

    pub fn restart(&self, id: &SandboxId, watch: &dyn Watch) -> Result<Arc<Sandbox>> {
        let operation = self.new_operation();
        match self.enter(id, Request::Restart, Verb::Restart, &operation, watch)? {
            Entry::AlreadySo(record) => Ok(record),
            Entry::Seated(seat, record) => {
                let plan = plan::restart(&record, self.choose_backend(&record.spec)?, &self.settings);
                self.launch(&seat, &plan, record.state, operation, watch)
            }
        }
    }

    /// Carries out a plan that ends with a running guest.
    pub(crate) fn launch(
        &self,
        seat: &Seat,
        plan: &Plan,
        before: State,
        operation: OperationId,
        watch: &dyn Watch,
    ) -> Result<Arc<Sandbox>> {
        let operation = Operation::begin(operation, plan, self.now());
        let mut drive = Drive::begin(self, seat, plan, operation, watch)?;
        let failed = match drive.carry_out(plan) {
            Ok(()) => {
                let record = drive.record();
                drive.finish(Outcome::Done, None);
                return record;
            }
            Err(error) => error,
        };
        Err(self.after_failed_start(drive, before, failed))
    }

    fn after_failed_start(&self, mut drive: Drive, before: State, failed: Error) -> Error {
        let state_now = drive.record().map(|record| record.state);
        let (failed, outcome) = match (state_now, drive.wish()) {
            // It was the stop before the start that failed: as after any failed stop.
            (Ok(State::Stopping), _) => (self.after_failed_stop(&mut drive, failed), Outcome::Failed),
            (_, Wish::Cancelled | Wish::Preempted) => {
                (self.power_off_after(&mut drive, failed, State::Stopped), Outcome::Cancelled)
            }
            (_, Wish::None) if drive.found.vmm_begun => (self.fail(&mut drive, failed), Outcome::Failed),
            (_, Wish::None) => {
                let state = if before.may_have_vmm() { State::Stopped } else { before };
                (self.power_off_after(&mut drive, failed, state), Outcome::Undone)
            }
        };
        drive.finish(outcome, Some(&failed));
        failed
    }

    /// VMM and link go; the sandbox ends in `state`, or `failed` where something would not go.
    pub(crate) fn power_off_after(&self, drive: &mut Drive, failed: Error, state: State) -> Error {
        let left = drive.clean_up(&[Step::EnsureStopped { signal: None }, Step::RemoveLink], false);
        if !left.is_empty() {
            let failed = self.with_remains(failed, left);
            self.record_failure(drive, &failed, String::new());
            return failed;
        }
        let now = self.now();
        // It cannot fail to be so: whatever is not written now is written later.
        let _record = drive.update(Saving::Anyway, |record| turn_off(record, state, now));
        failed
    }

    /// VMM and link go, the sandbox stays as `failed` with its console's end.
    pub(crate) fn fail(&self, drive: &mut Drive, failed: Error) -> Error {
        let console = match failed.source.as_ref().and_then(|source| source.downcast_ref::<ConsoleTail>()) {
            Some(console) => console.tail.clone(),
            None => self.host.vmm.console_tail(&drive.id, TAIL_BYTES),
        };
        let left = drive.clean_up(&[Step::EnsureStopped { signal: None }, Step::RemoveLink], false);
        let failed = self.with_remains(failed, left);
        self.record_failure(drive, &failed, console);
        failed
    }

    pub(crate) fn record_failure(&self, drive: &Drive, failed: &Error, console: String) {
        let now = self.now();
        let failure = Failure {
            sentence: failed.attempt.clone(),
            hint: failed.hint.clone(),
            exit_code: None,
            exit_signal: None,
            console,
            operation: Some(drive.operation.id.clone()),
        };
        let _record = drive.update(Saving::Anyway, |record| {
            turn_off(record, State::Failed, now);
            record.failure = Some(failure);
        });
    }
}
