//! The firewall: a policy comes in, both tables are replaced in one transaction, and the neighbour table is nailed to
//! the same addresses.

use super::{Root, bridge};
use crate::batch::Step;
use crate::checkpoint;
use crate::failure::{Attempt, Failure, Result};
use crate::generation::Generation;
use crate::ledger::Applied;
use crate::nft::{self, NftError};
use crate::rules::{self, Arrival, TABLE};
use model::{Change, SandboxId};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::IpAddr;
use wire::FaultKind;
use wire::privilege::address::{self, Mac, Range};
use wire::privilege::facts::{Done, RefusedEntry, RefusedLog, RulesState};
use wire::privilege::policy::Policy;

/// Seconds that a refused connection is remembered; `rules` says the same to the firewall.
const REMEMBERED_S: u64 = 3600;

pub fn apply(root: &mut Root, policy: &Policy) -> Result<Done> {
    let (link, range) = bridge::require(root)?;
    policy.check(range).map_err(|error| {
        Failure::new(FaultKind::Invalid, "the policy does not fit the address plan").with_source(error)
    })?;
    let ruled = commit(root, policy, range)?;
    let nailed = nail_neighbours(root, policy, range, link.index)?;
    Ok(Done { change: ruled.and(nailed) })
}

/// A bridge without a policy gets the empty one: nothing passes.
pub fn ensure_floor(root: &mut Root, range: Range) -> Result<Change> {
    match state(root)? {
        RulesState::None => commit(root, &Policy::default(), range),
        // What somebody else changed is mended by the next policy; emptying it here would cut running guests off.
        RulesState::Changed if listing()?.is_none() => commit(root, &Policy::default(), range),
        RulesState::InSync | RulesState::Changed => Ok(Change::Unchanged),
    }
}

/// Whether the rules are those that were applied. Where nobody can tell, they count as changed: applying them again
/// costs little and mends everything.
pub fn state(root: &mut Root) -> Result<RulesState> {
    if !root.ledger.notes().tables {
        return Ok(RulesState::None);
    }
    let Some(mut applied) = root.applied.take() else { return Ok(RulesState::Changed) };
    let current = generation(root)?;
    let untouched = applied.generation == current;
    if !untouched || applied.listing.is_none() {
        let listed = listing()?;
        if !untouched && (listed.is_none() || listed != applied.listing) {
            root.applied = Some(applied);
            return Ok(RulesState::Changed);
        }
        // Whoever raised the generation changed rules of their own.
        (applied.listing, applied.generation) = (listed, current);
        root.ledger.keep_applied(&applied)?;
    }
    root.applied = Some(applied);
    Ok(RulesState::InSync)
}

/// Removes both tables, if we made them.
pub fn remove(root: &mut Root) -> Result<Change> {
    if !root.ledger.notes().tables {
        return Ok(Change::Unchanged);
    }
    nft::commit(&rules::render_removal()).attempt(|| "cannot remove the firewall tables")?;
    root.applied = None;
    checkpoint::reached("the tables are removed");
    root.ledger.forget_applied()?;
    root.ledger.note(|notes| notes.tables = false)?;
    checkpoint::reached("the tables are forgotten");
    Ok(Change::Changed)
}

fn commit(root: &mut Root, policy: &Policy, range: Range) -> Result<Change> {
    let before = generation(root)?;
    let applied = root.applied.take().filter(|applied| applied.generation == before && applied.range == range);
    let steps = applied.as_ref().and_then(|applied| rules::change(&applied.policy, policy, range));
    if steps.as_ref().is_some_and(Vec::is_empty) {
        root.applied = applied;
        return Ok(Change::Unchanged);
    }
    let (change, listing) = match steps {
        Some(steps) => step(root, &steps, before).or_else(|_| replace(root, policy, range))?,
        None => replace(root, policy, range)?,
    };
    let generation = generation(root)?;
    let applied = Applied { policy: policy.clone(), range, generation, listing };
    // Only if exactly our one transaction lies between the two readings is the result known to be ours alone.
    match generation == before.next() {
        true => root.ledger.keep_applied(&applied)?,
        false => root.ledger.forget_applied()?,
    }
    checkpoint::reached("the policy is recorded");
    root.applied = (generation == before.next()).then_some(applied);
    Ok(change)
}

/// The short way: nobody touched the rules, so single elements come and go.
fn step(root: &Root, steps: &[Step], from: Generation) -> Result<(Change, Option<Value>)> {
    if root.generations.commit(steps, from).is_err() {
        nft::commit(&rules::render_change(steps)).map_err(unfit)?;
    }
    checkpoint::reached("elements are committed");
    Ok((Change::Changed, None))
}

/// The sure way: everything is replaced, whatever was there.
fn replace(root: &mut Root, policy: &Policy, range: Range) -> Result<(Change, Option<Value>)> {
    root.ledger.note(|notes| notes.tables = true)?;
    checkpoint::reached("the tables are noted");
    let before = listing()?;
    match nft::commit(&rules::render(policy, range, Arrival::Keep)) {
        // Sets of another version stand in the way; then the tables are made anew.
        Err(NftError::Refused { .. }) => nft::commit(&rules::render(policy, range, Arrival::Afresh)),
        other => other,
    }
    .map_err(unfit)?;
    checkpoint::reached("the rules are committed");
    let after = listing()?;
    Ok((if before == after { Change::Unchanged } else { Change::Changed }, after))
}

fn generation(root: &Root) -> Result<Generation> {
    root.generations.current().attempt(|| "cannot ask for the generation of the firewall rules")
}

fn unfit(error: NftError) -> Failure {
    let hint = match &error {
        NftError::Missing => "install it: `apt install nftables`, `dnf install nftables`, `pacman -S nftables`",
        _ => "banger needs nftables 1.0 and a kernel with NAT and bridge filtering; `banger doctor` tells",
    };
    Failure::new(FaultKind::HostUnfit, "cannot write the firewall rules").with_source(error).with_hint(hint)
}

/// Both tables as they are now; `None` if one is missing.
fn listing() -> Result<Option<Value>> {
    let attempt = || "cannot list the firewall rules";
    let inet = nft::listing("inet", TABLE).attempt(attempt)?;
    let bridge = nft::listing("bridge", TABLE).attempt(attempt)?;
    Ok(inet.zip(bridge).map(|(inet, bridge)| serde_json::json!({ "inet": inet, "bridge": bridge })))
}

/// No guest can claim another's address from the host: permanent entries ignore answers.
fn nail_neighbours(root: &mut Root, policy: &Policy, range: Range, index: u32) -> Result<Change> {
    let attempt = || "cannot write the neighbour table";
    let ipv6 = crate::sysctl::has_ipv6();
    let mut wanted: BTreeMap<IpAddr, Mac> = BTreeMap::new();
    for guest in &policy.guests {
        wanted.insert(guest.ipv4.into(), address::mac(&guest.id));
        if ipv6 {
            wanted.insert(range.address_v6(&guest.id).into(), address::mac(&guest.id));
        }
    }
    let nailed = root.netlink.permanent_neighbours(index).attempt(attempt)?;
    for address in nailed.keys().filter(|address| !wanted.contains_key(address)) {
        root.netlink.remove_neighbour(index, *address).attempt(attempt)?;
    }
    for (address, mac) in wanted.iter().filter(|(address, mac)| nailed.get(address) != Some(mac)) {
        root.netlink.ensure_neighbour(index, *address, *mac).attempt(attempt)?;
    }
    Ok(if nailed == wanted { Change::Unchanged } else { Change::Changed })
}

/// What one sandbox was refused, newest first.
pub fn refused(root: &mut Root, id: &SandboxId) -> Result<RefusedLog> {
    let Some(note) = root.ledger.notes().bridge.clone() else { return Ok(RefusedLog { entries: Vec::new() }) };
    let macs = [("refused4", address_v4(root, id)?), ("refused6", Some(note.range.address_v6(id).into()))];
    let mut entries = Vec::new();
    for (set, source) in macs {
        let Some(source) = source else { continue };
        let listed = match nft::list_counted(&["list", "set", "inet", TABLE, set]) {
            Err(NftError::Refused { .. }) => continue,
            other => other.attempt(|| "cannot read the refused connections")?,
        };
        entries.extend(listed.iter().flat_map(elements).filter_map(|element| read(element, source)));
    }
    entries.sort_by_key(|entry: &RefusedEntry| entry.last_s);
    Ok(RefusedLog { entries })
}

/// The address that the neighbour table has for this sandbox: the one of the last policy.
fn address_v4(root: &mut Root, id: &SandboxId) -> Result<Option<IpAddr>> {
    let Some(link) = bridge::find(root)? else { return Ok(None) };
    let nailed = root.netlink.permanent_neighbours(link.index).attempt(|| "cannot read the neighbour table")?;
    let mac = address::mac(id);
    Ok(nailed.into_iter().find(|(address, holder)| address.is_ipv4() && *holder == mac).map(|(address, _)| address))
}

fn elements(entry: &Value) -> &[Value] {
    entry.pointer("/set/elem").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// `{"elem": {"val": {"concat": [source, destination, protocol, port]}, "expires": s, "counter": {"packets": n}}}`
fn read(element: &Value, source: IpAddr) -> Option<RefusedEntry> {
    let element = element.get("elem")?;
    let [from, to, protocol, port] = element.pointer("/val/concat")?.as_array()?.as_slice() else { return None };
    if from.as_str()?.parse::<IpAddr>().ok()? != source {
        return None;
    }
    let left_s = element.get("expires").and_then(Value::as_u64).unwrap_or(0);
    Some(RefusedEntry {
        destination: to.as_str()?.parse().ok()?,
        protocol: protocol_name(protocol),
        port: u16::try_from(port.as_u64()?).ok()?,
        packets: element.pointer("/counter/packets").and_then(Value::as_u64).unwrap_or(0),
        last_s: REMEMBERED_S.saturating_sub(left_s),
    })
}

fn protocol_name(protocol: &Value) -> String {
    match protocol.as_u64() {
        Some(1) => "icmp".to_owned(),
        Some(6) => "tcp".to_owned(),
        Some(17) => "udp".to_owned(),
        Some(number) => number.to_string(),
        None => protocol.as_str().unwrap_or("unknown").to_owned(),
    }
}
