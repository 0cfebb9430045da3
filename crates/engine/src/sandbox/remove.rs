//! Delete: the VMM, the link, the disks, the record, in this order. Once begun it will be finished, whatever happens.

use super::Sandbox;
use crate::engine::{Engine, Entry};
use crate::error::{Error, Kind, Result};
use crate::gate::Seat;
use crate::host::{Report, Watch};
use crate::plan::{self, Plan, Verb};
use crate::run::Drive;
use crate::store::journal::{Operation, Outcome};
use model::lifecycle::Request;
use model::{OperationId, SandboxId};
use std::sync::Arc;

impl Engine {
    pub fn plan_delete(&self, id: &SandboxId) -> Result<Plan> {
        Ok(plan::delete(&*self.get(id)?))
    }

    /// Answers the last record. `force` goes on past what cannot be removed and forgets the sandbox all the same;
    /// `audit` then still tells what is left.
    pub fn delete(&self, id: &SandboxId, force: bool, watch: &dyn Watch) -> Result<Arc<Sandbox>> {
        let last = self.get(id)?;
        let operation = self.new_operation();
        match self.enter(id, Request::Delete, Verb::Delete, &operation, watch) {
            Ok(Entry::AlreadySo(record)) => Ok(record),
            Ok(Entry::Seated(seat, record)) => self.remove(&seat, record, force, operation, watch),
            // It was there when we were asked, and somebody else removed it while we waited.
            Err(error) if error.kind == Kind::NotFound => Ok(last),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn remove(
        &self,
        seat: &Seat,
        record: Arc<Sandbox>,
        force: bool,
        operation: OperationId,
        watch: &dyn Watch,
    ) -> Result<Arc<Sandbox>> {
        let plan = plan::delete(&record);
        let mut operation = Operation::begin(operation, &plan, self.now());
        operation.steps.clear();
        let mut drive = Drive::begin(self, seat, &plan, operation, watch)?;
        let mut failures = drive.clean_up(&plan.steps, force);
        let forgotten = self.get(&record.id).is_err();
        if failures.is_empty() || forgotten {
            for failure in &failures {
                watch.report(Report::Note { text: failure.chain() });
            }
            drive.finish(Outcome::Done, None);
            return Ok(record);
        }
        let failed = all_failures(failures.remove(0), failures, record.name().as_str());
        self.look_again();
        drive.finish(Outcome::Failed, Some(&failed));
        Err(failed)
    }
}

fn all_failures(mut first: Error, others: Vec<Error>, name: &str) -> Error {
    for other in others {
        first.attempt = format!("{}; {}", first.attempt, other.attempt);
    }
    match first.hint {
        Some(_) => first,
        None => first
            .with_hint(format!("it is tried again by itself; `banger vm delete --force {name}` gives up on the rest")),
    }
}
