//! A wire for a VMM that wants a tap (Firecracker), without privilege: a network namespace of its own with nothing in it
//! but that tap. The VMM opens the tap inside; this process holds a packet socket on it (packet(7)) and stays outside,
//! where its other sockets reach the world.
//!
//! Whoever is not root makes a user namespace first, in which they may do so (user_namespaces(7)); its only user is
//! themselves.
#![allow(unsafe_code)]

use rustix::thread::UnshareFlags;
use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use wire::gateway::{NAMESPACE_FD, TAP};

/// From linux/if_tun.h; the encodings are those of every architecture that runs Firecracker.
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const TUNSETPERSIST: libc::c_ulong = 0x4004_54cb;
const TUNSETOWNER: libc::c_ulong = 0x4004_54cc;
/// From linux/if_packet.h: what we send ourselves is no news.
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;

/// The packet socket. The namespace lives as long as it, and stands open at [`NAMESPACE_FD`]. Call while the process has
/// one thread: a user namespace is made for that alone.
pub fn open() -> io::Result<OwnedFd> {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    if !uid.is_root() {
        unshare(UnshareFlags::NEWUSER)?;
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", format!("{0} {0} 1", uid.as_raw()))?;
        fs::write("/proc/self/gid_map", format!("{0} {0} 1", gid.as_raw()))?;
    }
    let made = std::thread::spawn(move || inside(uid.as_raw())).join();
    made.unwrap_or_else(|_| Err(io::Error::other("the thread that makes the namespace ended")))
}

/// On a thread of its own, which alone enters the new namespace and ends in it.
fn inside(owner: u32) -> io::Result<OwnedFd> {
    unshare(UnshareFlags::NEWNET)?;
    let namespace = File::open("/proc/thread-self/ns/net")?;
    add_tap(owner)?;
    // The kernel's own end of the wire has nothing to say; where it cannot be told so, it is only heard by the guest.
    let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{TAP}/disable_ipv6"), "1");
    let index = bring_up()?;
    let socket = packet_socket(index)?;
    // SAFETY: both numbers are plain; nothing else in this process has opened so high a descriptor.
    match unsafe { libc::dup3(namespace.as_raw_fd(), NAMESPACE_FD, libc::O_CLOEXEC) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(socket),
    }
}

fn unshare(what: UnshareFlags) -> io::Result<()> {
    // SAFETY: neither a user nor a network namespace takes descriptors from other threads (unshare(2)).
    Ok(unsafe { rustix::thread::unshare_unsafe(what) }?)
}

fn add_tap(owner: u32) -> io::Result<()> {
    let tun = OpenOptions::new().read(true).write(true).custom_flags(libc::O_CLOEXEC).open("/dev/net/tun")?;
    let mut request = interface();
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
    let owner = libc::c_ulong::from(owner);
    // SAFETY: the descriptor is open for the whole block; `request` is a whole `ifreq` with a terminated name, which
    // TUNSETIFF reads and writes in place of; the other two take their argument by value.
    let done = unsafe {
        libc::ioctl(tun.as_raw_fd(), TUNSETIFF, &mut request) != -1
            && libc::ioctl(tun.as_raw_fd(), TUNSETOWNER, owner) != -1
            && libc::ioctl(tun.as_raw_fd(), TUNSETPERSIST, 1 as libc::c_ulong) != -1
    };
    if done { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Up, and its index.
fn bring_up() -> io::Result<libc::c_int> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
    let mut request = interface();
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    let name = CString::new(TAP).expect("the name has no NUL");
    // SAFETY: SIOCSIFFLAGS reads a whole `ifreq`; if_nametoindex reads a terminated name.
    let index = unsafe {
        if libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) == -1 {
            return Err(io::Error::last_os_error());
        }
        libc::if_nametoindex(name.as_ptr())
    };
    match libc::c_int::try_from(index) {
        Ok(index @ 1..) => Ok(index),
        _ => Err(io::Error::last_os_error()),
    }
}

fn packet_socket(index: libc::c_int) -> io::Result<OwnedFd> {
    let protocol = (libc::ETH_P_ALL as u16).to_be();
    // SAFETY: plain numbers in; a fresh descriptor or -1 out, and only a fresh one is taken.
    let socket = unsafe {
        let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::c_int::from(protocol));
        if fd == -1 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    // SAFETY: `sockaddr_ll` is plain old data; all zeros is a valid value of it.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol;
    address.sll_ifindex = index;
    let (yes, size) = (1 as libc::c_int, size_of::<libc::sockaddr_ll>() as libc::socklen_t);
    // SAFETY: both calls read the value at the pointer in the length given, which is its own, and keep nothing.
    let done = unsafe {
        libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size) != -1
            && libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_PACKET,
                PACKET_IGNORE_OUTGOING,
                (&raw const yes).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            ) != -1
    };
    if done { Ok(socket) } else { Err(io::Error::last_os_error()) }
}

fn interface() -> libc::ifreq {
    // SAFETY: `ifreq` is plain old data; all zeros is a valid value of it.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(TAP.bytes()) {
        *place = byte as libc::c_char;
    }
    request
}
