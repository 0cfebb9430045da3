//! Promise: the manager may be killed at any step of any verb, again and again, and nothing is lost or left.
//!
//! A round makes a sandbox, writes a file with fsync, starts a verb, kills the daemon after a random pause, and looks:
//! the record is there, the audit is empty, the file is there. `BANGER_SOAK_ROUNDS` and `BANGER_SOAK_SEED` choose
//! another length and another fortune; `cargo xtask soak` passes them on.

use e2e::{World, needs};
use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// 50 rounds of two boots or so: about five minutes on two cores without hardware virtualization.
const ROUNDS: u64 = 50;
const VERBS: &[&[&str]] = &[&["stop"], &["restart"], &["kill"], &["reset"], &["start"]];

#[test]
fn killing_the_daemon_at_random_steps_loses_and_leaks_nothing() {
    if !needs::qemu("killing_the_daemon_at_random_steps_loses_and_leaks_nothing") {
        return;
    }
    let rounds = number("BANGER_SOAK_ROUNDS", ROUNDS);
    let mut chance = Chance(number("BANGER_SOAK_SEED", 20_261_121));
    let world = World::tiny();
    // The first kill may come before the first command has started a daemon by itself.
    world.banger(&["daemon", "start"]).ok();
    let mut kills = 0;
    for round in 0..rounds {
        let name = format!("s{round}");
        kills += interrupted_create(&world, &name, &mut chance);
        write_file(&world, &name, round);
        kills += interrupted_verb(&world, &name, &mut chance);
        verify_file(&world, &name, round);
        world.banger(&["vm", "delete", &name]).ok();
        world.assert_audit_is_empty();
    }
    let told = format!("soak: {rounds} rounds, {kills} kills, 0 leaks, 0 lost records\n");
    std::io::stderr().write_all(told.as_bytes()).expect("stderr takes a line");
}

/// A create that loses its daemon half-way: the sandbox is there, startable, or was never there.
fn interrupted_create(world: &World, name: &str, chance: &mut Chance) -> u64 {
    let arguments = ["vm", "create", "--name", name, "--image", "tiny"];
    let killed = interrupt(world, &arguments, chance.below(4_000));
    let names = world.banger(&["vm", "list", "-q"]).ok().stdout;
    if names.lines().any(|line| line == name) {
        start(world, name);
    } else {
        world.banger(&arguments).ok();
    }
    killed
}

fn interrupted_verb(world: &World, name: &str, chance: &mut Chance) -> u64 {
    let index = usize::try_from(chance.below(VERBS.len() as u64)).expect("an index fits");
    let verb = VERBS[index];
    if verb == ["reset"] {
        world.banger(&["vm", "stop", name]).ok();
    }
    let arguments = [&["vm"], verb, &[name]].concat();
    let killed = interrupt(world, &arguments, chance.below(2_500));
    let record = world.vm(name);
    assert_eq!(record["name"], name, "the record of {name} is lost after {verb:?}");
    start(world, name);
    killed
}

/// Whatever half-way state a recovery left: it settles, and then the sandbox starts.
fn start(world: &World, name: &str) {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let ran = world.banger(&["vm", "start", name]);
        if ran.code == 0 && world.state_of(name) == "running" {
            return;
        }
        assert!(Instant::now() < end, "{name} does not start: {ran:?}");
        std::thread::sleep(Duration::from_millis(300));
    }
}

fn interrupt(world: &World, arguments: &[&str], pause_ms: u64) -> u64 {
    let mut command = world.command(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().expect("banger starts");
    std::thread::sleep(Duration::from_millis(pause_ms));
    world.kill_daemon();
    e2e::world::finish(child, &arguments.join(" "));
    world.assert_audit_is_empty();
    1
}

fn write_file(world: &World, name: &str, round: u64) {
    let text = format!("round {round}\n");
    let script = "cat > /root/kept && sync";
    world.banger_with_input(&["vm", "exec", name, "--", "sh", "-c", script], text.as_bytes()).ok();
}

fn verify_file(world: &World, name: &str, round: u64) {
    let ran = world.banger(&["vm", "exec", name, "--", "cat", "/root/kept"]).ok();
    assert_eq!(ran.stdout, format!("round {round}\n"));
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// A small generator (Knuth's MMIX constants): the same seed tells the same story.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}
