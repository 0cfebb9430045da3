//! `[[file_sync]]`: files of this host that every guest gets at its start, such as dotfiles, git's identity or a tool's
//! credentials. Checked when the file is read, so that no start fails of a typing error.

use serde::{Deserialize, Deserializer, de};
use std::path::{Component, Path, PathBuf};

/// Nobody but root reads what nobody said anything about: credentials are the usual case.
const DEFAULT_MODE: u32 = 0o600;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSync {
    pub host: HostPath,
    /// Below root's home in the guest.
    pub guest: PathBuf,
    /// Of a file; what lies in a folder keeps its own modes.
    pub mode: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostPath {
    BelowHome(PathBuf),
    Absolute(PathBuf),
}

impl HostPath {
    pub fn resolve(&self, home: &Path) -> PathBuf {
        match self {
            HostPath::BelowHome(path) => home.join(path),
            HostPath::Absolute(path) => path.clone(),
        }
    }
}

#[derive(Deserialize)]
struct Given {
    host: String,
    guest: Option<String>,
    mode: Option<String>,
}

impl<'de> Deserialize<'de> for FileSync {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        read(Given::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

fn read(given: Given) -> Result<FileSync, String> {
    let host = match given.host.strip_prefix("~/") {
        Some(below) => HostPath::BelowHome(within(below).ok_or_else(|| refused("host", &given.host))?),
        None if given.host.starts_with('/') => HostPath::Absolute(PathBuf::from(&given.host)),
        None => return Err(refused("host", &given.host)),
    };
    let guest = match &given.guest {
        Some(guest) => {
            let below = guest.strip_prefix("~/").or_else(|| guest.strip_prefix("/root/"));
            below.and_then(within).ok_or_else(|| refused("guest", guest))?
        }
        // The same place in the guest's home.
        None => match &host {
            HostPath::BelowHome(path) => path.clone(),
            HostPath::Absolute(_) => return Err("`guest` is missing: where in the guest shall it lie?".to_owned()),
        },
    };
    let mode = match given.mode.as_deref() {
        None => DEFAULT_MODE,
        Some(mode) => u32::from_str_radix(mode, 8).ok().filter(|mode| *mode <= 0o777).ok_or_else(|| {
            let mode: String = mode.chars().take(40).collect();
            format!("`{mode}` is no mode of a file: write it like `0600`")
        })?,
    };
    Ok(FileSync { host, guest, mode })
}

/// A path that stays below where it begins.
fn within(path: &str) -> Option<PathBuf> {
    let path = Path::new(path);
    let normal = path.components().all(|part| matches!(part, Component::Normal(_)));
    (normal && !path.as_os_str().is_empty()).then(|| path.components().collect())
}

fn refused(what: &str, given: &str) -> String {
    let given: String = given.chars().take(80).collect();
    match what {
        "host" => format!("`{given}` is no file of this host: write it like `~/.gitconfig` or `/etc/hosts`"),
        _ => format!("`{given}` does not lie in the guest's home: write it like `~/.gitconfig` or `/root/.gitconfig`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(host: &str, guest: Option<&str>, mode: Option<&str>, expected: Result<(&str, u32), &str>) {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        let outcome = read(Given { host: host.into(), guest: owned(guest), mode: owned(mode) });
        let outcome = outcome.map(|entry| (entry.guest.display().to_string(), entry.mode));
        match (outcome, expected) {
            (Ok(found), Ok((guest, mode))) => assert_eq!(found, (guest.to_owned(), mode), "{host}"),
            (Err(error), Err(wanted)) => assert!(error.contains(wanted), "{host}: {error}"),
            (found, expected) => panic!("{host}: {found:?}, not {expected:?}"),
        }
    }

    #[test]
    fn a_file_goes_below_the_guests_home_and_nowhere_else() {
        check("~/.gitconfig", None, None, Ok((".gitconfig", 0o600)));
        check("/etc/hosts", Some("/root/hosts"), Some("0644"), Ok(("hosts", 0o644)));
        check("~/.config/gh", Some("~/.config/gh"), None, Ok((".config/gh", 0o600)));
        check("/etc/hosts", None, None, Err("`guest` is missing"));
        check("relative", Some("~/x"), None, Err("no file of this host"));
        check("~/../other", None, None, Err("no file of this host"));
        check("~/x", Some("/etc/x"), None, Err("guest's home"));
        check("~/x", Some("~/../etc/x"), None, Err("guest's home"));
        check("~/x", Some("~/"), None, Err("guest's home"));
        check("~/x", None, Some("rw"), Err("no mode"));
        check("~/x", None, Some("4755"), Err("no mode"));
    }
}
