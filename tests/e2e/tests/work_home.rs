//! Promise: what is done in a guest comes home by itself, outlives the guest, and is never dropped unasked.

use e2e::{Repository, World, needs};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::Duration;

#[track_caller]
fn in_guest(world: &World, line: &str) {
    world.banger(&["vm", "exec", "x", "--", "sh", "-c", line]).ok();
}

#[test]
fn work_outlives_a_killed_vmm_and_the_rest_is_read_from_its_disk() {
    if !needs::qemu("work_outlives_a_killed_vmm_and_the_rest_is_read_from_its_disk") {
        return;
    }
    let world = World::debian();
    let repository = Repository::clean();
    let before = repository.hash();
    world.banger(&["vm", "run", "-d", "--name", "x", "--memory", "1G", &repository.text()]).ok();
    in_guest(&world, "echo guest > new && git add new && git commit -qm 'made in the guest'");
    in_guest(&world, "echo edited > file && echo u > untracked && echo i > noise.log");
    repository.await_content("refs/banger/x/main:new", "guest");
    repository.await_content("refs/banger/x/wip:untracked", "u");
    assert_eq!(repository.git(&["show", "refs/banger/x/wip:file"]), "edited");
    assert!(!repository.try_git(&repository.top(), &["show", "refs/banger/x/wip:noise.log"]).status.success());
    assert_eq!(repository.git(&["log", "-1", "--format=%s", "refs/banger/x/main"]), "made in the guest");
    let listed = world.banger(&["vm", "list"]).ok().stdout;
    assert!(listed.contains("/root/repo +1 commit, 2 files"), "{listed}");

    // Another daemon goes on where this one was killed.
    world.kill_daemon();
    in_guest(&world, "echo after > untracked");
    repository.await_content("refs/banger/x/wip:untracked", "after");

    let pid = world.vm("x")["vmm_pid"].as_i64().expect("a running sandbox has a VMM");
    in_guest(&world, "echo late > late; git add late; git commit -qm late; echo rest > rest; sync");
    kill(Pid::from_raw(i32::try_from(pid).expect("a pid fits")), Signal::SIGKILL).expect("the VMM can be killed");
    world.await_state("x", "failed", Duration::from_secs(20));
    let patch = repository.folder.path().join("x.patch");
    let base = repository.git(&["rev-parse", "HEAD"]);
    world.banger(&["vm", "workspace", "export", "x", "--output", &patch.to_string_lossy()]).ok();
    repository.git(&["clone", "-q", ".", "../copy"]);
    let copy = repository.folder.path().join("copy");
    assert_eq!(repository.git(&["-C", "../copy", "rev-parse", "HEAD"]), base);
    repository.git(&["-C", "../copy", "apply", &patch.to_string_lossy()]);
    for (name, content) in
        [("new", "guest"), ("file", "edited"), ("untracked", "after"), ("late", "late"), ("rest", "rest")]
    {
        assert_eq!(std::fs::read_to_string(copy.join(name)).expect(name).trim_end(), content, "{name}");
    }
    assert_eq!(repository.git(&["log", "-1", "--format=%s", "refs/banger/x/main"]), "late");
    assert_eq!(repository.git(&["show", "refs/banger/x/wip:rest"]), "rest");
    // All of it is at home, so nothing stands in the way.
    world.banger(&["vm", "delete", "x"]).ok();
    assert_eq!(repository.hash(), before);
    assert_eq!(repository.git(&["show", "refs/banger/x/wip:rest"]), "rest");
    repository.assert_sound();
}

#[test]
fn a_guest_without_git_brings_its_work_home_and_a_pull_takes_it_in() {
    if !needs::qemu("a_guest_without_git_brings_its_work_home_and_a_pull_takes_it_in") {
        return;
    }
    let world = World::tiny();
    let repository = Repository::clean();
    let before = repository.hash();
    world.banger(&["vm", "run", "-d", "--name", "x", "--image", "tiny", &repository.text()]).ok();
    in_guest(
        &world,
        "echo edited > file; mkdir -p deep/er; echo new > deep/er/new; chmod +x deep/er/new; echo i > a.log",
    );
    repository.await_content("refs/banger/x/wip:deep/er/new", "new");
    assert_eq!(repository.hash(), before);
    in_guest(&world, "echo late > late");
    world.banger(&["vm", "stop", "x"]).ok();
    repository.await_content("refs/banger/x/wip:late", "late");
    // The same from the disk of one that is off.
    let status = world.banger(&["vm", "workspace", "status", "x", "--json"]).ok().json();
    assert_eq!((status["changed_files"].as_u64(), &status["left"]), (Some(3), &serde_json::Value::Null), "{status}");
    let diff = world.banger(&["vm", "workspace", "diff", "x"]).ok().stdout;
    assert!(diff.contains("+edited") && diff.contains("new file mode 100755"), "{diff}");
    world.banger(&["vm", "workspace", "pull", "x"]).ok();
    assert_eq!(repository.git(&["status", "--porcelain", "-uall"]), " M file\n?? deep/er/new\n?? late");
    let refused = world.banger(&["vm", "workspace", "pull", "x"]);
    assert_eq!(refused.code, 125, "{refused:?}");
    assert!(refused.stderr.contains("the checkout has changes of its own: file"), "{refused:?}");
    world.banger(&["vm", "delete", "x"]).ok();
    repository.assert_sound();
}

#[test]
fn a_sandbox_whose_work_cannot_come_home_is_not_deleted_unasked() {
    if !needs::qemu("a_sandbox_whose_work_cannot_come_home_is_not_deleted_unasked") {
        return;
    }
    let world = World::tiny();
    let repository = Repository::clean();
    let before = repository.hash();
    // Nothing was done: nothing is in the way, and nothing of ours is left.
    let ran = world.banger(&[
        "vm",
        "run",
        "--rm",
        "--image",
        "tiny",
        &repository.text(),
        "--",
        "sh",
        "-c",
        "cat file; exit 3",
    ]);
    assert_eq!((ran.code, ran.stdout.as_str()), (3, "3\n"), "{ran:?}");
    assert_eq!(repository.git(&["for-each-ref", "refs/banger"]), "");
    // Work that comes home is no reason to keep the guest.
    let line = "echo built > out; echo noise > a.log";
    world
        .banger(&["vm", "run", "--rm", "--name", "y", "--image", "tiny", &repository.text(), "--", "sh", "-c", line])
        .ok();
    assert_eq!(repository.git(&["show", "refs/banger/y/wip:out"]), "built");
    assert_eq!(world.banger(&["vm", "list", "--quiet"]).ok().stdout, "");
    // A branch that leads nowhere cannot be brought home.
    let line = "echo 0123456789012345678901234567890123456789 > .git/refs/heads/broken; echo fine > fine; sync";
    let ran = world.banger(&[
        "vm",
        "run",
        "--rm",
        "--name",
        "x",
        "--image",
        "tiny",
        &repository.text(),
        "--",
        "sh",
        "-c",
        line,
    ]);
    assert_eq!(ran.code, 125, "{ran:?}");
    assert!(ran.stderr.contains("cannot delete x: work in it is not on the host"), "{ran:?}");
    assert!(ran.stderr.contains("refs/banger/x/broken"), "{ran:?}");
    assert_eq!(repository.git(&["show", "refs/banger/x/wip:fine"]), "fine");
    assert_eq!(world.state_of("x"), "running");
    assert_eq!(world.banger(&["vm", "delete", "--force", "x"]).code, 125);
    world.banger(&["vm", "kill", "x"]).ok();
    let pruned = world.banger(&["vm", "prune", "--force"]);
    assert!(pruned.code == 125 && pruned.stderr.contains("refs/banger/x/broken"), "{pruned:?}");
    assert_eq!(repository.hash(), before);
    world.banger(&["vm", "delete", "--discard", "x"]).ok();
    assert_eq!(world.banger(&["vm", "list", "--quiet"]).ok().stdout, "");
    repository.assert_sound();
}
