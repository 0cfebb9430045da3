//! Many callers at once: one driver per sandbox, nobody waits for a boot who does not want to, readers never wait.

mod common;

use common::{spec, world};
use engine::host::{Report, Unwatched, Watch};
use engine::sim::{Boot, Shutdown};
use engine::{Engine, Kind, Outcome, Sandbox, Start};
use model::{OperationId, State};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::scope;

/// Tells when the operation waits for its guest.
struct Waiting {
    operation: Mutex<Option<OperationId>>,
    waits: Sender<OperationId>,
}

impl Waiting {
    fn new(waits: Sender<OperationId>) -> Self {
        Waiting { operation: Mutex::default(), waits }
    }
}

impl Watch for Waiting {
    fn report(&self, report: Report) {
        let mut operation = self.operation.lock().expect("no panic");
        match report {
            Report::Began { operation: id } => *operation = Some(id),
            Report::Stage { text } if text.starts_with("waiting") || text.starts_with("asking") => {
                let id = operation.clone().expect("it began before it waits");
                self.waits.send(id).expect("the test listens");
            }
            _ => {}
        }
    }

    fn cancelled(&self) -> bool {
        false
    }
}

/// Runs `then` while `web` is booting, and answers how its create ended.
fn while_booting(engine: &Engine, then: impl FnOnce(Arc<Sandbox>, OperationId)) -> engine::Result<Arc<Sandbox>> {
    let (sender, receiver) = channel();
    scope(|threads| {
        let create = threads.spawn(|| engine.create(spec("web"), Start::Now, &Waiting::new(sender)));
        let operation = receiver.recv().expect("it waits for its guest");
        then(engine.resolve("web").expect("it is listed"), operation);
        create.join().expect("no panic")
    })
}

#[test]
fn a_stop_does_not_wait_for_a_boot() {
    let (world, _, engine) = world();
    world.set_boot(Boot::Held);
    let created = while_booting(&engine, |web, _| {
        assert_eq!(web.state, State::Starting);
        assert_eq!(engine.stop(&web.id, None, &Unwatched).expect("it stops").state, State::Stopped);
    });
    assert_eq!(created.expect_err("it was stopped").kind, Kind::Cancelled);
    assert_eq!(engine.resolve("web").expect("it is kept").state, State::Stopped);
    assert_eq!(engine.audit().expect("audit"), []);
    world.set_boot(Boot::Ready);
    let web = engine.resolve("web").expect("it is kept");
    assert_eq!(engine.start(&web.id, &Unwatched).expect("it starts").state, State::Running);
}

#[test]
fn a_kill_and_a_delete_do_not_wait_for_a_boot_either() {
    let (world, _, engine) = world();
    world.set_boot(Boot::Held);
    while_booting(&engine, |web, _| {
        assert_eq!(engine.kill(&web.id, None, &Unwatched).expect("it dies").state, State::Stopped);
        engine.delete(&web.id, false, &Unwatched).expect("it goes");
    })
    .expect_err("it was killed");
    while_booting(&engine, |web, _| drop(engine.delete(&web.id, false, &Unwatched).expect("it goes")))
        .expect_err("it was deleted");
    assert!(engine.list().is_empty());
    assert_eq!(engine.audit().expect("audit"), []);
}

#[test]
fn a_cancelled_create_leaves_nothing() {
    let (world, _, engine) = world();
    world.set_boot(Boot::Held);
    let created = while_booting(&engine, |_, operation| assert!(engine.cancel(&operation)));
    assert_eq!(created.expect_err("it was cancelled").kind, Kind::Cancelled);
    assert!(engine.list().is_empty());
    assert_eq!(engine.audit().expect("audit"), []);
    assert_eq!(engine.history(Some("web"), 1).expect("history")[0].outcome, Outcome::Cancelled);
}

#[test]
fn a_second_start_joins_the_first() {
    let (world, _, engine) = world();
    world.set_boot(Boot::Held);
    let created = while_booting(&engine, |web, _| {
        scope(|threads| {
            let joined = threads.spawn(|| engine.start(&web.id, &Unwatched));
            world.set_boot(Boot::Ready);
            assert_eq!(joined.join().expect("no panic").expect("it runs").state, State::Running);
        });
    });
    assert_eq!(created.expect("it boots").state, State::Running);
    assert!(world.doubled().is_empty());
}

#[test]
fn a_kill_ends_a_stop_that_waits_for_its_guest() {
    let (world, _, engine) = world();
    let web = engine.create(spec("web"), Start::Now, &Unwatched).expect("it boots");
    world.set_shutdown(Shutdown::Hangs);
    let (sender, receiver) = channel();
    scope(|threads| {
        let stop = threads.spawn(|| engine.stop(&web.id, None, &Waiting::new(sender)));
        receiver.recv().expect("it waits for its guest");
        assert_eq!(engine.kill(&web.id, None, &Unwatched).expect("it dies").state, State::Stopped);
        assert_eq!(stop.join().expect("no panic").expect("it stopped").state, State::Stopped);
    });
    assert_eq!(engine.audit().expect("audit"), []);
}

#[test]
fn of_many_creates_of_one_name_one_wins() {
    let (_, _, engine) = world();
    let outcomes = scope(|threads| {
        let creates: Vec<_> =
            (0..8).map(|_| threads.spawn(|| engine.create(spec("web"), Start::Now, &Unwatched))).collect();
        creates.into_iter().map(|create| create.join().expect("no panic")).collect::<Vec<_>>()
    });
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    for error in outcomes.into_iter().filter_map(Result::err) {
        assert_eq!(error.kind, Kind::Conflict);
    }
    assert_eq!(engine.list().len(), 1);
}

#[test]
fn twenty_lives_at_once_leave_nothing() {
    let (world, _, engine) = world();
    let events = engine.subscribe();
    scope(|threads| {
        for number in 0..20 {
            let engine = &engine;
            threads.spawn(move || {
                let sandbox = engine.create(spec(&format!("vm{number}")), Start::Now, &Unwatched).expect("it boots");
                assert!(engine.list().iter().any(|other| other.id == sandbox.id));
                engine.delete(&sandbox.id, false, &Unwatched).expect("it goes");
            });
        }
    });
    assert!(engine.list().is_empty());
    assert_eq!(engine.audit().expect("audit"), []);
    assert!(world.doubled().is_empty());
    let gone = events.try_iter().filter(|change| change.to.is_none()).count();
    assert_eq!(gone, 20);
}

#[test]
fn storms_of_requests_on_one_sandbox_end_well() {
    let (world, _, engine) = world();
    let web = engine.create(spec("web"), Start::Now, &Unwatched).expect("it boots");
    scope(|threads| {
        for number in 0..8 {
            let (engine, id) = (&engine, &web.id);
            threads.spawn(move || {
                for round in 0..10 {
                    // Refusals and cancellations are answers; what counts is what is left.
                    match (number + round) % 5 {
                        0 | 1 => drop(engine.start(id, &Unwatched)),
                        2 => drop(engine.stop(id, None, &Unwatched)),
                        3 => drop(engine.restart(id, &Unwatched)),
                        _ => drop(engine.kill(id, None, &Unwatched)),
                    }
                    engine.reconcile();
                }
            });
        }
    });
    engine.reconcile();
    assert_eq!(engine.audit().expect("audit"), []);
    assert!(world.doubled().is_empty());
    let state = engine.get(&web.id).expect("it is there").state;
    assert!(matches!(state, State::Running | State::Stopped), "{state}");
}
