//! Hostile, broken and odd repositories of the host: each is looked at and shipped as a person would, without and with its
//! untracked files, and unpacked here.

pub mod config;
mod git_folder;
mod names;
mod states;

use crate::repositories::host::{Case, base, compare};
use daemon::workspace::{Preparation, Shipped, Wish, WorkspaceError, ship};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use wire::Fault;

pub enum Expect {
    /// Host and guest agree in all that git says, and every listed file lies there as it does here.
    Same,
    /// Every listed file lies there; git has a reason to say something else.
    Files,
    /// One sentence that holds these words, and a hint.
    Refused(&'static str),
}

type Make = Box<dyn Fn(&Case) + Send + Sync>;
type Wishing = Box<dyn Fn(&Case, &mut Wish) + Send + Sync>;

pub struct Row {
    name: String,
    make: Make,
    wish: Wishing,
    expect: Expect,
    /// What happens once this part of the archive was written.
    meddle: Option<(&'static [u8], Make)>,
    /// Whoever ships may read only what its permissions allow.
    ordinary: bool,
}

impl Row {
    pub fn new(name: impl Into<String>, expect: Expect, make: impl Fn(&Case) + Send + Sync + 'static) -> Row {
        let wish = Box::new(|_: &Case, _: &mut Wish| ());
        Row { name: name.into(), make: Box::new(make), wish, expect, meddle: None, ordinary: false }
    }

    pub fn wishing(self, wish: impl Fn(&Case, &mut Wish) + Send + Sync + 'static) -> Row {
        Row { wish: Box::new(wish), ..self }
    }

    pub fn meddling(self, after: &'static [u8], meddle: impl Fn(&Case) + Send + Sync + 'static) -> Row {
        Row { meddle: Some((after, Box::new(meddle))), ..self }
    }

    pub fn ordinary(self) -> Row {
        Row { ordinary: true, ..self }
    }
}

/// What lies beside the repository and is nobody's business.
const SECRET: &str = "the secret of this host";

pub fn secret(case: &Case) -> PathBuf {
    case.folder.path().join("secret")
}

/// What every program that a repository names would make.
pub fn canary(case: &Case) -> String {
    format!("touch '{}'", case.folder.path().join("canary").display())
}

#[test]
fn a_hostile_repository_arrives_or_is_refused_and_the_host_stays_as_it_was() {
    let rows = [names::rows(), git_folder::rows(), states::rows(), config::rows()];
    let rows: Vec<Row> = rows.into_iter().flatten().collect();
    crate::try_all("inward", &rows, |row| &row.name, check);
}

fn check(row: &Row) {
    for include_untracked in [false, true] {
        let case = Case::new();
        std::fs::write(secret(&case), SECRET).expect("a file can be written");
        (row.make)(&case);
        arm(&case);
        let mut wish = Wish { path: case.host(), include_untracked, ..Wish::default() };
        (row.wish)(&case, &mut wish);
        let path = wish.path.clone();
        let before = snapshot(case.folder.path());
        let guest = tempfile::tempdir().expect("a folder can be made");
        let outcome = travel(row, &case, wish, guest.path());
        let name = &row.name;
        match row.meddle {
            None => assert_same(name, &before, &snapshot(case.folder.path())),
            Some(_) => assert!(!case.folder.path().join("canary").exists(), "{name}: a program ran"),
        }
        match (&row.expect, outcome) {
            (Expect::Refused(words), Err(error)) => assert_sentence(name, words, error),
            (Expect::Refused(_), Ok(_)) => panic!("{name}: it was not refused"),
            (Expect::Same | Expect::Files, Err(error)) => panic!("{name}: {}", daemon::homecoming::chain(&error)),
            (expect, Ok((preparation, shipped))) => {
                assert_arrived(name, &preparation, &shipped, guest.path());
                if matches!(expect, Expect::Same) {
                    compare(&path, guest.path());
                    let (host, guest) = (fsck(&path), fsck(guest.path()));
                    assert!(guest.iter().all(|line| host.contains(line)), "{name}: {guest:?} and {host:?}");
                }
            }
        }
    }
}

/// Hooks and programs that say so when they run, wherever this does not change what git says of the work tree.
fn arm(case: &Case) {
    let folder = case.host().join(".git");
    if !folder.symlink_metadata().is_ok_and(|facts| facts.is_dir()) {
        return;
    }
    let command = canary(case);
    let hooks = folder.join("hooks");
    let _ = std::fs::create_dir(&hooks);
    for hook in config::HOOKS {
        config::write_script(&hooks.join(hook), &command);
    }
    let config = folder.join("config");
    if config.symlink_metadata().is_ok_and(|facts| facts.is_file()) {
        let mut text = std::fs::read(&config).expect("it can be read");
        text.extend(config::programs(&command).bytes());
        std::fs::write(&config, text).expect("it can be written");
    }
}

type Travelled = Result<(Preparation, Shipped), WorkspaceError>;

fn travel(row: &Row, case: &Case, wish: Wish, guest: &Path) -> Travelled {
    let scratch = tempfile::tempdir().expect("a folder can be made");
    let mut archive = Archive { bytes: Vec::new(), meddle: row.meddle.as_ref(), case };
    let go = || {
        let preparation = Preparation::look(wish)?;
        let (source, options) = (&preparation.source, &preparation.options);
        let shipped = ship(source, &preparation.entries, options, scratch.path(), &mut archive)?;
        Ok((preparation, shipped))
    };
    let outcome = if row.ordinary { as_ordinary(go) } else { go() };
    let holds_secret = archive.bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes());
    assert!(!holds_secret, "{}: the secret travels", row.name);
    if outcome.is_ok() {
        let mut archive = tar::Archive::new(archive.bytes.as_slice());
        archive.set_preserve_permissions(true);
        archive.unpack(guest).unwrap_or_else(|error| panic!("{}: {error}", row.name));
    }
    outcome
}

/// Root may read everything; here for once it may not.
fn as_ordinary<T>(work: impl FnOnce() -> T) -> T {
    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
    let before = capabilities(None).expect("capabilities can be read");
    let mut fewer = before;
    fewer.effective -= CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH;
    set_capabilities(None, fewer).expect("capabilities can be given up");
    let done = work();
    set_capabilities(None, before).expect("capabilities can be taken back");
    done
}

struct Archive<'a> {
    bytes: Vec<u8>,
    meddle: Option<&'a (&'static [u8], Make)>,
    case: &'a Case,
}

impl Write for Archive<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let before = self.bytes.len();
        self.bytes.extend(bytes);
        if let Some((after, meddle)) = self.meddle
            && self.bytes[before.saturating_sub(after.len())..].windows(after.len()).any(|window| window == *after)
        {
            self.meddle = None;
            meddle(self.case);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn assert_sentence(name: &str, words: &str, error: WorkspaceError) {
    let fault = Fault::from(error);
    let message = &fault.message;
    assert!(message.contains(words), "{name}: {message:?} does not say {words:?}");
    assert!(!message.contains(char::is_control) && message.len() < 700, "{name}: {message:?} is no sentence");
    assert!(fault.hint.is_some(), "{name}: no hint with {message:?}");
}

/// Everything that was listed, as it lies on the host, and nothing else but git folders.
fn assert_arrived(name: &str, preparation: &Preparation, shipped: &Shipped, guest: &Path) {
    let top = preparation.host_path();
    let mut wanted = BTreeMap::new();
    for entry in preparation.travels() {
        if let Some(shape) = shape(&top.join(&entry.path), top) {
            wanted.insert(entry.path.clone(), shape);
        }
    }
    let mut there = BTreeMap::new();
    let mut waiting = vec![guest.to_path_buf()];
    while let Some(folder) = waiting.pop() {
        for entry in std::fs::read_dir(folder).expect("it can be read").flatten() {
            let path = entry.path();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if entry.file_name() != ".git" {
                    waiting.push(path);
                }
            } else if let Some(shape) = shape(&path, guest) {
                there.insert(path.strip_prefix(guest).expect("it lies below").to_path_buf(), shape);
            }
        }
    }
    assert_eq!(wanted, there, "{name}: {:?}", shipped.notes);
    assert_eq!(shipped.notes.iter().filter(|note| note.contains('\n')).count(), 0, "{name}: {:?}", shipped.notes);
}

/// What of a file travels; nothing of a folder, a pipe, or of what a link on the way leads to.
fn shape(path: &Path, top: &Path) -> Option<(bool, Vec<u8>)> {
    let parents = path.ancestors().skip(1).take_while(|parent| *parent != top);
    if parents.into_iter().any(Path::is_symlink) {
        return None;
    }
    let facts = path.symlink_metadata().ok()?;
    match facts.file_type() {
        kind if kind.is_symlink() => Some((true, std::fs::read_link(path).ok()?.as_os_str().as_bytes().to_vec())),
        kind if kind.is_file() => Some((facts.permissions().mode() & 0o100 != 0, std::fs::read(path).ok()?)),
        _ => None,
    }
}

/// What git finds to be wrong.
fn fsck(top: &Path) -> Vec<String> {
    let output = base(top, &["fsck", "--no-dangling", "--no-progress"]).output().expect("git runs");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let lines: Vec<String> = text.lines().filter(|line| !line.starts_with("warning")).map(str::to_owned).collect();
    assert!(output.status.success() || !lines.is_empty(), "git fsck says nothing");
    lines
}

#[track_caller]
fn assert_same(name: &str, before: &[String], after: &[String]) {
    let gone: Vec<&String> = before.iter().filter(|line| after.binary_search(line).is_err()).collect();
    let new: Vec<&String> = after.iter().filter(|line| before.binary_search(line).is_err()).collect();
    assert!(gone.is_empty() && new.is_empty(), "{name}: the host changed: {gone:#?} {new:#?}");
}

/// Every file below: its place, kind, permissions, times and bytes.
fn snapshot(top: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut waiting = vec![top.to_path_buf()];
    while let Some(folder) = waiting.pop() {
        let Ok(listed) = std::fs::read_dir(&folder) else {
            lines.push(format!("{folder:?} cannot be read"));
            continue;
        };
        for entry in listed.flatten() {
            let path = entry.path();
            let Ok(facts) = path.symlink_metadata() else { continue };
            let mut line = format!("{path:?} {:o}", facts.mode());
            // Git freshens an object that it would have written.
            if !path.to_string_lossy().contains("/.git/objects/") {
                write!(line, " {} {}", facts.mtime(), facts.mtime_nsec()).expect("it is text");
            }
            match facts.file_type() {
                kind if kind.is_dir() => waiting.push(path),
                kind if kind.is_symlink() => write!(line, " {:?}", std::fs::read_link(&path)).expect("it is text"),
                kind if kind.is_fifo() || kind.is_socket() || kind.is_char_device() => {}
                _ => write!(line, " {:?}", std::fs::read(&path).map(|bytes| digest(&bytes))).expect("it is text"),
            }
            lines.push(line);
        }
    }
    lines.sort();
    lines
}

fn digest(bytes: &[u8]) -> String {
    daemon::home::digest_of(bytes)
}

/// A plain folder beside the repository.
pub fn plain(case: &Case) -> PathBuf {
    let path = case.folder.path().join("plain");
    std::fs::create_dir_all(&path).expect("a folder can be made");
    path
}
