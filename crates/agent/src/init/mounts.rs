//! The file systems that are the same in every guest: the kernel's own, /run, and what a PID 1 without systemd owes its
//! programs.

use super::InitError;
use crate::console;
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};
use std::ffi::CStr;
use std::fs::{File, OpenOptions, create_dir_all};
use std::os::unix::fs::symlink;
use std::path::Path;

const QUIET: MountFlags = MountFlags::NOSUID.union(MountFlags::NOEXEC).union(MountFlags::NODEV);

/// /proc, /sys and /dev in the initramfs; then the console, which only now surely has a node.
pub fn mount_kernel_file_systems() -> Result<(), InitError> {
    ensure(Path::new("/proc"), "proc", QUIET, None).map_err(InitError::step("mount /proc"))?;
    ensure(Path::new("/sys"), "sysfs", QUIET, None).map_err(InitError::step("mount /sys"))?;
    ensure(Path::new("/dev"), "devtmpfs", MountFlags::NOSUID, Some(c"mode=0755"))
        .map_err(InitError::step("mount /dev"))?;
    open_console();
    Ok(())
}

/// Descriptors 0 to 2 become the console, so that everything said from now on is seen.
fn open_console() {
    let Ok(console) = OpenOptions::new().read(true).write(true).open("/dev/console") else { return };
    let _ = rustix::stdio::dup2_stdin(&console);
    let _ = rustix::stdio::dup2_stdout(&console);
    let _ = rustix::stdio::dup2_stderr(&console);
}

/// A tmpfs on /run: systemd keeps one that it finds. No `noexec`: the agent's binary lives there.
pub fn mount_run(root: &Path) -> Result<(), InitError> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    ensure(&root.join("run"), "tmpfs", flags, Some(c"mode=0755,size=20%")).map_err(InitError::step("mount /run"))
}

/// What programs expect and systemd would have mounted. Images differ and kernels too, so a failure is told and passed over.
pub fn mount_for_agent() {
    let shared = MountFlags::NOSUID | MountFlags::NODEV;
    let wanted: [(&str, &str, MountFlags, Option<&CStr>); 5] = [
        ("/dev/pts", "devpts", MountFlags::NOSUID | MountFlags::NOEXEC, Some(c"gid=5,mode=620,ptmxmode=666")),
        ("/dev/shm", "tmpfs", shared, Some(c"mode=1777")),
        ("/dev/mqueue", "mqueue", QUIET, None),
        ("/sys/fs/cgroup", "cgroup2", QUIET, None),
        ("/tmp", "tmpfs", shared, Some(c"mode=1777,size=50%")),
    ];
    for (path, kind, flags, options) in wanted {
        if path == "/tmp" && Path::new(path).is_dir() {
            continue;
        }
        match ensure(Path::new(path), kind, flags, options) {
            // The kernel was built without it; the few programs that want it say so themselves.
            Ok(()) | Err(Errno::NODEV | Errno::NOENT) => {}
            Err(error) => console::boot(&format!("cannot mount {path}: {error}")),
        }
    }
    link_devices();
}

/// Names in /dev that udev or the C library's conventions promise.
fn link_devices() {
    let links = [
        ("/proc/self/fd", "/dev/fd"),
        ("/proc/self/fd/0", "/dev/stdin"),
        ("/proc/self/fd/1", "/dev/stdout"),
        ("/proc/self/fd/2", "/dev/stderr"),
    ];
    for (target, name) in links {
        let _ = symlink(target, name);
    }
    if !Path::new("/dev/ptmx").exists() {
        let _ = symlink("pts/ptmx", "/dev/ptmx");
    }
}

/// Mounts over `path`, made when missing. Already mounted (EBUSY: the same file system is there) is fine.
fn ensure(path: &Path, kind: &str, flags: MountFlags, options: Option<&CStr>) -> Result<(), Errno> {
    let _ = create_dir_all(path);
    match mount(kind, path, kind, flags, options) {
        Ok(()) | Err(Errno::BUSY) => Ok(()),
        Err(error) => Err(error),
    }
}

/// A folder to mount on, also where `path` is a symbolic link to one.
pub fn ensure_folder(path: &Path) -> std::io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    create_dir_all(path)
}

/// Writes a small file of the kernel's, such as one below /proc/sys; what the kernel lacks is passed over.
pub fn set(path: &str, value: &str) {
    use std::io::Write;
    if let Ok(mut file) = File::options().write(true).open(path) {
        let _ = file.write_all(value.as_bytes());
    }
}
