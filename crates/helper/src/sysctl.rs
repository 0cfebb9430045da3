//! Kernel settings of the network namespace this thread is in, below `/proc/sys/net`. Only names from this crate or
//! from the kernel's own lists are ever joined to a path.

use std::path::PathBuf;
use std::{fs, io};

const ROOT: &str = "/proc/sys/net";

pub const IP_FORWARD: &str = "ipv4/ip_forward";
pub const IP6_FORWARD: &str = "ipv6/conf/all/forwarding";
pub const ACCEPT_REDIRECTS: &str = "ipv4/conf/all/accept_redirects";

pub fn read(name: &str) -> io::Result<String> {
    fs::read_to_string(path(name)).map(|text| text.trim().to_owned())
}

pub fn is_on(name: &str) -> io::Result<bool> {
    read(name).map(|text| text != "0")
}

pub fn set(name: &str, value: &str) -> io::Result<()> {
    fs::write(path(name), value)
}

/// The devices of `ipv4/conf` for which forwarding is on, without `all` and our own.
pub fn forwarding_devices(ours: &str) -> io::Result<Vec<String>> {
    let mut devices = Vec::new();
    for entry in fs::read_dir(path("ipv4/conf"))? {
        let Ok(device) = entry?.file_name().into_string() else { continue };
        if device != "all" && device != ours && is_on(&format!("ipv4/conf/{device}/forwarding")).unwrap_or(false) {
            devices.push(device);
        }
    }
    devices.sort();
    Ok(devices)
}

/// False on a host whose kernel has no IPv6, or has it switched off for new devices.
pub fn has_ipv6() -> bool {
    matches!(is_on("ipv6/conf/default/disable_ipv6"), Ok(false))
        && matches!(is_on("ipv6/conf/all/disable_ipv6"), Ok(false))
}

fn path(name: &str) -> PathBuf {
    debug_assert!(!name.contains(".."), "names come from the kernel or from this crate");
    PathBuf::from(ROOT).join(name)
}
