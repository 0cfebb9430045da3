//! Unmakes what the ledger tells of, in an order in which no guest is ever connected without rules, and goes on past
//! a failure.

use super::{Root, bridge, forwarding, names, rules, tap};
use crate::checkpoint;
use crate::failure::{Attempt, Failure, Result};
use model::Change;
use wire::FaultKind;
use wire::privilege::address::BRIDGE;
use wire::privilege::facts::Down;

pub fn all(root: &mut Root) -> Result<Down> {
    let mut failures = Vec::new();
    let mut kept = Vec::new();
    let mut change = Change::Unchanged;
    let devices: Vec<String> = root.ledger.notes().taps.keys().cloned().collect();
    let mut settle = |step: Result<Change>| match step {
        Ok(step) => change = change.and(step),
        Err(failure) => failures.push(failure),
    };
    for device in devices {
        settle(tap::unmake(root, &device));
    }
    settle(remove_bridge(root));
    settle(rules::remove(root));
    settle(names::remove_file(root));
    settle(forwarding::restore(root).map(|reason| {
        kept.extend(reason);
        Change::Unchanged
    }));
    report(failures)?;
    Ok(Down { change, kept })
}

fn remove_bridge(root: &mut Root) -> Result<Change> {
    if root.ledger.notes().bridge.is_none() {
        return Ok(Change::Unchanged);
    }
    if let Some(link) = bridge::find(root)? {
        root.netlink.delete_link(link.index).attempt(|| format!("cannot remove the bridge `{BRIDGE}`"))?;
        checkpoint::reached("the bridge is removed");
    }
    root.ledger.note(|notes| notes.bridge = None)?;
    checkpoint::reached("the bridge is forgotten");
    Ok(Change::Changed)
}

/// One failure is told as it is; of several the rest become its causes.
fn report(failures: Vec<Failure>) -> Result<()> {
    let mut failures = failures.into_iter();
    let Some(first) = failures.next() else { return Ok(()) };
    let others: Vec<String> = failures.map(|failure| failure.to_string()).collect();
    if others.is_empty() {
        return Err(first);
    }
    let sentence = format!("{first}; {}", others.join("; "));
    Err(Failure::new(FaultKind::HostUnfit, sentence).with_hint("run `banger system network down` again"))
}
