//! Promise: a command in a sandbox behaves as a command here: stdin, terminal, user, folder, environment, status.

use e2e::terminal::Terminal;
use e2e::{World, needs};
use std::process::Stdio;
use std::time::Duration;

fn running(world: &World) {
    world.banger(&["vm", "run", "-d", "--name", "x", "--image", "tiny"]).ok();
}

#[test]
fn a_command_reads_stdin_and_knows_its_user_folder_and_environment() {
    if !needs::qemu("a_command_reads_stdin_and_knows_its_user_folder_and_environment") {
        return;
    }
    let world = World::tiny();
    running(&world);
    let ran = world.banger_with_input(&["vm", "exec", "x", "--", "wc", "-l"], b"a\nb\n").ok();
    assert_eq!(ran.stdout.trim(), "2");
    let ran = world.banger(&["vm", "exec", "--user", "nobody", "--cwd", "/tmp", "x", "--", "sh", "-c", "id -u; pwd"]);
    assert_eq!(ran.ok().stdout, "65534\n/tmp\n");
    let ran = world.banger(&["vm", "exec", "--env", "GREETING=hello world", "x", "--", "sh", "-c", "echo $GREETING"]);
    assert_eq!(ran.ok().stdout, "hello world\n");
    assert_eq!(world.banger(&["vm", "exec", "x", "--", "no-such-command"]).code, 127);
    assert_eq!(world.banger(&["vm", "exec", "x", "--", "/etc/passwd"]).code, 126);
    assert_eq!(world.banger(&["vm", "exec", "x", "--", "sh", "-c", "kill -9 $$"]).code, 137);
}

#[test]
fn a_stalled_reader_stops_the_command_and_fills_no_memory() {
    if !needs::qemu("a_stalled_reader_stops_the_command_and_fills_no_memory") {
        return;
    }
    let world = World::tiny();
    running(&world);
    // Nobody reads for a while: a growing buffer on the way would show in the daemon's memory.
    let before = memory_kib(world.daemon_pid());
    let mut command = world.command(&["vm", "exec", "x", "--", "sh", "-c", "yes | head -c 268435456"]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("banger starts");
    std::thread::sleep(Duration::from_secs(3));
    let while_stalled = memory_kib(world.daemon_pid());
    let mut stdout = child.stdout.take().expect("stdout is piped");
    let count = std::io::copy(&mut stdout, &mut std::io::sink()).expect("stdout can be read");
    assert_eq!(count, 268_435_456);
    assert!(child.wait().expect("banger ends").success());
    assert!(while_stalled < before + 32 * 1024, "the daemon grew from {before} to {while_stalled} KiB");
}

fn memory_kib(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the daemon runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS")).expect("a process has memory");
    line.split_whitespace().nth(1).and_then(|text| text.parse().ok()).expect("VmRSS is a number")
}

#[test]
fn a_terminal_follows_its_window() {
    if !needs::qemu("a_terminal_follows_its_window") {
        return;
    }
    let world = World::tiny();
    running(&world);
    let mut terminal = Terminal::start(world.command(&["vm", "exec", "-it", "x", "--", "sh"]), 24, 80);
    terminal.type_text("tty; stty size; echo mark-$((1+1))\n");
    let shown = terminal.expect("mark-2");
    assert!(shown.contains("/dev/pts/"), "{shown}");
    assert!(shown.contains("24 80"), "{shown}");
    terminal.resize(40, 132);
    terminal.type_text("sleep 1; stty size; echo mark-$((2+2))\n");
    let shown = terminal.expect("mark-4");
    assert!(shown.contains("40 132"), "{shown}");
    terminal.type_text("exit 7\n");
    assert_eq!(terminal.wait(), 7);
}

#[test]
fn a_guest_that_powers_itself_off_ends_its_commands_and_is_stopped() {
    if !needs::qemu("a_guest_that_powers_itself_off_ends_its_commands_and_is_stopped") {
        return;
    }
    let world = World::tiny();
    running(&world);
    let ran = world.banger(&["vm", "exec", "x", "--", "sh", "-c", "poweroff -f; sleep 60"]);
    assert!(ran.code >= 125, "{ran:?}");
    assert!(ran.stderr.contains("error:"), "{ran:?}");
    world.await_state("x", "stopped", Duration::from_secs(10));
    world.assert_audit_is_empty();
}
