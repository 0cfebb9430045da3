//! What a guest unpacks is what the host had: `git status`, the index, the trees and the modes agree, for every state a
//! work tree can be in; and nothing that a hostile repository names is ever executed on the way.

use daemon::workspace::ship::{DEFAULT_DEPTH, ShipOptions};
use daemon::workspace::{Selection, WorkspaceError, inspect, list, ship};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

struct Case {
    folder: TempDir,
}

impl Case {
    /// A repository of three commits with a few files.
    fn new() -> Case {
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

    fn host(&self) -> PathBuf {
        self.folder.path().join("host repo")
    }

    fn guest(&self) -> PathBuf {
        self.folder.path().join("guest")
    }

    fn write(&self, path: impl AsRef<Path>, text: &str) {
        let path = self.host().join(path);
        std::fs::create_dir_all(path.parent().expect("a file lies in a folder")).expect("a folder can be made");
        std::fs::write(path, text).expect("a file can be written");
    }

    #[track_caller]
    fn git(&self, arguments: &[&str]) -> Vec<u8> {
        git(&self.host(), arguments)
    }

    fn ship_with(&self, options: &ShipOptions) -> Result<daemon::workspace::Shipped, WorkspaceError> {
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
    fn ship(&self) -> daemon::workspace::Shipped {
        self.ship_with(&options()).expect("the repository ships")
    }

    /// Ships, and compares host and guest in everything that git can say about a work tree.
    #[track_caller]
    fn check(&self) {
        let before = fingerprint(&self.host());
        self.ship();
        assert_eq!(before, fingerprint(&self.host()), "the host's repository changed");
        for question in [
            &["status", "--porcelain=v2", "-z", "--untracked-files=no"][..],
            &["ls-files", "-s", "-z"],
            &["ls-files", "-v", "-z"],
            &["rev-parse", "HEAD"],
            &["symbolic-ref", "-q", "HEAD"],
        ] {
            let told = |top: &Path| String::from_utf8_lossy(&try_git(top, question)).into_owned();
            assert_eq!(told(&self.host()), told(&self.guest()), "git {question:?}");
        }
        git(&self.guest(), &["fsck", "--no-dangling"]);
    }
}

fn options() -> ShipOptions {
    ShipOptions { depth: Some(DEFAULT_DEPTH), ..ShipOptions::default() }
}

fn base(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("git");
    command.arg("-C").arg(folder).args(arguments);
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_OPTIONAL_LOCKS", "0");
    command
}

#[track_caller]
fn git(folder: &Path, arguments: &[&str]) -> Vec<u8> {
    let output = base(folder, arguments).output().expect("git runs");
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn try_git(folder: &Path, arguments: &[&str]) -> Vec<u8> {
    base(folder, arguments).output().expect("git runs").stdout
}

/// Every file below a folder with its mode, size and content hash is too much: names, modes, sizes and times will do.
fn fingerprint(folder: &Path) -> Vec<(PathBuf, u32, u64, std::time::SystemTime)> {
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

#[test]
fn a_clean_repository_arrives_as_it_is() {
    let case = Case::new();
    case.git(&["remote", "add", "origin", "https://me:secret@example.org/x"]);
    case.check();
    assert_eq!(git(&case.guest(), &["remote", "get-url", "origin"]), b"https://me@example.org/x\n");
    assert_eq!(git(&case.guest(), &["config", "user.name"]), b"A Person\n");
}

#[test]
fn staged_edited_deleted_renamed_and_linked_paths_arrive_in_their_states() {
    let case = Case::new();
    case.write("staged", "never committed\n");
    case.git(&["add", "staged"]);
    case.write("staged", "and edited after\n");
    case.write("file", "edited\n");
    case.git(&["mv", "dir/1", "dir/renamed"]);
    std::fs::remove_file(case.host().join("dir/2")).expect("a file can be removed");
    case.git(&["rm", "-q", "--cached", "dir/3"]);
    symlink("../outside", case.host().join("link")).expect("a link can be made");
    case.git(&["add", "link"]);
    case.write("tool", "#!/bin/sh\n");
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(case.host().join("tool"), mode).expect("a mode can be set");
    case.git(&["add", "tool"]);
    case.git(&["add", "-N", "."]);
    case.check();
}

#[test]
fn strange_names_arrive_byte_for_byte() {
    let case = Case::new();
    for name in [
        &b"new\nline"[..],
        b"quo\"te",
        b"-rf",
        b"--upload-pack=x",
        b"non-utf8-\xff\xfe",
        b"sp ace",
        b"tab\t",
        b"back\\slash",
    ] {
        case.write(OsStr::from_bytes(name), "x");
    }
    case.git(&["add", "-A"]);
    case.check();
    case.git(&["commit", "-q", "-m", "names"]);
    case.check();
}

#[test]
fn untracked_files_stay_unless_asked_for_and_ignored_ones_always() {
    let case = Case::new();
    case.write(".gitignore", "ignored\n");
    case.git(&["add", ".gitignore"]);
    case.write("untracked", "x");
    case.write("ignored", "x");
    case.write("deep/.env", "SECRET=1");
    case.ship();
    assert!(!case.guest().join("untracked").exists());
    let selection = Selection { include_untracked: true };
    let listed = list(&inspect(&case.host()).expect("it is a repository"), selection).expect("it can be listed");
    assert!(listed.iter().any(|entry| entry.path == Path::new("deep/.env") && entry.secret && !entry.tracked));
    case.ship_with(&ShipOptions { selection, ..options() }).expect("the repository ships");
    assert!(case.guest().join("untracked").exists());
    assert!(!case.guest().join("ignored").exists());
}

#[test]
fn a_dry_run_lists_exactly_what_then_travels() {
    let case = Case::new();
    case.write("untracked", "x");
    let selection = Selection { include_untracked: true };
    let source = inspect(&case.host()).expect("it is a repository");
    let mut listed: Vec<PathBuf> =
        list(&source, selection).expect("it can be listed").into_iter().map(|entry| entry.path).collect();
    case.ship_with(&ShipOptions { selection, ..options() }).expect("the repository ships");
    let mut arrived: Vec<PathBuf> = fingerprint(&case.guest())
        .into_iter()
        .map(|(path, ..)| path.strip_prefix(case.guest()).expect("it lies below").to_path_buf())
        .filter(|path| !path.starts_with(".git"))
        .collect();
    listed.sort();
    arrived.sort();
    assert_eq!(listed, arrived);
}

#[test]
fn history_is_shallow_unless_asked_for() {
    let case = Case::new();
    case.ship_with(&ShipOptions { depth: Some(1), ..ShipOptions::default() }).expect("the repository ships");
    assert_eq!(git(&case.guest(), &["rev-list", "--count", "HEAD"]), b"1\n");
    case.ship_with(&ShipOptions::default()).expect("the repository ships");
    assert_eq!(git(&case.guest(), &["rev-list", "--count", "HEAD"]), b"3\n");
}

#[test]
fn a_branch_of_the_guest_alone_starts_where_it_was_told() {
    let case = Case::new();
    let source = inspect(&case.host()).expect("it is a repository");
    let daemon::workspace::Source::Git(repository) = &source else { panic!("it is a repository") };
    let from = daemon::workspace::inspect::resolve(repository, "HEAD~1").expect("there are three commits");
    case.ship_with(&ShipOptions { branch: Some("try".into()), from: Some(from), ..options() }).expect("it ships");
    assert_eq!(git(&case.guest(), &["symbolic-ref", "HEAD"]), b"refs/heads/try\n");
    assert_eq!(git(&case.guest(), &["rev-list", "--count", "HEAD"]), b"2\n");
    for hostile in ["--upload-pack=touch /tmp/x", "no-such-ref", "HEAD..HEAD~1"] {
        let refused = daemon::workspace::inspect::resolve(repository, hostile);
        assert!(matches!(refused, Err(WorkspaceError::NoSuchReference { .. })), "{hostile}");
    }
}

#[test]
fn worktrees_submodules_sparse_detached_and_empty_repositories_arrive() {
    let case = Case::new();
    case.git(&["checkout", "-q", "--detach", "HEAD~1"]);
    case.check();
    case.git(&["checkout", "-q", "main"]);

    let library = case.folder.path().join("library");
    git(case.folder.path(), &["clone", "-q", "host repo", "library"]);
    let arguments =
        ["-c", "protocol.file.allow=always", "submodule", "add", "-q", library.to_str().expect("it is text"), "sub"];
    case.git(&arguments);
    case.git(&["commit", "-q", "-m", "submodule"]);
    case.write("sub/file", "edited in the submodule\n");
    case.check();
    assert_eq!(
        std::fs::read_to_string(case.guest().join("sub/file")).expect("the submodule arrived"),
        "edited in the submodule\n"
    );

    let tree = case.folder.path().join("tree");
    case.git(&["worktree", "add", "-q", tree.to_str().expect("it is text")]);
    std::fs::write(tree.join("file"), "in the worktree\n").expect("a file can be written");
    let scratch = tempfile::tempdir().expect("a folder can be made");
    let mut archive = Vec::new();
    let source = inspect(&tree).expect("it is a work tree");
    let entries = list(&source, Selection::default()).expect("it can be listed");
    ship(&source, &entries, &options(), scratch.path(), &mut archive).expect("it ships");

    let sparse = Case::new();
    sparse.git(&["sparse-checkout", "set", "--no-cone", "/file"]);
    sparse.check();

    let empty = Case { folder: tempfile::tempdir().expect("a folder can be made") };
    std::fs::create_dir(empty.host()).expect("a folder can be made");
    empty.git(&["init", "-q", "-b", "trunk"]);
    empty.write("staged", "x");
    empty.git(&["add", "staged"]);
    empty.check();
}

#[test]
fn nothing_that_a_hostile_repository_names_is_executed() {
    let case = Case::new();
    let proof = case.folder.path().join("executed");
    let command = format!("touch '{}'", proof.display());
    for key in [
        "core.fsmonitor",
        "core.sshCommand",
        "filter.evil.clean",
        "filter.evil.smudge",
        "filter.evil.process",
        "diff.evil.textconv",
        "diff.evil.command",
        "diff.external",
        "core.pager",
        "uploadpack.packObjectsHook",
        "filter.a=b.clean",
    ] {
        case.git(&["config", key, &command]);
    }
    case.git(&["config", "filter.evil.required", "true"]);
    for hook in ["post-checkout", "pre-commit", "post-index-change", "reference-transaction", "fsmonitor-watchman"] {
        let path = case.host().join(".git/hooks").join(hook);
        std::fs::create_dir_all(path.parent().expect("a hook lies in a folder")).expect("a folder can be made");
        std::fs::write(&path, format!("#!/bin/sh\n{command}\n")).expect("a file can be written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("a mode can be set");
    }
    case.write(".gitattributes", "* filter=evil diff=evil\n");
    case.write("file", "dirty\n");
    let source = inspect(&case.host()).expect("it is a repository");
    list(&source, Selection { include_untracked: true }).expect("it can be listed");
    case.ship();
    assert!(!proof.exists(), "the repository made us run its command");
}

#[test]
fn a_link_never_leads_a_read_out_of_the_tree() {
    let case = Case::new();
    let secret = case.folder.path().join("secret");
    std::fs::create_dir(&secret).expect("a folder can be made");
    std::fs::write(secret.join("1"), "the host's secret").expect("a file can be written");
    std::fs::remove_dir_all(case.host().join("dir")).expect("a folder can be removed");
    symlink(&secret, case.host().join("dir")).expect("a link can be made");
    let shipped = case.ship();
    assert!(shipped.notes.iter().any(|note| note.contains("symbolic link")), "{:?}", shipped.notes);
    let leaked = fingerprint(&case.guest())
        .into_iter()
        .any(|(path, ..)| std::fs::read(path).is_ok_and(|bytes| bytes.windows(6).any(|window| window == b"secret")));
    assert!(!leaked);
}

#[test]
fn what_cannot_be_shipped_is_refused_before_any_machine_exists() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let path = folder.path();
    git(path, &["init", "-q", "--bare", "bare"]);
    std::fs::create_dir(path.join("broken")).expect("a folder can be made");
    std::fs::write(path.join("broken/.git"), "gitdir: /nowhere\n").expect("a file can be written");
    std::fs::write(path.join("file"), "x").expect("a file can be written");
    assert!(matches!(inspect(&path.join("bare")), Err(WorkspaceError::Bare { .. })));
    assert!(matches!(inspect(&path.join("broken")), Err(WorkspaceError::BrokenWorktree { .. })));
    assert!(matches!(inspect(&path.join("file")), Err(WorkspaceError::NoFolder { .. })));
    assert!(matches!(inspect(&path.join("missing")), Err(WorkspaceError::Missing { .. })));
}

#[test]
fn a_plain_folder_ships_without_what_it_ignores() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    for name in ["kept", "out", ".hidden", "target/x"] {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a file lies in a folder")).expect("a folder can be made");
        std::fs::write(path, "x").expect("a file can be written");
    }
    std::fs::write(folder.path().join(".bangerignore"), "target\nout\n").expect("a file can be written");
    let source = inspect(folder.path()).expect("it is a folder");
    let listed = list(&source, Selection::default()).expect("it can be listed");
    let names: Vec<_> = listed.iter().map(|entry| entry.path.to_string_lossy().into_owned()).collect();
    assert_eq!(names, [".bangerignore", ".hidden", "kept"]);
}
