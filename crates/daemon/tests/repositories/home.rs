//! A host's repository, a guest's copy of it in a folder, and eyes that see that folder as an agent would show it.

use daemon::home::tree::Each;
use daemon::home::{Place, Report, Result, Tree, sync};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;
use wire::guest::work::{Kind, Record};

pub struct Rig {
    pub folder: TempDir,
    pub host: PathBuf,
    pub guest: PathBuf,
    pub place: Place,
}

impl Rig {
    /// A host repository with some history, and a guest that got the last two commits of it.
    pub fn new() -> Rig {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let (host, guest) = (folder.path().join("host"), folder.path().join("guest"));
        std::fs::create_dir(&host).expect("a folder can be made");
        git(&host, &["init", "-q", "-b", "main"]);
        for number in 0..4 {
            write(&host.join("count"), &format!("{number}\n"));
            write(&host.join(format!("src/file{number}.txt")), &format!("file {number}\n"));
            write(&host.join(".gitignore"), "*.log\n/target/\n");
            git(&host, &["add", "-A"]);
            git(&host, &["commit", "-q", "-m", &format!("commit {number}")]);
        }
        let url = format!("file://{}", host.display());
        git(folder.path(), &["clone", "-q", "--depth=2", &url, "guest"]);
        let place = Place {
            folder: folder.path().join("home"),
            home: "x".to_owned(),
            host_path: host.clone(),
            prepared_at: 1,
            include_untracked: false,
        };
        Rig { folder, host, guest, place }
    }

    pub fn tree(&self) -> FolderTree {
        FolderTree::new(&self.guest)
    }

    pub fn sync(&self) -> Result<Report> {
        sync(&mut self.tree(), &self.place, 1_700_000_000_000_000_000)
    }

    /// Looks, and nothing may be left.
    #[track_caller]
    pub fn sync_all(&self) -> Report {
        let report = self.sync().expect("the guest can be looked at");
        assert_eq!(report.left, Vec::<String>::new());
        report
    }

    pub fn host_ref(&self, name: &str) -> Option<String> {
        let output = run(&self.host, &["rev-parse", "--verify", "--quiet", &format!("refs/banger/x/{name}")]);
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// The tree that git itself makes of everything in the guest.
    pub fn guest_tree(&self) -> String {
        let index = self.folder.path().join("scratch-index");
        let _ = std::fs::remove_file(&index);
        let with_index = |arguments: &[&str]| {
            let mut command = command(&self.guest, arguments);
            let output = command.env("GIT_INDEX_FILE", &index).output().expect("git runs");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        };
        if run(&self.guest, &["rev-parse", "--verify", "--quiet", "HEAD"]).status.success() {
            with_index(&["read-tree", "HEAD"]);
        }
        with_index(&["add", "-A"]);
        with_index(&["write-tree"])
    }

    /// Everything of the host that a guest has no business with: its files, index, branches, HEAD, configuration, logs.
    pub fn fingerprint(&self) -> String {
        let mut parts = Vec::new();
        let mut waiting = vec![self.host.clone()];
        while let Some(folder) = waiting.pop() {
            for entry in std::fs::read_dir(folder).expect("the host is there") {
                let path = entry.expect("an entry").path();
                let name = path.strip_prefix(&self.host).expect("below the host").display().to_string();
                // Objects are checked by fsck, our references by each test.
                let ours = ["/refs/banger", "/logs/refs/banger", "/objects"];
                if ours.iter().any(|end| name == format!(".git{end}")) || name == ".git/packed-refs" {
                    continue;
                }
                if path.is_dir() && !path.is_symlink() {
                    waiting.push(path);
                } else {
                    parts.push(format!("{name} {:?}", std::fs::read(&path).unwrap_or_default()));
                }
            }
        }
        let refs = git(&self.host, &["for-each-ref", "refs/heads", "refs/tags", "refs/remotes"]);
        parts.sort();
        parts.push(refs);
        parts.join("\n")
    }

    #[track_caller]
    pub fn assert_host_is_sound(&self) {
        let checked = run(&self.host, &["fsck", "--strict", "--full", "--no-dangling"]);
        let said = [checked.stdout, checked.stderr].concat();
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&said));
    }
}

pub fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().expect("a file lies in a folder")).expect("a folder can be made");
    std::fs::write(path, text).expect("a file can be written");
}

pub fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("git");
    command.arg("-C").arg(folder).args(arguments).stdin(Stdio::null());
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
    for who in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{who}_NAME"), "Ada").env(format!("GIT_{who}_EMAIL"), "ada@localhost");
    }
    command.env("GIT_ALLOW_PROTOCOL", "file");
    command
}

pub fn run(folder: &Path, arguments: &[&str]) -> std::process::Output {
    command(folder, arguments).output().expect("git runs")
}

#[track_caller]
pub fn git(folder: &Path, arguments: &[&str]) -> String {
    let output = run(folder, arguments);
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Writes bytes as an object of any type, checked by nobody; answers its name.
pub fn raw_object(folder: &Path, kind: &str, bytes: &[u8]) -> String {
    use std::io::Write;
    let mut command = command(folder, &["hash-object", "-w", "--literally", "--stdin", "-t", kind]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("git runs");
    child.stdin.take().expect("stdin is piped").write_all(bytes).expect("git reads");
    let output = child.wait_with_output().expect("git ends");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A folder of this machine; counts what is asked of it.
pub struct FolderTree {
    top: PathBuf,
    path: String,
    pub read: Vec<Vec<u8>>,
}

impl FolderTree {
    pub fn new(top: &Path) -> FolderTree {
        FolderTree { top: top.to_owned(), path: top.display().to_string(), read: Vec::new() }
    }

    fn full(&self, path: &[u8]) -> PathBuf {
        self.top.join(OsStr::from_bytes(path))
    }
}

fn record(path: Vec<u8>, facts: &std::fs::Metadata) -> Record {
    let kind = match facts.file_type() {
        kind if kind.is_file() => Kind::File,
        kind if kind.is_symlink() => Kind::Link,
        kind if kind.is_dir() => Kind::Folder,
        _ => Kind::Other,
    };
    Record {
        kind,
        mode: facts.mode() & 0o7777,
        size: facts.len(),
        mtime_ns: facts.mtime() * 1_000_000_000 + facts.mtime_nsec(),
        ctime_ns: facts.ctime() * 1_000_000_000 + facts.ctime_nsec(),
        inode: facts.ino(),
        path,
    }
}

impl Tree for FolderTree {
    fn path(&self) -> &str {
        &self.path
    }

    fn scan(&mut self, pruned: &[Vec<u8>], each: &mut dyn FnMut(Record) -> Result<()>) -> Result<()> {
        let mut waiting = vec![Vec::new()];
        while let Some(folder) = waiting.pop() {
            for entry in std::fs::read_dir(self.full(&folder)).expect("a folder can be read") {
                let entry = entry.expect("an entry");
                let name = entry.file_name();
                let path = match folder.is_empty() {
                    true => name.as_bytes().to_vec(),
                    false => [&folder, &b"/"[..], name.as_bytes()].concat(),
                };
                let facts = std::fs::symlink_metadata(entry.path()).expect("an entry has facts");
                if facts.is_dir() && !pruned.contains(&path) {
                    waiting.push(path.clone());
                }
                each(record(path, &facts))?;
            }
        }
        Ok(())
    }

    fn read(&mut self, paths: &[Vec<u8>], each: Each) -> Result<()> {
        for (number, path) in paths.iter().enumerate() {
            self.read.push(path.clone());
            let full = self.full(path);
            match std::fs::symlink_metadata(&full) {
                Ok(facts) if facts.is_file() => {
                    let mut file = std::fs::File::open(&full).expect("a file can be opened");
                    each(number, &record(Vec::new(), &facts), &mut file)?;
                }
                Ok(facts) if facts.is_symlink() => {
                    let target = std::fs::read_link(&full).expect("a link has a target");
                    let target = target.as_os_str().as_bytes();
                    let facts = Record { size: target.len() as u64, ..record(Vec::new(), &facts) };
                    each(number, &facts, &mut &*target)?;
                }
                _ => each(number, &Record::plain(Kind::Absent), &mut io::empty())?,
            }
        }
        Ok(())
    }

    fn below(&self, path: &str) -> Box<dyn Tree + '_> {
        Box::new(FolderTree::new(&self.top.join(path)))
    }
}
