//! `--init systemd` for an image that has none: its own package manager installs systemd and sshd at the first boot, and
//! PID 1 then becomes systemd without a restart.
//!
//! ```text
//!  boot: no systemd ─► agent is PID 1, leaves a mark ─► identity brings the network ─► package manager, heard on the console
//!                                                          PID 1 ◄─ SIGHUP ── systemd is there ─┘
//!                                                            └─► ends its server, becomes systemd, which starts the agent
//! ```
//! What is run is data, by `ID` and then by `ID_LIKE` of os-release(5) ([`plan`]), so that every distribution's way is held
//! by a test, whoever can reach which mirror. If it fails the console says why, and the agent goes on as init.

use super::systemd;
use crate::{console, machine};
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

/// What one distribution's package manager is to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub steps: &'static [&'static [&'static str]],
    /// Alpine packages no systemd: it gets OpenRC and sshd, and the agent stays PID 1.
    pub brings_systemd: bool,
}

const DEBIAN: Plan = Plan {
    steps: &[
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
    ],
    brings_systemd: true,
};
const ALPINE: Plan =
    Plan { steps: &[&["apk", "update"], &["apk", "add", "--no-progress", "openrc", "openssh"]], brings_systemd: false };
const FEDORA: Plan = Plan {
    steps: &[&["dnf", "--assumeyes", "--setopt=install_weak_deps=False", "install", "systemd", "openssh-server"]],
    brings_systemd: true,
};
const ARCH: Plan = Plan {
    steps: &[&["pacman", "--sync", "--refresh", "--noconfirm", "--needed", "systemd", "systemd-sysvcompat", "openssh"]],
    brings_systemd: true,
};
const OPENSUSE: Plan = Plan {
    steps: &[
        &["zypper", "--non-interactive", "refresh"],
        &["zypper", "--non-interactive", "install", "--no-recommends", "systemd", "systemd-sysvinit", "openssh-server"],
    ],
    brings_systemd: true,
};

/// The way of the distribution that an os-release names, else of the first one that it says it is like.
pub fn plan(os_release: &str) -> Option<Plan> {
    let value = |name: &str| {
        let line = os_release.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.unwrap_or_default().trim_matches(['"', '\'']).to_ascii_lowercase()
    };
    let (id, like) = (value("ID"), value("ID_LIKE"));
    std::iter::once(id.as_str()).chain(like.split_ascii_whitespace()).find_map(plan_of)
}

fn plan_of(id: &str) -> Option<Plan> {
    match id {
        "debian" | "ubuntu" => Some(DEBIAN),
        "alpine" => Some(ALPINE),
        "fedora" | "rhel" | "centos" => Some(FEDORA),
        "arch" => Some(ARCH),
        "opensuse" | "opensuse-leap" | "opensuse-tumbleweed" | "suse" | "sles" => Some(OPENSUSE),
        _ => None,
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
    let plan = plan(&os_release).ok_or("no package manager is known for what /etc/os-release names")?;
    for (number, step) in plan.steps.iter().enumerate() {
        console::boot(&format!("installing ({} of {}): {}", number + 1, plan.steps.len(), step.join(" ")));
        run(step).map_err(|error| format!("`{}`: {error}", step.join(" ")))?;
    }
    match (plan.brings_systemd, systemd::find(Path::new("/"))) {
        (_, Some(_)) => Ok(()),
        (false, None) => Err("this distribution packages none; OpenRC and sshd were installed instead".to_owned()),
        (true, None) => Err("the packages were installed and brought none".to_owned()),
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

    fn first_word(os_release: &str) -> Option<&'static str> {
        plan(os_release).map(|plan| plan.steps[0][0])
    }

    #[test]
    fn each_distribution_has_its_way_by_name_or_by_likeness() {
        for (os_release, expected) in [
            ("ID=debian\nVERSION_ID=\"12\"\n", Some("apt-get")),
            ("NAME=x\nID=ubuntu\nID_LIKE=debian\n", Some("apt-get")),
            ("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n", Some("apt-get")),
            ("ID=alpine\n", Some("apk")),
            ("ID=fedora\n", Some("dnf")),
            ("ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n", Some("dnf")),
            ("ID=arch\n", Some("pacman")),
            ("ID=manjaro\nID_LIKE=arch\n", Some("pacman")),
            ("ID=\"opensuse-tumbleweed\"\nID_LIKE=\"opensuse suse\"\n", Some("zypper")),
            ("ID=nixos\n", None),
            ("PRETTY_NAME=debian\n", None),
            ("", None),
        ] {
            assert_eq!(first_word(os_release), expected, "{os_release:?}");
        }
    }

    #[test]
    fn every_way_installs_sshd_and_asks_nothing() {
        for plan in [DEBIAN, ALPINE, FEDORA, ARCH, OPENSUSE] {
            let last = plan.steps.last().expect("there is a step");
            assert!(last.iter().any(|word| word.starts_with("openssh")), "{last:?}");
            assert_eq!(plan.brings_systemd, last.contains(&"systemd"), "{last:?}");
            let silent = ["--yes", "add", "--assumeyes", "--noconfirm", "--non-interactive"];
            assert!(last.iter().any(|word| silent.contains(word)), "{last:?}");
        }
    }
}
