//! The VMM seam on real VMMs, with a guest of a few bytes. Needs QEMU and vhost-device-vsock, or Firecracker and
//! /dev/kvm; what is missing is one line and a skip, or a failure where `REQUIRE_NEEDS` names it.

mod support;

use engine::host::vmm::{Vmm, VmmExit, VmmState};
use engine::host::{HostErrorKind, network::LinkMode};
use model::{Backend, Change};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use support::{Guest, World, missing, process_file};

/// Runs `test` on `backend`, or tells why not.
#[allow(clippy::print_stderr)]
fn on(backend: Backend, test: fn(Backend)) {
    match missing(backend) {
        None => test(backend),
        Some(why) => {
            let required = std::env::var("REQUIRE_NEEDS").unwrap_or_default();
            assert!(!required.split(',').any(|need| need == backend.word()), "REQUIRE_NEEDS={backend}: {why}");
            eprintln!("skipped: {why}");
        }
    }
}

macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {
        mod qemu { $( #[test] fn $name() { super::on(model::Backend::Qemu, super::$name) } )+ }
        mod firecracker { $( #[test] fn $name() { super::on(model::Backend::Firecracker, super::$name) } )+ }
    };
}

on_both!(
    a_machine_runs_until_it_is_stopped,
    a_guest_that_ends_ends_its_vmm,
    a_vmm_outlives_the_daemon_and_is_adopted,
    a_killed_vmm_is_noticed_and_leaves_nothing,
    two_vmms_never_share_a_disk,
    a_start_that_was_not_finished_is_swept_away,
    a_machine_pauses_and_goes_on,
    a_kernel_that_is_none_leaves_nothing_but_a_sentence,
);

const PATIENCE_MS: u64 = 60_000;

/// The guest's command line arrives on the console.
fn await_console(daemon: &dyn Vmm, machine: &engine::host::vmm::Machine, text: &str) -> String {
    let deadline = Instant::now() + Duration::from_millis(PATIENCE_MS);
    loop {
        let console = daemon.console_tail(&machine.id, 4096);
        if console.contains(text) {
            return console;
        }
        assert!(Instant::now() < deadline, "the console holds no {text:?} but {console:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn a_machine_runs_until_it_is_stopped(backend: Backend) {
    let world = World::new();
    let daemon = world.daemon();
    let machine = world.machine(backend, Guest::Sleeps);
    assert_eq!(daemon.observe().unwrap(), []);
    assert_eq!(daemon.ensure_stopped(&machine.id, None).unwrap(), Change::Unchanged);

    assert_eq!(daemon.ensure_running(&machine).unwrap(), Change::Changed);
    assert_eq!(daemon.ensure_running(&machine).unwrap(), Change::Unchanged);
    let console = await_console(&daemon, &machine, "banger.poweroff=");
    assert!(console.contains("banger.root=overlay banger.init=agent banger.work=1"), "{console}");
    let facts = daemon.observe().unwrap();
    assert_eq!((facts.len(), facts[0].backend, facts[0].state.clone()), (1, backend, VmmState::Running));
    UnixStream::connect(world.layout.vsock(&machine.id)).unwrap();
    let usage = daemon.usage(&machine.id).unwrap();
    assert!(usage.resident_bytes > 1024 * 1024, "{usage:?}");
    assert_eq!(daemon.await_exit(&machine.id, 10).unwrap(), None);

    assert_eq!(daemon.ensure_stopped(&machine.id, None).unwrap(), Change::Changed);
    assert_eq!(daemon.ensure_stopped(&machine.id, None).unwrap(), Change::Unchanged);
    assert_eq!(daemon.observe().unwrap(), []);
    assert!(!process_file(facts[0].pid).exists());
    assert!(!world.layout.run(&machine.id).exists());
    assert!(daemon.console_tail(&machine.id, 4096).starts_with(&console), "the console log stays");
    assert!(daemon.usage(&machine.id).is_none());
}

fn a_guest_that_ends_ends_its_vmm(backend: Backend) {
    let world = World::new();
    let daemon = world.daemon();
    let machine = world.machine(backend, Guest::Ends);
    let _changed = daemon.ensure_running(&machine).unwrap();
    let exit = daemon.await_exit(&machine.id, PATIENCE_MS).unwrap();
    assert_eq!(exit, Some(VmmExit { code: Some(0), signal: None }));
    let facts = daemon.observe().unwrap();
    assert_eq!(facts[0].state, VmmState::Ended(exit.unwrap()));
    await_no_process_of(&world, &machine.id);
    // The same machine again: what the first left behind is in nobody's way.
    let machine = world.machine(backend, Guest::Sleeps);
    assert_eq!(daemon.ensure_running(&machine).unwrap(), Change::Changed);
    assert_eq!(daemon.observe().unwrap()[0].state, VmmState::Running);
}

fn a_vmm_outlives_the_daemon_and_is_adopted(backend: Backend) {
    let world = World::new();
    let machine = world.machine(backend, Guest::Sleeps);
    let first = world.daemon();
    let _changed = first.ensure_running(&machine).unwrap();
    let before = first.observe().unwrap();
    drop(first);

    let second = world.daemon();
    assert_eq!(second.observe().unwrap(), before);
    assert_eq!(second.ensure_running(&machine).unwrap(), Change::Unchanged);
    assert_eq!(second.await_exit(&machine.id, 10).unwrap(), None);
    let mut other = machine.clone();
    other.memory = model::ByteSize::from_mib(128);
    assert_eq!(second.ensure_running(&other).unwrap_err().kind, HostErrorKind::Busy);
    assert_eq!(second.ensure_stopped(&machine.id, Some(15)).unwrap(), Change::Changed);
    await_no_process_of(&world, &machine.id);
}

fn a_killed_vmm_is_noticed_and_leaves_nothing(backend: Backend) {
    let world = World::new();
    let daemon = world.daemon();
    let machine = world.machine(backend, Guest::Sleeps);
    let _changed = daemon.ensure_running(&machine).unwrap();
    let pid = rustix::process::Pid::from_raw(daemon.observe().unwrap()[0].pid as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let exit = daemon.await_exit(&machine.id, PATIENCE_MS).unwrap();
    assert_eq!(exit, Some(VmmExit { code: None, signal: Some(9) }));
    await_no_process_of(&world, &machine.id);
    // A daemon that was not there sees that it has ended, and cannot know how.
    assert_eq!(world.daemon().observe().unwrap()[0].state, VmmState::Ended(VmmExit::default()));
    assert_eq!(daemon.ensure_stopped(&machine.id, None).unwrap(), Change::Changed);
    assert_eq!(daemon.observe().unwrap(), []);
}

fn two_vmms_never_share_a_disk(backend: Backend) {
    let world = World::new();
    let daemon = world.daemon();
    let machine = world.machine(backend, Guest::Sleeps);
    let _changed = daemon.ensure_running(&machine).unwrap();
    let pid = daemon.observe().unwrap()[0].pid;
    // All that could tell of the first one is lost; the lock is not.
    fs::remove_dir_all(world.layout.run(&machine.id)).unwrap();
    fs::rename(world.layout.vmm_log(&machine.id), world.layout.vm(&machine.id).join("lost.log")).unwrap();
    let refused = world.daemon().ensure_running(&machine).unwrap_err();
    assert_eq!(refused.kind, HostErrorKind::Busy, "{refused:?}");
    assert!(process_file(pid).exists());
    fs::rename(world.layout.vm(&machine.id).join("lost.log"), world.layout.vmm_log(&machine.id)).unwrap();
    fs::create_dir(world.layout.run(&machine.id)).unwrap();
}

fn a_start_that_was_not_finished_is_swept_away(backend: Backend) {
    let world = World::new();
    let machine = world.machine(backend, Guest::Sleeps);
    let first = world.daemon();
    let _changed = first.ensure_running(&machine).unwrap();
    drop(first);
    fs::remove_file(world.layout.machine_record(&machine.id)).unwrap();

    let daemon = world.daemon();
    let facts = daemon.observe().unwrap();
    assert!(matches!(&facts[0].state, VmmState::Remains { what } if what.contains("not finished")), "{facts:?}");
    assert_eq!(daemon.ensure_running(&machine).unwrap(), Change::Changed);
    assert_eq!(daemon.observe().unwrap()[0].state, VmmState::Running);
    fs::write(world.layout.machine_record(&machine.id), "{").unwrap();
    let daemon = world.daemon();
    assert!(matches!(daemon.observe().unwrap()[0].state, VmmState::Remains { .. }));
    assert_eq!(daemon.ensure_stopped(&machine.id, None).unwrap(), Change::Changed);
    await_no_process_of(&world, &machine.id);
}

fn a_machine_pauses_and_goes_on(backend: Backend) {
    let world = World::new();
    let daemon = world.daemon();
    let machine = world.machine(backend, Guest::Sleeps);
    assert_eq!(daemon.ensure_paused(&machine.id).unwrap_err().kind, HostErrorKind::NotFound);
    let _changed = daemon.ensure_running(&machine).unwrap();
    assert_eq!(daemon.ensure_paused(&machine.id).unwrap(), Change::Changed);
    assert_eq!(daemon.ensure_paused(&machine.id).unwrap(), Change::Unchanged);
    assert_eq!(daemon.observe().unwrap()[0].state, VmmState::Paused);
    assert_eq!(world.daemon().ensure_resumed(&machine.id).unwrap(), Change::Changed);
    assert_eq!(daemon.observe().unwrap()[0].state, VmmState::Running);
}

fn a_kernel_that_is_none_leaves_nothing_but_a_sentence(backend: Backend) {
    let world = World::new();
    let daemon = world.daemon();
    let mut machine = world.machine(backend, Guest::Sleeps);
    fs::write(world.layout.kernel_vmlinux(&machine.kernel), "no kernel").unwrap();
    let error = daemon.ensure_running(&machine).unwrap_err();
    let words = format!("{error}: {:?}", error.source);
    assert_eq!(error.kind, HostErrorKind::Broken, "{words}");
    assert!(error.attempt.contains("for ba09000000000001") && error.source.is_some(), "{words}");
    assert_eq!(daemon.observe().unwrap(), []);
    await_no_process_of(&world, &machine.id);
    drop(daemon::host::vmm::process::processes_logging_to(&world.layout.vmm_log(&machine.id)));

    machine.attachment.mode = LinkMode::Tap { device: "banger-no-such".into() };
    assert!(daemon.ensure_running(&machine).is_err());
    assert_eq!(daemon.observe().unwrap(), []);
    await_no_process_of(&world, &machine.id);
}

/// The guest of a QEMU whose vsock device is gone can never be reached again, so the VMM ends too.
#[test]
fn a_vmm_without_its_vsock_device_ends() {
    on(Backend::Qemu, |backend| {
        let world = World::new();
        let daemon = world.daemon();
        let machine = world.machine(backend, Guest::Sleeps);
        let _changed = daemon.ensure_running(&machine).unwrap();
        let pid = daemon.observe().unwrap()[0].pid;
        let all = daemon::host::vmm::process::processes_logging_to(&world.layout.vmm_log(&machine.id));
        let device = all.iter().find(|process| process.identity.pid != pid).expect("a device runs");
        device.signal(rustix::process::Signal::KILL).unwrap();
        let exit = daemon.await_exit(&machine.id, PATIENCE_MS).unwrap();
        assert_eq!(exit, Some(VmmExit { code: None, signal: Some(15) }), "it is asked to end, and says so");
        await_no_process_of(&world, &machine.id);
    });
}

/// What Firecracker understood of our calls, in its own words.
#[test]
fn firecracker_has_the_machine_that_was_asked_for() {
    on(Backend::Firecracker, |backend| {
        let world = World::new();
        let daemon = world.daemon();
        let machine = world.machine(backend, Guest::Sleeps);
        let _changed = daemon.ensure_running(&machine).unwrap();
        let mut api = UnixStream::connect(world.layout.api_socket(&machine.id)).unwrap();
        api.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        api.write_all(b"GET /vm/config HTTP/1.1\r\n\r\n").unwrap();
        let mut text = String::new();
        // The connection stays open; the answer is whole once it parses.
        let config: serde_json::Value = loop {
            let mut buffer = [0; 4096];
            let count = api.read(&mut buffer).unwrap();
            text.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
            if let Some(config) = text.split_once("\r\n\r\n").and_then(|(_, body)| serde_json::from_str(body).ok()) {
                break config;
            }
        };
        let drives: Vec<_> = config["drives"].as_array().unwrap().iter().collect();
        let named = |drive: &serde_json::Value| (drive["drive_id"].clone(), drive["is_read_only"].clone());
        let mut drives: Vec<_> = drives.into_iter().map(named).collect();
        // It lists them in no order; the guest finds them in the order of the calls.
        drives.sort_by_key(|(name, _)| name.to_string());
        let expected = [("image", true), ("root", false), ("work", false)];
        assert_eq!(drives, expected.map(|(name, read_only)| (name.into(), read_only.into())));
        assert_eq!(
            (&config["machine-config"]["vcpu_count"], &config["machine-config"]["mem_size_mib"]),
            (&1.into(), &64.into())
        );
        assert_eq!(config["vsock"]["uds_path"], world.layout.vsock(&machine.id).to_str().unwrap());
        assert!(config["entropy"].is_object() && config["balloon"].is_object(), "{config}");
    });
}

/// Neither the VMM nor anything that was started beside it.
fn await_no_process_of(world: &World, id: &model::SandboxId) {
    let log = world.layout.vmm_log(id);
    let deadline = Instant::now() + Duration::from_secs(10);
    while !daemon::host::vmm::process::processes_logging_to(&log).is_empty() {
        assert!(Instant::now() < deadline, "a process is left");
        std::thread::sleep(Duration::from_millis(5));
    }
}
