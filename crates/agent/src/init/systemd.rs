//! Handing over to an image's systemd: find it, leave the agent in /run as a service of its own, and become it.
//!
//! Nothing is written to the image: units, masks and the binary live in the tmpfs on /run and are made anew at each boot.

use super::{AGENT_IN_RUN, InitError, fstab};
use crate::service;
use std::fs::{self, create_dir_all};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

const UNITS: &str = "run/systemd/system";
const UNIT: &str = "banger-agent.service";
/// What systemd-shutdown starts, with /run/initramfs as `/`, once it has unmounted what it can.
const LAST_PROGRAM: &str = "run/initramfs/shutdown";
const PLACES: [&str; 4] = ["/sbin/init", "/usr/lib/systemd/systemd", "/lib/systemd/systemd", "/usr/sbin/init"];

/// Up as soon as systemd starts jobs and down with the last of them: no default dependencies, hence no order before
/// sysinit.target and no conflict with shutdown.target; systemd-shutdown ends it. `KillMode=process`: what a person
/// left running through `exec` outlives a restart of the agent.
const UNIT_TEXT: &str = "\
[Unit]
Description=banger guest agent
DefaultDependencies=no
IgnoreOnIsolate=yes

[Service]
ExecStart=/run/banger/agent serve --init systemd
Restart=always
RestartSec=100ms
KillMode=process
OOMScoreAdjust=-900
TasksMax=infinity
StandardOutput=journal+console
StandardError=journal+console
";

/// The image's own command, as a service that the agent starts when the host has told what it is. `KillMode=mixed`: the
/// supervisor gets SIGTERM and passes on the command's own stop signal; it restarts the command by itself.
const SERVICE_TEXT: &str = "\
[Unit]
Description=the image's own command
After=network.target

[Service]
ExecStart=/run/banger/agent supervise /run/banger/service
KillMode=mixed
TimeoutStopSec=20
TasksMax=infinity
StandardOutput=journal+console
StandardError=journal+console
";

/// Work that a fresh, short-lived machine does not need and that delays its boot (e2scrub_reap alone by a second under
/// emulation), or waits for a network that the agent sets up later. The root is mounted as it should be; remounting it by
/// the image's fstab fails on a disk that no sandbox has.
const MASKED: [&str; 9] = [
    "systemd-remount-fs.service",
    "e2scrub_reap.service",
    "e2scrub_all.timer",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "systemd-networkd-wait-online.service",
    "NetworkManager-wait-online.service",
    "systemd-firstboot.service",
];

/// Units for binary formats, which fail and make a system `degraded` where the kernel knows none. A distribution's kernel
/// has them as a module, and modules of the image do not fit the kernel that was given to it.
const BINARY_FORMATS: [&str; 3] =
    ["proc-sys-fs-binfmt_misc.automount", "proc-sys-fs-binfmt_misc.mount", "systemd-binfmt.service"];

/// The path of the image's systemd as seen in the image. `/sbin/init` counts only if it leads to systemd: another init
/// would not know the agent's unit.
pub fn find(root: &Path) -> Option<PathBuf> {
    PLACES.iter().map(Path::new).find(|place| leads_to_systemd(root, place)).map(Path::to_path_buf)
}

fn leads_to_systemd(root: &Path, place: &Path) -> bool {
    resolve_in(root, place).is_some_and(|program| {
        program.file_name().is_some_and(|name| name == "systemd") && root.join(strip(&program)).is_file()
    })
}

fn strip(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

/// Follows symbolic links of `path` inside `root`, where absolute targets start at `root`. At most 40 links, as the kernel.
fn resolve_in(root: &Path, path: &Path) -> Option<PathBuf> {
    let mut left: Vec<std::ffi::OsString> = components(path);
    let mut done = PathBuf::from("/");
    let mut links = 0;
    while let Some(name) = left.pop() {
        if name == ".." {
            done.pop();
            continue;
        }
        let next = done.join(&name);
        match fs::read_link(root.join(strip(&next))) {
            Ok(target) => {
                links += 1;
                if links > 40 {
                    return None;
                }
                if target.is_absolute() {
                    done = PathBuf::from("/");
                }
                left.extend(components(&target));
            }
            Err(_) => done = next,
        }
    }
    Some(done)
}

/// Last first, so that the next one is at the end.
fn components(path: &Path) -> Vec<std::ffi::OsString> {
    let mut names: Vec<_> = path
        .components()
        .filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir))
        .map(|part| part.as_os_str().to_owned())
        .collect();
    names.reverse();
    names
}

/// Puts binary, unit, link and masks into the new root's /run.
pub fn install_agent(root: &Path) -> Result<(), InitError> {
    let agent = root.join(strip(Path::new(AGENT_IN_RUN)));
    let last = root.join(LAST_PROGRAM);
    let units = root.join(UNITS);
    let wants = units.join("sysinit.target.wants");
    for folder in [agent.parent(), last.parent(), Some(wants.as_path())].into_iter().flatten() {
        create_dir_all(folder).map_err(InitError::step(format!("make {}", folder.display())))?;
    }
    place_binary(&agent, &last).map_err(InitError::step("copy the agent into /run"))?;
    fs::write(units.join(UNIT), UNIT_TEXT).map_err(InitError::step("write the agent's unit"))?;
    fs::write(units.join(service::UNIT), SERVICE_TEXT).map_err(InitError::step("write the service's unit"))?;
    link(&format!("../{UNIT}"), &wants.join(UNIT)).map_err(InitError::step("enable the agent's unit"))?;
    let formats = fs::read_to_string("/proc/filesystems").unwrap_or_default().contains("binfmt_misc");
    let unwanted = if formats { &[][..] } else { &BINARY_FORMATS[..] };
    for unit in MASKED.iter().chain(unwanted) {
        link("/dev/null", &units.join(unit)).map_err(InitError::step(format!("mask {unit}")))?;
    }
    Ok(())
}

fn place_binary(agent: &Path, last: &Path) -> std::io::Result<()> {
    fs::copy("/proc/self/exe", agent)?;
    fs::set_permissions(agent, fs::Permissions::from_mode(0o755))?;
    let _ = fs::remove_file(last);
    fs::hard_link(agent, last)
}

fn link(target: &str, name: &Path) -> std::io::Result<()> {
    let _ = fs::remove_file(name);
    symlink(target, name)
}

/// Becomes systemd. Comes back only with the reason why not.
pub fn start(program: &Path) -> InitError {
    let failed = InitError::step(format!("start {}", program.display()));
    let mut command = Command::new(program);
    if Path::new(fstab::COPY).exists() {
        command.env("SYSTEMD_FSTAB", fstab::COPY);
    }
    failed(command.exec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(files: &[&str], links: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("temp dir");
        for file in files {
            let path = root.path().join(file);
            create_dir_all(path.parent().expect("parent")).expect("folder");
            fs::write(path, "x").expect("file");
        }
        for (name, target) in links {
            let path = root.path().join(name);
            create_dir_all(path.parent().expect("parent")).expect("folder");
            symlink(target, path).expect("link");
        }
        root
    }

    #[test]
    fn a_usr_merged_image_with_absolute_links_has_systemd() {
        let root = image(
            &["usr/lib/systemd/systemd"],
            &[("lib", "usr/lib"), ("sbin", "usr/sbin"), ("usr/sbin/init", "/lib/systemd/systemd")],
        );
        assert_eq!(find(root.path()), Some(PathBuf::from("/sbin/init")));
    }

    #[test]
    fn systemd_without_an_init_link_is_found() {
        let root = image(&["lib/systemd/systemd"], &[]);
        assert_eq!(find(root.path()), Some(PathBuf::from("/lib/systemd/systemd")));
    }

    #[test]
    fn another_init_is_none_of_our_business() {
        let root = image(&["bin/busybox"], &[("sbin/init", "../bin/busybox")]);
        assert_eq!(find(root.path()), None);
        let broken = image(&[], &[("sbin/init", "/lib/systemd/systemd"), ("a", "a")]);
        assert_eq!(find(broken.path()), None);
        assert_eq!(resolve_in(broken.path(), Path::new("/a")), None);
    }

    #[test]
    fn installing_twice_leaves_one_unit_and_its_masks() {
        let root = image(&[], &[]);
        install_agent(root.path()).expect("first");
        install_agent(root.path()).expect("second");
        let enabled = root.path().join("run/systemd/system/sysinit.target.wants/banger-agent.service");
        assert_eq!(fs::read_to_string(enabled).expect("unit"), UNIT_TEXT);
        let masked = fs::read_link(root.path().join("run/systemd/system/e2scrub_reap.service")).expect("mask");
        assert_eq!(masked, Path::new("/dev/null"));
    }
}
