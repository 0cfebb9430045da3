//! Promises about the host under the sandboxes: it restarts, its disk fills up, its CPUs and memory are shared out.

use e2e::world::{Ran, binary};
use e2e::{World, needs};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What is written down of a running VMM.
fn record(world: &World, name: &str) -> serde_json::Value {
    let id = world.vm(name)["id"].as_str().expect("an id is text").to_owned();
    let record = std::fs::read(world.path().join("run/banger/vm").join(id).join("machine.json"));
    serde_json::from_slice(&record.expect("a running machine has a record")).expect("the record is JSON")
}

fn pids(world: &World, name: &str) -> Vec<Pid> {
    let record = record(world, name);
    let pid = |value: &serde_json::Value| Pid::from_raw(value["pid"].as_i64().expect("a pid is a number") as i32);
    vec![pid(&record["vmm"]), pid(&record["vsock_device"])]
}

/// A daemon in a mount namespace of its own, in which `prepare` (a line for `sh`) has changed the host.
fn daemon_after(world: &World, prepare: &str, daemons: &str) -> Child {
    let script = format!("mount --make-rprivate / && {prepare} && {daemons}");
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script]);
    world.environment(&mut command);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().expect("unshare runs");
    await_daemon(world);
    child
}

fn await_daemon(world: &World) {
    let end = Instant::now() + Duration::from_secs(30);
    while world.banger(&["daemon", "status"]).code != 0 {
        assert!(Instant::now() < end, "the daemon does not come up");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_host_that_restarts_finds_its_sandboxes_stopped_and_their_disks_whole() {
    let name = "a_host_that_restarts_finds_its_sandboxes_stopped_and_their_disks_whole";
    if !needs::qemu(name) || !needs::root(name) {
        return;
    }
    let world = World::tiny();
    world.banger(&["vm", "run", "-d", "--name", "off", "--image", "tiny"]).ok();
    world.banger(&["vm", "run", "-d", "--name", "on", "--image", "tiny", "--restart", "always"]).ok();
    for vm in ["off", "on"] {
        world.banger(&["vm", "exec", vm, "--", "sh", "-c", "echo kept > /root/kept; sync"]).ok();
    }
    // Power goes: every process, and what lay in memory.
    let all: Vec<Pid> = pids(&world, "off").into_iter().chain(pids(&world, "on")).collect();
    world.kill_daemon();
    all.into_iter().for_each(|pid| kill(pid, Signal::SIGKILL).expect("it can be killed"));
    std::fs::remove_dir_all(world.path().join("run/banger")).expect("the runtime folder is gone at reboot");
    let boot_id = world.path().join("boot_id");
    std::fs::write(&boot_id, "11111111-2222-3333-4444-555555555555\n").expect("it can be written");
    let other_boot = format!("mount --bind {} /proc/sys/kernel/random/boot_id", boot_id.display());
    let mut daemon = daemon_after(&world, &other_boot, &format!("exec {}", binary("bangerd").display()));

    let off = world.vm("off");
    assert_eq!((off["state"].as_str(), off["failure"].as_str()), (Some("stopped"), None), "{off}");
    world.await_state("on", "running", Duration::from_secs(60));
    world.assert_audit_is_empty();
    world.banger(&["vm", "start", "off"]).ok();
    for vm in ["off", "on"] {
        assert_eq!(world.banger(&["vm", "exec", vm, "--", "cat", "/root/kept"]).ok().stdout, "kept\n");
    }
    world.banger(&["vm", "stop", "--all"]).ok();
    ["off", "on"].iter().for_each(|vm| world.assert_disks_are_clean(vm));
    world.banger(&["daemon", "stop"]).ok();
    daemon.wait().expect("it ends");
}

/// The simulated host: what is at stake is the records, and they are real.
#[test]
fn a_full_disk_refuses_with_a_hint_and_loses_no_record() {
    let name = "a_full_disk_refuses_with_a_hint_and_loses_no_record";
    if !needs::root(name) {
        return;
    }
    let world = World::empty();
    let state = world.state();
    // The second daemon finds what the first has left; the disk is gone with their namespace.
    let small = format!("mount -t tmpfs -o size=2m,mode=700 none {}", state.display());
    let daemon = format!("{} --host sim", binary("bangerd").display());
    let mut child = daemon_after(&world, &small, &format!("{{ {daemon}; exec {daemon}; }}"));
    for vm in ["web", "db"] {
        world.banger(&["vm", "create", "--name", vm]).ok();
    }
    let inside =
        PathBuf::from(format!("/proc/{}/root", world.daemon_pid())).join(state.strip_prefix("/").expect("absolute"));
    let filler = inside.join("filler");
    fill(&filler);
    let refused = create_until_refused(&world);
    assert!(refused.stderr.contains("hint:") && refused.stderr.contains("space"), "{refused:?}");
    let listed = world.banger(&["vm", "list", "--quiet"]).ok().stdout;
    assert!(listed.lines().any(|line| line == "web") && listed.lines().any(|line| line == "db"), "{listed}");
    world.banger(&["vm", "stop", "web"]).ok();
    assert_eq!(world.state_of("web"), "stopped", "a full disk keeps no machine alive");
    std::fs::remove_file(&filler).expect("room can be made");
    world.banger(&["vm", "create", "--name", "roomy"]).ok();
    world.banger(&["daemon", "stop"]).ok();
    await_daemon(&world);
    let after = world.banger(&["vm", "list", "--quiet"]).ok().stdout;
    assert_eq!(after.lines().count(), listed.lines().count() + 1, "{listed} became {after}");
    world.banger(&["daemon", "stop"]).ok();
    child.wait().expect("it ends");
}

/// Takes what room there is.
fn fill(path: &Path) {
    let mut file = std::fs::File::create(path).expect("a file can be made");
    while file.write_all(&[0; 4096]).is_ok() {}
}

fn create_until_refused(world: &World) -> Ran {
    for number in 0..50 {
        let ran = world.banger(&["vm", "create", "--name", &format!("n{number}")]);
        if ran.code != 0 {
            return ran;
        }
    }
    panic!("the disk is never full");
}

/// The cgroups of this installation, in every hierarchy of v1.
fn groups(world: &World, vmm: Pid) -> Vec<PathBuf> {
    let own = std::fs::read_to_string(format!("/proc/{vmm}/cgroup")).expect("the kernel tells");
    let group = |line: &str| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controller, path) = (fields.next()?, fields.next()?);
        let ours = path.contains("/banger-") && path.ends_with(world.vm("x")["id"].as_str()?);
        ours.then(|| Path::new("/sys/fs/cgroup").join(controller).join(path.trim_start_matches('/')))
    };
    own.lines().filter_map(group).collect()
}

fn limit(groups: &[PathBuf], file: &str) -> String {
    let found = groups.iter().map(|group| group.join(file)).find(|path| path.exists());
    let path = found.unwrap_or_else(|| panic!("no group has {file}: {groups:?}"));
    std::fs::read_to_string(path).expect("a limit can be read").trim().to_owned()
}

#[test]
fn a_running_machine_has_limits_of_its_own_that_go_with_it() {
    let name = "a_running_machine_has_limits_of_its_own_that_go_with_it";
    if !needs::qemu(name) || !needs::cgroup_v1(name) {
        return;
    }
    let world = World::tiny();
    world.write_config("[limits]\ncpu_weight = 50\n");
    world.banger(&["vm", "run", "-d", "--name", "x", "--image", "tiny", "--memory", "256M"]).ok();
    let pids = pids(&world, "x");
    let groups = groups(&world, pids[0]);
    assert!(groups.len() >= 3, "{groups:?}");
    assert_eq!(limit(&groups, "cpu.shares"), "512");
    assert_eq!(limit(&groups, "memory.limit_in_bytes"), ((256_u64 + 1536) << 20).to_string());
    assert_eq!(limit(&groups, "pids.max"), "1024");
    let members = limit(&groups, "cgroup.procs");
    assert!(pids.iter().all(|pid| members.lines().any(|line| line == pid.to_string())), "{pids:?}: {members}");
    let doctor = world.banger(&["doctor", "--json"]).json();
    let check = doctor["checks"].as_array().and_then(|all| all.iter().find(|check| check["name"] == "limits").cloned());
    assert_eq!(check.expect("doctor tells of limits")["verdict"], "pass");

    // A group that a crash left behind is seen, and mended.
    let stray = groups[0].parent().expect("it lies in another").join("00000000000000aa");
    std::fs::create_dir(&stray).expect("a group can be made");
    let found = world.banger(&["audit", "--json"]);
    assert!(found.code != 0 && found.stdout.contains("00000000000000aa"), "{found:?}");
    world.banger(&["audit", "--fix"]);
    assert!(!stray.exists());
    world.kill_daemon();
    world.assert_audit_is_empty();
    assert!(groups.iter().all(|group| group.exists()), "the guest and its group outlive the daemon");
    world.banger(&["vm", "stop", "x"]).ok();
    assert!(!groups.iter().any(|group| group.exists()), "{groups:?}");
}
