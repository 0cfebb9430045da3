//! `--init systemd` for an image that has none: its own package manager installs systemd and sshd at the first boot, and
//! PID 1 then becomes systemd without a restart.
//!
//! ```text
//!  boot: no systemd ─► agent is PID 1, leaves a mark ─► identity brings the network ─► package manager, heard on the console
//!                                                          PID 1 ◄─ SIGHUP ── systemd is there ─┘
//!                                                            └─► ends its server, becomes systemd, which starts the agent
//! ```
//! What is run is data ([`steps`]), so that every distribution's way is held by a test, whoever can reach which mirror. An
//! image of one that packages no systemd is refused before it gets here. If it fails the console says why, and the agent
//! goes on as init.

use super::systemd;
use crate::{console, machine};
use model::Distribution;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

/// Left by PID 1 at boot: the person asked for systemd and the image has none.
const WANTED: &str = "/run/banger/wants-systemd";
/// Left before PID 1 is told: systemd is there now.
const READY: &str = "/run/banger/has-systemd";

/// What a package manager is told, one command after the other.
type Steps = &'static [&'static [&'static str]];

const DEBIAN: Steps = &[
    &["apt-get", "--quiet", "update"],
    &[
        "apt-get",
        "--quiet",
        "--yes",
        "--no-install-recommends",
        "-o",
        "Dpkg::Options::=--force-confold",
        "-o",
        // A machine that was never used has nothing to lose: half of dpkg's time goes into syncing.
        "Dpkg::Options::=--force-unsafe-io",
        "install",
        "systemd",
        "systemd-sysv",
        "dbus",
        "openssh-server",
    ],
];
const FEDORA: Steps =
    &[&["dnf", "--assumeyes", "--setopt=install_weak_deps=False", "install", "systemd", "openssh-server"]];
const ARCH: Steps =
    &[&["pacman", "--sync", "--refresh", "--noconfirm", "--needed", "systemd", "systemd-sysvcompat", "openssh"]];
const OPENSUSE: Steps = &[
    &["zypper", "--non-interactive", "refresh"],
    &["zypper", "--non-interactive", "install", "--no-recommends", "systemd", "systemd-sysvinit", "openssh-server"],
];

/// The way of a distribution, if it has one.
pub fn steps(distribution: Distribution) -> Option<Steps> {
    match distribution {
        Distribution::Debian => Some(DEBIAN),
        Distribution::Fedora => Some(FEDORA),
        Distribution::Arch => Some(ARCH),
        Distribution::Opensuse => Some(OPENSUSE),
        Distribution::Alpine | Distribution::Other => None,
    }
}

/// At boot, in the new root: remembers what is wanted until the network is there.
pub fn want() {
    console::boot("the image has no systemd: it is installed once the network is up");
    let _ = fs::create_dir_all("/run/banger").and_then(|()| fs::write(WANTED, ""));
}

/// After the identity: installs, once a boot, in a thread of its own.
pub fn begin() {
    static BEGUN: AtomicBool = AtomicBool::new(false);
    if !Path::new(WANTED).exists() || BEGUN.swap(true, Ordering::SeqCst) {
        return;
    }
    std::thread::spawn(|| {
        // What PID 1 does not want to hear a package manager must: its children inherit this thread's mask.
        let _ = nix::sys::signal::SigSet::empty().thread_set_mask();
        match install() {
            Ok(()) => hand_over(),
            Err(sentence) => console::boot(&format!("cannot install systemd: {sentence}; the agent goes on as init")),
        }
    });
}

fn install() -> Result<(), String> {
    let os_release = fs::read_to_string("/etc/os-release").or_else(|_| fs::read_to_string("/usr/lib/os-release"));
    let os_release = os_release.map_err(|_| "the image does not say what it is (/etc/os-release)".to_owned())?;
    let steps = steps(Distribution::of_os_release(&os_release));
    let steps = steps.ok_or("what /etc/os-release names packages none, or in no way that is known here")?;
    for (number, step) in steps.iter().enumerate() {
        console::boot(&format!("installing ({} of {}): {}", number + 1, steps.len(), step.join(" ")));
        run(step).map_err(|error| format!("`{}`: {error}", step.join(" ")))?;
    }
    match systemd::find(Path::new("/")) {
        Some(_) => Ok(()),
        None => Err("the packages were installed and brought none".to_owned()),
    }
}

/// What it says is heard on the console, line by line, as it comes.
fn run(step: &[&str]) -> io::Result<()> {
    let mut command = Command::new(step[0]);
    command.args(&step[1..]).env_clear().env("PATH", machine::PATH).env("HOME", "/root").current_dir("/");
    command.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C");
    let status = command.stdin(Stdio::null()).stdout(heard()?).stderr(heard()?).status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(status.to_string())) }
}

/// Our stderr, which is the console.
fn heard() -> io::Result<Stdio> {
    Ok(Stdio::from(io::stderr().as_fd().try_clone_to_owned()?))
}

fn hand_over() {
    console::boot("systemd is installed and becomes PID 1");
    if fs::write(READY, "").is_ok() {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(1), nix::sys::signal::Signal::SIGHUP);
    }
}

/// PID 1, on SIGHUP: true once there is a systemd to become.
pub fn is_ready() -> bool {
    Path::new(READY).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_distribution_has_its_way_by_name_or_by_likeness() {
        for (os_release, expected) in [
            ("ID=debian\n", Some("apt-get")),
            ("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n", Some("apt-get")),
            ("ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n", Some("dnf")),
            ("ID=arch\n", Some("pacman")),
            ("ID=\"opensuse-tumbleweed\"\n", Some("zypper")),
            ("ID=alpine\n", None),
            ("ID=nixos\n", None),
        ] {
            let distribution = Distribution::of_os_release(os_release);
            assert_eq!(steps(distribution).map(|steps| steps[0][0]), expected, "{os_release:?}");
            assert_eq!(distribution.packages_systemd(), expected.is_some(), "{os_release:?}");
        }
    }

    #[test]
    fn every_way_installs_both_and_asks_nothing() {
        for steps in [DEBIAN, FEDORA, ARCH, OPENSUSE] {
            let last = steps.last().expect("there is a step");
            assert!(last.iter().any(|word| word.starts_with("openssh")) && last.contains(&"systemd"), "{last:?}");
            let silent = ["--yes", "--assumeyes", "--noconfirm", "--non-interactive"];
            assert!(last.iter().any(|word| silent.contains(word)), "{last:?}");
        }
    }
}
