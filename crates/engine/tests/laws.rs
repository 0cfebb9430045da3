//! The law of lives and deaths: whatever is asked, whatever call fails, wherever the daemon dies, after recovery the
//! records equal the world, nothing leaks, no machine is doubled, and every operation that began has ended.
//!
//! A case is a list of requests, each with at most one fault at its n-th host call. The clock is read between any
//! two steps, so a fault there is a death between steps. `PROPTEST_CASES` sets how many; seeds that once failed are
//! in `laws.proptest-regressions`.

mod common;

use common::spec;
use engine::host::HostErrorKind;
use engine::host::Unwatched;
use engine::host::vmm::{VmmExit, VmmState};
use engine::sim::{Boot, Crash, Fault, Shutdown, World};
use engine::{Changes, Engine, Operation, PortChanges, Sandbox, Settings, Start, Store, Verb};
use model::port::{PortForward, PortSelector};
use model::{ByteSize, RestartPolicy, SandboxId, State};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

const NAMES: [&str; 3] = ["web", "db", "job"];

#[derive(Debug, Clone)]
enum Deed {
    Create { name: usize, later: bool, ephemeral: bool, restart: RestartPolicy, port: Option<u16> },
    Start(usize),
    Stop(usize),
    Kill(usize),
    Restart(usize),
    Delete { name: usize, force: bool },
    Grow(usize),
    Rename { name: usize, to: usize },
    Republish { name: usize, port: Option<u16> },
    Reset(usize),
    Pause(usize),
    Resume(usize),
    VmmEnds { name: usize, code: i32, noticed: bool },
    Reboot,
    Tick,
    Reconcile,
    Fix,
    Boots(Boot),
    Shuts(Shutdown),
    TimePasses { seconds: u64 },
    DaemonDies,
}

fn deed() -> impl Strategy<Value = Deed> {
    let name = || 0..NAMES.len();
    let port = || prop_oneof![Just(None), Just(Some(0)), Just(Some(8080))];
    let restart = prop_oneof![Just(RestartPolicy::No), Just(RestartPolicy::OnFailure), Just(RestartPolicy::Always)];
    let create = (name(), prop::bool::weighted(0.2), prop::bool::weighted(0.2), restart, port())
        .prop_map(|(name, later, ephemeral, restart, port)| Deed::Create { name, later, ephemeral, restart, port });
    prop_oneof![
        6 => create,
        3 => name().prop_map(Deed::Start),
        3 => name().prop_map(Deed::Stop),
        1 => name().prop_map(Deed::Kill),
        2 => name().prop_map(Deed::Restart),
        2 => (name(), prop::bool::weighted(0.1)).prop_map(|(name, force)| Deed::Delete { name, force }),
        1 => name().prop_map(Deed::Grow),
        1 => (name(), name()).prop_map(|(name, to)| Deed::Rename { name, to }),
        1 => (name(), port()).prop_map(|(name, port)| Deed::Republish { name, port }),
        1 => name().prop_map(Deed::Reset),
        1 => name().prop_map(Deed::Pause),
        1 => name().prop_map(Deed::Resume),
        2 => (name(), 0..2, any::<bool>()).prop_map(|(name, code, noticed)| Deed::VmmEnds { name, code, noticed }),
        1 => Just(Deed::Reboot),
        3 => Just(Deed::Tick),
        1 => Just(Deed::Reconcile),
        1 => Just(Deed::Fix),
        1 => prop_oneof![Just(Boot::Ready), Just(Boot::Silent), Just(Boot::Dies(0)), Just(Boot::Dies(1))]
            .prop_map(Deed::Boots),
        1 => prop_oneof![Just(Shutdown::Obeys), Just(Shutdown::Ignores), Just(Shutdown::Silent)].prop_map(Deed::Shuts),
        1 => (1..1000u64).prop_map(|seconds| Deed::TimePasses { seconds }),
        1 => Just(Deed::DaemonDies),
    ]
}

fn fault() -> impl Strategy<Value = Option<(u64, Fault)>> {
    let kind = prop_oneof![
        Just(HostErrorKind::Broken),
        Just(HostErrorKind::Busy),
        Just(HostErrorKind::Unfit),
        Just(HostErrorKind::TimedOut),
        Just(HostErrorKind::NotFound),
    ];
    let fault = prop_oneof![
        2 => kind.prop_map(Fault::Error),
        1 => Just(Fault::CrashBefore),
        1 => Just(Fault::CrashAfter),
    ];
    prop_oneof![1 => Just(None), 2 => (1..60u64, fault).prop_map(Some)]
}

struct Lab {
    world: Arc<World>,
    store: Store,
    engine: Option<Engine>,
}

impl Lab {
    fn new() -> Lab {
        let world = World::new(11);
        let store = Store::in_memory().expect("a store in memory opens");
        let engine = Engine::over(store.clone(), world.host(), Settings::default()).ok();
        Lab { world, store, engine }
    }

    /// A new daemon over the old store and world; it may die while it opens.
    fn engine(&mut self) -> &Engine {
        while self.engine.is_none() {
            let (store, host) = (self.store.clone(), self.world.host());
            self.engine = survive(|| Engine::over(store, host, Settings::default()).expect("an engine opens"));
        }
        self.engine.as_ref().expect("it was just opened")
    }

    fn act(&mut self, deed: &Deed, fault: Option<(u64, Fault)>) {
        let world = self.world.clone();
        match fault {
            Some((at, fault)) => world.fail_at(at, fault),
            None => world.fail_never(),
        }
        let engine = self.engine();
        if survive(|| perform(engine, &world, deed)).is_none() || matches!(deed, Deed::DaemonDies) {
            self.engine = None;
        }
    }

    /// A new daemon on a host that works, and all its errands.
    fn recover(&mut self) {
        self.world.fail_never();
        self.engine = None;
        let engine = self.engine();
        for _ in 0..4 {
            for errand in engine.tick() {
                let _outcome = engine.run_errand(&errand, &Unwatched);
            }
        }
    }
}

/// None when the daemon died in it. Everything else that unwinds is a bug.
fn survive<T>(work: impl FnOnce() -> T) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => Some(result),
        Err(panic) if panic.is::<Crash>() => None,
        Err(panic) => resume_unwind(panic),
    }
}

fn perform(engine: &Engine, world: &World, deed: &Deed) {
    let find = |name: &usize| engine.resolve(NAMES[*name]).map(|sandbox| sandbox.id.clone());
    let with = |name: &usize, work: &dyn Fn(&SandboxId)| {
        if let Ok(id) = find(name) {
            work(&id);
        }
    };
    match deed {
        Deed::Create { name, later, ephemeral, restart, port } => {
            let mut wanted = spec(NAMES[*name]);
            wanted.ephemeral = *ephemeral;
            wanted.restart = *restart;
            wanted.ports = ports(*port);
            let start = if *later { Start::Later } else { Start::Now };
            drop(engine.create(wanted, start, &Unwatched));
        }
        Deed::Start(name) => with(name, &|id| drop(engine.start(id, &Unwatched))),
        Deed::Stop(name) => with(name, &|id| drop(engine.stop(id, None, &Unwatched))),
        Deed::Kill(name) => with(name, &|id| drop(engine.kill(id, None, &Unwatched))),
        Deed::Restart(name) => with(name, &|id| drop(engine.restart(id, &Unwatched))),
        Deed::Delete { name, force } => with(name, &|id| drop(engine.delete(id, *force, &Unwatched))),
        Deed::Grow(name) => with(name, &|id| {
            let size = engine.get(id).map_or(0, |sandbox| sandbox.spec.disk_size.bytes()) * 2;
            let changes = Changes { disk_size: Some(ByteSize::from_bytes(size)), ..Changes::default() };
            drop(engine.set(id, &changes, &Unwatched));
        }),
        Deed::Rename { name, to } => with(name, &|id| {
            drop(engine.rename(id, NAMES[*to].parse().expect("valid"), &Unwatched));
        }),
        Deed::Republish { name, port } => with(name, &|id| {
            let published = engine.get(id).map(|sandbox| sandbox.spec.ports.clone()).unwrap_or_default();
            let remove = published.into_iter().map(PortSelector::Exactly).collect();
            let changes = Changes { ports: PortChanges { add: ports(*port), remove }, ..Changes::default() };
            drop(engine.set(id, &changes, &Unwatched));
        }),
        Deed::Reset(name) => with(name, &|id| drop(engine.reset(id, &Unwatched))),
        Deed::Pause(name) => with(name, &|id| drop(engine.pause(id, &Unwatched))),
        Deed::Resume(name) => with(name, &|id| drop(engine.resume(id, &Unwatched))),
        Deed::VmmEnds { name, code, noticed } => with(name, &|id| {
            let exit = VmmExit { code: Some(*code), signal: None };
            if world.end_vmm(id, exit.clone()) && *noticed {
                drop(engine.vmm_ended(id, &exit));
            }
        }),
        Deed::Reboot => {
            world.reboot_host();
            resume_unwind(Box::new(Crash));
        }
        Deed::Tick => {
            for errand in engine.tick() {
                drop(engine.run_errand(&errand, &Unwatched));
            }
        }
        Deed::Reconcile => drop(engine.reconcile()),
        Deed::Fix => drop(engine.audit_fix()),
        Deed::Boots(boot) => world.set_boot(*boot),
        Deed::Shuts(shutdown) => world.set_shutdown(*shutdown),
        Deed::TimePasses { seconds } => world.pass_time(seconds * 1_000_000_000),
        Deed::DaemonDies => {}
    }
}

fn ports(port: Option<u16>) -> Vec<PortForward> {
    port.iter().map(|port| format!("{port}:80").parse().expect("a valid port")).collect()
}

/// Says what is wrong, if anything. Looks at the world itself, not through the engine's audit, which is asked as well.
fn check(lab: &mut Lab) -> Result<(), String> {
    let world = lab.world.clone();
    let host = world.host();
    let engine = lab.engine();
    let records: BTreeMap<SandboxId, Arc<Sandbox>> =
        engine.list().iter().map(|sandbox| (sandbox.id.clone(), sandbox.clone())).collect();
    let vmms = host.vmm.observe().map_err(|error| error.to_string())?;
    let links = host.network.observe().map_err(|error| error.to_string())?;
    let disks = host.disk.observe().map_err(|error| error.to_string())?;

    if !world.doubled().is_empty() {
        return Err(format!("doubled: {:?}", world.doubled()));
    }
    for id in vmms.iter().map(|v| &v.id).chain(links.iter().map(|l| &l.id)).chain(disks.iter().map(|d| &d.id)) {
        if !records.contains_key(id) {
            return Err(format!("{id} has leaked"));
        }
    }
    for (id, record) in &records {
        let vmm = vmms.iter().find(|vmm| vmm.id == *id).map(|vmm| &vmm.state);
        let linked = links.iter().find(|link| link.id == *id);
        let fits = match record.state {
            State::Running => vmm == Some(&VmmState::Running) && linked.is_some_and(|link| link.ports == record.ports),
            State::Paused => vmm == Some(&VmmState::Paused) && linked.is_some(),
            State::Created | State::Stopped | State::Failed => vmm.is_none() && linked.is_none(),
            _ => false,
        };
        if !fits {
            return Err(format!(
                "{} is recorded as {}, its VMM is {vmm:?}, link {linked:?}",
                record.name(),
                record.state
            ));
        }
        let disk = disks.iter().find(|disk| disk.id == *id);
        if record.has_disks != disk.is_some() {
            return Err(format!("{} has disks: {}, in the world: {disk:?}", record.name(), record.has_disks));
        }
        // Whom a person stopped before it was whole is off, and becomes whole with its start.
        let stopped = |operation: &Operation| matches!(operation.verb, Verb::Stop | Verb::Kill | Verb::Restart);
        let history = engine.history(Some(id.as_str()), 1000).map_err(|error| error.chain())?;
        if !record.has_disks && !history.iter().any(stopped) {
            return Err(format!("{} is {} and was never whole: its create was cut short", record.name(), record.state));
        }
        if record.state == State::Failed && record.failure.is_none() {
            return Err(format!("{} failed and nobody says why", record.name()));
        }
    }
    let names: std::collections::BTreeSet<_> = records.values().map(|record| record.name().clone()).collect();
    if names.len() != records.len() {
        return Err("two sandboxes have one name".into());
    }
    let operations = engine.history(None, 10_000).map_err(|error| error.chain())?;
    if let Some(open) = operations.iter().find(|operation| operation.ended_at.is_none()) {
        return Err(format!("{} of {} began and never ended", open.verb, open.name));
    }
    let findings = engine.audit().map_err(|error| error.chain())?;
    if !findings.is_empty() {
        return Err(format!("audit: {findings:?}"));
    }
    let before = engine.list();
    lab.engine = None;
    let after = lab.engine().list();
    if before != after {
        return Err(format!("a restart changed the records:\n{before:#?}\n{after:#?}"));
    }
    Ok(())
}

fn hold(deeds: &[(Deed, Option<(u64, Fault)>)]) -> Result<(), TestCaseError> {
    let mut lab = Lab::new();
    for (deed, fault) in deeds {
        lab.act(deed, *fault);
    }
    lab.recover();
    // Whoever forces a delete takes what is left upon himself; `audit --fix` then clears it away.
    if deeds.iter().any(|(deed, _)| matches!(deed, Deed::Delete { force: true, .. })) {
        drop(lab.engine().audit_fix());
    }
    check(&mut lab).map_err(|wrong| TestCaseError::fail(format!("{wrong}\n{}", lab.world.print())))
}

/// The seeds lie beside the file; half the cases each, so that two cores share them.
#[allow(clippy::disallowed_methods, reason = "a test may ask how long it shall run")]
fn config() -> ProptestConfig {
    let given = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    ProptestConfig {
        cases: given.unwrap_or(10_000) / 2,
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("proptest-regressions"))),
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn after_any_recovery_the_records_equal_the_world(deeds in prop::collection::vec((deed(), fault()), 1..6)) {
        hold(&deeds)?;
    }

    #[test]
    fn after_a_long_history_too(deeds in prop::collection::vec((deed(), fault()), 6..16)) {
        hold(&deeds)?;
    }
}
