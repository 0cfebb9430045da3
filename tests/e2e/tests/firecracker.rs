//! Promise: Firecracker is the product. The same commands, on a real Firecracker with a kernel for emulated KVM.

use e2e::{World, needs};

const RUN: &[&str] = &["--vmm", "firecracker", "--kernel", "fcemu", "--image", "tiny", "--memory", "96", "--vcpu", "1"];

#[test]
fn firecracker_runs_a_command_and_keeps_streams_and_status() {
    if !needs::firecracker("firecracker_runs_a_command_and_keeps_streams_and_status") {
        return;
    }
    let world = World::firecracker();
    let script = "echo out; echo err >&2; exit 42";
    let arguments = [&["vm", "run", "--rm"], RUN, &["--", "sh", "-c", script]].concat();
    let ran = world.banger(&arguments);
    assert_eq!(ran.code, 42, "{ran:?}");
    assert_eq!(ran.stdout, "out\n");
    assert!(ran.stderr.lines().any(|line| line == "err"), "{ran:?}");
    assert_eq!(world.banger(&["ps", "--json"]).ok().json(), serde_json::json!([]));
}

#[test]
fn firecracker_guests_outlive_the_daemon_and_keep_their_disk() {
    if !needs::firecracker("firecracker_guests_outlive_the_daemon_and_keep_their_disk") {
        return;
    }
    let world = World::firecracker();
    world.banger(&[&["vm", "run", "-d", "--name", "fc"], RUN].concat()).ok();
    assert_eq!(world.vm("fc")["vmm"], "firecracker");
    world.banger_with_input(&["vm", "exec", "fc", "--", "sh", "-c", "cat > /root/kept; sync"], b"kept\n").ok();
    world.kill_daemon();
    assert_eq!(world.banger(&["vm", "exec", "fc", "--", "cat", "/root/kept"]).ok().stdout, "kept\n");
    world.banger(&["vm", "stop", "fc"]).ok();
    assert_eq!(world.state_of("fc"), "stopped");
    world.assert_disks_are_clean("fc");
    world.banger(&["vm", "start", "fc"]).ok();
    assert_eq!(world.banger(&["vm", "exec", "fc", "--", "cat", "/root/kept"]).ok().stdout, "kept\n");
}
