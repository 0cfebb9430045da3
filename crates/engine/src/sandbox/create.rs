//! Create: a record under its name, then image, kernel and disks, then, unless told to wait, a boot.
//!
//! What failed before its VMM was started leaves nothing. Later, the sandbox stays as `failed` for a look at its
//! console, unless it is ephemeral or the person cancelled it.

use super::Sandbox;
use crate::engine::{Engine, Slot};
use crate::error::{Error, Kind, Result};
use crate::gate::{Gate, Seat, Wish};
use crate::host::vmm::choose;
use crate::host::{Report, Watch};
use crate::lock;
use crate::plan::{self, Plan, Start, Step, Verb};
use crate::run::Drive;
use crate::store::journal::{Operation, Outcome, StepState};
use model::{Backend, SandboxId, SandboxSpec, State};
use std::sync::Arc;

impl Engine {
    /// The plan of a create, without its making anything; the id in it is not used afterwards.
    pub fn plan_create(&self, spec: SandboxSpec, start: Start) -> Result<Plan> {
        let (sandbox, backend) = self.draft(spec, start)?;
        self.admit_name(&lock(&self.table), &sandbox, None)?;
        Ok(plan::create(&sandbox, start, backend, &self.settings))
    }

    /// Blocks until the sandbox is `created`, or `running` and ready.
    pub fn create(&self, spec: SandboxSpec, start: Start, watch: &dyn Watch) -> Result<Arc<Sandbox>> {
        let (sandbox, backend) = self.draft(spec, start)?;
        let plan = plan::create(&sandbox, start, backend, &self.settings);
        let mut operation = Operation::begin(self.new_operation(), &plan, self.now());
        let seat = self.reserve(sandbox, start, &mut operation)?;
        let mut drive = Drive::over(self, &seat, &plan, operation, watch);
        watch.report(Report::Began { operation: drive.operation.id.clone() });
        let failed = match drive.carry_out(&plan) {
            Ok(()) => {
                let record = drive.record();
                drive.finish(Outcome::Done, None);
                return record;
            }
            Err(error) => error,
        };
        Err(self.after_failed_create(drive, failed))
    }

    fn draft(&self, spec: SandboxSpec, start: Start) -> Result<(Sandbox, Backend)> {
        let invalid = |error| Error::new(Kind::Invalid, format!("cannot create {}", spec.name)).with_source(error);
        spec.validate().map_err(invalid)?;
        let backend = self.choose_backend(&spec)?;
        let state = match start {
            Start::Now => State::Starting,
            Start::Later => State::Created,
        };
        let id = SandboxId::from_bits(self.host.clock.random());
        let mut sandbox = Sandbox::new(id, spec, state, self.now());
        sandbox.backend = Some(backend);
        Ok((sandbox, backend))
    }

    pub(crate) fn choose_backend(&self, spec: &SandboxSpec) -> Result<Backend> {
        choose(spec.vmm, &self.host.vmm.backends()).map_err(|reason| {
            Error::new(Kind::HostUnfit, format!("cannot run {}: {reason}", spec.name))
                .with_hint("`banger doctor` shows what this host can do")
        })
    }

    /// Of two creates under one name, one gets past this line. Nothing on the host has been touched before it.
    fn reserve(&self, sandbox: Sandbox, start: Start, operation: &mut Operation) -> Result<Seat> {
        let room = self.room()?;
        operation.steps[0].state = StepState::Done;
        let gate = Arc::<Gate>::default();
        let seat = gate.try_take(Verb::Create, &operation.id, false).map_err(|_| taken_by_nobody())?;
        let now = sandbox.created_at;
        let mut table = lock(&self.table);
        self.admit_name(&table, &sandbox, None)?;
        self.admit_record(&table, &sandbox, room)?;
        if start == Start::Now {
            self.admit_boot(&table, &sandbox, room)?;
        }
        if table.slots.contains_key(&sandbox.id) {
            return Err(Error::new(Kind::Internal, "cannot create a VM: its random id exists already"));
        }
        self.store.reserve(&sandbox, operation)?;
        let record = Arc::new(sandbox);
        table.slots.insert(record.id.clone(), Slot::new(record.clone(), gate, now));
        self.publish(|list| list.push(record.clone()));
        self.tell(now, &record, None, Some(record.state), Some(&operation.id));
        Ok(seat)
    }

    fn after_failed_create(&self, mut drive: Drive, failed: Error) -> Error {
        let ephemeral = drive.record().is_ok_and(|record| record.spec.ephemeral);
        let wish = drive.wish();
        match wish {
            Wish::Preempted if !ephemeral => {
                let failed = self.power_off_after(&mut drive, failed, State::Stopped);
                drive.finish(Outcome::Cancelled, Some(&failed));
                failed
            }
            Wish::None if drive.found.vmm_begun && !ephemeral => {
                let failed = self.fail(&mut drive, failed);
                drive.finish(Outcome::Failed, Some(&failed));
                failed
            }
            Wish::None | Wish::Cancelled | Wish::Preempted => {
                let failed = self.undo_create(&mut drive, failed);
                let outcome = if wish == Wish::None { Outcome::Undone } else { Outcome::Cancelled };
                drive.finish(outcome, Some(&failed));
                failed
            }
        }
    }

    /// Once it is `removing`, it will go: if not now, then with the next reconcile.
    fn undo_create(&self, drive: &mut Drive, failed: Error) -> Error {
        let mut steps = vec![Step::Enter(State::Removing)];
        steps.extend(plan::removal_steps());
        let left = drive.clean_up(&steps, false);
        self.with_remains(failed, left)
    }

    /// What could not be taken back is said, and looked after by the next reconcile.
    pub(crate) fn with_remains(&self, failed: Error, left: Vec<Error>) -> Error {
        if left.is_empty() {
            return failed;
        }
        self.look_again();
        let what: Vec<_> = left.iter().map(Error::chain).collect();
        let hint =
            format!("something is left of it ({}); `banger audit` shows what, and it is tried again", what.join("; "));
        failed.with_hint(hint)
    }
}

fn taken_by_nobody() -> Error {
    Error::new(Kind::Internal, "cannot sit down at a gate that nobody knows")
}
