//! Promise: however a machine dies, its state is right at once, nothing is left, and what was synced is there.
//!
//! One sandbox dies again and again, so that each death costs one boot.

use e2e::{World, needs};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

/// 2 s is the promise; a test machine may be busy with other guests.
const SOON: Duration = Duration::from_secs(10);

fn pid(value: &serde_json::Value) -> Pid {
    Pid::from_raw(i32::try_from(value.as_i64().expect("a pid is a number")).expect("a pid fits"))
}

/// The VMM's and its vsock device's, as the record in the run folder has them.
fn processes(world: &World, name: &str) -> (Pid, Pid) {
    let id = world.vm(name)["id"].as_str().expect("an id is text").to_owned();
    let record = world.path().join("run/banger/vm").join(id).join("machine.json");
    let record = std::fs::read(&record).unwrap_or_else(|error| panic!("{}: {error}", record.display()));
    let record: serde_json::Value = serde_json::from_slice(&record).expect("the record is JSON");
    (pid(&record["vmm"]["pid"]), pid(&record["vsock_device"]["pid"]))
}

fn write_and_sync(world: &World, text: &str) {
    world.banger_with_input(&["vm", "exec", "x", "--", "sh", "-c", "cat > /root/kept && sync"], text.as_bytes()).ok();
}

fn fails_soon(world: &World, how: &str, since: Instant) -> String {
    world.await_state("x", "failed", SOON);
    let told = format!("{how}: known after {} ms\n", since.elapsed().as_millis());
    std::io::stderr().write_all(told.as_bytes()).expect("stderr takes a line");
    let vm = world.vm("x");
    world.assert_audit_is_empty();
    vm["failure"].as_str().unwrap_or_default().to_owned()
}

fn starts_again_with(world: &World, text: &str) {
    world.banger(&["vm", "start", "x"]).ok();
    assert_eq!(world.banger(&["vm", "exec", "x", "--", "cat", "/root/kept"]).ok().stdout, text);
}

#[test]
fn however_a_machine_dies_its_state_is_right_and_nothing_is_left() {
    if !needs::qemu("however_a_machine_dies_its_state_is_right_and_nothing_is_left") {
        return;
    }
    let world = World::tiny();
    world.banger(&["vm", "run", "-d", "--name", "x", "--image", "tiny"]).ok();

    write_and_sync(&world, "before the panic\n");
    let began = Instant::now();
    // The command's own end is lost with its guest.
    world.banger(&["vm", "exec", "x", "--", "sh", "-c", "echo c > /proc/sysrq-trigger"]);
    let cause = fails_soon(&world, "guest kernel panic", began);
    assert!(cause.contains("the kernel of x gave up: sysrq triggered crash"), "{cause}");
    starts_again_with(&world, "before the panic\n");

    write_and_sync(&world, "before the device's end\n");
    let (_, device) = processes(&world, "x");
    let began = Instant::now();
    kill(device, Signal::SIGKILL).expect("the vsock device can be killed");
    let cause = fails_soon(&world, "kill -9 of the vsock device", began);
    assert!(cause.contains("ended by signal 15"), "{cause}");
    let log = world.banger(&["vm", "logs", "x", "--source", "vmm"]).ok().stdout;
    assert!(log.contains("the vsock device has ended"), "{log}");
    starts_again_with(&world, "before the device's end\n");

    write_and_sync(&world, "before everything's end\n");
    let (vmm, device) = processes(&world, "x");
    let daemon = Pid::from_raw(world.daemon_pid());
    let began = Instant::now();
    for one in [daemon, vmm, device] {
        kill(one, Signal::SIGTERM).expect("it can be told to end");
    }
    await_end(daemon);
    fails_soon(&world, "SIGTERM to everything", began);
    assert!(!Path::new(&format!("/proc/{vmm}")).exists() && !Path::new(&format!("/proc/{device}")).exists());
    starts_again_with(&world, "before everything's end\n");
    world.banger(&["vm", "stop", "x"]).ok();
    world.assert_disks_are_clean("x");
}

fn await_end(pid: Pid) {
    let end = Instant::now() + SOON;
    while kill(pid, None).is_ok() {
        assert!(Instant::now() < end, "{pid} does not end");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A writer that never rests is no reason to lose what was synced, nor to leave a file system that needs mending.
#[test]
fn every_orderly_stop_keeps_what_was_synced_and_leaves_clean_disks() {
    if !needs::qemu("every_orderly_stop_keeps_what_was_synced_and_leaves_clean_disks") {
        return;
    }
    let world = World::tiny();
    world.banger(&["vm", "run", "-d", "--name", "x", "--image", "tiny"]).ok();
    let writer = "setsid sh -c 'while :; do dd if=/dev/urandom of=/root/busy bs=64k count=16 2>/dev/null; \
                  cp /root/busy /var/busy; done' >/dev/null 2>&1 </dev/null &";
    let orderly: [&[&str]; 3] =
        [&["vm", "stop", "x"], &["vm", "exec", "x", "--", "poweroff"], &["vm", "stop", "--grace", "30s", "x"]];
    for (round, stop) in orderly.into_iter().enumerate() {
        world.banger(&["vm", "exec", "x", "--", "sh", "-c", writer]).ok();
        let text = format!("round {round}\n");
        write_and_sync(&world, &text);
        world.banger(stop);
        world.await_state("x", "stopped", Duration::from_secs(40));
        world.assert_disks_are_clean("x");
        starts_again_with(&world, &text);
    }
    world.banger(&["vm", "restart", "x"]).ok();
    world.banger(&["vm", "stop", "x"]).ok();
    world.assert_disks_are_clean("x");
}
