//! How sandboxes are connected on this host, and whether anything stands in the way.

use super::check;
use crate::app::App;
use crate::host::network::bridged::Bridged;
use crate::server::obstacle;
use std::net::ToSocketAddrs;
use std::path::Path;
use std::time::Duration;
use wire::control::{Check, Verdict};
use wire::privilege::address::BRIDGE;
use wire::privilege::facts::{Facts, RulesState};

/// A resolver that works answers in milliseconds.
const RESOLVE_PATIENCE: Duration = Duration::from_secs(2);

pub fn checks(app: &App) -> Vec<Check> {
    let Some(network) = &app.network else { return Vec::new() };
    let choice = network.choice();
    let mut checks = vec![check("network", Verdict::Pass, format!("{}: {}", choice.mode, choice.reason), None)];
    checks.extend(bridge(network));
    checks.extend(names(app, network));
    checks
}

/// A name that is always there, asked for as any program of this host asks. Absent where the name server is off.
fn names(app: &App, network: &Bridged) -> Option<Check> {
    let server = app.dns.get()?;
    if resolves_here() {
        return Some(check("names", Verdict::Pass, format!("this host finds sandboxes by name, at {server}"), None));
    }
    let why = match network.told_host() {
        Some(Err(why)) => format!("; {why}"),
        // A link without carrier, which a bridge has with its first tap, counts for nothing there.
        Some(Ok(())) if !has_carrier(network) => {
            let detail = format!("this host asks {server} as soon as a sandbox is on the bridge");
            return Some(check("names", Verdict::Pass, detail, None));
        }
        Some(Ok(())) => "; its resolver was told, and still it does not".to_owned(),
        None => String::new(),
    };
    let detail = format!("this host does not ask {server} for names below `.vm`{why}");
    Some(check("names", Verdict::Warn, detail, Some(&advice(&server.to_string()))))
}

fn has_carrier(network: &Bridged) -> bool {
    let facts = network.facts().ok().flatten();
    facts.is_some_and(|facts| facts.taps.iter().any(|tap| tap.in_use))
}

/// One line for who may change the resolver; `banger vm ssh` and `ssh NAME.vm` need none of it.
fn advice(server: &str) -> String {
    let (address, port) = server.rsplit_once(':').unwrap_or((server, "53"));
    let manager = std::fs::read_to_string("/etc/NetworkManager/NetworkManager.conf").unwrap_or_default();
    match () {
        () if Path::new("/run/systemd/resolve").is_dir() => format!(
            "put `DNS={server}` and `Domains=~vm` below `[Resolve]` in /etc/systemd/resolved.conf.d/banger.conf and run \
             `systemctl restart systemd-resolved`"
        ),
        () if manager.contains("dns=dnsmasq") => format!(
            "put `server=/vm/{address}#{port}` in /etc/NetworkManager/dnsmasq.d/banger.conf and run `nmcli general reload dns-full`"
        ),
        () => {
            format!("let this host's resolver ask {address}, port {port}, for names below `vm`; ssh needs none of it")
        }
    }
}

/// Asked of the C library, which asks whatever this host is set up to ask; a resolver that hangs is none.
fn resolves_here() -> bool {
    let (sender, answer) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let found = ("ns.vm", 0u16).to_socket_addrs();
        let _ = sender.send(found.is_ok_and(|mut found| found.any(|address| address.ip().is_loopback())));
    });
    answer.recv_timeout(RESOLVE_PATIENCE).unwrap_or(false)
}

/// Nothing to tell where there is no bridge and nobody who could make one.
fn bridge(network: &Bridged) -> Option<Check> {
    let facts = match network.facts() {
        Ok(facts) => facts?,
        Err(error) => {
            return Some(check("bridge", Verdict::Fail, error.to_string(), Some("`banger system network status`")));
        }
    };
    let (verdict, detail, hint) = verdict(&facts);
    Some(check("bridge", verdict, detail, hint))
}

fn verdict(facts: &Facts) -> (Verdict, String, Option<&'static str>) {
    if let Some(stranger) = facts.strangers.first() {
        let detail = format!("a device `{stranger}` exists that banger did not make");
        return (Verdict::Warn, detail, Some("rename or remove it"));
    }
    if !facts.obstacles.is_empty() {
        let all: Vec<String> = facts.obstacles.iter().map(obstacle).collect();
        return (Verdict::Warn, all.join("; "), Some("let banger's traffic through, or set `network = \"user\"`"));
    }
    let Some(bridge) = &facts.bridge else {
        return (Verdict::Pass, "down; the first sandbox brings it up".to_owned(), None);
    };
    let detail = format!("{BRIDGE} {}, {} taps", bridge.range, facts.taps.len());
    match facts.rules {
        _ if !bridge.up => (Verdict::Fail, format!("{detail}; it is down"), Some("`banger system network up`")),
        RulesState::InSync => (Verdict::Pass, format!("{detail}, rules in force"), None),
        RulesState::None | RulesState::Changed => {
            (Verdict::Warn, format!("{detail}; somebody changed its rules"), Some("`banger system network up`"))
        }
    }
}
