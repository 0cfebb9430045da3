//! What is there, compared with what was noted, and who else on this host has a say. Changes nothing.

use super::{Root, bridge, names, rules};
use crate::failure::{Attempt, Result};
use crate::sysctl::{self, IP_FORWARD, IP6_FORWARD};
use crate::{nft, tap};
use serde_json::Value;
use wire::privilege::address::{BRIDGE, TAP_PREFIX};
use wire::privilege::facts::{BridgeFacts, Facts, Forwarding, Obstacle, TapFacts, Version};

pub fn version() -> Version {
    Version {
        helper: env!("CARGO_PKG_VERSION").to_owned(),
        interface: wire::version::PRIVILEGE,
        pid: std::process::id(),
    }
}

pub fn facts(root: &mut Root) -> Result<Facts> {
    let links = root.netlink.links().attempt(|| "cannot list the links")?;
    let found = bridge::find(root)?;
    let rules = rules::state(root)?;
    let notes = root.ledger.notes();
    let bridge = notes.bridge.as_ref().map(|note| BridgeFacts {
        range: note.range,
        up: found.as_ref().is_some_and(|link| link.up),
        ipv6: sysctl::has_ipv6(),
    });
    let taps = notes.taps.iter().map(|(device, note)| {
        let link = links.iter().find(|link| link.name == *device);
        let in_use = link.is_some_and(|link| link.carrier);
        TapFacts { id: note.id.clone(), device: device.clone(), present: link.is_some(), in_use }
    });
    let strangers = links.iter().filter(|link| {
        let tap = link.name.starts_with(TAP_PREFIX) && !notes.taps.contains_key(&link.name);
        tap || (link.name == BRIDGE && found.is_none())
    });
    Ok(Facts {
        version: version(),
        bridge,
        taps: taps.collect(),
        rules,
        forwarding: Forwarding {
            ipv4: sysctl::is_on(IP_FORWARD).unwrap_or(false),
            ipv4_ours: notes.forwarding.is_some(),
            ipv6: sysctl::is_on(IP6_FORWARD).unwrap_or(false),
        },
        obstacles: obstacles(),
        strangers: strangers.map(|link| link.name.clone()).collect(),
        tun_open: tap::open_to(root.owner, root.owner),
        names_file: names::file().map(|path| path.display().to_string()),
    })
}

/// Chains of others that drop forwarded packets they do not know. An accept in our table cannot overrule them: every
/// table has its say.
pub fn obstacles() -> Vec<Obstacle> {
    let chains = match nft::list(&["list", "chains"]) {
        Ok(chains) => chains,
        Err(error) => return vec![Obstacle { holder: "nft".to_owned(), effect: error.to_string(), hint: None }],
    };
    let mut obstacles: Vec<Obstacle> = Vec::new();
    for chain in chains.iter().filter_map(|entry| entry.get("chain")) {
        if let Some(obstacle) = judge(chain, &chains)
            && !obstacles.contains(&obstacle)
        {
            obstacles.push(obstacle);
        }
    }
    obstacles
}

fn judge(chain: &Value, chains: &[Value]) -> Option<Obstacle> {
    let text = |field: &str| chain.get(field).and_then(Value::as_str).unwrap_or_default();
    let (family, table) = (text("family"), text("table"));
    if text("hook") != "forward" || table == crate::rules::TABLE {
        return None;
    }
    let dropping = text("policy") == "drop";
    let sibling = |name: &str| {
        chains.iter().filter_map(|entry| entry.get("chain")).any(|other| {
            other.get("family") == chain.get("family")
                && other.get("table") == chain.get("table")
                && other.get("name").and_then(Value::as_str) == Some(name)
        })
    };
    if table == "firewalld" {
        return Some(Obstacle {
            holder: "firewalld".to_owned(),
            effect: format!("rejects forwarded traffic of `{BRIDGE}` unless a zone trusts it"),
            hint: Some(format!(
                "firewall-cmd --permanent --zone=trusted --add-interface={BRIDGE} && firewall-cmd --reload"
            )),
        });
    }
    let effect =
        format!("drops forwarded packets it does not know (table `{family} {table}`, chain `{}`)", text("name"));
    if dropping && sibling("DOCKER-USER") {
        let program = if family == "ip6" { "ip6tables" } else { "iptables" };
        let hint =
            format!("{program} -I DOCKER-USER -i {BRIDGE} -j ACCEPT && {program} -I DOCKER-USER -o {BRIDGE} -j ACCEPT");
        return Some(Obstacle { holder: "docker".to_owned(), effect, hint: Some(hint) });
    }
    dropping.then(|| Obstacle { holder: format!("{family} {table}"), effect, hint: None })
}
