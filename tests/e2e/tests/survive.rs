//! Promise: kill anything at any instant; what was recorded is there, nothing else is.

use e2e::{World, needs};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::Duration;

fn vmm_pid(world: &World, name: &str) -> Pid {
    let pid = world.vm(name)["vmm_pid"].as_i64().expect("a running sandbox has a VMM");
    Pid::from_raw(i32::try_from(pid).expect("a pid fits"))
}

#[test]
fn a_guest_outlives_its_daemon_and_exec_works_again_at_once() {
    if !needs::qemu("a_guest_outlives_its_daemon_and_exec_works_again_at_once") {
        return;
    }
    let world = World::tiny();
    world.banger(&["vm", "run", "-d", "--name", "x", "--image", "tiny"]).ok();
    let boot = world.banger(&["vm", "exec", "x", "--", "cat", "/proc/sys/kernel/random/boot_id"]).ok().stdout;
    let before = vmm_pid(&world, "x");
    world.kill_daemon();
    let again = world.banger(&["vm", "exec", "x", "--", "cat", "/proc/sys/kernel/random/boot_id"]).ok().stdout;
    assert_eq!(boot, again);
    assert_eq!(before, vmm_pid(&world, "x"));
    world.assert_audit_is_empty();
    world.banger(&["vm", "stop", "x"]).ok();
}

#[test]
fn a_killed_vmm_is_a_failed_sandbox_that_starts_again() {
    if !needs::qemu("a_killed_vmm_is_a_failed_sandbox_that_starts_again") {
        return;
    }
    let world = World::tiny();
    world.banger(&["vm", "run", "-d", "--name", "x", "--image", "tiny"]).ok();
    world.banger(&["vm", "exec", "x", "--", "sh", "-c", "echo kept > /root/kept; sync"]).ok();
    kill(vmm_pid(&world, "x"), Signal::SIGKILL).expect("the VMM can be killed");
    world.await_state("x", "failed", Duration::from_secs(4));
    assert!(world.vm("x")["failure"].as_str().is_some_and(|cause| !cause.is_empty()));
    world.assert_audit_is_empty();
    world.banger(&["vm", "start", "x"]).ok();
    assert_eq!(world.banger(&["vm", "exec", "x", "--", "cat", "/root/kept"]).ok().stdout, "kept\n");
}

#[test]
fn a_vmm_that_dies_while_no_daemon_looks_is_found_failed() {
    if !needs::qemu("a_vmm_that_dies_while_no_daemon_looks_is_found_failed") {
        return;
    }
    let world = World::tiny();
    world.banger(&["vm", "run", "-d", "--name", "x", "--image", "tiny"]).ok();
    let vmm = vmm_pid(&world, "x");
    world.kill_daemon();
    kill(vmm, Signal::SIGKILL).expect("the VMM can be killed");
    world.await_state("x", "failed", Duration::from_secs(4));
    world.assert_audit_is_empty();
}
