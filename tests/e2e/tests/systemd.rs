//! Promise: the default image is a whole Debian: systemd runs, and what is written stays.

use e2e::{World, needs};

#[test]
fn a_systemd_guest_is_running_and_keeps_both_disks_over_stop_and_start() {
    if !needs::qemu("a_systemd_guest_is_running_and_keeps_both_disks_over_stop_and_start") {
        return;
    }
    let world = World::debian();
    world.banger(&["vm", "run", "-d", "--name", "deb", "--vcpu", "2", "--memory", "1G"]).ok();
    let state = world.banger(&["vm", "exec", "deb", "--", "systemctl", "is-system-running", "--wait"]);
    assert_eq!(state.stdout, "running\n", "{state:?}");
    let boot = world.banger(&["vm", "exec", "deb", "--", "cat", "/proc/sys/kernel/random/boot_id"]).ok().stdout;
    world.banger(&["vm", "exec", "deb", "--", "sh", "-c", "echo one > /root/kept; echo two > /srv/kept; sync"]).ok();
    world.banger(&["vm", "stop", "deb"]).ok();
    assert_eq!(world.state_of("deb"), "stopped");
    world.assert_disks_are_clean("deb");
    world.banger(&["vm", "start", "deb"]).ok();
    let kept = world.banger(&["vm", "exec", "deb", "--", "cat", "/root/kept", "/srv/kept"]).ok();
    assert_eq!(kept.stdout, "one\ntwo\n");
    let again = world.banger(&["vm", "exec", "deb", "--", "cat", "/proc/sys/kernel/random/boot_id"]).ok().stdout;
    assert_ne!(boot, again);
}
