//! `POST /identity`: who this guest is. Everything here is repeatable and comes again after a restore or a fork; nothing of
//! it is in the image. Files of other people (keys a person added, lines in /etc/hosts) are kept around our block.
//!
//! All parts are tried; the answer names those that failed. Order: clock and entropy first (keys and certificates depend on
//! them), the network before the files that name its servers.

use crate::http::{self, Answer, io_fault};
use crate::{clock, entropy, network, text};
use hyper::StatusCode;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use wire::guest::{GuestNetwork, Identity};
use wire::{Fault, FaultKind};

pub async fn take(identity: Identity) -> Answer {
    let mut outcomes = vec![
        identity.clock_ns.map_or(Ok(()), clock::set_ns),
        identity.entropy.as_deref().map_or(Ok(()), entropy::add),
        set_hostname(&identity.hostname),
    ];
    if let Some(wanted) = &identity.network {
        outcomes.push(network::ensure(wanted).await);
        outcomes.push(write_resolver(wanted));
    }
    outcomes.push(write_hosts(&identity));
    outcomes.push(identity.machine_id.as_deref().map_or(Ok(()), set_machine_id));
    outcomes.push(set_keys(&identity.authorized_keys));
    outcomes.push(identity.timezone.as_deref().map_or(Ok(()), set_timezone));
    crate::init::provision::begin();
    match join(outcomes) {
        None => http::status(StatusCode::NO_CONTENT),
        Some(fault) => Err(fault),
    }
}

/// One failure is itself; several become one whose causes are their sentences.
fn join(outcomes: Vec<Result<(), Fault>>) -> Option<Fault> {
    let mut faults: Vec<Fault> = outcomes.into_iter().filter_map(Result::err).collect();
    if faults.len() < 2 {
        return faults.pop();
    }
    let kind = faults[0].kind;
    let whole = Fault::new(kind, "cannot take the whole identity");
    Some(faults.iter().fold(whole, |whole, fault| {
        whole.with_cause([std::slice::from_ref(&fault.message), &fault.causes].concat().join(": "))
    }))
}

fn set_hostname(name: &str) -> Result<(), Fault> {
    if name.is_empty() {
        return Ok(());
    }
    rustix::system::sethostname(name.as_bytes()).map_err(|error| io_fault("set the host name")(error.into()))?;
    write(Path::new("/etc/hostname"), &format!("{name}\n"), 0o644)
}

fn write_hosts(identity: &Identity) -> Result<(), Fault> {
    let path = Path::new("/etc/hosts");
    write(path, &text::with_block(&read(path), &hosts_lines(identity)), 0o644)
}

/// The guest's own address by preference, so that its name means the same inside and outside; else Debian's 127.0.1.1.
fn hosts_lines(identity: &Identity) -> Vec<String> {
    let mut lines = vec!["127.0.0.1 localhost".to_owned(), "::1 localhost ip6-localhost ip6-loopback".to_owned()];
    if identity.hostname.is_empty() {
        return lines;
    }
    let own = identity.network.as_ref().map(|network| network.addresses.as_slice()).unwrap_or_default();
    let mut addresses: Vec<&str> = own.iter().filter_map(|cidr| cidr.split('/').next()).collect();
    if addresses.is_empty() {
        addresses.push("127.0.1.1");
    }
    lines.extend(addresses.iter().map(|address| format!("{address} {}", identity.hostname)));
    lines
}

/// A file of our own even where the image links to systemd-resolved's: the link dangles unless that runs. Without name
/// servers the image keeps what it has.
fn write_resolver(network: &GuestNetwork) -> Result<(), Fault> {
    if network.name_servers.is_empty() {
        return Ok(());
    }
    let path = Path::new("/etc/resolv.conf");
    if path.is_symlink() {
        let _ = fs::remove_file(path);
    }
    write(path, &resolver_text(network), 0o644)
}

fn resolver_text(network: &GuestNetwork) -> String {
    let mut lines: Vec<String> = network.name_servers.iter().map(|server| format!("nameserver {server}\n")).collect();
    if !network.search.is_empty() {
        lines.push(format!("search {}\n", network.search.join(" ")));
    }
    lines.concat()
}

fn set_machine_id(id: &str) -> Result<(), Fault> {
    if id.len() != 32 || !id.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(Fault::new(FaultKind::Invalid, "the machine id is not 32 hexadecimal digits"));
    }
    write(Path::new("/etc/machine-id"), &format!("{}\n", id.to_ascii_lowercase()), 0o444)
}

/// sshd refuses keys whose file or folder others could write.
fn set_keys(keys: &[String]) -> Result<(), Fault> {
    let folder = Path::new("/root/.ssh");
    let path = folder.join("authorized_keys");
    if keys.is_empty() && !path.exists() {
        return Ok(());
    }
    fs::create_dir_all(folder)
        .and_then(|()| fs::set_permissions(folder, Permissions::from_mode(0o700)))
        .map_err(io_fault("make /root/.ssh"))?;
    write(&path, &text::with_block(&read(&path), keys), 0o600)
}

fn set_timezone(zone: &str) -> Result<(), Fault> {
    let plain = zone.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/_+-".contains(&byte));
    let file = Path::new("/usr/share/zoneinfo").join(zone);
    if !plain || zone.starts_with('/') {
        return Err(Fault::new(FaultKind::Invalid, format!("{zone} is no time zone")));
    }
    let path = Path::new("/etc/localtime");
    let already = fs::read_link(path).is_ok_and(|present| present == file);
    // An image without tzdata stays at UTC; programs take the zone from TZ there.
    if already || !file.is_file() {
        return Ok(());
    }
    let _ = fs::remove_file(path);
    symlink(&file, path).map_err(io_fault("set the time zone"))?;
    write(Path::new("/etc/timezone"), &format!("{zone}\n"), 0o644)
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// Whole or not at all, by a rename; a file that something is bound over cannot be renamed and is written in place.
/// Unchanged content is left alone.
fn write(path: &Path, content: &str, mode: u32) -> Result<(), Fault> {
    if fs::read_to_string(path).is_ok_and(|present| present == content) {
        return Ok(());
    }
    let attempt = io_fault(format!("write {}", path.display()));
    replace(path, content, mode).or_else(|_| fs::write(path, content)).map_err(attempt)
}

fn replace(path: &Path, content: &str, mode: u32) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let new = path.with_extension("banger-new");
    fs::write(&new, content)?;
    fs::set_permissions(&new, Permissions::from_mode(mode))?;
    fs::rename(&new, path).inspect_err(|_| {
        let _ = fs::remove_file(&new);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_leads_to_the_guests_own_addresses() {
        let mut identity = Identity { hostname: "box".to_owned(), ..Identity::default() };
        assert_eq!(hosts_lines(&identity).last().map(String::as_str), Some("127.0.1.1 box"));
        let addresses = vec!["10.0.0.2/24".to_owned(), "fd00::2/64".to_owned()];
        identity.network = Some(GuestNetwork { addresses, ..GuestNetwork::default() });
        assert_eq!(hosts_lines(&identity)[2..], ["10.0.0.2 box", "fd00::2 box"]);
    }

    #[test]
    fn resolv_conf_names_servers_and_search() {
        let network = GuestNetwork {
            name_servers: vec!["10.0.0.1".to_owned()],
            search: vec!["vm".to_owned(), "lan".to_owned()],
            ..GuestNetwork::default()
        };
        assert_eq!(resolver_text(&network), "nameserver 10.0.0.1\nsearch vm lan\n");
    }

    #[test]
    fn several_failures_are_all_told() {
        let fault = |text: &str| Err(Fault::new(FaultKind::Internal, text).with_cause("why"));
        assert_eq!(join(vec![Ok(())]), None);
        assert_eq!(join(vec![fault("one")]).map(|fault| fault.message), Some("one".to_owned()));
        let both = join(vec![fault("one"), Ok(()), fault("two")]).expect("fault");
        assert_eq!(both.causes, ["one: why", "two: why"]);
    }

    #[test]
    fn a_file_is_replaced_with_its_mode_and_nothing_is_left_beside_it() {
        let folder = tempfile::tempdir().expect("temp dir");
        let path = folder.path().join("new/file");
        write(&path, "a", 0o600).expect("first");
        write(&path, "b", 0o600).expect("second");
        assert_eq!(read(&path), "b");
        assert_eq!(fs::metadata(&path).expect("facts").permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path().join("new")).expect("folder").count(), 1);
    }
}
