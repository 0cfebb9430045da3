//! PID 1 from the kernel's first program to the image's init: mounts, modules, drives, the root, and who runs in it.
//!
//! ```text
//! /init ─► proc sys dev ─► modules ─► drives ─► root ─► switch_root ─┬─► agent: supervisor (PID 1) ─► server (its child)
//!                                                                   └─► systemd (PID 1) ─► server (its service)
//! ```
//! The initramfs holds `/init` (this binary), `/dev/console` (see below) and, where the kernel has modules, `/modules/order` with one
//! file name below `/modules` a line, in load order, uncompressed, each optionally followed by parameters.
//! The words of the kernel's command line are those of [`wire::guest::cmdline`], parsed by [`cmdline`].
//!
//! Invariants: every wait has a deadline; whatever fails before the server is up says `banger-init: cannot …` on the console and
//! ends the machine with `banger-init: giving up`, so the host sees an exit and never a silent guest.
//!
//! Traps that shaped this:
//! - Rust's runtime opens /dev/null for closed descriptors 0 to 2 and aborts where it is missing. A kernel without its
//!   built-in initramfs (which has /dev/console) starts `/init` with them closed, so the initramfs must carry `dev/console` (c 5 1).
//! - After switch_root the agent's file is gone but its inode lives; `/proc/self/exe` still starts it.
//! - `/run/initramfs` is the one place that systemd neither unmounts nor counts as its own, so the sandbox's own ext4 is
//!   kept visible there, and `/run/initramfs/shutdown` is what systemd runs last: see [`crate::power`].
//! - A line written just before the machine ends is lost in the serial port's queue unless it is drained first.
//! - Kernel clocks jump under emulation; every deadline here is on the monotonic clock.
//! - The image is mounted read-only from a read-only drive: an ext4 whose journal needs replaying cannot be.
//! - A server that waits for its children cannot also reap orphans, so PID 1 is a supervisor with the server as its child.

mod cmdline;
mod device;
mod fstab;
mod modules;
mod mounts;
pub mod provision;
mod root;
mod supervisor;
mod systemd;

use crate::{console, power};
use cmdline::{Cmdline, InitChoice, RootKind};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

/// 20 s for a drive to appear: emulated machines need a few seconds, more means that it was never attached.
const DEVICE_DEADLINE: Duration = Duration::from_secs(20);

/// Where the sandbox's own ext4 stays visible; the last program of a systemd guest finds it as `/own`.
pub const OWN_DISK: &str = "/run/initramfs/own";
/// Where the agent's binary lives in a systemd guest.
pub const AGENT_IN_RUN: &str = "/run/banger/agent";

#[derive(Debug, thiserror::Error)]
pub enum InitError {
    #[error("cannot {attempt}")]
    Step { attempt: String, source: std::io::Error },
    #[error("cannot find {what} within {seconds} s")]
    NoDevice { what: String, seconds: u64 },
    #[error("cannot mount {device}: {tried}")]
    NoFileSystem { device: String, tried: String },
}

impl InitError {
    /// For `map_err`: keeps the attempt beside the kernel's answer.
    pub fn step<E: Into<std::io::Error>>(attempt: impl Into<String>) -> impl FnOnce(E) -> InitError {
        let attempt = attempt.into();
        move |source| InitError::Step { attempt, source: source.into() }
    }
}

/// The whole life of PID 1. Comes back only by ending the machine.
pub fn run() -> ExitCode {
    let failure = match boot() {
        Ok(never) => match never {},
        Err(failure) => failure,
    };
    console::boot(&sentence(&failure));
    console::boot("giving up");
    power::end_machine()
}

fn sentence(failure: &dyn std::error::Error) -> String {
    let mut text = failure.to_string();
    let mut cause = failure.source();
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text
}

fn boot() -> Result<std::convert::Infallible, InitError> {
    mounts::mount_kernel_file_systems()?;
    let words = Cmdline::read();
    modules::load(Path::new("/modules"));
    let root = match words.root {
        RootKind::Initramfs => Path::new("/"),
        RootKind::Overlay => root::assemble_overlay(words.work)?,
        RootKind::Plain => root::assemble_plain(words.work)?,
    };
    let systemd = match words.init {
        InitChoice::Agent => None,
        InitChoice::Auto | InitChoice::Systemd => systemd::find(root),
    };
    mounts::mount_run(root)?;
    if systemd.is_some() {
        systemd::install_agent(root)?;
        fstab::install(root)?;
    }
    if words.root != RootKind::Initramfs {
        root::switch_to(root)?;
    }
    match systemd {
        Some(program) => Err(systemd::start(&program)),
        None => {
            mounts::mount_for_agent();
            if words.init == InitChoice::Systemd {
                provision::want();
            }
            supervisor::run()
        }
    }
}

/// What "power off" means to this machine's VMM.
pub fn power_off_word() -> rustix::system::RebootCommand {
    match Cmdline::read().power_off {
        cmdline::PowerOff::Acpi => rustix::system::RebootCommand::PowerOff,
        cmdline::PowerOff::Reboot => rustix::system::RebootCommand::Restart,
    }
}
