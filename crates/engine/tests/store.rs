//! The store over the years and on bad days: old versions come up to date, newer and broken ones are left alone.

mod common;

use common::{spec, world};
use engine::host::Unwatched;
use engine::sim::World;
use engine::store::{self, Migrations};
use engine::{Engine, Kind, Settings, Start, Store};
use model::State;
use rusqlite::Connection;
use std::path::Path;

/// A database as version 1 of the store left it (`tests/fixtures/README.md`). Released fixtures stay as they are.
const VERSION_1: &str = include_str!("fixtures/version-1.sql");

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder for a test")
}

fn database(folder: &Path) -> Connection {
    Connection::open(folder.join(store::FILE_NAME)).expect("the database opens")
}

#[test]
fn records_and_history_survive_the_daemon() {
    let (folder, world) = (folder(), World::new(3));
    let open = || Engine::open(folder.path(), world.host(), Settings::default()).expect("the engine opens");
    let engine = open();
    let web = engine.create(spec("web"), Start::Now, &Unwatched).expect("it boots");
    drop(engine);
    let engine = open();
    assert_eq!(engine.list().as_ref(), [web]);
    assert_eq!(engine.history(Some("web"), 10).expect("history").len(), 1);
}

#[test]
fn a_reader_beside_the_daemon_sees_and_never_writes() {
    let (folder, world) = (folder(), World::new(3));
    assert!(Store::open_read_only(folder.path()).is_err());
    let engine = Engine::open(folder.path(), world.host(), Settings::default()).expect("the engine opens");
    engine.create(spec("web"), Start::Later, &Unwatched).expect("it is made");
    let reader = Store::open_read_only(folder.path()).expect("it can be read");
    assert_eq!(reader.operations(None, 10).expect("history").len(), 1);
    // An engine over it can list; its first write fails, and says so.
    let engine = Engine::over(reader, world.host(), Settings::default());
    assert!(engine.is_err());
}

#[test]
fn a_copy_of_the_store_is_whole_while_the_engine_goes_on() {
    let (copies, folder, world) = (folder(), folder(), World::new(3));
    let engine = Engine::open(folder.path(), world.host(), Settings::default()).expect("the engine opens");
    let web = engine.create(spec("web"), Start::Now, &Unwatched).expect("it boots");
    engine.back_up(&copies.path().join(store::FILE_NAME)).expect("it is copied");
    assert!(engine.back_up(&copies.path().join(store::FILE_NAME)).is_err(), "nothing is overwritten");
    engine.create(spec("later"), Start::Later, &Unwatched).expect("it is made");
    assert_eq!(store::verify(copies.path()).expect("it is whole"), 1);
    let copy = Engine::open(copies.path(), world.host(), Settings::default()).expect("the copy opens");
    assert_eq!(copy.resolve("web").expect("it is known").id, web.id);
    assert_eq!(copy.history(Some("web"), 9).expect("history").len(), 1);
}

#[test]
fn an_old_database_comes_up_to_date() {
    let folder = folder();
    database(folder.path()).execute_batch(VERSION_1).expect("the fixture is SQL");
    assert_eq!(store::check(folder.path()).expect("it can be looked at"), Migrations::Compatible);
    let engine = Engine::open(folder.path(), World::new(3).host(), Settings::default()).expect("the engine opens");
    let web = engine.resolve("web").expect("it is known");
    assert_eq!((web.state, web.spec.memory.mib(), web.has_disks), (State::Stopped, 512, true));
    assert_eq!(web.spec.ports.len(), 1);
    let history = engine.history(Some("web"), 10).expect("history");
    assert!(history.iter().any(|operation| operation.id.as_str() == "00000000000000aa" && operation.steps.len() == 2));
}

#[test]
fn a_check_touches_nothing() {
    let folder = folder();
    assert!(matches!(store::check(folder.path()), Ok(Migrations::Pending(_))));
    assert_eq!(folder.path().read_dir().expect("a folder").count(), 0);
    drop(Store::open(folder.path()).expect("it is made"));
    assert_eq!(store::check(folder.path()).expect("it can be looked at"), Migrations::Compatible);
    database(folder.path()).pragma_update(None, "user_version", 999).expect("a number");
    assert_eq!(store::check(folder.path()).expect("it can be looked at"), Migrations::TooNew);
}

#[test]
fn a_newer_database_is_refused_and_left_alone() {
    let folder = folder();
    drop(Store::open(folder.path()).expect("it is made"));
    database(folder.path()).pragma_update(None, "user_version", 999).expect("a number");
    let error = Store::open(folder.path()).err().expect("it is too new");
    assert_eq!(error.kind, Kind::Refused);
    assert!(error.hint.is_some());
    assert_eq!(store::check(folder.path()).expect("it can be looked at"), Migrations::TooNew);
}

#[test]
#[allow(clippy::disallowed_methods, reason = "a test breaks the file that the engine may not touch")]
fn a_broken_database_is_refused_and_left_alone() {
    let folder = folder();
    let file = folder.path().join(store::FILE_NAME);
    let garbage = b"this was a database once ".repeat(400);
    std::fs::write(&file, &garbage).expect("it is written");
    let error = Store::open(folder.path()).err().expect("it is broken");
    assert_eq!(error.kind, Kind::HostUnfit);
    assert!(error.hint.is_some());
    assert_eq!(std::fs::read(&file).expect("it is there"), garbage);
}

#[test]
fn a_full_disk_refuses_a_create_and_lets_a_stop_happen() {
    let (folder, world) = (folder(), World::new(3));
    let store = Store::open(folder.path()).expect("it is made");
    let engine = Engine::over(store.clone(), world.host(), Settings::default()).expect("the engine opens");
    let web = engine.create(spec("web"), Start::Now, &Unwatched).expect("it boots");
    store.set_full(true);
    let mut made = 1;
    let error = loop {
        match engine.create(spec(&format!("db{made}")), Start::Now, &Unwatched) {
            Ok(_) => made += 1,
            Err(error) => break error,
        }
        assert!(made < 100, "the disk is never full");
    };
    assert_eq!(error.kind, Kind::HostUnfit, "{}", error.chain());
    assert!(error.hint.as_ref().is_some_and(|hint| hint.contains("space")), "{error:?}");
    for sandbox in engine.list().iter() {
        engine.stop(&sandbox.id, None, &Unwatched).expect("it stops");
    }
    assert!(!world.print().contains("vmm"), "{}", world.print());
    store.set_full(false);
    assert_eq!(engine.tick(), []);
    assert_eq!(engine.audit().expect("audit"), []);
    drop(engine);
    let engine = Engine::over(store, world.host(), Settings::default()).expect("the engine opens again");
    assert_eq!(engine.get(&web.id).expect("it is known").state, State::Stopped);
}

#[test]
fn the_journal_keeps_what_it_may() {
    let (_, store, engine) = world();
    let web = engine.create(spec("web"), Start::Later, &Unwatched).expect("it is made");
    for _ in 0..20 {
        engine.reset(&web.id, &Unwatched).expect("a new root");
    }
    drop(engine);
    let settings = Settings { history_limit: 5, ..Settings::default() };
    let engine = Engine::over(store, World::new(3).host(), settings).expect("the engine opens");
    assert!(engine.history(None, 100).expect("history").len() <= 6);
}
