//! Compares everything this installation made on the host with the records, in both directions.
//!
//! The seams see processes, links and disks; the journal sees operations that never ended. What belongs to a driver
//! at work is left out: it is changing while we look.

use crate::engine::Engine;
use crate::error::Result;
use crate::host::network::LinkMode;
use crate::host::vmm::VmmState;
use crate::lock;
use crate::plan::Verb;
use crate::reconcile::{Facts, Verdict, judge};
use crate::sandbox::Sandbox;
use model::{SandboxId, State};
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// `process`, `link`, `disk`, `record`, `operation`, `host`, `file`, `lock`, `name`.
    pub what: &'static str,
    /// A sandbox's name where it has a record, else its id.
    pub subject: String,
    /// One sentence: what is there and should not be, or is not there and should.
    pub detail: String,
    pub mended: bool,
}

impl Finding {
    pub fn new(what: &'static str, subject: impl ToString, detail: impl Into<String>) -> Self {
        Finding { what, subject: subject.to_string(), detail: detail.into(), mended: false }
    }
}

impl Engine {
    /// Empty when all is well. Looks a second time before it accuses: what was half done at the first look, because a
    /// driver ended between two observations, is whole at the second.
    pub fn audit(&self) -> Result<Vec<Finding>> {
        let mut findings = self.look()?;
        if !findings.is_empty() {
            let again = self.look()?;
            findings.retain(|finding| again.contains(finding));
        }
        Ok(findings)
    }

    fn look(&self) -> Result<Vec<Finding>> {
        let facts = self.observe()?;
        let records: BTreeMap<_, _> = self.list().iter().map(|record| (record.id.clone(), record.clone())).collect();
        let mut findings = Vec::new();
        for record in records.values().filter(|record| !self.is_driven(&record.id)) {
            findings.extend(findings_of(record, &facts));
        }
        findings.extend(self.orphans(&facts, &records));
        for operation in self.store.open_operations()? {
            let driven = self.gate(&operation.sandbox).is_ok_and(|gate| gate.driver().is_some())
                || lock(&self.cared_for).contains(&operation.sandbox);
            if !driven {
                let detail = format!("{} of {} never ended", operation.verb, operation.name);
                findings.push(Finding::new("operation", &operation.id, detail));
            }
        }
        Ok(findings)
    }

    /// Mends what can be mended, then looks again: a finding that is gone is mended. Disks without a record are removed
    /// only if the journal knows whose they were: a lost database must not cost anybody's work.
    pub fn audit_fix(&self) -> Result<Vec<Finding>> {
        let mut findings = self.audit()?;
        self.reconcile();
        self.remove_orphans()?;
        let left = self.audit()?;
        for finding in &mut findings {
            finding.mended = !left.iter().any(|other| other.what == finding.what && other.subject == finding.subject);
        }
        Ok(findings)
    }

    fn is_driven(&self, id: &SandboxId) -> bool {
        if lock(&self.cared_for).contains(id) {
            return true;
        }
        let table = lock(&self.table);
        table.slots.get(id).is_none_or(|slot| slot.gate.driver().is_some())
    }

    fn orphans(&self, facts: &Facts, records: &BTreeMap<SandboxId, Arc<Sandbox>>) -> Vec<Finding> {
        let unknown = |id: &&SandboxId| !records.contains_key(*id) && self.get(id).is_err();
        let mut findings = Vec::new();
        for id in facts.vmms.keys().filter(unknown) {
            findings.push(Finding::new("process", id, "a VMM, or what is left of one, of a VM that has no record"));
        }
        for id in facts.links.keys().filter(unknown) {
            findings.push(Finding::new("link", id, "a network link of a VM that has no record"));
        }
        for id in facts.disks.keys().filter(unknown) {
            findings.push(Finding::new("disk", id, "disks of a VM that has no record"));
        }
        findings
    }

    fn remove_orphans(&self) -> Result<()> {
        let facts = self.observe()?;
        let unknown = |id: &&SandboxId| self.get(id).is_err();
        for id in facts.vmms.keys().filter(unknown) {
            let _change = self.host.vmm.ensure_stopped(id, None);
        }
        for id in facts.links.keys().filter(unknown) {
            let _change = self.host.network.remove_link(id);
        }
        for id in facts.disks.keys().filter(unknown) {
            if self.store.knows(id)? {
                let _change = self.host.disk.remove_disks(id);
            }
        }
        Ok(())
    }
}

/// A record against the machine. What `reconcile` would do about it is what is wrong with it.
fn findings_of(record: &Sandbox, facts: &Facts) -> Vec<Finding> {
    let finding = |what, detail: &str| Finding::new(what, record.name(), detail);
    let mut findings = Vec::new();
    match judge(record, facts, None::<Verb>) {
        Verdict::Keep => {}
        Verdict::Adopt(state) if state == record.state => {}
        Verdict::Adopt(state) => {
            findings.push(finding("record", &format!("recorded as {}, it is {state}", record.state)));
        }
        Verdict::Await => {
            findings.push(finding("process", &format!("a VMM runs, and it is recorded as {}", record.state)))
        }
        Verdict::Ended { .. } => findings.push(finding("record", "recorded as running, and no VMM is there")),
        Verdict::FinishStop => findings.push(finding("process", "a VMM runs, and its stop was cut short")),
        Verdict::TurnOff(_) => findings.push(finding("record", &describe_remains(record, facts))),
        Verdict::Remove => findings.push(finding("record", "its removal was cut short")),
    }
    let wants_tap = record.attachment.as_ref().is_some_and(|link| matches!(link.mode, LinkMode::Tap { .. }));
    if record.state == State::Running && wants_tap && !facts.links.contains_key(&record.id) {
        findings.push(finding("link", "recorded as running, and its network link is missing"));
    }
    if record.has_disks && record.state != State::Removing && !facts.disks.contains_key(&record.id) {
        findings.push(finding("disk", "its disks are missing"));
    }
    findings
}

fn describe_remains(record: &Sandbox, facts: &Facts) -> String {
    let vmm = facts.vmms.get(&record.id).map(|facts| match &facts.state {
        VmmState::Running | VmmState::Paused => "a VMM runs".to_owned(),
        VmmState::Ended(_) => "a VMM that has ended was not cleared away".to_owned(),
        VmmState::Remains { what } => what.clone(),
    });
    let link = facts.links.contains_key(&record.id).then(|| "a network link is there".to_owned());
    let left: Vec<_> = [vmm, link].into_iter().flatten().collect();
    let left = if left.is_empty() { "nothing runs".to_owned() } else { left.join(", ") };
    format!("recorded as {}, and {left}", record.state)
}
