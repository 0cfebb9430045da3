//! Promise: one command makes a machine, runs a command in it, and leaves nothing behind.

use e2e::{World, needs};
use nix::sys::signal::{Signal, kill};
use std::process::Stdio;
use std::time::Duration;

#[test]
fn run_keeps_streams_apart_returns_the_status_and_leaves_nothing() {
    if !needs::qemu("run_keeps_streams_apart_returns_the_status_and_leaves_nothing") {
        return;
    }
    let world = World::tiny();
    let script = "echo out; echo err >&2; exit 42";
    let ran = world.banger(&["vm", "run", "--rm", "--image", "tiny", "--", "sh", "-c", script]);
    assert_eq!(ran.code, 42, "{ran:?}");
    assert_eq!(ran.stdout, "out\n");
    assert!(ran.stderr.lines().any(|line| line == "err"), "{ran:?}");
    assert_eq!(world.banger(&["ps", "--json"]).ok().json(), serde_json::json!([]));
    world.assert_audit_is_empty();
}

#[test]
fn a_detached_sandbox_runs_on_and_is_found_by_name_id_and_prefix() {
    if !needs::qemu("a_detached_sandbox_runs_on_and_is_found_by_name_id_and_prefix") {
        return;
    }
    let world = World::tiny();
    world.banger(&["vm", "run", "-d", "--name", "web", "--image", "tiny"]).ok();
    let id = world.vm("web")["id"].as_str().expect("an id is text").to_owned();
    for reference in ["web", &id, &id[..6]] {
        let ran = world.banger(&["vm", "exec", reference, "--", "hostname"]).ok();
        assert_eq!(ran.stdout, "web\n");
    }
    assert_eq!(world.banger(&["vm", "health", "web"]).code, 0);
    world.banger(&["vm", "stop", "web"]).ok();
    assert_eq!(world.state_of("web"), "stopped");
}

#[test]
fn interrupting_a_run_removes_its_sandbox_and_nothing_else() {
    if !needs::qemu("interrupting_a_run_removes_its_sandbox_and_nothing_else") {
        return;
    }
    let world = World::tiny();
    world.banger(&["vm", "create", "--no-start", "--name", "other", "--image", "tiny"]).ok();
    // During the disks, during the boot, during the command.
    for pause_ms in [300, 1_500, 8_000] {
        let arguments = ["vm", "run", "--rm", "--name", "doomed", "--image", "tiny", "--", "sleep", "600"];
        let mut command = world.command(&arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().expect("banger starts");
        std::thread::sleep(Duration::from_millis(pause_ms));
        kill(e2e::world::pid_of(&child), Signal::SIGINT).expect("banger is running");
        let ran = e2e::world::finish(child, "vm run --rm");
        assert_ne!(ran.code, 0, "{ran:?}");
        let names = world.banger(&["vm", "list", "-q"]).ok().stdout;
        assert_eq!(names.lines().count(), 1, "after {pause_ms} ms: {names}{}", ran.stderr);
        world.assert_audit_is_empty();
    }
}
