//! A repository of the host: what a person has before a sandbox gets it. Make it before its world: a sandbox is not deleted
//! while its work cannot be brought home.

use crate::program::DEADLINE;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub struct Repository {
    pub folder: TempDir,
}

/// Of the host's repository what comes home from guests.
const OURS: &str =
    "\\( -path ./.git/objects -o -path ./.git/refs/banger -o -path ./.git/logs/refs/banger \\) -prune -o";

impl Repository {
    /// A folder that git knows, without a commit.
    pub fn empty() -> Repository {
        let repository = Repository { folder: tempfile::tempdir().expect("a folder can be made") };
        std::fs::create_dir(repository.top()).expect("a folder can be made");
        repository.git(&["init", "-q", "-b", "main"]);
        repository.git(&["config", "user.name", "A Person"]);
        repository.git(&["config", "user.email", "person@example.org"]);
        repository
    }

    /// Three commits, and nothing beside them.
    pub fn clean() -> Repository {
        let repository = Repository::empty();
        for number in 1..=3 {
            repository.write("file", &format!("{number}\n"));
            repository.write(".gitignore", "*.log\n");
            repository.commit(number);
        }
        repository
    }

    /// Three commits, and every state that a path can be in.
    pub fn dirty() -> Repository {
        let repository = Repository::empty();
        for number in 1..=3 {
            repository.write("file", &format!("{number}\n"));
            repository.write(format!("dir/{number}"), "x\n");
            repository.write(format!("name with blank and 'quote' {number}"), "x\n");
            repository.commit(number);
        }
        repository.write("staged", "never committed\n");
        repository.git(&["add", "staged"]);
        repository.write("staged", "and edited after\n");
        repository.write("file", "edited\n");
        repository.git(&["mv", "dir/1", "dir/renamed"]);
        std::fs::remove_file(repository.top().join("dir/2")).expect("a file can be removed");
        repository.git(&["rm", "-q", "--cached", "dir/3"]);
        symlink("../outside", repository.top().join("link")).expect("a link can be made");
        repository.write("tool", "#!/bin/sh\necho it works\n");
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(repository.top().join("tool"), mode).expect("a mode can be set");
        repository.git(&["add", "link", "tool"]);
        repository.write("untracked", "stays here\n");
        repository
    }

    fn commit(&self, number: u32) {
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "-m", &format!("commit {number}")]);
    }

    pub fn top(&self) -> PathBuf {
        self.folder.path().join("repo")
    }

    pub fn text(&self) -> String {
        self.top().to_string_lossy().into_owned()
    }

    pub fn write(&self, path: impl AsRef<Path>, text: &str) {
        let path = self.top().join(path);
        std::fs::create_dir_all(path.parent().expect("a file lies in a folder")).expect("a folder can be made");
        std::fs::write(path, text).expect("a file can be written");
    }

    /// Without the end of the last line.
    #[track_caller]
    pub fn git(&self, arguments: &[&str]) -> String {
        git(&self.top(), arguments).trim_end().to_owned()
    }

    pub fn try_git(&self, folder: &Path, arguments: &[&str]) -> Output {
        try_git(folder, arguments)
    }

    /// Waits until a file of a reference says this; only the guest's own word can bring that about.
    #[track_caller]
    pub fn await_content(&self, object: &str, wanted: &str) {
        let end = Instant::now() + DEADLINE;
        loop {
            let shown = try_git(&self.top(), &["show", object]);
            if shown.status.success() && String::from_utf8_lossy(&shown.stdout).trim_end() == wanted {
                return;
            }
            assert!(Instant::now() < end, "{object} does not come home: {}", self.git(&["for-each-ref"]));
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Every file with its permissions and content, `.git` included: the whole repository, byte for byte, but for what
    /// comes home from guests.
    pub fn hash(&self) -> String {
        let hash = format!(
            "find . {OURS} -type f -printf '%m %p\\0' | sort -z; find . {OURS} -type l -printf '%p %l\\0' | sort -z; \
             find . {OURS} -type f -print0 | sort -z | xargs -0 sha256sum"
        );
        shell(&self.top(), &hash)
    }

    #[track_caller]
    pub fn assert_sound(&self) {
        let checked = try_git(&self.top(), &["fsck", "--strict", "--full", "--no-dangling"]);
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    }
}

pub fn try_git(folder: &Path, arguments: &[&str]) -> Output {
    let mut git = Command::new("git");
    git.arg("-C").arg(folder).args(arguments).env("GIT_CONFIG_GLOBAL", "/dev/null");
    git.env("GIT_OPTIONAL_LOCKS", "0").output().expect("git runs")
}

/// Byte for byte.
#[track_caller]
pub fn git(folder: &Path, arguments: &[&str]) -> String {
    let output = try_git(folder, arguments);
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn shell(folder: &Path, line: &str) -> String {
    let output = Command::new("sh").args(["-c", line]).current_dir(folder).output().expect("sh runs");
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
