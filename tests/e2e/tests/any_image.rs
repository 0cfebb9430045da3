//! Promise: whatever an image holds, it boots, answers, and runs the command that it brings: without an init, without a
//! shell, without systemd and with it.

use e2e::{World, foreign, needs};
use std::path::PathBuf;
use std::time::{Duration, Instant};

fn world(name: &str, artifacts: fn() -> PathBuf) -> Option<World> {
    needs::qemu(name).then(|| World::with(&artifacts()))
}

/// The service's log holds this soon.
#[track_caller]
fn await_log(world: &World, name: &str, wanted: &str) -> String {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let log = world.banger(&["vm", "logs", "--source", "service", name]).ok().stdout;
        if log.contains(wanted) {
            return log;
        }
        assert!(Instant::now() < end, "the log of {name} has no `{wanted}`: {log}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[track_caller]
fn assert_runs(world: &World, name: &str) -> u64 {
    let service = world.banger(&["vm", "service", name, "--json"]).ok().json();
    assert_eq!(service["phase"], "running", "{service}");
    service["pid"].as_u64().expect("a service that runs has a process")
}

#[test]
fn an_image_of_busybox_alone_boots_and_runs_its_own_command() {
    let test = "an_image_of_busybox_alone_boots_and_runs_its_own_command";
    let Some(world) = world(test, foreign::small) else { return };
    let image = foreign::BUSYBOX_ONLY;
    world.banger(&["vm", "run", "-d", "--name", "bare", "--image", image]).ok();
    await_log(&world, "bare", "hello from /srv/app as 65534\n");
    assert_runs(&world, "bare");
    let who =
        world.banger(&["vm", "exec", "bare", "--", "/bin/busybox", "sh", "-c", "echo $GREETING; echo $$ >&2"]).ok();
    assert_eq!(who.stdout, "hello\n", "a command gets the image's environment");
    world.banger(&["vm", "stop", "bare"]).ok();
    let console = world.banger(&["vm", "logs", "bare"]).ok().stdout;
    assert!(console.contains("told to stop"), "its own stop signal ends it: {console}");
    world.assert_disks_are_clean("bare");
    // A start brings it back; its log goes on.
    world.banger(&["vm", "start", "bare"]).ok();
    let end = Instant::now() + Duration::from_secs(60);
    while world.banger(&["vm", "logs", "--source", "service", "bare"]).ok().stdout.matches("hello").count() < 2 {
        assert!(Instant::now() < end, "the command did not come back");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn a_command_replaces_the_images_as_docker_does() {
    let Some(world) = world("a_command_replaces_the_images_as_docker_does", foreign::small) else { return };
    let replaced = "echo $GREETING $PWD $(/bin/busybox id -u); exit 9";
    let ran = world.banger(&["vm", "run", "--rm", "--image", foreign::BUSYBOX_ONLY, "--", replaced]);
    assert_eq!((ran.code, ran.stdout.as_str()), (9, "hello /srv/app 65534\n"), "behind the entrypoint: {ran:?}");
    let other = ["vm", "run", "--rm", "--image", foreign::STATIC_ONLY, "--", "there"];
    let ran = world.banger(&other);
    assert_eq!((ran.code, ran.stdout.as_str()), (7, "there\n"), "{ran:?}");
    // Attached without a command: the image's own, whose end is ours.
    let own = ["vm", "run", "--rm", "--image", foreign::STATIC_ONLY, "--entrypoint", "/nothing"];
    let ran = world.banger(&own);
    assert_eq!(ran.code, 127, "{ran:?}");
    assert!(ran.stderr.contains("cannot run /nothing"), "{ran:?}");
}

#[test]
fn an_image_of_one_static_program_boots_and_runs_it() {
    let Some(world) = world("an_image_of_one_static_program_boots_and_runs_it", foreign::small) else { return };
    world.banger(&["vm", "run", "-d", "--name", "one", "--image", foreign::STATIC_ONLY]).ok();
    await_log(&world, "one", "app as 65532, green\n");
    let pid = assert_runs(&world, "one");
    let ran = world.banger(&["vm", "exec", "one", "--", "/app", "hello"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (7, "hello\n"), "{ran:?}");
    let shell = world.banger(&["vm", "exec", "one", "--", "sh"]);
    assert_eq!(shell.code, 127, "{shell:?}");
    // Nobody could end it from inside; ended from outside it fails, and comes back.
    let killed = world.banger(&["vm", "service", "one", "--json"]).ok().json();
    assert_eq!((killed["restarts"].as_u64(), pid > 1), (Some(0), true), "{killed}");
}

#[test]
fn debian_without_systemd_boots_and_runs_its_own_command() {
    let test = "debian_without_systemd_boots_and_runs_its_own_command";
    if !needs::program("mmdebstrap", test) {
        return;
    }
    let Some(world) = world(test, foreign::debian_bare) else { return };
    world.banger(&["vm", "run", "-d", "--name", "bare", "--image", foreign::DEBIAN_BARE, "--memory", "512M"]).ok();
    await_log(&world, "bare", "hello from /srv/app as 65534\n");
    let pid = assert_runs(&world, "bare");
    let name = world.banger(&["vm", "exec", "bare", "--", "sh", "-c", ". /etc/os-release; echo $ID; hostname"]).ok();
    assert_eq!(name.stdout, "debian\nbare\n");
    // A command that is killed failed, and is started again.
    world.banger(&["vm", "exec", "bare", "--", "sh", "-c", &format!("kill -KILL {pid}")]).ok();
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let service = world.banger(&["vm", "service", "bare", "--json"]).ok().json();
        if service["phase"] == "running" && service["restarts"] == 1 {
            assert_ne!(service["pid"].as_u64(), Some(pid));
            break;
        }
        assert!(Instant::now() < end, "{service}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn debian_with_systemd_runs_its_own_command_as_a_unit() {
    let test = "debian_with_systemd_runs_its_own_command_as_a_unit";
    let Some(world) = world(test, foreign::debian_service) else { return };
    let image = foreign::DEBIAN_SERVICE;
    world.banger(&["vm", "run", "-d", "--name", "deb", "--image", image, "--vcpu", "2", "--memory", "1G"]).ok();
    await_log(&world, "deb", "hello from /srv/app as 65534\n");
    assert_runs(&world, "deb");
    let first = world.banger(&["vm", "exec", "deb", "--", "cat", "/proc/1/comm"]).ok();
    assert_eq!(first.stdout, "systemd\n");
    let unit = world.banger(&["vm", "exec", "deb", "--", "systemctl", "is-active", "banger-service.service"]).ok();
    assert_eq!(unit.stdout, "active\n");
    let state = world.banger(&["vm", "exec", "deb", "--", "systemctl", "is-system-running", "--wait"]);
    assert_eq!(state.stdout, "running\n", "{state:?}");
    world.banger(&["vm", "stop", "deb"]).ok();
    let console = world.banger(&["vm", "logs", "deb"]).ok().stdout;
    assert!(console.contains("told to stop"), "systemd's end passes on its own stop signal: {console}");
}

#[test]
fn a_debian_without_systemd_gets_it_at_its_first_boot() {
    let test = "a_debian_without_systemd_gets_it_at_its_first_boot";
    if !needs::program("mmdebstrap", test) {
        return;
    }
    let Some(world) = world(test, foreign::debian_offline) else { return };
    let image = foreign::DEBIAN_OFFLINE;
    let wanted = ["vm", "run", "-d", "--name", "deb", "--image", image, "--init", "systemd", "--nat", "off"];
    world.banger(&[&wanted[..], &["--vcpu", "2", "--memory", "1G"]].concat()).ok();
    // dpkg under emulation takes its time; the console tells how far it is.
    let end = Instant::now() + Duration::from_secs(420);
    loop {
        let first = world.banger(&["vm", "exec", "deb", "--", "cat", "/proc/1/comm"]);
        if first.stdout == "systemd\n" {
            break;
        }
        let console = world.banger(&["vm", "logs", "deb"]).ok().stdout;
        assert!(!console.contains("cannot install systemd"), "{console}");
        assert!(Instant::now() < end, "systemd did not come: {console}");
        std::thread::sleep(Duration::from_secs(1));
    }
    let console = world.banger(&["vm", "logs", "deb"]).ok().stdout;
    assert!(console.contains("installing (2 of 2): apt-get"), "{console}");
    let sshd = world.banger(&["vm", "exec", "deb", "--", "systemctl", "is-enabled", "ssh.service"]);
    assert_eq!(sshd.stdout, "enabled\n", "{sshd:?}");
    // The next boot finds it there.
    world.banger(&["vm", "restart", "deb"]).ok();
    let first = world.banger(&["vm", "exec", "deb", "--", "cat", "/proc/1/comm"]).ok();
    assert_eq!(first.stdout, "systemd\n");
    assert_eq!(world.vm("deb")["init"], "systemd");
}
