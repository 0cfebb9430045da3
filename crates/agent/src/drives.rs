//! `POST /drives`: drives that the host has made larger, and the ext4 on them, which takes what there is while it is mounted.
//!
//! The kernel hears of a drive's new size from the VMM, a moment after the host was told that it is done, so this waits for
//! it. Our file systems have no room set aside for more group descriptors; the kernel then moves on to meta block groups
//! by itself (fs/ext4/resize.c, `ext4_convert_meta_bg`).

// Opened for one ioctl of ext4 that no library wraps.
#![allow(unsafe_code)]

use crate::console;
use crate::http::{self, Answer};
use crate::init::OWN_DISK;
use hyper::StatusCode;
use rustix::fs::{major, minor, stat, statvfs};
use rustix::ioctl::{Opcode, Setter, ioctl, opcode};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use wire::guest::Drives;
use wire::{Fault, FaultKind};

/// 10 s for a drive to be seen as large as the host made it: an emulated guest takes milliseconds.
const SEEN_WITHIN: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Sizes in /sys are in these, whatever the drive's own sectors are.
const SECTOR_BYTES: u64 = 512;
/// `_IOW('f', 16, __u64)`, the wanted number of blocks (fs/ext4/ext4.h).
const RESIZE_FS: Opcode = opcode::write::<u64>(b'f', 16);

pub async fn grow(wanted: Drives) -> Answer {
    let grown = tokio::task::spawn_blocking(move || {
        grow_one("root disk", Path::new(OWN_DISK), wanted.root_bytes)?;
        grow_one("work disk", Path::new("/root"), wanted.work_bytes)
    });
    grown
        .await
        .map_err(|error| Fault::new(FaultKind::Internal, "cannot grow disks").with_cause(error.to_string()))??;
    http::status(StatusCode::NO_CONTENT)
}

fn grow_one(what: &str, mounted: &Path, bytes: u64) -> Result<(), Fault> {
    let failed = |cause: String| Fault::new(FaultKind::Internal, format!("cannot grow the {what}")).with_cause(cause);
    let drive = drive_of(mounted).map_err(|error| failed(error.to_string()))?;
    let end = Instant::now() + SEEN_WITHIN;
    loop {
        match size_of(&drive) {
            Ok(seen) if seen >= bytes => break,
            Ok(seen) if Instant::now() > end => return Err(failed(format!("its drive still has {seen} bytes"))),
            Ok(_) => std::thread::sleep(LOOK_EVERY),
            Err(error) => return Err(failed(error.to_string())),
        }
    }
    fill(mounted).map_err(|error| failed(error.to_string()))
}

/// At boot: a drive that was made larger while the machine was off, or whose growing was cut short. A file system that stays
/// smaller than its drive is no reason not to boot.
pub fn fill_at_boot(mounted: &Path) {
    if let Err(error) = fill(mounted) {
        console::boot(&format!("cannot grow the file system on {}: {error}", mounted.display()));
    }
}

/// The file system takes all of its drive; nothing happens where it does already.
fn fill(mounted: &Path) -> io::Result<()> {
    let block_bytes = statvfs(mounted)?.f_bsize.max(1);
    let blocks = size_of(&drive_of(mounted)?)? / block_bytes;
    let folder = File::open(mounted)?;
    // SAFETY: EXT4_IOC_RESIZE_FS reads one u64 through its argument, which `Setter` keeps alive for the call.
    unsafe { ioctl(&folder, Setter::<RESIZE_FS, u64>::new(blocks))? };
    Ok(())
}

/// The drive's folder in /sys.
fn drive_of(mounted: &Path) -> io::Result<PathBuf> {
    let device = stat(mounted)?.st_dev;
    Ok(PathBuf::from(format!("/sys/dev/block/{}:{}", major(device), minor(device))))
}

fn size_of(drive: &Path) -> io::Result<u64> {
    let sectors: u64 = fs::read_to_string(drive.join("size"))?.trim().parse().map_err(io::Error::other)?;
    Ok(sectors * SECTOR_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ioctl_number_is_the_kernels() {
        assert_eq!(RESIZE_FS, 0x4008_6610);
    }

    #[test]
    fn what_is_no_drive_cannot_be_grown() {
        let error = grow_one("work disk", Path::new("/proc"), 1).expect_err("it has no drive");
        assert_eq!(error.message, "cannot grow the work disk");
    }
}
