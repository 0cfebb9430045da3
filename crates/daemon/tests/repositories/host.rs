//! A repository on the host, and what a guest would unpack of it.

use daemon::workspace::ship::{DEFAULT_DEPTH, ShipOptions};
use daemon::workspace::{Shipped, WorkspaceError, inspect, list, ship};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

pub struct Case {
    pub folder: TempDir,
}

impl Case {
    /// A repository of three commits with a few files.
    pub fn new() -> Case {
        let case = Case { folder: tempfile::tempdir().expect("a folder can be made") };
        std::fs::create_dir(case.host()).expect("a folder can be made");
        case.git(&["init", "-q", "-b", "main"]);
        case.git(&["config", "user.name", "A Person"]);
        case.git(&["config", "user.email", "person@example.org"]);
        for number in 1..=3 {
            case.write("file", &format!("{number}\n"));
            case.write(format!("dir/{number}"), "x\n");
            case.git(&["add", "-A"]);
            let message = format!("commit {number}");
            case.git(&["commit", "-q", "-m", &message]);
        }
        case
    }

    pub fn host(&self) -> PathBuf {
        self.folder.path().join("host repo")
    }

    pub fn guest(&self) -> PathBuf {
        self.folder.path().join("guest")
    }

    pub fn write(&self, path: impl AsRef<Path>, text: &str) {
        let path = self.host().join(path);
        std::fs::create_dir_all(path.parent().expect("a file lies in a folder")).expect("a folder can be made");
        std::fs::write(path, text).expect("a file can be written");
    }

    #[track_caller]
    pub fn git(&self, arguments: &[&str]) -> Vec<u8> {
        git(&self.host(), arguments)
    }

    pub fn ship_with(&self, options: &ShipOptions) -> Result<Shipped, WorkspaceError> {
        let source = inspect(&self.host())?;
        let scratch = tempfile::tempdir().expect("a folder can be made");
        let mut archive = Vec::new();
        let entries = list(&source, options.selection)?;
        let shipped = ship(&source, &entries, options, scratch.path(), &mut archive)?;
        let _ = std::fs::remove_dir_all(self.guest());
        std::fs::create_dir(self.guest()).expect("a folder can be made");
        let mut archive = tar::Archive::new(archive.as_slice());
        archive.set_preserve_permissions(true);
        archive.unpack(self.guest()).expect("the archive unpacks");
        Ok(shipped)
    }

    #[track_caller]
    pub fn ship(&self) -> Shipped {
        self.ship_with(&options()).expect("the repository ships")
    }

    /// Ships, and compares host and guest in everything that git can say about a work tree.
    #[track_caller]
    pub fn check(&self) {
        let before = fingerprint(&self.host());
        self.ship();
        assert_eq!(before, fingerprint(&self.host()), "the host's repository changed");
        self.compare();
    }

    #[track_caller]
    pub fn compare(&self) {
        compare(&self.host(), &self.guest());
        git(&self.guest(), &["fsck", "--no-dangling"]);
    }
}

/// Host and guest agree in everything that git can say about a work tree.
#[track_caller]
pub fn compare(host: &Path, guest: &Path) {
    for question in [
        &["status", "--porcelain=v2", "-z", "--untracked-files=no"][..],
        &["ls-files", "-s", "-z"],
        &["ls-files", "-v", "-z"],
        &["rev-parse", "HEAD"],
        &["symbolic-ref", "-q", "HEAD"],
    ] {
        let told = |top: &Path| String::from_utf8_lossy(&try_git(top, question)).into_owned();
        assert_eq!(told(host), told(guest), "git {question:?}");
    }
}

pub fn options() -> ShipOptions {
    ShipOptions { depth: Some(DEFAULT_DEPTH), ..ShipOptions::default() }
}

pub fn base(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("git");
    command.arg("-C").arg(folder).args(arguments);
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_OPTIONAL_LOCKS", "0");
    command
}

#[track_caller]
pub fn git(folder: &Path, arguments: &[&str]) -> Vec<u8> {
    let output = base(folder, arguments).output().expect("git runs");
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

pub fn try_git(folder: &Path, arguments: &[&str]) -> Vec<u8> {
    base(folder, arguments).output().expect("git runs").stdout
}

/// Every file below a folder with its mode, size and content hash is too much: names, modes, sizes and times will do.
pub fn fingerprint(folder: &Path) -> Vec<(PathBuf, u32, u64, std::time::SystemTime)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder can be read").flatten() {
            let metadata = entry.metadata().expect("an entry is there");
            if metadata.is_dir() {
                folders.push(entry.path());
            } else {
                let time = metadata.modified().expect("a file has a time");
                found.push((entry.path(), metadata.permissions().mode(), metadata.len(), time));
            }
        }
    }
    found.sort();
    found
}
