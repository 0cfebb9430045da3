//! Numbers for people: `cargo test --release -p engine --test measure -- --ignored --nocapture`. No pass or fail.

mod common;

use common::spec;
use engine::host::Unwatched;
use engine::sim::World;
use engine::{Engine, Settings, Start};

#[test]
#[ignore = "measures, and proves nothing"]
#[allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::print_stderr, reason = "a stopwatch")]
fn a_thousand_sandboxes() {
    let folder = tempfile::tempdir().expect("a folder");
    let world = World::new(1);
    let engine = Engine::open(folder.path(), world.host(), Settings::default()).expect("the engine opens");
    let watch = std::time::Instant::now();
    for number in 0..1000 {
        engine.create(spec(&format!("vm{number}")), Start::Now, &Unwatched).expect("it boots");
    }
    eprintln!("create, each of 1,000: {:?}", watch.elapsed() / 1000);
    let watch = std::time::Instant::now();
    for _ in 0..1000 {
        std::hint::black_box(engine.list());
    }
    eprintln!("list of 1,000: {:?}", watch.elapsed() / 1000);
    let watch = std::time::Instant::now();
    std::hint::black_box(engine.resolve("vm999").expect("it is there"));
    eprintln!("resolve: {:?}", watch.elapsed());
    let watch = std::time::Instant::now();
    engine.tick();
    eprintln!("tick: {:?}", watch.elapsed());
    drop(engine);
    let watch = std::time::Instant::now();
    let store = engine::Store::open(folder.path()).expect("the store opens");
    eprintln!("open the store: {:?}", watch.elapsed());
    let watch = std::time::Instant::now();
    std::hint::black_box(store.operations(None, 50).expect("history"));
    eprintln!("the last 50 operations: {:?}", watch.elapsed());
    drop(store);
    let watch = std::time::Instant::now();
    let engine = Engine::open(folder.path(), world.host(), Settings::default()).expect("the engine opens");
    eprintln!("open with 1,000 running: {:?}", watch.elapsed());
    assert_eq!(engine.list().len(), 1000);
    let watch = std::time::Instant::now();
    engine.reconcile();
    eprintln!("reconcile 1,000 running: {:?}", watch.elapsed());
}
