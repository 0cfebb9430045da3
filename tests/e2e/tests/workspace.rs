//! Promise: a repository is in the guest as it is on the host, whatever its state, and the host's stays as it was.

use e2e::repository::{git, shell};
use e2e::{Repository, World, needs};

/// Names, kinds, execute bits and content of everything but `.git`, as busybox and GNU tools tell it alike.
const TREE: &str = "find . -path ./.git -prune -o -type f -print | sort | while read -r f; do \
                    test -x \"$f\" && printf 'x '; sha256sum \"$f\"; done; \
                    find . -path ./.git -prune -o -type l -print | sort | while read -r l; do \
                    echo \"$l $(readlink \"$l\")\"; done";

#[test]
fn a_command_runs_in_the_repository_as_it_is_and_the_host_keeps_its_own() {
    if !needs::qemu("a_command_runs_in_the_repository_as_it_is_and_the_host_keeps_its_own") {
        return;
    }
    let repository = Repository::dirty();
    let world = World::tiny();
    let before = repository.hash();
    let line = format!("pwd; ./tool; {TREE}; exit 7");
    let ran = world.banger(&["vm", "run", "--rm", "--image", "tiny", &repository.text(), "--", "sh", "-c", &line]);
    assert_eq!(ran.code, 7, "{ran:?}");
    std::fs::remove_file(repository.top().join("untracked")).expect("a file can be removed");
    let tree = shell(&repository.top(), TREE);
    repository.write("untracked", "stays here\n");
    // The host's own `dir/3` is untracked since it left the index; the guest has what is tracked.
    let tree: String = tree.lines().filter(|line| !line.ends_with("./dir/3")).map(|line| format!("{line}\n")).collect();
    assert_eq!(ran.stdout, format!("/root/repo\nit works\n{tree}"));
    assert_eq!(before, repository.hash(), "the host's repository changed");
    assert_eq!(world.banger(&["vm", "list", "--quiet"]).ok().stdout, "");
}

/// What git tells of the guest's workspace is what it tells of the host's.
#[track_caller]
fn assert_git_agrees(world: &World, repository: &Repository) {
    let questions: &[&[&str]] = &[
        &["status", "--porcelain=v2", "-z", "--untracked-files=no"],
        &["ls-files", "-s", "-z"],
        &["ls-files", "-v", "-z"],
        &["rev-parse", "HEAD", "HEAD^{tree}"],
        &["symbolic-ref", "HEAD"],
        &["log", "--format=%H %an %s"],
        &["config", "user.email"],
    ];
    for question in questions {
        let mut arguments = vec!["vm", "exec", "deb", "--", "git"];
        arguments.extend_from_slice(question);
        assert_eq!(world.banger(&arguments).ok().stdout, git(&repository.top(), question), "git {question:?}");
    }
    let fsck = world.banger(&["vm", "exec", "deb", "--", "git", "fsck", "--no-dangling"]);
    assert_eq!(fsck.code, 0, "{fsck:?}");
}

#[test]
fn git_in_the_guest_says_what_git_on_the_host_says() {
    if !needs::qemu("git_in_the_guest_says_what_git_on_the_host_says") {
        return;
    }
    let repository = Repository::dirty();
    let world = World::debian();
    let before = repository.hash();
    world.banger(&["vm", "run", "-d", "--name", "deb", "--memory", "1G", &repository.text()]).ok();
    assert_git_agrees(&world, &repository);
    assert_eq!(before, repository.hash(), "the host's repository changed");

    let shown = world.vm("deb");
    assert_eq!(shown["workspaces"][0]["guest_path"], "/root/repo");
    assert_eq!(shown["workspaces"][0]["head_commit"], repository.git(&["rev-parse", "HEAD"]));

    // Again, after the host moved on: what the guest added stays, what it changed is not lost.
    world.banger(&["vm", "exec", "deb", "--", "sh", "-c", "mkdir built && echo x > built/output"]).ok();
    repository.git(&["commit", "-q", "-a", "-m", "four"]);
    repository.write("new", "staged and not committed\n");
    repository.git(&["add", "new"]);
    repository.write("file", "edited again\n");
    std::fs::remove_file(repository.top().join("staged")).expect("a file can be removed");
    let told = world.banger(&["vm", "exec", "deb", "--", "true"]).ok();
    assert!(told.stderr.contains("1 new commit"), "{told:?}");
    // Long enough ago that what did not change since is known not to have changed.
    std::thread::sleep(std::time::Duration::from_secs(3));
    world.banger(&["vm", "exec", "--auto-prepare", "deb", "--", "true"]).ok();
    assert_git_agrees(&world, &repository);
    let read = world.banger(&["vm", "exec", "deb", "--", "cat", "file", "built/output"]).ok();
    assert_eq!(read.stdout, "edited again\nx\n");
    world.banger(&["vm", "exec", "deb", "--", "sh", "-c", "echo guest > file"]).ok();
    let refused = world.banger(&["vm", "workspace", "prepare", "deb", &repository.text()]);
    assert_ne!(refused.code, 0, "{refused:?}");
    assert!(refused.stderr.contains("work of its own") && refused.stderr.contains("1 changed"), "{refused:?}");
    assert_eq!(world.banger(&["vm", "exec", "deb", "--", "cat", "file"]).ok().stdout, "guest\n");
    world.banger(&["vm", "workspace", "prepare", "deb", "--discard", &repository.text()]).ok();
    assert_eq!(world.banger(&["vm", "exec", "deb", "--", "cat", "file"]).ok().stdout, "edited again\n");
}

#[test]
fn what_a_repository_asks_for_happens_in_the_guest_once_it_is_agreed_to() {
    if !needs::qemu("what_a_repository_asks_for_happens_in_the_guest_once_it_is_agreed_to") {
        return;
    }
    let repository = Repository::dirty();
    let world = World::tiny();
    let config = "memory = '256M'\nsetup = ['echo $MODE > /root/mark; pwd', 'exit 3']\n[env]\nMODE = 'test it'\n";
    repository.write(".banger.toml", config);
    repository.write("go.mod", "module x\ngo 1.22\n");
    repository.git(&["add", ".banger.toml", "go.mod"]);
    let path = repository.text();
    let run = ["vm", "run", "-d", "--name", "x", "--image", "tiny"];
    let refused = world.banger(&[&run[..], &[&path]].concat());
    assert!(refused.code != 0 && refused.stderr.contains("nobody has agreed"), "{refused:?}");
    assert_eq!(world.banger(&["vm", "list", "--quiet"]).ok().stdout, "");
    let ran = world.banger(&[&run[..], &["--accept-config", &path]].concat()).ok();
    assert!(ran.stderr.contains("not everything could be installed"), "{ran:?}");
    assert_eq!(world.vm("x")["memory_bytes"], 256 << 20);
    let log = world.banger(&["vm", "logs", "--bootstrap", "x"]).ok().stdout;
    for line in ["plan: go@1.22 (go.mod)", "mise is not in this image", "/root/repo", "bootstrap failed with status 1"]
    {
        assert!(log.contains(line), "{line} is missing: {log}");
    }
    let told = world.banger(&["vm", "exec", "x", "--", "sh", "-c", "cat /root/mark; echo $MODE"]).ok();
    assert_eq!(told.stdout, "test it\ntest it\n");
    // A guest that has `mise` runs commands with its tools.
    let mise = "printf '#!/bin/sh\\nshift 2\\nTOOLS=ready exec \"$@\"\\n' > /bin/mise; chmod +x /bin/mise";
    world.banger(&["vm", "exec", "--cwd", "/", "x", "--", "sh", "-c", mise]).ok();
    let told = world.banger(&["vm", "exec", "x", "--", "sh", "-c", "echo $TOOLS in $(pwd)"]).ok();
    assert_eq!(told.stdout, "ready in /root/repo\n");
}
