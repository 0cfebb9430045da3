//! Promise: a disk grows while its guest runs, file system included, and what is on it stays.

use e2e::{World, needs};

/// What `df` of the guest says of a mount point, in MiB.
fn mib(world: &World, mounted: &str) -> u64 {
    let told = world.banger(&["vm", "exec", "x", "--", "df", "-m", mounted]).ok().stdout;
    let line = told.lines().last().unwrap_or_default();
    let size = line.split_ascii_whitespace().nth(1).and_then(|size| size.parse().ok());
    size.unwrap_or_else(|| panic!("df says {told:?}"))
}

#[test]
fn disks_grow_while_their_guest_runs_and_while_it_is_off() {
    if !needs::qemu("disks_grow_while_their_guest_runs_and_while_it_is_off") {
        return;
    }
    let world = World::tiny();
    world.banger(&["vm", "run", "-d", "--name", "x", "--image", "tiny"]).ok();
    world.banger(&["vm", "exec", "x", "--", "sh", "-c", "echo kept | tee /root/kept > /var/kept; sync"]).ok();
    let before = (mib(&world, "/root"), mib(&world, "/"));
    assert!(before.0 < 9 << 10 && before.1 < 9 << 10, "both are of 8 GiB: {before:?}");

    // Far beyond the block of group descriptors that 8 GiB need (one for 64 groups of 128 MiB).
    let changed = world.banger(&["vm", "set", "x", "--disk-size", "40G", "--root-size", "9000M"]).ok();
    assert!(changed.stdout.contains("disk_size (now)") && changed.stdout.contains("root_size (now)"), "{changed:?}");
    let grown = (mib(&world, "/root"), mib(&world, "/"));
    assert!(grown.0 > 38 << 10 && grown.1 > before.1 + 600, "{before:?} became {grown:?}");
    let fill = "dd if=/dev/zero of=/root/large bs=1M count=64 2>/dev/null && sync && cat /root/kept /var/kept";
    assert_eq!(world.banger(&["vm", "exec", "x", "--", "sh", "-c", fill]).ok().stdout, "kept\nkept\n");
    let refused = world.banger(&["vm", "set", "x", "--disk-size", "8G"]);
    assert!(refused.code == 125 && refused.stderr.contains("cannot shrink"), "{refused:?}");

    world.banger(&["vm", "stop", "x"]).ok();
    world.assert_disks_are_clean("x");
    world.banger(&["vm", "set", "x", "--disk-size", "50G"]).ok();
    world.assert_disks_are_clean("x");
    world.banger(&["vm", "start", "x"]).ok();
    assert!(mib(&world, "/root") > 47 << 10, "{}", mib(&world, "/root"));
    assert_eq!(world.banger(&["vm", "exec", "x", "--", "cat", "/root/kept", "/var/kept"]).ok().stdout, "kept\nkept\n");
    world.banger(&["vm", "stop", "x"]).ok();
    world.assert_disks_are_clean("x");
}
