//! Putting the root together from drives, and moving into it.
//!
//! ```text
//! overlay:  /dev/vda ─ro─► /base ─┐                        plain:  /dev/vda ─rw─► /newroot
//!           /dev/vdb ─rw─► /own ──┴─► overlay on /newroot          /dev/vdb ────► /newroot/root (work disk)
//!                          /own/docker, /own/containerd ─► bound over /newroot/var/lib/…
//!           /dev/vdc ────► /newroot/root (work disk)
//! ```
//! /own is moved to [`super::OWN_DISK`] in the new root, so that the last program can make it clean. The binds exist
//! because Docker's and containerd's own overlays cannot stack on an overlay.

use super::cmdline::WorkDisk;
use super::{DEVICE_DEADLINE, InitError, OWN_DISK, device, mounts};
use crate::console;
use rustix::mount::{MountFlags, mount, mount_bind, mount_move};
use std::ffi::CStr;
use std::fs::{create_dir_all, read_dir, remove_dir, remove_file, symlink_metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

const BASE: &str = "/base";
const OWN: &str = "/own";
const NEW_ROOT: &str = "/newroot";
/// Folders of the sandbox's own ext4, and what each is bound over.
const BINDS: [(&str, &str); 2] = [("docker", "var/lib/docker"), ("containerd", "var/lib/containerd")];

/// A read-only image below, the sandbox's own ext4 above.
pub fn assemble_overlay(work: WorkDisk) -> Result<&'static Path, InitError> {
    mount_drive("/dev/vda", BASE, &["ext4", "erofs", "squashfs"], MountFlags::RDONLY)?;
    mount_drive("/dev/vdb", OWN, &["ext4"], MountFlags::NOATIME)?;
    for folder in ["upper", "work"].into_iter().chain(BINDS.map(|(own, _)| own)) {
        create_dir_all(Path::new(OWN).join(folder)).map_err(InitError::step(format!("make {OWN}/{folder}")))?;
    }
    let root = Path::new(NEW_ROOT);
    create_dir_all(root).map_err(InitError::step("make /newroot"))?;
    mount_overlay(root).map_err(InitError::step("mount the overlay root"))?;
    bind_container_stores(root);
    mount_work_disk(work, "/dev/vdc", root)?;
    Ok(root)
}

/// With `xino`, files have one device number and lasting inode numbers; without it those of the lower layer show through,
/// and `find -xdev`, `du` and backup tools take each file for another disk's. Not every pair of file systems allows it.
fn mount_overlay(root: &Path) -> rustix::io::Result<()> {
    let layers = [
        c"lowerdir=/base,upperdir=/own/upper,workdir=/own/work,xino=auto",
        c"lowerdir=/base,upperdir=/own/upper,workdir=/own/work",
    ];
    let try_one = |options: &CStr| mount("overlay", root, "overlay", MountFlags::empty(), Some(options));
    try_one(layers[0]).or_else(|_| try_one(layers[1]))
}

/// One drive, written to directly.
pub fn assemble_plain(work: WorkDisk) -> Result<&'static Path, InitError> {
    mount_drive("/dev/vda", NEW_ROOT, &["ext4"], MountFlags::empty())?;
    mount_work_disk(work, "/dev/vdb", Path::new(NEW_ROOT))?;
    Ok(Path::new(NEW_ROOT))
}

/// Docker is not in every image, so this must not keep a sandbox from starting.
fn bind_container_stores(root: &Path) {
    for (own, target) in BINDS {
        let target = root.join(target);
        let bound = mounts::ensure_folder(&target)
            .and_then(|()| mount_bind(Path::new(OWN).join(own), &target).map_err(Into::into));
        if let Err(error) = bound {
            console::boot(&format!("cannot bind {}: {error}", target.display()));
        }
    }
}

fn mount_work_disk(work: WorkDisk, device: &str, root: &Path) -> Result<(), InitError> {
    match work {
        WorkDisk::Absent => Ok(()),
        WorkDisk::Attached => {
            let target = root.join("root");
            mount_drive(device, &target.to_string_lossy(), &["ext4"], MountFlags::empty())
        }
    }
}

/// Tries each kind in turn and tells what each said: EINVAL is another file system, ENODEV a kernel without it.
fn mount_drive(device: &str, target: &str, kinds: &[&str], flags: MountFlags) -> Result<(), InitError> {
    device::wait_for(Path::new(device), DEVICE_DEADLINE)?;
    create_dir_all(target).map_err(InitError::step(format!("make {target}")))?;
    let mut tried = Vec::new();
    let writable = !flags.contains(MountFlags::RDONLY);
    for kind in kinds {
        // Our drives begin as holes, so what was never written reads as zeros: the kernel need not write them (ext4(5)).
        let options = (writable && *kind == "ext4").then_some(c"noinit_itable");
        match mount(device, target, *kind, flags, options) {
            Ok(()) => {
                if writable {
                    crate::drives::fill_at_boot(Path::new(target));
                }
                return Ok(());
            }
            Err(error) => tried.push(format!("{kind}: {error}")),
        }
    }
    Err(InitError::NoFileSystem { device: device.to_owned(), tried: tried.join(", ") })
}

/// The last step in the initramfs: carries the kernel's file systems over, frees the initramfs, and makes `root` `/`.
/// `pivot_root` does not work on an initramfs, hence the move and chroot (`switch_root(8)` does the same).
pub fn switch_to(root: &Path) -> Result<(), InitError> {
    keep_own_disk(root)?;
    for name in ["dev", "proc", "sys"] {
        let target = root.join(name);
        mounts::ensure_folder(&target).map_err(InitError::step(format!("make /{name} in the root")))?;
        mount_move(format!("/{name}").as_str(), &target).map_err(InitError::step(format!("move /{name}")))?;
    }
    free_initramfs(root);
    std::env::set_current_dir(root).map_err(InitError::step("enter the root"))?;
    mount_move(".", "/").map_err(InitError::step("move the root"))?;
    rustix::process::chroot(".").map_err(InitError::step("change into the root"))?;
    std::env::set_current_dir("/").map_err(InitError::step("enter the root"))
}

fn keep_own_disk(root: &Path) -> Result<(), InitError> {
    if !Path::new(OWN).exists() {
        return Ok(());
    }
    let target = root.join(OWN_DISK.trim_start_matches('/'));
    create_dir_all(&target).map_err(InitError::step(format!("make {OWN_DISK}")))?;
    mount_move(OWN, &target).map_err(InitError::step(format!("move {OWN} to {OWN_DISK}")))?;
    // Only root has business there: everybody else sees the same files through the overlay.
    let folder = target.parent().unwrap_or(&target);
    rustix::fs::chmod(folder, rustix::fs::Mode::RWXU).map_err(InitError::step("close /run/initramfs"))
}

/// Removes the initramfs' own files: they would hold memory for as long as the machine runs. Other mounts are left alone.
fn free_initramfs(root: &Path) {
    let Ok(device) = symlink_metadata("/").map(|top| top.dev()) else { return };
    remove_below(Path::new("/"), device, root);
}

fn remove_below(folder: &Path, device: u64, keep: &Path) {
    for entry in read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(facts) = symlink_metadata(&path) else { continue };
        if facts.dev() != device || path == keep {
            continue;
        }
        if facts.is_dir() {
            remove_below(&path, device, keep);
            let _ = remove_dir(&path);
        } else {
            let _ = remove_file(&path);
        }
    }
}
