//! Each verb by itself on the simulated host: what it does, what it refuses, and what it leaves when it fails.

mod common;

use common::{spec, world};
use engine::host::Unwatched;
use engine::host::vmm::VmmExit;
use engine::sim::{Boot, Shutdown};
use engine::{Changes, Errand, Kind, Outcome, PortChanges, Start};
use model::{RestartPolicy, State};

const NOW: Start = Start::Now;

#[test]
fn a_life_from_create_to_delete() {
    let (world, _, engine) = world();
    let web = engine.create(spec("web"), NOW, &Unwatched).expect("it boots");
    assert_eq!(web.state, State::Running);
    assert!(web.boot_id.is_some() && web.attachment.is_some() && web.timing.len() > 5);
    let id = &web.id;
    assert_eq!(engine.stop(id, None, &Unwatched).expect("it stops").state, State::Stopped);
    assert_eq!(engine.start(id, &Unwatched).expect("it starts").state, State::Running);
    assert_eq!(engine.pause(id, &Unwatched).expect("it pauses").state, State::Paused);
    assert_eq!(engine.start(id, &Unwatched).expect_err("it is paused").kind, Kind::Refused);
    assert_eq!(engine.resume(id, &Unwatched).expect("it resumes").state, State::Running);
    assert_eq!(engine.restart(id, &Unwatched).expect("it restarts").state, State::Running);
    assert_eq!(engine.kill(id, Some(9), &Unwatched).expect("it dies").state, State::Stopped);
    assert_eq!(engine.reset(id, &Unwatched).expect("a new root").state, State::Stopped);
    engine.delete(id, false, &Unwatched).expect("it goes");
    assert!(engine.list().is_empty());
    assert_eq!(engine.audit().expect("the world can be seen"), []);
    let print = world.print();
    assert!(!print.contains(id.as_str()), "{print}");
    let outcomes: Vec<_> = engine.history(None, 100).expect("a history").iter().map(|op| op.outcome).collect();
    assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Done), "{outcomes:?}");
}

#[test]
fn a_used_name_is_a_conflict_before_any_work() {
    let (world, _, engine) = world();
    engine.create(spec("web"), NOW, &Unwatched).expect("it boots");
    let before = world.print();
    let error = engine.create(spec("web"), NOW, &Unwatched).expect_err("the name is taken");
    assert_eq!(error.kind, Kind::Conflict);
    assert_eq!(before.lines().skip(1).collect::<Vec<_>>(), world.print().lines().skip(1).collect::<Vec<_>>());
}

#[test]
fn a_create_that_fails_before_its_vmm_leaves_nothing() {
    let (_, _, engine) = world();
    let mut wanted = spec("web");
    wanted.image = "nowhere".parse().expect("valid");
    let error = engine.create(wanted, NOW, &Unwatched).expect_err("there is no such image");
    assert_eq!(error.kind, Kind::NotFound);
    assert!(error.operation.is_some());
    assert!(engine.list().is_empty());
    assert_eq!(engine.history(None, 1).expect("a history")[0].outcome, Outcome::Undone);
}

#[test]
fn a_guest_that_never_answers_stays_as_failed_for_a_look_at_its_console() {
    let (world, _, engine) = world();
    world.set_boot(Boot::Silent);
    let error = engine.create(spec("web"), NOW, &Unwatched).expect_err("it is silent");
    assert_eq!(error.kind, Kind::TimedOut);
    assert!(error.chain().contains("Linux version"), "{}", error.chain());
    let web = engine.resolve("web").expect("it is kept");
    assert_eq!(web.state, State::Failed);
    assert!(web.failure.as_ref().is_some_and(|failure| failure.console.contains("Linux version")));
    let mut ephemeral = spec("job");
    ephemeral.ephemeral = true;
    engine.create(ephemeral, NOW, &Unwatched).expect_err("it is silent");
    assert!(engine.resolve("job").is_err());
    assert_eq!(engine.audit().expect("audit"), []);
}

#[test]
fn a_guest_that_ignores_the_request_is_ended() {
    let (world, _, engine) = world();
    let web = engine.create(spec("web"), NOW, &Unwatched).expect("it boots");
    for shutdown in [Shutdown::Ignores, Shutdown::Silent] {
        engine.start(&web.id, &Unwatched).expect("it starts");
        world.set_shutdown(shutdown);
        assert_eq!(engine.stop(&web.id, Some(100), &Unwatched).expect("it stops").state, State::Stopped);
    }
}

#[test]
fn a_vmm_that_ends_is_told_apart_by_how_it_ended() {
    let (world, _, engine) = world();
    for (name, exit, state) in [
        ("off", VmmExit { code: Some(0), signal: None }, State::Stopped),
        ("crash", VmmExit { code: Some(1), signal: None }, State::Failed),
        ("kill", VmmExit { code: None, signal: Some(9) }, State::Failed),
    ] {
        let sandbox = engine.create(spec(name), NOW, &Unwatched).expect("it boots");
        assert!(world.end_vmm(&sandbox.id, exit.clone()));
        assert_eq!(engine.vmm_ended(&sandbox.id, &exit).expect("it is noticed").state, state, "{name}");
    }
    assert_eq!(engine.audit().expect("audit"), []);
}

#[test]
fn a_host_reboot_stops_everything_and_its_policy_starts_some() {
    let (world, store, engine) = world();
    engine.create(spec("web"), NOW, &Unwatched).expect("it boots");
    let mut always = spec("db");
    always.restart = RestartPolicy::Always;
    let db = engine.create(always, NOW, &Unwatched).expect("it boots");
    drop(engine);
    world.reboot_host();
    let engine = engine::Engine::over(store, world.host(), Default::default()).expect("it opens again");
    assert!(engine.list().iter().all(|sandbox| sandbox.state == State::Stopped && sandbox.has_disks));
    world.pass_time(2_000_000_000);
    let errands = engine.tick();
    assert_eq!(errands, [Errand::Start(db.id.clone())]);
    assert_eq!(engine.run_errand(&errands[0], &Unwatched).expect("it starts").state, State::Running);
}

#[test]
fn an_idle_sandbox_is_stopped_unless_it_is_held_or_busy() {
    let (world, _, engine) = world();
    let mut wanted = spec("web");
    wanted.stop_when_idle_s = Some(60);
    let web = engine.create(wanted, NOW, &Unwatched).expect("it boots");
    assert_eq!(engine.tick(), []);
    let hold = engine.hold(&web.id);
    world.pass_time(120_000_000_000);
    assert_eq!(engine.tick(), []);
    drop(hold);
    world.set_use(80, 0);
    world.pass_time(120_000_000_000);
    assert_eq!(engine.tick(), []);
    world.set_use(0, 0);
    world.pass_time(120_000_000_000);
    assert_eq!(engine.tick(), [Errand::Stop(web.id.clone())]);
}

#[test]
fn a_change_says_whether_it_is_live() {
    let (_, _, engine) = world();
    let web = engine.create(spec("web"), NOW, &Unwatched).expect("it boots");
    let changes = Changes {
        vcpus: Some(2.try_into().expect("valid")),
        restart: Some(RestartPolicy::Always),
        name: Some("www".parse().expect("valid")),
        ..Changes::default()
    };
    let applied = engine.set(&web.id, &changes, &Unwatched).expect("it changes");
    assert_eq!((applied.live, applied.at_next_start), (vec!["name", "restart"], vec!["vcpus"]));
    assert!(engine.resolve("www").is_ok() && engine.resolve("web").is_err());
    let size = model::ByteSize::from_bytes(web.spec.disk_size.bytes() * 2);
    let grow = Changes { disk_size: Some(size), ..Changes::default() };
    let applied = engine.set(&web.id, &grow, &Unwatched).expect("it grows");
    assert_eq!((applied.live, applied.at_next_start), (vec!["disk_size"], vec![]), "its guest grows the file system");
    let shrink = Changes { disk_size: Some(model::ByteSize::from_gib(1)), ..Changes::default() };
    assert_eq!(engine.set(&web.id, &shrink, &Unwatched).expect_err("no disk shrinks").kind, Kind::Invalid);
}

#[test]
fn a_reference_is_a_name_an_id_or_a_unique_prefix() {
    let (_, _, engine) = world();
    let web = engine.create(spec("web"), Start::Later, &Unwatched).expect("it is made");
    for reference in ["web", web.id.as_str(), &web.id.as_str()[..5]] {
        assert_eq!(engine.resolve(reference).expect("it is found").id, web.id);
    }
    assert_eq!(engine.resolve("nobody").expect_err("nobody").kind, Kind::NotFound);
    assert_eq!(engine.resolve("").expect_err("nothing").kind, Kind::NotFound);
}

#[test]
fn an_audit_tells_and_mends_what_somebody_else_did() {
    let (world, store, engine) = world();
    let web = engine.create(spec("web"), NOW, &Unwatched).expect("it boots");
    let db = engine.create(spec("db"), NOW, &Unwatched).expect("it boots");
    let host = world.host();
    let _change = host.network.remove_link(&web.id).expect("somebody deletes the tap");
    world.end_vmm(&db.id, VmmExit { code: None, signal: Some(9) });
    let stranger = model::SandboxId::from_bits(1);
    let image = web.spec.image.clone();
    let size = web.spec.disk_size;
    let disks = engine::host::disk::Disks {
        id: stranger.clone(),
        image,
        root_size: size,
        work_size: size,
        work_template: None,
    };
    let _change = host.disk.ensure_disks(&disks).expect("disks that no record knows");
    let found: Vec<_> = engine.audit().expect("audit").iter().map(|f| (f.what, f.subject.clone())).collect();
    let expected = [("link", "web".to_owned()), ("record", "db".to_owned()), ("disk", stranger.to_string())];
    assert!(expected.iter().all(|wanted| found.contains(wanted)) && found.len() == 3, "{found:?}");
    let fixed = engine.audit_fix().expect("audit");
    for finding in &fixed {
        // Nobody knows whose these disks were: they are told, and left to the person.
        assert_eq!(finding.mended, finding.what != "disk", "{finding:?}");
    }
    assert_eq!(engine.get(&db.id).expect("it is known").state, State::Failed);
    assert_eq!(engine.audit().expect("audit").len(), 1);
    drop(store);
}

#[test]
fn ports_come_and_go_on_a_running_sandbox_and_stay_over_a_restart() {
    let (_, _, engine) = world();
    let mut wanted = spec("web");
    wanted.ports = vec!["8080:80".parse().expect("a port"), "0:443".parse().expect("a port")];
    let web = engine.create(wanted, NOW, &Unwatched).expect("it boots");
    let bound = web.ports[1].host_port;
    let change = |add: &[&str], remove: &[&str]| {
        let add = add.iter().map(|port| port.parse().expect("a port")).collect();
        let remove = remove.iter().map(|port| port.parse().expect("a selector")).collect();
        let ports = PortChanges { add, remove };
        engine.set(&web.id, &Changes { ports, ..Changes::default() }, &Unwatched)
    };
    let shown = |sandbox: &engine::Sandbox| sandbox.ports.iter().map(ToString::to_string).collect::<Vec<_>>();
    let applied = change(&["5353:53/udp", "8080:80"], &[]).expect("one is new");
    assert_eq!(applied.live, ["ports"]);
    assert_eq!(shown(&applied.sandbox)[2..], ["127.0.0.1:5353:53/udp"]);
    assert_eq!(change(&["8080:81"], &[]).expect_err("it is taken by its own").kind, Kind::Conflict);
    assert_eq!(change(&[], &["81"]).expect_err("nobody has it").kind, Kind::NotFound);
    let applied = change(&["8080:81"], &["80", &bound.to_string()]).expect("moved in one go");
    assert_eq!(shown(&applied.sandbox), ["127.0.0.1:5353:53/udp", "127.0.0.1:8080:81"]);
    assert_eq!(applied.sandbox.spec.ports.len(), 2);
    let last = engine.history(None, 1).expect("a history").remove(0);
    assert!(last.outcome == Outcome::Done && last.steps.iter().any(|step| step.name.starts_with("ensure ports")));
    engine.stop(&web.id, None, &Unwatched).expect("it stops");
    let off = change(&[], &["53/udp"]).expect("a stopped one changes, too").sandbox;
    assert!(off.ports.is_empty());
    assert_eq!(shown(&engine.start(&web.id, &Unwatched).expect("it starts")), ["127.0.0.1:8080:81"]);
}
