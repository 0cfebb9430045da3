//! What a guest unpacks is what the host had: `git status`, the index, the trees and the modes agree, for every state a
//! work tree can be in.

use crate::rig::{Case, fingerprint, git, options};
use daemon::workspace::ship::ShipOptions;
use daemon::workspace::{Selection, WorkspaceError, inspect, list, ship};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

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

/// A program that cleans what git stores (LFS) does not run in the guest; the host's word that a file is clean counts there.
#[test]
fn what_a_filter_made_of_a_file_is_as_clean_in_the_guest_as_on_the_host() {
    let case = Case::new();
    case.write(".gitattributes", "*.bin filter=large\n");
    case.git(&["config", "filter.large.clean", "sed s/.*/pointer/"]);
    case.git(&["config", "filter.large.smudge", "cat"]);
    case.write("big.bin", "the content itself\n");
    case.git(&["add", "-A"]);
    case.git(&["commit", "-q", "-m", "large"]);
    // Git looks again at what changed in the second of its index.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    case.git(&["update-index", "--refresh"]);
    case.git(&["status"]);
    assert_eq!(case.git(&["show", "HEAD:big.bin"]), b"pointer\n");
    case.check();
    let arrived = std::fs::read_to_string(case.guest().join("big.bin")).expect("the file arrived");
    assert_eq!(arrived, "the content itself\n");
}

/// Same size, same second: only the content tells, and git looks at it because of the index's time.
#[test]
fn an_edit_in_the_second_of_its_add_is_seen_in_the_guest() {
    for _ in 0..5 {
        let case = Case::new();
        case.write("file", "one\n");
        case.git(&["add", "file"]);
        case.write("file", "two\n");
        case.check();
    }
}

#[test]
fn files_alone_and_files_to_read_only_arrive() {
    let case = Case::new();
    case.write("file", "edited\n");
    case.ship_with(&ShipOptions { files_only: true, readonly: true, ..options() }).expect("the repository ships");
    assert!(!case.guest().join(".git").exists());
    let mode = std::fs::metadata(case.guest().join("file")).expect("the file arrived").permissions().mode();
    assert_eq!(mode & 0o777, 0o444);
}
