//! Promise: many at once disturb nobody who only looks.

use e2e::world::{Ran, finish};
use e2e::{World, needs};
use std::io::Write;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const MANY: usize = 20;
/// Of the many, so many boot: two cores without hardware virtualization boot one in about two seconds.
const BOOTING: usize = 4;

/// All at once; answers when all have ended.
fn at_once(world: &World, each: impl Fn(usize) -> Vec<String>) -> Vec<Ran> {
    let start = |number| {
        let arguments = each(number);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut command = world.command(&arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("banger starts")
    };
    let children: Vec<_> = (0..MANY).map(start).collect();
    children.into_iter().map(|child| finish(child, "one of many")).collect()
}

/// How long `list` took while `work` ran, each time.
fn listing_beside<T>(world: &World, work: impl FnOnce() -> T) -> (T, Vec<Duration>) {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let lister = scope.spawn(|| {
            let mut took = Vec::new();
            while !over.load(Ordering::Relaxed) {
                let began = Instant::now();
                world.banger(&["vm", "list", "--quiet"]).ok();
                took.push(began.elapsed());
                std::thread::sleep(Duration::from_millis(50));
            }
            took
        });
        let done = work();
        over.store(true, Ordering::Relaxed);
        (done, lister.join().expect("the lister ends"))
    })
}

fn tell(what: &str, took: &mut [Duration]) {
    took.sort();
    let at = |part: usize| took[(took.len() * part / 100).min(took.len() - 1)].as_millis();
    let (median, most) = (at(50), at(100));
    let line = format!("list beside {MANY} {what}: {} times, median {median} ms, at most {most} ms\n", took.len());
    std::io::stderr().write_all(line.as_bytes()).expect("stderr takes a line");
}

#[test]
fn twenty_at_once_are_made_and_deleted_while_others_look() {
    if !needs::qemu("twenty_at_once_are_made_and_deleted_while_others_look") {
        return;
    }
    let world = World::tiny();
    world.banger(&["vm", "list"]).ok();
    let create = |number: usize| {
        let mut words = vec!["vm", "create", "--image", "tiny", "--memory", "128M", "--disk-size", "1G", "--name"];
        let name = format!("n{number}");
        words.push(&name);
        words.extend((number >= BOOTING).then_some("--no-start"));
        words.into_iter().map(str::to_owned).collect()
    };
    let (created, mut took) = listing_beside(&world, || at_once(&world, create));
    assert!(created.iter().all(|ran| ran.code == 0), "{created:?}");
    tell("creates", &mut took);
    assert_eq!(world.banger(&["vm", "list", "--quiet"]).ok().stdout.lines().count(), MANY);
    assert_eq!(world.banger(&["ps", "--quiet"]).ok().stdout.lines().count(), BOOTING);
    // Had a lock been held over a boot, which takes seconds, every look would have waited for it.
    assert!(
        took[took.len() / 2] < Duration::from_secs(1),
        "half of all looks took longer than {:?}",
        took[took.len() / 2]
    );

    let delete = |number: usize| ["vm".into(), "delete".into(), format!("n{number}")].into();
    let (deleted, mut took) = listing_beside(&world, || at_once(&world, delete));
    assert!(deleted.iter().all(|ran| ran.code == 0), "{deleted:?}");
    tell("deletes", &mut took);
    assert_eq!(world.banger(&["vm", "list", "--quiet"]).ok().stdout, "");
    world.assert_audit_is_empty();
}
