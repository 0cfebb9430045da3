//! One file that brings the records back after a disk or a hand has damaged them: `banger system backup` and `restore`.
//!
//! ```text
//!  banger.tar   banger-backup.json   what this is: version, time, sandboxes
//!               banger.db            records and journal of one moment
//!               addresses.json       who has which address, where a bridge is used
//!               ssh/…                the client's key, known_hosts, one host key per sandbox
//! ```
//! Disks and images are no part of it: they are large and stay where they are, and the records find them again by id. A
//! backup is written beside its place and renamed; a restore takes nothing of what is there away but puts it aside.

use crate::app::App;
use crate::instance::{InstanceError, Lock};
use crate::layout::Layout;
use engine::{Kind, store};
use model::SandboxId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use wire::control::{Backup, BackupRequest};
use wire::{Fault, FaultKind};

const VERSION: u32 = 1;
const NOTE: &str = "banger-backup.json";
const ADDRESSES: &str = "addresses.json";
const KEYS: [&str; 3] = ["ssh/id_ed25519", "ssh/id_ed25519.pub", "ssh/known_hosts"];
const HOST_KEYS: &str = "ssh/host";
/// 64 MiB for each small file, 4 GiB for the records: far over what they are, far under what fills a disk.
const MAX_SMALL_BYTES: u64 = 64 << 20;
const MAX_DATABASE_BYTES: u64 = 4 << 30;

#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("cannot back up to {path}: {why}")]
    Refused { path: PathBuf, why: &'static str },
    #[error("cannot write the backup {path}")]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot copy the records")]
    Store(#[source] engine::Error),
    #[error("cannot read the backup {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} is no backup of banger: {why}")]
    NoBackup { path: PathBuf, why: String },
    #[error("there are whole records of {vms} VMs already")]
    Present { vms: usize },
    #[error("cannot tell what the present records hold")]
    Unknown(#[source] engine::Error),
    #[error("cannot put the backup into {path}")]
    Place { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Instance(#[from] InstanceError),
}

impl BackupError {
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            BackupError::Refused { .. } => Some("name another file, or say `--replace`"),
            BackupError::Present { .. } | BackupError::Unknown(_) => {
                Some("`--replace` puts the present records aside and takes those of the backup")
            }
            BackupError::Instance(InstanceError::AlreadyRuns { .. }) => Some("`banger daemon stop`, then try again"),
            _ => None,
        }
    }

    pub fn fault(&self) -> Fault {
        let kind = match self {
            BackupError::Refused { .. } | BackupError::Present { .. } | BackupError::Instance(_) => FaultKind::Conflict,
            BackupError::NoBackup { .. } => FaultKind::Invalid,
            _ => FaultKind::HostUnfit,
        };
        let fault = Fault::new(kind, self.to_string()).with_sources(self);
        match self.hint() {
            Some(hint) => fault.with_hint(hint),
            None => fault,
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Note {
    version: u32,
    written_at_ns: u64,
    banger: String,
    /// Names, for who looks into the file.
    vms: Vec<String>,
}

pub fn write(app: &App, request: &BackupRequest) -> Result<Backup, BackupError> {
    let path = PathBuf::from(&request.path);
    let refused = |why| BackupError::Refused { path: path.clone(), why };
    if !path.is_absolute() {
        return Err(refused("it is no absolute path"));
    }
    if path.exists() && !request.replace {
        return Err(refused("it is there already"));
    }
    let partial = path.with_extension(format!("{}.partial", std::process::id()));
    let written = write_partial(app, &partial).and_then(|vms| {
        let failed = |source| BackupError::Write { path: path.clone(), source };
        fs::rename(&partial, &path).and_then(|()| sync_folder(&path)).map_err(failed)?;
        let size_bytes = fs::metadata(&path).map_err(failed)?.len();
        Ok(Backup { path: request.path.clone(), vms, size_bytes })
    });
    written.inspect_err(|_| drop(fs::remove_file(&partial)))
}

fn write_partial(app: &App, partial: &Path) -> Result<u32, BackupError> {
    let failed = |source| BackupError::Write { path: partial.to_owned(), source };
    // In the state folder: the copy is as private as the records, and as large.
    let database = app.layout.state().join(format!("backup-{}.db.partial", std::process::id()));
    let _old = fs::remove_file(&database);
    app.engine.back_up(&database).map_err(BackupError::Store)?;
    let names: Vec<String> = app.engine.list().iter().map(|record| record.name().to_string()).collect();
    let vms = u32::try_from(names.len()).unwrap_or(u32::MAX);
    let note =
        Note { version: VERSION, written_at_ns: app.host.clock.now(), banger: crate::VERSION.into(), vms: names };
    let archived = archive(&app.layout, partial, &note, &database).map_err(failed);
    let _gone = fs::remove_file(&database);
    archived.map(|()| vms)
}

fn archive(layout: &Layout, partial: &Path, note: &Note, database: &Path) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(partial)?;
    let mut tar = tar::Builder::new(file);
    tar.mode(tar::HeaderMode::Deterministic);
    let text = serde_json::to_vec_pretty(note).map_err(io::Error::other)?;
    let mut header = tar::Header::new_gnu();
    header.set_size(text.len() as u64);
    header.set_mode(0o600);
    tar.append_data(&mut header, NOTE, text.as_slice())?;
    tar.append_path_with_name(database, store::FILE_NAME)?;
    let host_keys = fs::read_dir(layout.state().join(HOST_KEYS)).into_iter().flatten().flatten();
    let host_keys = host_keys.filter_map(|entry| entry.file_name().into_string().ok());
    let host_keys =
        host_keys.filter(|name| name.parse::<SandboxId>().is_ok()).map(|name| format!("{HOST_KEYS}/{name}"));
    let mut names: Vec<String> =
        KEYS.iter().map(|name| name.to_string()).chain([ADDRESSES.into()]).chain(host_keys).collect();
    names.sort();
    for name in names {
        let path = layout.state().join(&name);
        if path.is_file() {
            tar.append_path_with_name(path, name)?;
        }
    }
    tar.into_inner()?.sync_all()
}

/// Brings the records of a backup back; no daemon may run over them. Answers how many sandboxes there are now.
pub fn restore(layout: &Layout, path: &Path, replace: bool) -> Result<usize, BackupError> {
    let _alone = Lock::take(&layout.daemon_lock())?;
    let staging = layout.state().join("restore.partial");
    let _old = fs::remove_dir_all(&staging);
    let restored = unpack(path, &staging).and_then(|names| {
        let whole = store::verify(&staging);
        let vms = whole.map_err(|error| BackupError::NoBackup { path: path.to_owned(), why: error.chain() })?;
        put_aside(layout, replace)?;
        place(layout, &staging, &names)?;
        Ok(vms)
    });
    let _gone = fs::remove_dir_all(&staging);
    restored
}

/// Takes nothing but what a backup holds: plain files of known names, each within its bound.
fn unpack(path: &Path, staging: &Path) -> Result<Vec<String>, BackupError> {
    let read = |source| BackupError::Read { path: path.to_owned(), source };
    let no_backup = |why: String| BackupError::NoBackup { path: path.to_owned(), why };
    let place = |source| BackupError::Place { path: staging.to_owned(), source };
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700).create(staging.join(HOST_KEYS)).map_err(place)?;
    let mut archive = tar::Archive::new(File::open(path).map_err(read)?);
    let mut names = Vec::new();
    for entry in archive.entries().map_err(read)? {
        let mut entry = entry.map_err(|error| no_backup(error.to_string()))?;
        let name = entry.path().ok().and_then(|name| name.to_str().map(str::to_owned)).unwrap_or_default();
        let limit = limit_of(&name).filter(|_| entry.header().entry_type().is_file());
        match limit {
            None => return Err(no_backup(format!("it holds `{}`", name.chars().take(80).collect::<String>()))),
            Some(limit) if entry.size() > limit => {
                return Err(no_backup(format!("`{name}` is over {limit} bytes long")));
            }
            Some(_) => {}
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(staging.join(&name));
        let mut file = file.map_err(place)?;
        io::copy(&mut entry, &mut file).map_err(|error| no_backup(error.to_string()))?;
        file.sync_all().map_err(place)?;
        names.push(name);
    }
    let has = |name: &str| names.iter().any(|one| one == name);
    if !has(NOTE) || !has(store::FILE_NAME) {
        return Err(no_backup("it holds no records".into()));
    }
    let note: Result<Note, _> =
        fs::read(staging.join(NOTE)).map_err(place).map(|text| serde_json::from_slice(&text))?;
    match note {
        Ok(Note { version: VERSION, .. }) => Ok(names),
        Ok(note) => Err(no_backup(format!("it is of version {}, and {VERSION} is known here", note.version))),
        Err(error) => Err(no_backup(error.to_string())),
    }
}

/// The most bytes that a file of this name may have; none for a name that no backup has.
fn limit_of(name: &str) -> Option<u64> {
    if Path::new(name).components().any(|part| !matches!(part, Component::Normal(_))) {
        return None;
    }
    let host_key = name.strip_prefix(HOST_KEYS).and_then(|rest| rest.strip_prefix('/'));
    match name {
        store::FILE_NAME => Some(MAX_DATABASE_BYTES),
        NOTE | ADDRESSES => Some(MAX_SMALL_BYTES),
        _ if KEYS.contains(&name) => Some(MAX_SMALL_BYTES),
        _ => host_key?.parse::<SandboxId>().ok().map(|_| MAX_SMALL_BYTES),
    }
}

/// Damaged records always make room; whole ones that know of sandboxes only when that was asked for. Nothing is deleted.
fn put_aside(layout: &Layout, replace: bool) -> Result<(), BackupError> {
    let database = layout.database();
    if !database.exists() {
        return Ok(());
    }
    match store::verify(layout.state()) {
        _ if replace => {}
        Ok(0) => {}
        Ok(vms) => return Err(BackupError::Present { vms }),
        Err(error) if error.kind == Kind::HostUnfit => {}
        // Of another version, most likely: whole, and not ours to judge.
        Err(error) => return Err(BackupError::Unknown(error)),
    }
    let aside = (1..).map(|number| suffixed(&database, &format!(".before-restore-{number}")));
    let aside = aside.into_iter().find(|path| !path.exists()).expect("numbers do not end");
    // The write-ahead log belongs to it: without it the last transactions are lost (sqlite.org/wal.html).
    for suffix in ["-wal", "-shm", ""] {
        let (from, to) = (suffixed(&database, suffix), suffixed(&aside, suffix));
        match fs::rename(&from, &to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            moved => moved.map_err(|source| BackupError::Place { path: to, source })?,
        }
    }
    Ok(())
}

fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The records last: with them the restore is done.
fn place(layout: &Layout, staging: &Path, names: &[String]) -> Result<(), BackupError> {
    let state = layout.state();
    let put = |name: &str| {
        let to = state.join(name);
        let folder = to.parent().unwrap_or(state);
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        fs::rename(staging.join(name), &to)?;
        if name.ends_with(".pub") || name.ends_with("known_hosts") {
            fs::set_permissions(&to, fs::Permissions::from_mode(0o644))?;
        }
        sync_folder(&to)
    };
    let files: BTreeSet<&str> =
        names.iter().map(String::as_str).filter(|name| *name != NOTE && *name != store::FILE_NAME).collect();
    files
        .into_iter()
        .chain([store::FILE_NAME])
        .try_for_each(|name| put(name).map_err(|source| BackupError::Place { path: state.join(name), source }))
}

/// A name is on the disk when its folder is.
fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_backup_holds_is_taken() {
        for (name, expected) in [
            ("banger.db", true),
            ("ssh/host/0123456789abcdef", true),
            ("ssh/host/../../x", false),
            ("ssh/host/", false),
            ("/etc/passwd", false),
            ("config.toml", false),
            ("./banger.db", false),
            ("", false),
        ] {
            assert_eq!(limit_of(name).is_some(), expected, "{name:?}");
        }
    }

    fn layout(world: &Path) -> Layout {
        let [state, runtime, cache] = ["s", "r", "c"].map(|name| world.join(name));
        let layout = Layout::at(state, runtime, cache).unwrap();
        layout.prepare().unwrap();
        layout
    }

    fn tarball(path: &Path, files: &[(&str, &[u8])]) {
        let mut tar = tar::Builder::new(File::create(path).unwrap());
        for (name, bytes) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o600);
            header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            tar.append(&header, *bytes).unwrap();
        }
        tar.finish().unwrap();
    }

    #[test]
    fn hostile_backups_leave_everything_as_it_is() {
        let world = tempfile::tempdir().unwrap();
        let layout = layout(world.path());
        fs::write(layout.database(), "precious").unwrap();
        let path = world.path().join("b.tar");
        let note = br#"{"version": 1, "written_at_ns": 1, "banger": "0", "vms": []}"#;
        let newer = br#"{"version": 2, "written_at_ns": 1, "banger": "0", "vms": []}"#;
        let check = |files: &[(&str, &[u8])], expected: &str| {
            tarball(&path, files);
            let error = restore(&layout, &path, true).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
            assert_eq!(fs::read_to_string(layout.database()).unwrap(), "precious");
            assert!(!layout.state().join("restore.partial").exists());
        };
        check(&[("../../escape", b"x")], "it holds `../../escape`");
        check(&[(NOTE, note)], "it holds no records");
        check(&[(NOTE, newer), (store::FILE_NAME, b"")], "it is of version 2");
        check(&[(NOTE, b"{}"), (store::FILE_NAME, b"")], "missing field");
        check(
            &[(NOTE, note), (store::FILE_NAME, b"no database at all, and longer than its header is, to be sure of it")],
            "is no backup",
        );
        fs::write(&path, "no tar").unwrap();
        assert!(restore(&layout, &path, true).is_err());
        assert!(matches!(restore(&layout, &world.path().join("absent"), true), Err(BackupError::Read { .. })));
        let _daemon = Lock::take(&layout.daemon_lock()).unwrap();
        assert!(matches!(restore(&layout, &path, true), Err(BackupError::Instance(_))));
    }
}
