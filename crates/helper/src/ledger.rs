//! What root made for banger, noted before it is made, so that `NetworkDown` unmakes exactly that after any crash.
//!
//! `ledger.json` is replaced as a whole (temporary file, fsync, rename, fsync of the folder); `lock` beside it is held
//! for the helper's life, so that two helpers never share a ledger; `applied.json` is the policy that holds, with the
//! generation of the firewall's rules by which it is known to hold.

use crate::failure::{Attempt, Failure, Result};
use crate::generation::Generation;
use model::SandboxId;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use wire::FaultKind;
use wire::privilege::address::Range;
use wire::privilege::policy::Policy;

/// The version of the file's shape.
const VERSION: u32 = 1;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notes {
    pub version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<BridgeNote>,
    /// By device name.
    #[serde(default)]
    pub taps: BTreeMap<String, TapNote>,
    /// True once the firewall tables may exist.
    #[serde(default)]
    pub tables: bool,
    /// True once NetworkManager's dnsmasq may read a file of ours.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub names: bool,
    /// How forwarding was before we turned it on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forwarding: Option<ForwardingNote>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BridgeNote {
    /// Drawn at random before the bridge is made: a bridge of our name with another one is not ours.
    pub mac: [u8; 6],
    pub range: Range,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TapNote {
    pub id: SandboxId,
    pub owner: u32,
}

/// Turning `ip_forward` resets these settings of the whole host (ip-sysctl.rst), so they are put back with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForwardingNote {
    /// Devices that forwarded already, each by a setting of its own.
    pub devices: Vec<String>,
    pub accept_redirects: bool,
    /// Devices whose presence says that somebody else relies on forwarding; these were there before us.
    #[serde(default)]
    pub other_users: Vec<String>,
}

/// A policy that holds as long as the generation of the rules stands still.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Applied {
    pub policy: Policy,
    pub range: Range,
    pub generation: Generation,
    /// What the firewall listed in that generation, once somebody asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listing: Option<Value>,
}

pub struct Ledger {
    folder: PathBuf,
    notes: Notes,
    _lock: Flock<File>,
}

impl Ledger {
    /// Opens the ledger in this folder, which is made if missing and must be root's own.
    pub fn open(folder: &Path) -> Result<Ledger> {
        prepare_folder(folder)?;
        let lock = lock(&folder.join("lock"))?;
        let path = folder.join("ledger.json");
        let notes = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).attempt(|| format!("cannot read `{}`", path.display()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Notes { version: VERSION, ..Notes::default() },
            Err(error) => return Err(error).attempt(|| format!("cannot read `{}`", path.display())),
        };
        if notes.version != VERSION {
            let sentence =
                format!("`{}` is of version {}, and this helper knows {VERSION}", path.display(), notes.version);
            return Err(Failure::new(FaultKind::HostUnfit, sentence)
                .with_hint("run `banger system network down` with the helper that wrote it"));
        }
        Ok(Ledger { folder: folder.to_owned(), notes, _lock: lock })
    }

    pub fn notes(&self) -> &Notes {
        &self.notes
    }

    /// Changes the notes and has them on disk when it returns.
    pub fn note(&mut self, change: impl FnOnce(&mut Notes)) -> Result<()> {
        let mut notes = self.notes.clone();
        change(&mut notes);
        if notes == self.notes {
            return Ok(());
        }
        let bytes = serde_json::to_vec_pretty(&notes).expect("notes are plain data");
        self.replace("ledger.json", &bytes)?;
        self.notes = notes;
        Ok(())
    }

    /// The last policy that is known to have been applied as a whole.
    pub fn applied(&self) -> Option<Applied> {
        let bytes = fs::read(self.folder.join("applied.json")).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    pub fn keep_applied(&self, applied: &Applied) -> Result<()> {
        self.replace("applied.json", &serde_json::to_vec(applied).expect("a policy is plain data"))
    }

    pub fn forget_applied(&self) -> Result<()> {
        match fs::remove_file(self.folder.join("applied.json")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).attempt(|| "cannot remove the record of the applied policy")
            }
            _ => Ok(()),
        }
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let (path, partial) = (self.folder.join(name), self.folder.join(format!("{name}.partial")));
        let write = || -> io::Result<()> {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&partial, &path)?;
            File::open(&self.folder)?.sync_all()
        };
        write().attempt(|| format!("cannot write `{}`", path.display()))
    }
}

fn prepare_folder(folder: &Path) -> Result<()> {
    let attempt = || format!("cannot prepare the ledger's folder `{}`", folder.display());
    // 0711: the owner passes through it to the socket, and reads nothing.
    DirBuilder::new().recursive(true).mode(0o711).create(folder).attempt(attempt)?;
    let facts = fs::symlink_metadata(folder).attempt(attempt)?;
    let me = nix::unistd::geteuid().as_raw();
    if !facts.is_dir() || facts.uid() != me || facts.mode() & 0o022 != 0 {
        return Err(Failure::new(FaultKind::Refused, attempt())
            .with_source(format!("it is no folder that only user {me} can write to")));
    }
    Ok(())
}

fn lock(path: &Path) -> Result<Flock<File>> {
    let attempt = || format!("cannot lock `{}`", path.display());
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path).attempt(attempt)?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map_err(|(_, error)| error)
        .map_err(|error| Failure::new(FaultKind::Conflict, "another bangerd-root holds this ledger").with_source(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_noted_is_there_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let note = BridgeNote { mac: [2, 1, 2, 3, 4, 5], range: "10.9.0.0/24".parse().unwrap() };
        let mut ledger = Ledger::open(folder.path()).unwrap();
        ledger.note(|notes| notes.bridge = Some(note.clone())).unwrap();
        let conflict = Ledger::open(folder.path()).err().expect("the ledger is held");
        assert_eq!(conflict.kind, FaultKind::Conflict);
        drop(ledger);
        assert_eq!(Ledger::open(folder.path()).unwrap().notes().bridge, Some(note));
    }

    #[test]
    fn a_ledger_of_another_version_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("ledger.json"), r#"{"version": 2}"#).unwrap();
        let error = Ledger::open(folder.path()).err().expect("the version is foreign");
        assert!(error.to_string().contains("of version 2"), "{error}");
    }

    #[test]
    fn a_folder_that_others_can_write_to_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(Ledger::open(folder.path()).is_err());
    }
}
