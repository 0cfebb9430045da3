//! Pause and resume: the VMM holds the machine still, memory and all.

use super::Sandbox;
use crate::engine::{Engine, Entry};
use crate::error::{Error, Kind, Result};
use crate::gate::Seat;
use crate::host::Watch;
use crate::plan::{self, Plan, Verb};
use crate::run::Drive;
use crate::store::journal::{Operation, Outcome};
use model::lifecycle::Request;
use model::{OperationId, SandboxId};
use std::sync::Arc;

impl Engine {
    pub fn pause(&self, id: &SandboxId, watch: &dyn Watch) -> Result<Arc<Sandbox>> {
        let operation = self.new_operation();
        match self.enter(id, Request::Pause, Verb::Pause, &operation, watch)? {
            Entry::AlreadySo(record) => Ok(record),
            Entry::Seated(seat, record) => {
                self.check_can_pause(&record)?;
                self.simply(&seat, &plan::pause(&record), operation, watch)
            }
        }
    }

    pub fn resume(&self, id: &SandboxId, watch: &dyn Watch) -> Result<Arc<Sandbox>> {
        let operation = self.new_operation();
        match self.enter(id, Request::Resume, Verb::Resume, &operation, watch)? {
            Entry::AlreadySo(record) => Ok(record),
            Entry::Seated(seat, record) => self.simply(&seat, &plan::resume(&record), operation, watch),
        }
    }

    fn check_can_pause(&self, record: &Sandbox) -> Result<()> {
        let backends = self.host.vmm.backends();
        match backends.iter().find(|facts| Some(facts.backend) == record.backend) {
            Some(facts) if !facts.features.pause => {
                let attempt = format!("cannot pause {}: {} cannot pause a machine here", record.name(), facts.backend);
                Err(Error::new(Kind::HostUnfit, attempt).with_hint("`banger doctor` shows what each backend can do"))
            }
            _ => Ok(()),
        }
    }

    /// A plan with nothing to take back: where a step fails, all is as it was.
    pub(crate) fn simply(
        &self,
        seat: &Seat,
        plan: &Plan,
        operation: OperationId,
        watch: &dyn Watch,
    ) -> Result<Arc<Sandbox>> {
        let operation = Operation::begin(operation, plan, self.now());
        let mut drive = Drive::begin(self, seat, plan, operation, watch)?;
        match drive.carry_out(plan) {
            Ok(()) => {
                let record = drive.record();
                drive.finish(Outcome::Done, None);
                record
            }
            Err(failed) => {
                self.look_again();
                drive.finish(Outcome::Failed, Some(&failed));
                Err(failed)
            }
        }
    }
}
