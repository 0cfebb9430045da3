//! The end of a machine: processes asked and then told to go, disks made clean, and the call that makes the VMM exit.
//!
//! Three ways lead here: `POST /shutdown` in a guest whose init is the agent, a signal to PID 1, and, in a systemd guest,
//! systemd itself, which starts `/run/initramfs/shutdown` (this binary) as its last program with the old root in /oldroot.
//! So a `poweroff` typed inside ends the VMM as well, where systemd's own RB_POWER_OFF would leave Firecracker running.

use crate::console;
use crate::init::{OWN_DISK, power_off_word};
use crate::machine::InitKind;
use crate::service;
use crate::service::place::{self, Place};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::mount::{MountFlags, UnmountFlags, mount_remount, unmount};
use rustix::system::{RebootCommand, reboot};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use wire::{Fault, FaultKind};

/// The last line of a machine that ended as it should.
const LAST_LINE: &str = "powering off";
/// How often the process table is looked at while processes end: their number is the kernel's secret otherwise.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// For the 202 to leave through the socket before processes are told to end.
const ANSWER_GRACE: Duration = Duration::from_millis(50);
/// Between two requests to a systemd that does not listen yet.
const ASK_EVERY: Duration = Duration::from_millis(200);
/// What is left to the killed to vanish.
const KILL_GRACE: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    PowerOff,
    Reboot,
}

/// `POST /shutdown`: starts the end and comes back, so that the answer reaches the host.
pub fn begin(init: InitKind, grace: Duration) -> Result<(), Fault> {
    match init {
        InitKind::Agent => {
            // Signals go to every process of the machine: only the child of our own PID 1 may say that.
            if rustix::process::getppid().is_none_or(|parent| !parent.is_init()) {
                return Err(Fault::new(FaultKind::Refused, "cannot end a machine that another init runs"));
            }
            std::thread::spawn(move || {
                std::thread::sleep(ANSWER_GRACE);
                end(grace, Ending::PowerOff)
            });
        }
        InitKind::Systemd => {
            // systemd ends us with everything else; who is still here after the grace finds a systemd that hangs.
            std::thread::spawn(move || {
                let end = Instant::now() + grace;
                while !systemd_powers_off() && Instant::now() < end {
                    std::thread::sleep(ASK_EVERY);
                }
                std::thread::sleep(end.saturating_duration_since(Instant::now()));
                finish(Ending::PowerOff)
            });
        }
    }
    Ok(())
}

/// False early in the boot: systemd does not listen yet.
fn systemd_powers_off() -> bool {
    let asked = Command::new("systemctl")
        .args(["--no-block", "poweroff"])
        .env("PATH", crate::machine::PATH)
        .stdin(Stdio::null())
        .status();
    asked.is_ok_and(|status| status.success())
}

/// Ends everything, in order: first the image's command with the signal that it asked for. May be called by PID 1 or by
/// its server.
pub fn end(grace: Duration, ending: Ending) -> ! {
    let began = Instant::now();
    service::stop(&Place::at(Path::new(place::FOLDER)), grace);
    let grace = grace.saturating_sub(began.elapsed());
    // An interactive shell ignores SIGTERM and goes at a hang-up; a stopped process needs SIGCONT to hear either.
    for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGCONT] {
        let _ = kill(Pid::from_raw(-1), signal);
    }
    if !wait_until_alone(grace) {
        let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
        wait_until_alone(KILL_GRACE);
    }
    release_disks();
    finish(ending)
}

/// For a machine that failed to come up: nothing runs yet, what is mounted is made clean.
pub fn end_machine() -> ExitCode {
    release_disks();
    finish(Ending::PowerOff)
}

/// The last program of a systemd guest. `verb` is systemd's: `poweroff`, `reboot`, `halt` or `kexec`.
pub fn finish_after_systemd(verb: &str) -> ExitCode {
    let ending = if verb == "reboot" { Ending::Reboot } else { Ending::PowerOff };
    release_disks();
    finish(ending)
}

/// The call itself. Also where systemd did not answer in time, hence with a sync of its own.
pub fn finish(ending: Ending) -> ! {
    rustix::fs::sync();
    console::boot(LAST_LINE);
    // Else the line may still stand in the serial port's queue when the machine is gone.
    let _ = rustix::termios::tcdrain(rustix::stdio::stderr());
    let command = match ending {
        Ending::PowerOff => power_off_word(),
        Ending::Reboot => RebootCommand::Restart,
    };
    let _ = reboot(command);
    // Whoever is still here lacks the right or the hardware: a restart ends any VMM that was told not to reboot.
    let _ = reboot(RebootCommand::Restart);
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

/// True once no process is left but the kernel's threads, PID 1 and the caller.
fn wait_until_alone(grace: Duration) -> bool {
    let end = Instant::now() + grace;
    loop {
        reap();
        if !others_live() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Only PID 1 has orphans to wait for; for the server this finds its own commands, which end here anyway.
fn reap() {
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            return;
        }
    }
}

fn others_live() -> bool {
    let own = std::process::id();
    let Ok(table) = std::fs::read_dir("/proc") else { return false };
    table.flatten().any(|entry| {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { return false };
        pid != 1
            && pid != own
            && std::fs::read_to_string(entry.path().join("stat")).is_ok_and(|stat| is_living_program(&stat))
    })
}

/// /proc/PID/stat: after the name in parentheses come state, ppid, pgrp, session, tty, tpgid and flags.
fn is_living_program(stat: &str) -> bool {
    const KERNEL_THREAD: u32 = 0x0020_0000;
    let Some((_, rest)) = stat.rsplit_once(") ") else { return false };
    let fields: Vec<&str> = rest.split(' ').collect();
    let dead = matches!(fields.first(), Some(&"Z" | &"X"));
    let flags: u32 = fields.get(6).and_then(|text| text.parse().ok()).unwrap_or(0);
    !dead && flags & KERNEL_THREAD == 0
}

/// Unmounts what can be, then makes read-only what is left, the sandbox's own disk last: the overlay writes to it.
fn release_disks() {
    rustix::fs::sync();
    let table = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut targets: Vec<String> = disk_mounts(&table);
    targets.reverse();
    let own_last = |target: &String| target == OWN_DISK || target == "/own";
    for target in targets.iter().filter(|target| *target != "/" && !own_last(target)) {
        if unmount(target.as_str(), UnmountFlags::empty()).is_err() {
            let _ = mount_remount(target.as_str(), MountFlags::RDONLY, c"");
        }
    }
    let _ = mount_remount("/", MountFlags::RDONLY, c"");
    for target in targets.iter().filter(|target| own_last(target)) {
        if mount_remount(target.as_str(), MountFlags::RDONLY, c"").is_err() {
            console::boot("cannot make the disk clean: it is replayed at the next start");
        }
    }
    rustix::fs::sync();
}

/// Mount points that hold someone's data, in mount order.
fn disk_mounts(table: &str) -> Vec<String> {
    const DATA: [&str; 7] = ["ext4", "overlay", "xfs", "btrfs", "erofs", "squashfs", "vfat"];
    table
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (target, kind) = (fields.next()?, fields.next()?);
            DATA.contains(&kind).then(|| crate::text::unescape_mount(target))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zombies_and_kernel_threads_do_not_keep_a_machine_alive() {
        assert!(is_living_program("7 (sh) S 1 7 7 0 -1 4194560 0"));
        assert!(is_living_program("7 (a) b) R 1 7 7 0 -1 4194560 0"));
        assert!(!is_living_program("7 (sh) Z 1 7 7 0 -1 4194560 0"));
        assert!(!is_living_program("2 (kthreadd) S 0 0 0 0 -1 2129984 0"));
        assert!(!is_living_program(""));
    }

    #[test]
    fn only_mounts_with_data_are_released() {
        let table = "proc /proc proc rw 0 0\n/dev/vdb /own ext4 rw 0 0\noverlay / overlay rw 0 0\n/dev/vdc /mnt/a\\040b ext4 rw 0 0\n";
        assert_eq!(disk_mounts(table), ["/own", "/", "/mnt/a b"]);
    }
}
