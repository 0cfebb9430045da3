//! `banger doctor`: one verdict a line about this machine, the backends and why one was chosen, and every default with
//! where it comes from. It looks and changes nothing.

mod machine;
mod network;

use crate::app::{App, HostKind};
use crate::config::defaults::{From, Provenance};
use engine::host::vmm::{BackendFacts, Features, choose};
use model::VmmChoice;
use std::fmt::Display;
use wire::control::{BackendRow, Check, DefaultRow, Doctor, Verdict};

pub fn examine(app: &App) -> Doctor {
    let backends = app.host.vmm.backends();
    let mut checks = vec![choice(&backends)];
    match app.kind {
        HostKind::Sim => checks.push(check("host", Verdict::Warn, "simulated: nothing here is a real machine", None)),
        HostKind::Real => {
            checks.extend(machine::checks(app));
            checks.extend(network::checks(app));
        }
    }
    Doctor { checks, backends: rows(&backends), defaults: defaults(app) }
}

fn check(name: &str, verdict: Verdict, detail: impl Into<String>, hint: Option<&str>) -> Check {
    Check { name: name.to_owned(), verdict, detail: detail.into(), hint: hint.map(str::to_owned) }
}

fn choice(backends: &[BackendFacts]) -> Check {
    match choose(VmmChoice::Auto, backends) {
        Ok(chosen) => {
            let facts = backends.iter().find(|facts| facts.backend == chosen);
            let reason = facts.map(|facts| facts.reason.clone()).unwrap_or_default();
            check("backend", Verdict::Pass, format!("{chosen}: {reason}"), None)
        }
        Err(reason) => check(
            "backend",
            Verdict::Fail,
            reason,
            Some("install `qemu-system-x86`, or Firecracker on a machine with KVM"),
        ),
    }
}

fn rows(backends: &[BackendFacts]) -> Vec<BackendRow> {
    let chosen = choose(VmmChoice::Auto, backends).ok();
    let row = |facts: &BackendFacts| BackendRow {
        backend: facts.backend.word().to_owned(),
        usable: facts.usable,
        chosen: chosen == Some(facts.backend),
        reason: facts.reason.clone(),
        version: facts.version.clone(),
        accelerated: facts.accelerated,
        features: words(facts.features),
    };
    backends.iter().map(row).collect()
}

fn words(features: Features) -> Vec<String> {
    let Features { vsock, network, pause, snapshot, balloon, entropy } = features;
    let all = [
        (vsock, "vsock"),
        (network, "network"),
        (pause, "pause"),
        (snapshot, "snapshot"),
        (balloon, "balloon"),
        (entropy, "entropy"),
    ];
    all.into_iter().filter(|(has, _)| *has).map(|(_, word)| word.to_owned()).collect()
}

fn defaults(app: &App) -> Vec<DefaultRow> {
    fn row<T: Display>(name: &str, default: &From<T>) -> DefaultRow {
        described(name, default.value.to_string(), default.provenance)
    }
    fn described(name: &str, value: String, provenance: Provenance) -> DefaultRow {
        DefaultRow { name: name.to_owned(), value, provenance: provenance.to_string() }
    }
    let defaults = &app.defaults;
    let seconds = |duration: std::time::Duration| format!("{} s", duration.as_secs());
    vec![
        row("image", &defaults.image),
        row("kernel", &defaults.kernel),
        row("vcpu", &defaults.vcpus),
        row("memory", &defaults.memory),
        row("disk_size", &defaults.disk_size),
        row("root_size", &defaults.root_size),
        row("restart", &defaults.restart),
        described("ready_timeout", seconds(defaults.ready_timeout.value), defaults.ready_timeout.provenance),
        described("stop_grace", seconds(defaults.stop_grace.value), defaults.stop_grace.provenance),
    ]
}
