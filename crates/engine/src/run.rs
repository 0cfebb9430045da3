//! Carries a plan out: journal, step, journal, step. Holds a seat for as long as it lives.
//!
//! A step that fails ends the plan; what then becomes of the sandbox is the verb's to decide (`sandbox/`), with
//! [`Drive::clean_up`] for taking back. A plan that builds stops where the journal cannot be written; one that takes
//! down goes on, since a full disk must not keep a machine alive.

use crate::admission::Room;
use crate::engine::{Engine, Saving};
use crate::error::{ConsoleTail, Error, Kind, Result};
use crate::gate::{Guarded, Seat, Waiting, Wish};
use crate::host::clock::Timestamp;
use crate::host::guest::{GuestIdentity, Readiness};
use crate::host::images::Systemd;
use crate::host::network::{Attachment, Link};
use crate::host::vmm::{Machine, VmmExit};
use crate::host::{HostError, HostErrorKind, Report, Watch};
use crate::lock;
use crate::plan::{Plan, Step, Verb};
use crate::sandbox::{Sandbox, Span};
use crate::store::journal::{Operation, Outcome, StepRecord, StepState};
use model::port::PortForward;
use model::{ImageName, InitMode, SandboxId, State};
use std::sync::Arc;

/// What of the console a record and an error keep: the last screen.
pub(crate) const TAIL_BYTES: usize = 2048;

pub(crate) struct Drive<'a> {
    pub engine: &'a Engine,
    pub id: SandboxId,
    pub operation: Operation,
    pub watch: Guarded<'a>,
    seat: &'a Seat,
    /// A step happens only if it is written down first.
    strict: bool,
    pub found: Found,
    spans: Vec<Span>,
}

/// What the steps so far have brought to light.
#[derive(Default)]
pub(crate) struct Found {
    pub attachment: Option<Attachment>,
    pub readiness: Option<Readiness>,
    pub exit: Option<VmmExit>,
    /// A VMM may be there: its step has begun.
    pub vmm_begun: bool,
    shutdown_refused: bool,
}

impl<'a> Drive<'a> {
    /// The operation is in the journal when this returns, unless it takes down and the journal cannot be written.
    pub fn begin(
        engine: &'a Engine,
        seat: &'a Seat,
        plan: &Plan,
        operation: Operation,
        watch: &'a dyn Watch,
    ) -> Result<Self> {
        let drive = Drive::over(engine, seat, plan, operation, watch);
        if let Err(error) = engine.store.begin(&drive.operation)
            && drive.strict
        {
            return Err(error);
        }
        drive.watch.report(Report::Began { operation: drive.operation.id.clone() });
        Ok(drive)
    }

    /// For an operation that is in the journal already.
    pub fn over(engine: &'a Engine, seat: &'a Seat, plan: &Plan, operation: Operation, watch: &'a dyn Watch) -> Self {
        Drive {
            engine,
            id: plan.id.clone(),
            operation,
            watch: Guarded { inner: watch, letting_go: &seat.letting_go },
            seat,
            strict: !matches!(plan.verb, Verb::Stop | Verb::Kill | Verb::Delete | Verb::Reconcile),
            found: Found::default(),
            spans: Vec::new(),
        }
    }

    pub fn wish(&self) -> Wish {
        self.watch.wish()
    }

    /// All steps in order that are not done yet; the first failure ends it.
    pub fn carry_out(&mut self, plan: &Plan) -> Result<()> {
        for (index, step) in plan.steps.iter().enumerate() {
            if self.operation.steps[index].state == StepState::Done {
                continue;
            }
            self.check_wanted(step)?;
            self.one(index, step)?;
        }
        Ok(())
    }

    /// Takes back or takes down: goes on past failures and reports all of them. A state is entered and a record
    /// forgotten only if all before went well, unless `force`; disks stay while their VMM may live.
    pub fn clean_up(&mut self, steps: &[Step], force: bool) -> Vec<Error> {
        self.strict = false;
        let first = self.operation.steps.len();
        self.operation.steps.extend(steps.iter().map(|step| StepRecord {
            name: step.to_string(),
            state: StepState::Planned,
            duration_us: None,
        }));
        let mut failures = Vec::new();
        for (index, step) in steps.iter().enumerate() {
            let needs_all = matches!(step, Step::Enter(_) | Step::Forget);
            if needs_all && !failures.is_empty() && !force {
                break;
            }
            if let Err(error) = self.one(first + index, step) {
                failures.push(error);
                if matches!(step, Step::EnsureStopped { .. }) && !force {
                    break;
                }
            }
        }
        failures
    }

    /// The last word in the journal.
    pub fn finish(&mut self, outcome: Outcome, error: Option<&Error>) {
        self.operation.ended_at = Some(self.engine.now());
        self.operation.outcome = outcome;
        self.operation.error = error.map(Error::chain);
        // If it cannot be written the operation stays open, and the next reconcile closes it.
        if self.engine.store.note(&self.operation).is_err() {
            self.engine.look_again();
        }
    }

    pub fn record(&self) -> Result<Arc<Sandbox>> {
        self.engine.get(&self.id)
    }

    pub fn update(&self, saving: Saving, change: impl FnOnce(&mut Sandbox)) -> Result<Arc<Sandbox>> {
        self.engine.update(&self.id, saving, Some(&self.operation.id), |record| {
            change(record);
            Ok(())
        })
    }

    fn check_wanted(&self, step: &Step) -> Result<()> {
        if builds(step) && self.wish() != Wish::None {
            return Err(self.cancelled());
        }
        Ok(())
    }

    fn cancelled(&self) -> Error {
        let (verb, name) = (self.operation.verb, &self.operation.name);
        let attempt = match self.wish() {
            Wish::Preempted => format!("cannot {verb} {name}: another request ended it"),
            Wish::Cancelled | Wish::None => format!("cannot {verb} {name}: it was cancelled"),
        };
        Error::new(Kind::Cancelled, attempt).in_operation(&self.operation.id)
    }

    fn one(&mut self, index: usize, step: &Step) -> Result<()> {
        self.journal(index, StepState::Begun, None)?;
        let began_at = self.engine.now();
        let result = self.perform(step);
        let ended_at = self.engine.now();
        self.spans.push(span(step.to_string(), 1, self.operation.began_at, began_at, ended_at));
        let state = if result.is_ok() { StepState::Done } else { StepState::Failed };
        let noted = self.journal(index, state, Some(ended_at.saturating_sub(began_at) / 1000));
        result.map_err(|error| error.in_operation(&self.operation.id)).and(noted)
    }

    fn journal(&mut self, index: usize, state: StepState, duration_us: Option<u64>) -> Result<()> {
        let step = &mut self.operation.steps[index];
        step.state = state;
        step.duration_us = duration_us;
        match self.engine.store.note(&self.operation) {
            Err(error) if self.strict => Err(error.in_operation(&self.operation.id)),
            _ => Ok(()),
        }
    }

    fn perform(&mut self, step: &Step) -> Result<()> {
        let host = &self.engine.host;
        match step {
            Step::Reserve(_) => Ok(()),
            Step::Enter(state) => self.enter(*state),
            Step::EnsureImage(name) => {
                done(host.images.ensure_image(name, &self.watch))?;
                self.refuse_impossible_init(name)
            }
            Step::EnsureKernel(name) => done(host.images.ensure_kernel(name, &self.watch)),
            Step::EnsureDisks(wanted) => {
                done(host.disk.ensure_disks(wanted))?;
                self.update(Saving::Must, |record| record.has_disks = true).map(drop)
            }
            Step::RenewRoot(wanted) => done(host.disk.renew_root(wanted)),
            Step::ExtendDisks(wanted) => done(host.disk.extend(wanted)),
            Step::EnsureDrives => Ok(host.vmm.ensure_drives(&self.id)?),
            Step::EnsureFileSystems(wanted) => Ok(host.guest.ensure_file_systems(wanted)?),
            Step::EnsureLink(wanted) => self.ensure_link(wanted),
            Step::EnsureVmm(machine) => self.ensure_vmm(machine),
            Step::AwaitReady { timeout_ms } => self.await_ready(*timeout_ms),
            Step::Identify => self.identify(),
            Step::SyncFiles { .. } => Ok(host.guest.sync_files(&self.id, &self.watch)?),
            Step::EnsureService => self.ensure_service(),
            Step::EnsurePorts(ports) => self.ensure_ports(ports),
            Step::RequestShutdown { grace_ms } => self.request_shutdown(*grace_ms),
            Step::AwaitExit { grace_ms } => self.await_exit(*grace_ms),
            Step::EnsureStopped { signal } => done(host.vmm.ensure_stopped(&self.id, *signal)),
            Step::EnsurePaused => done(host.vmm.ensure_paused(&self.id)),
            Step::EnsureResumed => done(host.vmm.ensure_resumed(&self.id)),
            Step::RemoveLink => done(host.network.remove_link(&self.id)),
            Step::RemoveDisks => done(host.disk.remove_disks(&self.id)),
            Step::Forget => self.engine.forget(&self.id, &self.operation.id),
        }
    }

    fn enter(&mut self, state: State) -> Result<()> {
        let now = self.engine.now();
        match state {
            State::Starting => return self.engine.enter_starting(&self.id, &self.operation.id).map(drop),
            State::Running if self.found.readiness.is_some() => self.record_start(now)?,
            State::Stopped => self.update(Saving::Anyway, |record| turn_off(record, State::Stopped, now)).map(drop)?,
            State::Stopping | State::Removing => {
                self.update(Saving::Anyway, |record| {
                    record.state = state;
                    record.restart_due = None;
                })?;
            }
            _ => drop(self.update(Saving::Must, |record| record.state = state)?),
        }
        Ok(())
    }

    /// A start ends: everything it brought goes into the record at once.
    fn record_start(&mut self, now: Timestamp) -> Result<()> {
        let ready = self.found.readiness.take();
        let attachment = self.found.attachment.clone();
        let timing = self.timing(now, ready.as_ref());
        self.update(Saving::Must, |record| {
            record.state = State::Running;
            record.failure = None;
            record.started_at = Some(now);
            record.ended_at = None;
            record.restart_due = None;
            record.timing = timing;
            record.attachment = attachment.or(record.attachment.take());
            if let Some(ready) = ready {
                record.boot_id = Some(ready.boot_id);
                record.agent_version = Some(ready.agent_version);
                record.init = Some(ready.init);
            }
        })?;
        self.engine.used(&self.id, now);
        Ok(())
    }

    /// The operation's own span, its steps, and below the wait what the guest says of itself.
    fn timing(&mut self, now: Timestamp, ready: Option<&Readiness>) -> Vec<Span> {
        let whole = span(self.operation.verb.to_string(), 0, self.operation.began_at, self.operation.began_at, now);
        let mut spans = vec![whole];
        for step in std::mem::take(&mut self.spans) {
            let guest = match ready {
                Some(ready) if step.name.starts_with("await ready") => {
                    let duration_us = ready.guest_uptime_ms.saturating_mul(1000).min(step.duration_us);
                    let start_us = step.start_us + step.duration_us - duration_us;
                    Some(Span { name: "guest kernel to agent".into(), depth: 2, start_us, duration_us })
                }
                _ => None,
            };
            spans.push(step);
            spans.extend(guest);
        }
        spans
    }

    fn ensure_link(&mut self, wanted: &Link) -> Result<()> {
        let (_change, attachment) = self.engine.host.network.ensure_link(wanted)?;
        self.update(Saving::Must, |record| record.attachment = Some(attachment.clone()))?;
        self.found.attachment = Some(attachment);
        Ok(())
    }

    fn ensure_vmm(&mut self, machine: &Machine) -> Result<()> {
        let host = &self.engine.host;
        let mut machine = machine.clone();
        machine.attachment = self.found.attachment.clone().unwrap_or_default();
        machine.init = self.resolve_init(&machine)?;
        let host_boot = host.clock.boot_id();
        self.update(Saving::Must, |record| {
            record.backend = Some(machine.backend);
            record.host_boot = host_boot;
        })?;
        self.found.vmm_begun = true;
        self.watch.report(Report::Stage { text: format!("starting {} with {}", self.operation.name, machine.backend) });
        done(host.vmm.ensure_running(&machine))
    }

    /// Said before anything boots: an image that can get no systemd will not become a machine with it.
    fn refuse_impossible_init(&self, name: &ImageName) -> Result<()> {
        if self.record()?.spec.init != InitMode::Systemd {
            return Ok(());
        }
        let images = self.engine.host.images.images()?;
        let facts = images.into_iter().find(|image| image.name == *name);
        let Some(Systemd::Unavailable { system }) = facts.map(|facts| facts.systemd) else { return Ok(()) };
        let what = system.map(|system| format!(" ({system})")).unwrap_or_default();
        let (verb, sandbox) = (self.operation.verb, &self.operation.name);
        let sentence = format!(
            "cannot {verb} {sandbox}: image {name}{what} has no systemd, and no package of it is known for that system"
        );
        Err(Error::new(Kind::Refused, sentence)
            .with_hint("leave out `--init systemd`: the agent is a full init, with services, network and ssh"))
    }

    /// `auto` means the image's systemd where it has one.
    fn resolve_init(&self, machine: &Machine) -> Result<InitMode> {
        if machine.init != InitMode::Auto {
            return Ok(machine.init);
        }
        let images = self.engine.host.images.images()?;
        Ok(match images.iter().find(|image| image.name == machine.image) {
            Some(image) if image.has_systemd() => InitMode::Systemd,
            Some(_) => InitMode::Agent,
            None => InitMode::Auto,
        })
    }

    fn await_ready(&mut self, timeout_ms: u64) -> Result<()> {
        self.found.vmm_begun = true;
        if !self.seat.await_guest(Waiting::Boot) {
            return Err(self.cancelled());
        }
        self.watch.report(Report::Stage { text: format!("waiting for {} to answer", self.operation.name) });
        let result = self.engine.host.guest.await_ready(&self.id, timeout_ms, &self.watch);
        self.seat.await_guest(Waiting::Nothing);
        match result {
            Ok(readiness) => {
                self.found.readiness = Some(readiness);
                Ok(())
            }
            Err(_) if self.wish() != Wish::None => Err(self.cancelled()),
            Err(error) => Err(self.silent(error)),
        }
    }

    /// The guest's last words say more than our waiting.
    fn silent(&self, error: HostError) -> Error {
        let name = &self.operation.name;
        let attempt = match error.kind {
            HostErrorKind::TimedOut => format!("{name} did not answer in time"),
            HostErrorKind::GuestGone => format!("{name} ended before it answered"),
            _ => error.attempt.clone(),
        };
        let tail = self.engine.host.vmm.console_tail(&self.id, TAIL_BYTES);
        let kind = error.kind.into();
        let hint = error.hint.clone().unwrap_or_else(|| format!("`banger vm logs {name}` shows the console"));
        let error = Error::new(kind, attempt).with_hint(hint);
        if tail.trim().is_empty() { error } else { error.with_source(ConsoleTail { tail }) }
    }

    fn identify(&mut self) -> Result<()> {
        let record = self.record()?;
        let attachment = self.found.attachment.clone().or(record.attachment.clone()).unwrap_or_default();
        let identity = GuestIdentity { name: record.name().clone(), attachment };
        Ok(self.engine.host.guest.identify(&self.id, &identity)?)
    }

    /// The image's command joined with what the spec replaces of it. An image without one has nothing to be told.
    fn ensure_service(&mut self) -> Result<()> {
        let record = self.record()?;
        let command = self.engine.host.images.image_command(&record.spec.image)?;
        let service = record.spec.service.resolve(command.as_ref());
        if let Some(service) = &service {
            self.engine.host.guest.ensure_service(&self.id, service)?;
        }
        if service != record.service {
            self.update(Saving::Must, |record| record.service = service)?;
        }
        Ok(())
    }

    fn ensure_ports(&mut self, ports: &[PortForward]) -> Result<()> {
        let (_change, bound) = self.engine.host.network.ensure_ports(&self.id, ports)?;
        self.update(Saving::Must, |record| record.ports = bound).map(drop)
    }

    /// A guest that cannot be asked is ended without being asked: that is no failure of a stop.
    fn request_shutdown(&mut self, grace_ms: u64) -> Result<()> {
        let name = &self.operation.name;
        self.watch.report(Report::Stage { text: format!("asking {name} to power off") });
        self.seat.await_guest(Waiting::Shutdown);
        let asked = self.engine.host.guest.request_shutdown(&self.id, grace_ms);
        self.seat.await_guest(Waiting::Nothing);
        if let Err(error) = asked {
            self.found.shutdown_refused = true;
            self.watch.report(Report::Note { text: format!("{name} could not be asked to power off: {error}") });
        }
        Ok(())
    }

    fn await_exit(&mut self, grace_ms: u64) -> Result<()> {
        if self.found.shutdown_refused {
            return Ok(());
        }
        self.seat.await_guest(Waiting::Shutdown);
        let exit = self.engine.host.vmm.await_exit(&self.id, grace_ms);
        self.seat.await_guest(Waiting::Nothing);
        self.found.exit = exit.unwrap_or_default();
        if self.found.exit.is_none() {
            let name = &self.operation.name;
            self.watch
                .report(Report::Note { text: format!("{name} did not power off within {grace_ms} ms and is ended") });
        }
        Ok(())
    }
}

/// Does this step lead up to a running guest? Only such are given up when nobody wants them any more.
fn builds(step: &Step) -> bool {
    match step {
        Step::EnsureImage(_)
        | Step::EnsureKernel(_)
        | Step::EnsureDisks(_)
        | Step::RenewRoot(_)
        | Step::ExtendDisks(_)
        | Step::EnsureDrives
        | Step::EnsureFileSystems(_)
        | Step::EnsureLink(_)
        | Step::EnsureVmm(_)
        | Step::AwaitReady { .. }
        | Step::Identify
        | Step::SyncFiles { .. }
        | Step::EnsureService
        | Step::EnsurePorts(_)
        | Step::Enter(State::Starting | State::Running)
        | Step::EnsurePaused => true,
        Step::Reserve(_)
        | Step::Enter(_)
        | Step::RequestShutdown { .. }
        | Step::AwaitExit { .. }
        | Step::EnsureStopped { .. }
        | Step::EnsureResumed
        | Step::RemoveLink
        | Step::RemoveDisks
        | Step::Forget => false,
    }
}

fn done(result: std::result::Result<model::Change, HostError>) -> Result<()> {
    Ok(result.map(|_change| ())?)
}

fn span(name: String, depth: u8, origin: Timestamp, from: Timestamp, to: Timestamp) -> Span {
    Span { name, depth, start_us: from.saturating_sub(origin) / 1000, duration_us: to.saturating_sub(from) / 1000 }
}

/// What no sandbox has that is off.
pub(crate) fn turn_off(record: &mut Sandbox, state: State, now: Timestamp) {
    record.state = state;
    record.ports.clear();
    record.attachment = None;
    record.ended_at = Some(now);
}

impl Engine {
    /// Admission and the change to `starting` are one: two starts cannot both take the last memory.
    pub(crate) fn enter_starting(&self, id: &SandboxId, operation: &model::OperationId) -> Result<Arc<Sandbox>> {
        let room: Room = self.room()?;
        self.update_with_table(id, Some(operation), |table, record| {
            record.state = State::Starting;
            record.restart_due = None;
            self.admit_boot(table, record, room)
        })
    }

    /// The record is gone from the store, then from everybody's sight.
    pub(crate) fn forget(&self, id: &SandboxId, operation: &model::OperationId) -> Result<()> {
        let now = self.now();
        let mut table = lock(&self.table);
        self.store.forget(id)?;
        let Some(slot) = table.slots.remove(id) else { return Ok(()) };
        table.unsaved.remove(id);
        self.publish(|list| list.retain(|other| other.id != *id));
        self.tell(now, &slot.record, Some(slot.record.state), None, Some(operation));
        Ok(())
    }
}
