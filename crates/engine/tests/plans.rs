//! `--dry-run` prints the very object that runs: what a plan lists is what the journal then holds.

mod common;

use common::{spec, world, world_with};
use engine::host::Unwatched;
use engine::{Caps, Engine, Kind, Plan, Settings, Start, StepState};
use model::{ByteSize, RestartPolicy};
use std::sync::Arc;

fn check(engine: &Engine, plan: Plan, run: impl FnOnce(&Engine)) {
    let planned: Vec<_> = plan.steps.iter().map(|step| step.to_string()).collect();
    run(engine);
    let operation = engine.history(None, 1).expect("history").remove(0);
    assert_eq!(operation.verb, plan.verb);
    assert_eq!(operation.steps.iter().map(|step| step.name.clone()).collect::<Vec<_>>(), planned);
    assert!(operation.steps.iter().all(|step| step.state == StepState::Done), "{operation:?}");
}

#[test]
fn what_is_planned_is_what_is_journalled() {
    let (world, _, engine) = world();
    let plan = engine.plan_create(spec("web"), Start::Now).expect("a plan");
    assert!(engine.list().is_empty() && world.print().lines().count() == 1, "a plan touches nothing");
    check(&engine, plan, |engine| drop(engine.create(spec("web"), Start::Now, &Unwatched)));
    let id = engine.resolve("web").expect("it is there").id.clone();
    check(&engine, engine.plan_restart(&id).expect("a plan"), |engine| drop(engine.restart(&id, &Unwatched)));
    check(&engine, engine.plan_stop(&id, Some(5)).expect("a plan"), |engine| {
        drop(engine.stop(&id, Some(5), &Unwatched))
    });
    check(&engine, engine.plan_reset(&id).expect("a plan"), |engine| drop(engine.reset(&id, &Unwatched)));
    check(&engine, engine.plan_start(&id).expect("a plan"), |engine| drop(engine.start(&id, &Unwatched)));
    check(&engine, engine.plan_kill(&id, Some(15)).expect("a plan"), |engine| {
        drop(engine.kill(&id, Some(15), &Unwatched))
    });
    check(&engine, engine.plan_delete(&id).expect("a plan"), |engine| drop(engine.delete(&id, false, &Unwatched)));
}

#[test]
fn a_plan_reads_like_a_list_of_deeds() {
    let (_, _, engine) = world();
    let mut wanted = spec("web");
    wanted.ports = vec!["8080:80".parse().expect("valid")];
    let plan = engine.plan_create(wanted, Start::Now).expect("a plan");
    let steps: Vec<_> = plan.steps.iter().map(|step| step.to_string()).collect();
    let expected = [
        "record as starting",
        "ensure image debian-bookworm",
        "ensure kernel debian-cloud",
        "ensure disks: root 4GiB, work 4GiB",
        "ensure link web",
        "ensure vmm: sim, 1 CPUs, 256MiB",
        "await ready for 60000 ms",
        "identify guest",
        "ensure service",
        "ensure ports 127.0.0.1:8080:80",
        "enter running",
    ];
    assert_eq!(steps, expected);
}

/// The refusal of a second sandbox under these caps.
fn refusal(caps: Caps, room: Option<ByteSize>) -> String {
    let (world, _, engine) = world_with(Settings { caps, ..Settings::default() });
    engine.create(spec("first"), Start::Now, &Unwatched).expect("there is room for one");
    world.set_room(room, ByteSize::from_gib(100));
    let error = engine.create(spec("second"), Start::Now, &Unwatched).expect_err("there is no room");
    assert_eq!(error.kind, Kind::Refused);
    assert!(error.hint.is_some());
    assert_eq!(engine.list().len(), 1, "a refusal leaves nothing");
    error.attempt
}

#[test]
fn a_refusal_says_what_is_free_and_what_runs() {
    let caps = Caps { sandboxes: Some(1), ..Caps::default() };
    assert_eq!(refusal(caps, None), "cannot create second: 1 VMs exist, which is the limit");
    let caps = Caps { memory: Some(ByteSize::from_mib(400)), ..Caps::default() };
    let running = "1 VMs run with 256MiB";
    assert_eq!(
        refusal(caps, None),
        format!("cannot start second: it wants 256MiB of memory, {running}, and the limit is 400MiB")
    );
    let caps = Caps { disk: Some(ByteSize::from_gib(10)), ..Caps::default() };
    assert_eq!(refusal(caps, None), "cannot create second: it wants disks of 8GiB, and 8GiB of 10GiB are given away");
    assert_eq!(
        refusal(Caps::default(), Some(ByteSize::from_mib(100))),
        format!("cannot start second: it wants 256MiB of memory, 100MiB are free, and {running}")
    );
    let caps = Caps { free_disk: ByteSize::from_gib(200), ..Caps::default() };
    let sentence = refusal(caps, None);
    assert_eq!(sentence, "cannot give second a disk: 100GiB are free where disks live, and 200GiB must stay free");
}

#[test]
fn a_restart_policy_waits_longer_each_time() {
    let (world, _, engine) = world();
    let mut wanted = spec("web");
    wanted.restart = RestartPolicy::OnFailure;
    let id = engine.create(wanted, Start::Now, &Unwatched).expect("it boots").id.clone();
    let engine: &Arc<Engine> = &engine;
    for delay_s in [1, 2, 4, 8] {
        let exit = engine::host::vmm::VmmExit { code: Some(1), signal: None };
        world.end_vmm(&id, exit.clone());
        engine.vmm_ended(&id, &exit).expect("it is noticed");
        assert_eq!(engine.tick(), [], "not before {delay_s} s");
        world.pass_time((delay_s * 1000 + 100) * 1_000_000);
        let errands = engine.tick();
        assert_eq!(errands.len(), 1, "after {delay_s} s");
        engine.run_errand(&errands[0], &Unwatched).expect("it starts");
    }
    engine.kill(&id, None, &Unwatched).expect("it dies");
    world.pass_time(1_000_000_000_000);
    assert_eq!(engine.tick(), [], "who was stopped by a person stays off");
}
