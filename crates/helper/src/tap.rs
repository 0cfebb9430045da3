//! Tap devices through `/dev/net/tun` (tuntap.rst): made persistent, owned by a user who may then open them by name.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

const TUN: &str = "/dev/net/tun";

nix::ioctl_write_ptr_bad!(set_interface, nix::request_code_write!(b'T', 202, size_of::<libc::c_int>()), libc::ifreq);
nix::ioctl_write_int_bad!(set_persistent, nix::request_code_write!(b'T', 203, size_of::<libc::c_int>()));
nix::ioctl_write_int_bad!(set_owner, nix::request_code_write!(b'T', 204, size_of::<libc::c_int>()));

/// Makes a tap. Until its last step it vanishes with this process. Whether frames carry a virtio header is up to
/// whoever opens it (both VMMs want it); one queue, since neither VMM asks for more.
pub fn add(name: &str, owner: u32) -> io::Result<()> {
    let tun = open()?;
    let request = interface(name)?;
    let owner = libc::c_int::try_from(owner).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open for the whole block; `request` is a whole `ifreq` with a terminated name, which
    // TUNSETIFF reads and writes in place of; the other two take their argument by value.
    unsafe {
        set_interface(tun.as_raw_fd(), &request)?;
        set_owner(tun.as_raw_fd(), owner)?;
        set_persistent(tun.as_raw_fd(), 1)?;
    }
    Ok(())
}

/// True when a user other than root may open `/dev/net/tun`, which udev grants everybody.
pub fn open_to(uid: u32, gid: u32) -> bool {
    let Ok(facts) = std::fs::metadata(TUN) else { return false };
    let bits = if uid == 0 {
        0o666
    } else if facts.uid() == uid {
        facts.mode() >> 6
    } else if facts.gid() == gid {
        facts.mode() >> 3
    } else {
        facts.mode()
    };
    bits & 0o6 == 0o6
}

fn open() -> io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_CLOEXEC).open(TUN)
}

fn interface(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: `ifreq` is plain old data; all zeros is a valid value of it.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a device name holds 15 bytes"));
    }
    for (place, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *place = byte as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_TUN_EXCL) as libc::c_short;
    Ok(request)
}
