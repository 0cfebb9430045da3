//! Set, rename, reset: what can change about a sandbox that exists, and when each change is in force.
//!
//! The host is changed first and the record last, so that after a crash between the two the record still tells what
//! `reconcile` shall make so again.

use super::{PortChanges, Sandbox};
use crate::engine::{Engine, Entry, Saving};
use crate::error::{Error, Kind, Result};
use crate::host::Watch;
use crate::lock;
use crate::plan::{self, Plan, Step, Verb};
use model::egress::Outbound;
use model::lifecycle::{Answer, Request, answer};
use model::workspace::Workspace;
use model::{ByteSize, RestartPolicy, SandboxId, SandboxName, SandboxSpec, State, Vcpus};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Every present field is changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    pub name: Option<SandboxName>,
    pub vcpus: Option<Vcpus>,
    pub memory: Option<ByteSize>,
    pub disk_size: Option<ByteSize>,
    pub root_size: Option<ByteSize>,
    pub restart: Option<RestartPolicy>,
    pub outbound: Option<Outbound>,
    /// The private networks that are open, all of them.
    pub allow_networks: Option<Vec<String>>,
    /// The other sandboxes that it may open connections to, all of them.
    pub allow_vms: Option<Vec<SandboxId>>,
    /// `Some(None)` switches it off.
    pub stop_when_idle_s: Option<Option<u64>>,
    /// `None` removes the label.
    pub labels: BTreeMap<String, Option<String>>,
    pub ports: PortChanges,
    pub auto_forward: Option<bool>,
}

/// The sandbox as it is now, and which changes wait.
#[derive(Debug, Clone, PartialEq)]
pub struct Applied {
    pub sandbox: Arc<Sandbox>,
    pub live: Vec<&'static str>,
    pub at_next_start: Vec<&'static str>,
}

impl Engine {
    pub fn set(&self, id: &SandboxId, changes: &Changes, watch: &dyn Watch) -> Result<Applied> {
        let before = self.get(id)?;
        if let Answer::Refused(reason) = answer(before.state, Request::SetLive) {
            return Err(crate::engine::refused(&before, Request::SetLive, reason));
        }
        let spec = changes.apply(&before)?;
        let steps = self.steps_of_set(&before, &spec)?;
        if steps.is_empty() {
            let sandbox = self.record_spec(id, changes)?;
            return Ok(applied(sandbox, &before.spec, before.state));
        }
        let verb = if changes.name.is_some() { Verb::Rename } else { Verb::Set };
        let operation = self.new_operation();
        match self.enter(id, Request::SetLive, verb, &operation, watch)? {
            Entry::AlreadySo(sandbox) => Ok(applied(sandbox, &before.spec, before.state)),
            Entry::Seated(seat, record) => {
                // It may have been started or stopped while we waited for the seat.
                let changes = &Changes { ports: changes.ports.resolved(&record)?, ..changes.clone() };
                let steps = self.steps_of_set(&record, &changes.apply(&record)?)?;
                self.simply(&seat, &plan::plan(verb, &record, steps), operation, watch)?;
                let sandbox = self.record_spec(id, changes).inspect_err(|_| self.look_again())?;
                Ok(applied(sandbox, &record.spec, record.state))
            }
        }
    }

    pub fn rename(&self, id: &SandboxId, name: SandboxName, watch: &dyn Watch) -> Result<Arc<Sandbox>> {
        let changes = Changes { name: Some(name), ..Changes::default() };
        Ok(self.set(id, &changes, watch)?.sandbox)
    }

    pub fn plan_reset(&self, id: &SandboxId) -> Result<Plan> {
        Ok(plan::reset(&*self.get(id)?))
    }

    /// A fresh root under the same work disk.
    pub fn reset(&self, id: &SandboxId, watch: &dyn Watch) -> Result<Arc<Sandbox>> {
        let operation = self.new_operation();
        match self.enter(id, Request::Reset, Verb::Reset, &operation, watch)? {
            Entry::AlreadySo(record) => Ok(record),
            Entry::Seated(seat, record) => self.simply(&seat, &plan::reset(&record), operation, watch),
        }
    }

    /// Notes that code was shipped into the guest; one workspace per guest path.
    pub fn record_workspace(&self, id: &SandboxId, workspace: Workspace) -> Result<Arc<Sandbox>> {
        self.update(id, Saving::Must, None, |record| {
            record.workspaces.retain(|other| other.guest_path != workspace.guest_path);
            record.workspaces.push(workspace);
            Ok(())
        })
    }

    pub fn forget_workspace(&self, id: &SandboxId, guest_path: &str) -> Result<Arc<Sandbox>> {
        self.update(id, Saving::Must, None, |record| {
            record.workspaces.retain(|other| other.guest_path != guest_path);
            Ok(())
        })
    }

    /// What the host has to be told before the record may say so.
    fn steps_of_set(&self, record: &Sandbox, spec: &SandboxSpec) -> Result<Vec<Step>> {
        let old = &record.spec;
        let mut wanted = record.clone();
        wanted.spec = spec.clone();
        if spec.name != old.name {
            self.admit_name(&lock(&self.table), &wanted, Some(&record.id))?;
        }
        let mut steps = Vec::new();
        let grows = spec.disk_size != old.disk_size || spec.root_size != old.root_size;
        if grows && record.has_disks && answer(record.state, Request::SetOffline) == Answer::Begin {
            steps.push(Step::EnsureDisks(plan::disks(&wanted)));
        }
        if record.state == State::Running {
            if grows {
                let disks = plan::disks(&wanted);
                steps.extend([Step::ExtendDisks(disks.clone()), Step::EnsureDrives, Step::EnsureFileSystems(disks)]);
            }
            // A device comes and goes with the machine; what may pass through it changes at once.
            let relinks = spec.name != old.name || spec.egress != old.egress;
            let same_device = spec.egress.outbound.has_link() == old.egress.outbound.has_link();
            if let Some(backend) = record.backend.filter(|_| relinks && same_device) {
                steps.push(Step::EnsureLink(plan::link(&wanted, backend)));
            }
            if spec.name != old.name {
                steps.push(Step::Identify);
            }
            if spec.ports != old.ports {
                steps.push(Step::EnsurePorts(spec.ports.clone()));
            }
        }
        Ok(steps)
    }

    fn record_spec(&self, id: &SandboxId, changes: &Changes) -> Result<Arc<Sandbox>> {
        self.update_with_table(id, None, |table, record| {
            record.spec = changes.apply(record)?;
            match &changes.name {
                Some(_) => self.admit_name(table, record, Some(id)),
                None => Ok(()),
            }
        })
    }
}

impl Changes {
    fn apply(&self, record: &Sandbox) -> Result<SandboxSpec> {
        let spec = &record.spec;
        let mut new = spec.clone();
        let name = &spec.name;
        for (what, old, wanted) in
            [("disk", spec.disk_size, self.disk_size), ("root disk", spec.root_size, self.root_size)]
        {
            if let Some(size) = wanted.filter(|size| *size < old) {
                let attempt = format!("cannot shrink the {what} of {name} from {old} to {size}");
                return Err(Error::new(Kind::Invalid, attempt).with_hint("a disk can only grow"));
            }
        }
        new.name = self.name.clone().unwrap_or(new.name);
        new.vcpus = self.vcpus.unwrap_or(new.vcpus);
        new.memory = self.memory.unwrap_or(new.memory);
        new.disk_size = self.disk_size.unwrap_or(new.disk_size);
        new.root_size = self.root_size.unwrap_or(new.root_size);
        new.restart = self.restart.unwrap_or(new.restart);
        new.egress.outbound = self.outbound.unwrap_or(new.egress.outbound);
        new.egress.allow_networks = self.allow_networks.clone().unwrap_or(new.egress.allow_networks);
        new.egress.allow_vms = self.allow_vms.clone().unwrap_or(new.egress.allow_vms);
        new.stop_when_idle_s = self.stop_when_idle_s.unwrap_or(new.stop_when_idle_s);
        new.ports = self.ports.apply(record)?;
        new.auto_forward = self.auto_forward.unwrap_or(new.auto_forward);
        for (key, value) in &self.labels {
            match value {
                Some(value) => drop(new.labels.insert(key.clone(), value.clone())),
                None => drop(new.labels.remove(key)),
            }
        }
        let invalid = |error| Error::new(Kind::Invalid, format!("cannot change {name}")).with_source(error);
        new.validate().map_err(invalid)?;
        Ok(new)
    }
}

/// CPUs and memory of a machine that is on are as they were when it booted; its disks grow while its guest can be asked.
fn applied(sandbox: Arc<Sandbox>, old: &SandboxSpec, state: State) -> Applied {
    let new = &sandbox.spec;
    let mut live = Vec::new();
    let mut at_boot = Vec::new();
    let note = |list: &mut Vec<&'static str>, what, changed| {
        if changed {
            list.push(what);
        }
    };
    note(&mut live, "name", new.name != old.name);
    note(&mut live, "restart", new.restart != old.restart);
    let same_device = new.egress.outbound.has_link() == old.egress.outbound.has_link();
    note(&mut live, "outbound", new.egress.outbound != old.egress.outbound && same_device);
    note(&mut at_boot, "outbound", !same_device);
    let opened = |spec: &SandboxSpec| (spec.egress.allow_networks.clone(), spec.egress.allow_vms.clone());
    note(&mut live, "allowed", opened(new) != opened(old));
    note(&mut live, "stop_when_idle", new.stop_when_idle_s != old.stop_when_idle_s);
    note(&mut live, "labels", new.labels != old.labels);
    note(&mut live, "ports", new.ports != old.ports);
    note(&mut live, "auto_forward", new.auto_forward != old.auto_forward);
    note(&mut at_boot, "vcpus", new.vcpus != old.vcpus);
    note(&mut at_boot, "memory", new.memory != old.memory);
    let disks = if state == State::Running { &mut live } else { &mut at_boot };
    note(disks, "disk_size", new.disk_size != old.disk_size);
    note(disks, "root_size", new.root_size != old.root_size);
    let mut at_next_start = Vec::new();
    match answer(state, Request::SetOffline) {
        Answer::Begin | Answer::AlreadySo => live.extend(at_boot),
        Answer::Refused(_) => at_next_start = at_boot,
    }
    Applied { sandbox, live, at_next_start }
}
