//! Brings records and machine in line after a crash, a reboot, or a VMM that ended by itself.
//!
//! [`judge`] is pure: a record, what is observed, and which operation was cut short give one verdict. The rest of the
//! module carries verdicts out, each under the sandbox's own seat; a sandbox that has a driver is left to it. What
//! would take long (a guest to wait for, a guest to be stopped) becomes an [`Errand`].

use crate::audit::Finding;
use crate::engine::{Engine, Saving};
use crate::error::Result;
use crate::gate::Seat;
use crate::host::disk::DiskFacts;
use crate::host::network::LinkFacts;
use crate::host::vmm::{VmmExit, VmmFacts, VmmState};
use crate::host::{Unwatched, Watch};
use crate::lock;
use crate::plan::{self, Step, Verb};
use crate::run::{Drive, TAIL_BYTES, turn_off};
use crate::sandbox::{Failure, Sandbox};
use crate::store::journal::{Operation, Outcome};
use crate::tick::plan_restart;
use model::port::PortForward;
use model::{SandboxId, State};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Work that takes long; see [`Engine::run_errand`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Errand {
    /// Its VMM runs, and a start was cut short: wait for the guest.
    Await(SandboxId),
    Start(SandboxId),
    Stop(SandboxId),
    Delete(SandboxId),
}

impl Errand {
    pub fn id(&self) -> &SandboxId {
        match self {
            Errand::Await(id) | Errand::Start(id) | Errand::Stop(id) | Errand::Delete(id) => id,
        }
    }
}

/// Everything the seams see, by sandbox.
pub(crate) struct Facts {
    pub vmms: BTreeMap<SandboxId, VmmFacts>,
    pub links: BTreeMap<SandboxId, LinkFacts>,
    pub disks: BTreeMap<SandboxId, DiskFacts>,
    pub host_boot: String,
}

/// What is to become of one sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    Keep,
    /// It runs, or is paused, as it should: links and ports are made sure of.
    Adopt(State),
    /// Its VMM runs and nobody waits for the guest.
    Await,
    /// It should be on, and its VMM is gone.
    Ended {
        exit: VmmExit,
        rebooted: bool,
    },
    /// A stop was cut short while the machine is still on.
    FinishStop,
    /// It is off or on its way there: whatever is left of VMM and link goes.
    TurnOff(State),
    /// A delete, or a create of which nothing came, goes to its end.
    Remove,
}

/// The whole decision. `interrupted` is the operation that was under way, `linked` says that a link is there.
pub(crate) fn judge(record: &Sandbox, facts: &Facts, interrupted: Option<Verb>) -> Verdict {
    let vmm = facts.vmms.get(&record.id).map(|facts| &facts.state);
    let linked = facts.links.contains_key(&record.id);
    let on = match vmm {
        Some(VmmState::Running) => Some(State::Running),
        Some(VmmState::Paused) => Some(State::Paused),
        Some(VmmState::Ended(_) | VmmState::Remains { .. }) | None => None,
    };
    let created = interrupted == Some(Verb::Create);
    match (record.state, on) {
        (State::Removing, _) => Verdict::Remove,
        // With its disks made, a create that was not to start is whole.
        (State::Created, _) if created && !record.has_disks => Verdict::Remove,
        (State::Starting, Some(_)) if !(created && record.spec.ephemeral) => Verdict::Await,
        (State::Starting, _) if created => Verdict::Remove,
        (State::Starting, _) => Verdict::TurnOff(State::Stopped),
        (State::Stopping, Some(_)) => Verdict::FinishStop,
        (State::Stopping, None) => Verdict::TurnOff(State::Stopped),
        // A record older than the machine (a restored backup): what runs is the person's work.
        (State::Stopped, Some(_)) => Verdict::Await,
        (State::Created | State::Stopped | State::Failed, _) if vmm.is_some() || linked => {
            Verdict::TurnOff(record.state)
        }
        (State::Created | State::Stopped | State::Failed, _) => Verdict::Keep,
        (State::Running | State::Paused | State::Snapshotting | State::Restoring, Some(state)) => Verdict::Adopt(state),
        (State::Running | State::Paused | State::Snapshotting | State::Restoring, None) => {
            let exit = match vmm {
                Some(VmmState::Ended(exit)) => exit.clone(),
                _ => VmmExit::default(),
            };
            Verdict::Ended { exit, rebooted: rebooted(record, facts) }
        }
    }
}

/// What was cut short. A create stays one, though its undoing began an operation of its own that was cut short too.
fn interrupted(stale: &[&Operation]) -> Option<Verb> {
    let create = stale.iter().find(|operation| operation.verb == Verb::Create);
    create.or(stale.last()).map(|operation| operation.verb)
}

/// The wanted ports; one that was any free port once stays the port that it became.
fn ports_to_keep(record: &Sandbox) -> Vec<PortForward> {
    let same = |wanted: &PortForward, bound: &PortForward| {
        (wanted.host_address, wanted.guest_port, wanted.protocol)
            == (bound.host_address, bound.guest_port, bound.protocol)
    };
    let keep = |wanted: &PortForward| match wanted.host_port {
        0 => record.ports.iter().find(|bound| same(wanted, bound)).copied().unwrap_or(*wanted),
        _ => *wanted,
    };
    record.spec.ports.iter().map(keep).collect()
}

fn rebooted(record: &Sandbox, facts: &Facts) -> bool {
    !record.host_boot.is_empty() && !facts.host_boot.is_empty() && record.host_boot != facts.host_boot
}

/// How a machine that nobody ended has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// The guest powered itself off.
    PoweredOff,
    HostRebooted,
    Crashed,
}

/// The kernel's last words on an orderly end (kernel/reboot.c); they tell where the exit code cannot, since a VMM
/// that outlived a daemon is nobody's child.
const LAST_WORDS: [&str; 3] = ["reboot: Power down", "reboot: Restarting system", "reboot: System halted"];

/// What a kernel says when it gives up (kernel/panic.c). It is told to reboot then, which ends the VMM in order.
const PANIC: &str = "Kernel panic - not syncing";
/// 32 KiB: a panic is followed by registers and call traces of every CPU.
const JUDGED_BYTES: usize = 32 * 1024;

fn ending(exit: &VmmExit, rebooted: bool, console: &str) -> Ending {
    match exit {
        _ if rebooted => Ending::HostRebooted,
        _ if console.contains(PANIC) => Ending::Crashed,
        VmmExit { signal: Some(_), .. } => Ending::Crashed,
        VmmExit { code: Some(0), .. } => Ending::PoweredOff,
        VmmExit { code: Some(_), .. } => Ending::Crashed,
        VmmExit { code: None, signal: None } if LAST_WORDS.iter().any(|words| console.contains(words)) => {
            Ending::PoweredOff
        }
        VmmExit { code: None, signal: None } => Ending::Crashed,
    }
}

impl Engine {
    /// Looks at everything once and mends what does not fit; answers what it found. What could not be mended is tried
    /// again with the next tick.
    pub fn reconcile(&self) -> Vec<Finding> {
        let seen = self.list();
        let stale = self.store.open_operations();
        let (facts, stale) = match (self.observe(), stale) {
            (Ok(facts), Ok(stale)) => (facts, stale),
            (Err(error), _) | (_, Err(error)) => {
                self.look_again();
                return vec![Finding::new(
                    "host",
                    "all",
                    format!("the machine cannot be looked at: {}", error.chain()),
                )];
            }
        };
        let mut findings = Vec::new();
        for record in seen.iter() {
            findings.extend(self.reconcile_one(record, &facts, &stale));
        }
        self.close_homeless(&stale);
        findings
    }

    pub(crate) fn observe(&self) -> Result<Facts> {
        let vmms = self.host.vmm.observe()?;
        let links = self.host.network.observe()?;
        let disks = self.host.disk.observe()?;
        Ok(Facts {
            vmms: vmms.into_iter().map(|facts| (facts.id.clone(), facts)).collect(),
            links: links.into_iter().map(|facts| (facts.id.clone(), facts)).collect(),
            disks: disks.into_iter().map(|facts| (facts.id.clone(), facts)).collect(),
            host_boot: self.host.clock.boot_id(),
        })
    }

    fn reconcile_one(&self, seen: &Arc<Sandbox>, facts: &Facts, stale: &[Operation]) -> Option<Finding> {
        let operation = self.new_operation();
        let gate = self.gate(&seen.id).ok()?;
        let seat = gate.try_take(Verb::Reconcile, &operation, false).ok()?;
        let record = self.get(&seen.id).ok()?;
        if !Arc::ptr_eq(&record, seen) {
            // A driver came and went since the machine was observed; the next look is about what it left.
            self.look_again();
            return None;
        }
        let stale: Vec<_> = stale.iter().filter(|operation| operation.sandbox == record.id).collect();
        let (record, verdict) = match self.settle(&seat, record.clone(), facts, interrupted(&stale), operation) {
            Ok(settled) => settled,
            Err(error) => {
                self.look_again();
                return Some(Finding::new("record", record.name(), error.chain()));
            }
        };
        for operation in stale {
            self.close(operation, Outcome::Interrupted);
        }
        describe(&record, &verdict)
            .map(|detail| Finding { mended: true, ..Finding::new("record", record.name(), detail) })
    }

    fn settle(
        &self,
        seat: &Seat,
        mut record: Arc<Sandbox>,
        facts: &Facts,
        interrupted: Option<Verb>,
        operation: model::OperationId,
    ) -> Result<(Arc<Sandbox>, Verdict)> {
        if !record.has_disks && facts.disks.contains_key(&record.id) {
            // Disks that were made in a daemon's last moment are the sandbox's own.
            record = self.update(&record.id, Saving::Must, None, |record| {
                record.has_disks = true;
                Ok(())
            })?;
        }
        let verdict = judge(&record, facts, interrupted);
        self.carry_out_verdict(seat, &record, &verdict, operation)?;
        Ok((record, verdict))
    }

    fn carry_out_verdict(
        &self,
        seat: &Seat,
        record: &Arc<Sandbox>,
        verdict: &Verdict,
        operation: model::OperationId,
    ) -> Result<()> {
        match verdict {
            Verdict::Keep => Ok(()),
            Verdict::Adopt(state) => self.adopt(seat, record, *state, operation),
            Verdict::Await => {
                self.update(&record.id, Saving::Must, Some(&operation), |record| {
                    record.state = State::Starting;
                    Ok(())
                })?;
                self.put_errand(Errand::Await(record.id.clone()));
                Ok(())
            }
            Verdict::Ended { exit, rebooted } => self.conclude(seat, record, exit, *rebooted, operation).map(drop),
            Verdict::FinishStop => {
                self.put_errand(Errand::Stop(record.id.clone()));
                Ok(())
            }
            Verdict::TurnOff(state) => self.turn_off_remains(seat, record, *state, operation),
            Verdict::Remove => self.remove(seat, record.clone(), false, operation, &Unwatched).map(drop),
        }
    }

    fn put_errand(&self, errand: Errand) {
        lock(&self.cared_for).insert(errand.id().clone());
        let mut errands = lock(&self.errands);
        if !errands.contains(&errand) {
            errands.push(errand);
        }
    }

    /// Nothing is journalled where nothing had to change: an adoption is the daemon's every start.
    fn adopt(&self, _seat: &Seat, record: &Sandbox, state: State, operation: model::OperationId) -> Result<()> {
        let Some(backend) = record.backend else { return Ok(()) };
        let (_change, attachment) = self.host.network.ensure_link(&plan::link(record, backend))?;
        let (_change, ports) = self.host.network.ensure_ports(&record.id, &ports_to_keep(record))?;
        self.update(&record.id, Saving::Must, Some(&operation), |record| {
            record.state = state;
            record.attachment = Some(attachment);
            record.ports = ports;
            Ok(())
        })?;
        Ok(())
    }

    fn turn_off_remains(
        &self,
        seat: &Seat,
        record: &Sandbox,
        state: State,
        operation: model::OperationId,
    ) -> Result<()> {
        let steps = vec![Step::EnsureStopped { signal: None }, Step::RemoveLink];
        self.take_down(seat, record, steps, operation, |record, now| {
            if record.state != state {
                turn_off(record, state, now);
            }
        })
    }

    /// The VMM of a sandbox that was on has ended: what is left goes, and the record says how it ended.
    fn conclude(
        &self,
        seat: &Seat,
        record: &Sandbox,
        exit: &VmmExit,
        rebooted: bool,
        operation: model::OperationId,
    ) -> Result<()> {
        let console = self.host.vmm.console_tail(&record.id, JUDGED_BYTES);
        let ending = ending(exit, rebooted, &console);
        let failure = match ending {
            Ending::PoweredOff | Ending::HostRebooted => None,
            Ending::Crashed => Some(describe_crash(record, exit, &console)),
        };
        let steps = vec![Step::EnsureStopped { signal: None }, Step::RemoveLink];
        self.take_down(seat, record, steps, operation, |record, now| {
            let state = if failure.is_some() { State::Failed } else { State::Stopped };
            turn_off(record, state, now);
            plan_restart(record, failure.is_some(), now);
            record.failure = failure;
        })
    }

    fn take_down(
        &self,
        seat: &Seat,
        record: &Sandbox,
        steps: Vec<Step>,
        operation: model::OperationId,
        change: impl FnOnce(&mut Sandbox, crate::host::clock::Timestamp),
    ) -> Result<()> {
        let plan = plan::plan(Verb::Reconcile, record, steps);
        let operation = Operation::begin(operation, &plan, self.now());
        let mut drive = Drive::begin(self, seat, &plan, operation, &Unwatched)?;
        if let Err(error) = drive.carry_out(&plan) {
            drive.finish(Outcome::Failed, Some(&error));
            return Err(error);
        }
        let now = self.now();
        let saved = drive.update(Saving::Anyway, |record| change(record, now));
        drive.finish(Outcome::Done, None);
        saved.map(drop)
    }

    /// The daemon saw a VMM end. Whoever drives the sandbox notices it himself.
    pub fn vmm_ended(&self, id: &SandboxId, exit: &VmmExit) -> Result<Arc<Sandbox>> {
        let operation = self.new_operation();
        let Ok(seat) = self.gate(id)?.try_take(Verb::Reconcile, &operation, false) else {
            self.look_again();
            return self.get(id);
        };
        let record = self.get(id)?;
        match record.state {
            State::Running | State::Paused | State::Snapshotting | State::Restoring => {
                // Only the machine knows whether this was the VMM of now, or one of before a restart.
                let vmms = self.host.vmm.observe()?;
                let alive = |facts: &VmmFacts| matches!(facts.state, VmmState::Running | VmmState::Paused);
                if !vmms.iter().any(|facts| facts.id == *id && alive(facts)) {
                    self.conclude(&seat, &record, exit, false, operation).inspect_err(|_| self.look_again())?;
                }
            }
            _ => self.look_again(),
        }
        self.get(id)
    }

    /// Takes a start up where a daemon left it: the VMM runs, the guest is waited for.
    pub(crate) fn carry_on(&self, id: &SandboxId, watch: &dyn Watch) -> Result<Arc<Sandbox>> {
        let operation = self.new_operation();
        let Ok(seat) = self.gate(id)?.try_take(Verb::Start, &operation, false) else { return self.get(id) };
        let record = self.get(id)?;
        if record.state != State::Starting {
            return Ok(record);
        }
        let mut steps = Vec::new();
        steps.extend(record.backend.map(|backend| Step::EnsureLink(plan::link(&record, backend))));
        steps.extend(plan::ready_steps(&record, &self.settings));
        let plan = plan::plan(Verb::Start, &record, steps);
        self.launch(&seat, &plan, State::Stopped, operation, watch)
    }

    fn close(&self, operation: &Operation, outcome: Outcome) {
        let mut operation = operation.clone();
        operation.ended_at = Some(self.now());
        operation.outcome = outcome;
        if self.store.note(&operation).is_err() {
            self.look_again();
        }
    }

    /// Operations whose sandbox is gone: a delete that was cut short after its last step was done.
    fn close_homeless(&self, stale: &[Operation]) {
        for operation in stale {
            if self.get(&operation.sandbox).is_err() {
                let done = operation.verb == Verb::Delete;
                self.close(operation, if done { Outcome::Done } else { Outcome::Undone });
            }
        }
    }
}

fn describe_crash(record: &Sandbox, exit: &VmmExit, console: &str) -> Failure {
    let panic = console.find(PANIC).map(|at| &console[at..]);
    let how = match exit {
        VmmExit { signal: Some(signal), .. } => format!("ended by signal {signal}"),
        VmmExit { code: Some(code), .. } => format!("ended with status {code}"),
        VmmExit { .. } => "ended while nobody looked".to_owned(),
    };
    let vmm = record.backend.map_or("VMM", |backend| backend.word());
    let name = record.name();
    let sentence = match panic.and_then(|panic| panic.lines().next()) {
        Some(words) => {
            format!("the kernel of {name} gave up: {}", words.trim_start_matches(PANIC).trim_matches([':', ' ']))
        }
        None => format!("the {vmm} of {name} {how}"),
    };
    // A panic tells most where it begins, everything else where it ends.
    let told = match panic {
        Some(panic) => &panic[..panic.floor_char_boundary(TAIL_BYTES)],
        None => &console[console.ceil_char_boundary(console.len().saturating_sub(TAIL_BYTES))..],
    };
    let mut failure = Failure::of_exit(sentence, exit, told.to_owned());
    failure.hint = Some(format!("`banger vm logs {name}` shows why, `banger vm start {name}` starts it again"));
    failure
}

fn describe(record: &Sandbox, verdict: &Verdict) -> Option<String> {
    match verdict {
        Verdict::Keep => None,
        Verdict::Adopt(state) if *state == record.state => None,
        Verdict::Adopt(state) => Some(format!("recorded as {}, it is {state}", record.state)),
        Verdict::Await => Some("its VMM runs; the guest is waited for".into()),
        Verdict::Ended { rebooted: true, .. } => Some("the host was restarted; it is off, its disks are kept".into()),
        Verdict::Ended { .. } => Some("its VMM is gone".into()),
        Verdict::FinishStop => Some("its stop was cut short and goes on".into()),
        Verdict::TurnOff(_) => Some("remains of its last run were removed".into()),
        Verdict::Remove => Some("its removal was cut short and was finished".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_a_machine_ended_is_told_by_its_status_and_its_last_words() {
        let exit = |code, signal| VmmExit { code, signal };
        let down = "…\n[ 7.1] reboot: Power down\n";
        let panic = "[ 7.1] Kernel panic - not syncing: sysrq triggered crash\n[ 7.2] Call Trace:\n";
        for (exit, console, expected) in [
            (exit(Some(0), None), down, Ending::PoweredOff),
            (exit(Some(0), None), "", Ending::PoweredOff),
            (exit(Some(0), None), panic, Ending::Crashed),
            (exit(None, None), panic, Ending::Crashed),
            (exit(None, None), down, Ending::PoweredOff),
            (exit(None, None), "", Ending::Crashed),
            (exit(None, Some(15)), down, Ending::Crashed),
            (exit(Some(1), None), down, Ending::Crashed),
        ] {
            assert_eq!(ending(&exit, false, console), expected, "{exit:?} {console:?}");
            assert_eq!(ending(&exit, true, console), Ending::HostRebooted);
        }
    }
}
