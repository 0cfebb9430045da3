//! A repository is a stranger's: nothing that it names is executed, nothing beside it is read, and what cannot be shipped is one
//! sentence. Each test leaves the repository as it was.

use crate::rig::{Case, fingerprint, git, options};
use daemon::workspace::{Preparation, Selection, Source, Wish, WorkspaceError, inspect, list};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

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

const SECRET: &str = "the host's secret";

/// No file below the guest's folder holds the secret, `.git` included.
#[track_caller]
fn assert_nothing_leaked(case: &Case) {
    let files = fingerprint(&case.guest()).into_iter().filter(|(path, ..)| !path.is_symlink());
    for (path, ..) in files {
        let leaked = std::fs::read(&path)
            .is_ok_and(|bytes| bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes()));
        assert!(!leaked, "{} holds the secret", path.display());
    }
}

fn secret(case: &Case) -> PathBuf {
    let path = case.folder.path().join("secret");
    std::fs::write(&path, SECRET).expect("a file can be written");
    path
}

/// Ships if it can; answers with the sentence if it cannot.
fn try_ship(case: &Case) -> Result<daemon::workspace::Shipped, String> {
    let before = fingerprint(&case.host());
    let shipped = case.ship_with(&options()).map_err(|error| error.to_string());
    assert_eq!(before, fingerprint(&case.host()), "the host's repository changed");
    if let Err(sentence) = &shipped {
        assert!(!sentence.contains('\n') && sentence.len() < 500, "{sentence:?} is no sentence");
    }
    shipped
}

#[test]
fn a_repository_cannot_claim_another_folder_as_its_own() {
    let case = Case::new();
    secret(&case);
    let above = case.folder.path().to_string_lossy().into_owned();
    case.git(&["config", "core.worktree", &above]);
    let refused = inspect(&case.host());
    assert!(matches!(refused, Err(WorkspaceError::Claimed { .. })), "{refused:?}");
    let inner = case.host().join("dir");
    assert!(matches!(inspect(&inner), Err(WorkspaceError::Claimed { .. } | WorkspaceError::BrokenWorktree { .. })));
    // By a file, as a worktree does it.
    let file = case.folder.path().join("file-repository");
    std::fs::create_dir(&file).expect("a folder can be made");
    std::fs::write(file.join(".git"), format!("gitdir: {}\n", case.host().join(".git").display())).expect("written");
    assert!(matches!(inspect(&file), Err(WorkspaceError::Claimed { .. })));
}

#[test]
fn a_repository_cannot_be_another_ones() {
    let case = Case::new();
    let victim = case.host().join(".git");
    let claim = |name: &str, make: &dyn Fn(&Path)| {
        let folder = case.folder.path().join(name);
        std::fs::create_dir(&folder).expect("a folder can be made");
        make(&folder);
        let looked = inspect(&folder);
        let refused = matches!(looked, Err(WorkspaceError::Claimed { .. } | WorkspaceError::BrokenWorktree { .. }));
        assert!(refused, "{name}: {looked:?}");
    };
    let write = |path: PathBuf, text: String| std::fs::write(path, text).expect("a file can be written");
    claim("by file", &|folder| write(folder.join(".git"), format!("gitdir: {}\n", victim.display())));
    claim("by link", &|folder| symlink(&victim, folder.join(".git")).expect("a link can be made"));
    claim("by common folder", &|folder| {
        std::fs::create_dir(folder.join(".git")).expect("a folder can be made");
        write(folder.join(".git/HEAD"), "ref: refs/heads/main\n".into());
        write(folder.join(".git/commondir"), format!("{}\n", victim.display()));
    });
    claim("by links within", &|folder| {
        git(folder, &["init", "-q", "-b", "main"]);
        for name in ["objects", "refs"] {
            std::fs::remove_dir_all(folder.join(".git").join(name)).expect("a folder can be removed");
            symlink(victim.join(name), folder.join(".git").join(name)).expect("a link can be made");
        }
    });
}

#[test]
fn a_partial_clone_fetches_nothing_by_a_program_of_its_choosing() {
    for url in ["ssh://nowhere/x", "ext::sh -c touch%20PROOF", "file:///nowhere", "./elsewhere"] {
        let case = Case::new();
        let proof = case.folder.path().join("executed");
        let command = format!("touch '{}';", proof.display());
        case.git(&["config", "extensions.partialClone", "origin"]);
        case.git(&["config", "core.repositoryFormatVersion", "1"]);
        case.git(&["config", "remote.origin.promisor", "true"]);
        case.git(&["config", "remote.origin.url", &url.replace("PROOF", &proof.display().to_string())]);
        case.git(&["config", "remote.origin.uploadpack", &command]);
        case.git(&["config", "core.sshCommand", &command]);
        case.git(&["config", "protocol.ext.allow", "always"]);
        // A blob of the last commit is missing, so that git would want to fetch it.
        let blob = String::from_utf8(case.git(&["rev-parse", "HEAD:file"])).expect("a name is text");
        let (folder, rest) = blob.trim().split_at(2);
        std::fs::remove_file(case.host().join(".git/objects").join(folder).join(rest)).expect("it was loose");
        let _ = try_ship(&case);
        assert!(!proof.exists(), "{url}: the repository made us run its command");
    }
}

#[test]
fn git_files_that_are_links_lead_nowhere() {
    for name in ["index", "info/exclude", "info/attributes", "info/sparse-checkout", "sharedindex.0123456789"] {
        let case = Case::new();
        let path = case.host().join(".git").join(name);
        let _ = std::fs::remove_file(&path);
        symlink(secret(&case), &path).expect("a link can be made");
        let _ = std::fs::create_dir(case.guest());
        let _ = try_ship(&case);
        assert_nothing_leaked(&case);
    }
}

#[test]
fn links_travel_as_links_wherever_they_lead() {
    let case = Case::new();
    let secret = secret(&case);
    for (name, target) in [("absolute", secret.as_path()), ("up", Path::new("../secret")), ("loop", Path::new("loop"))]
    {
        symlink(target, case.host().join(name)).expect("a link can be made");
    }
    case.git(&["add", "-A"]);
    case.check();
    assert_nothing_leaked(&case);
    assert_eq!(std::fs::read_link(case.guest().join("up")).expect("a link"), Path::new("../secret"));
}

#[test]
fn names_that_differ_in_case_or_form_stay_apart() {
    let case = Case::new();
    for name in ["File", "FILE", "a\u{308}", "\u{e4}", "con", "aux.", "file:stream"] {
        case.write(format!("names/{name}"), name);
    }
    case.git(&["add", "-A"]);
    case.check();
}

#[test]
fn what_is_no_file_any_more_stays_here_and_holds_nobody_up() {
    let case = Case::new();
    std::fs::remove_file(case.host().join("file")).expect("a file can be removed");
    let fifo = case.host().join("file");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o644), 0)
        .expect("a pipe can be made");
    let _socket = std::os::unix::net::UnixListener::bind(case.host().join("dir/s")).expect("a socket can be made");
    let shipped = try_ship(&case).expect("the rest ships");
    assert!(shipped.notes.iter().any(|note| note.contains("`file` stays here")), "{:?}", shipped.notes);
}

#[test]
fn a_file_that_became_a_folder_and_a_folder_that_became_a_file_arrive() {
    let case = Case::new();
    std::fs::remove_file(case.host().join("file")).expect("a file can be removed");
    case.write("file/inner", "x");
    std::fs::remove_dir_all(case.host().join("dir")).expect("a folder can be removed");
    case.write("dir", "now a file");
    case.git(&["add", "-A"]);
    case.check();
}

#[test]
fn a_branch_with_the_name_of_an_option_is_a_branch() {
    for name in ["--upload-pack=touch", "-x", "a;b", "$(touch x)", "a'b"] {
        let case = Case::new();
        let reference = format!("refs/heads/{name}");
        // Written by hand: `git branch` refuses what a packed file may hold.
        let commit = String::from_utf8(case.git(&["rev-parse", "HEAD"])).expect("a name is text");
        let packed = format!("# pack-refs with: peeled fully-peeled sorted \n{} {reference}\n", commit.trim());
        std::fs::write(case.host().join(".git/packed-refs"), packed).expect("a file can be written");
        std::fs::write(case.host().join(".git/HEAD"), format!("ref: {reference}\n")).expect("a file can be written");
        let _ = try_ship(&case);
        assert!(!case.host().join("x").exists() && !case.folder.path().join("x").exists());
    }
}

#[test]
fn a_branch_of_the_guest_needs_a_name_that_git_takes() {
    let case = Case::new();
    let look =
        |branch: &str| Preparation::look(Wish { path: case.host(), branch: Some(branch.into()), ..Wish::default() });
    for name in ["-x", "--orphan", "a..b", "a b", "", "x.lock", "@{-1}", "a\nb", "/x", "x/", "HEAD~1", "a//b"] {
        assert!(matches!(look(name), Err(WorkspaceError::NoBranchName { .. })), "{name:?}");
    }
    assert!(look("feature/x").is_ok());
}

#[test]
fn an_index_cannot_name_what_lies_outside() {
    let case = Case::new();
    secret(&case);
    case.write("aa/secret", "x");
    case.git(&["add", "-A"]);
    case.git(&["update-index", "--index-version", "2"]);
    let path = case.host().join(".git/index");
    let mut index = std::fs::read(&path).expect("the index reads");
    let at = index.windows(9).position(|window| window == b"aa/secret").expect("the entry is there");
    index[at..at + 2].copy_from_slice(b"..");
    std::fs::write(&path, index).expect("the index can be written");
    let _ = std::fs::create_dir(case.guest());
    let _ = try_ship(&case);
    assert_nothing_leaked(&case);
}

#[test]
fn submodules_that_are_not_what_they_seem_ship_nothing_of_others() {
    let case = Case::new();
    let commit = String::from_utf8(case.git(&["rev-parse", "HEAD"])).expect("a name is text");
    for name in ["parent", "linked", "elsewhere"] {
        case.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{},{name}", commit.trim())]);
    }
    let outside = case.folder.path().join("outside");
    std::fs::create_dir(&outside).expect("a folder can be made");
    git(&outside, &["init", "-q"]);
    std::fs::write(outside.join("secret"), SECRET).expect("a file can be written");
    git(&outside, &["add", "-A"]);
    // One whose `.git` is its parent's, one that is a link out of the tree, one whose `.git` leads to another repository.
    std::fs::create_dir(case.host().join("parent")).expect("a folder can be made");
    std::fs::write(case.host().join("parent/.git"), "gitdir: ../.git\n").expect("a file can be written");
    symlink(&outside, case.host().join("linked")).expect("a link can be made");
    std::fs::create_dir(case.host().join("elsewhere")).expect("a folder can be made");
    let gitdir = format!("gitdir: {}\n", outside.join(".git").display());
    std::fs::write(case.host().join("elsewhere/.git"), gitdir).expect("a file can be written");
    let _ = std::fs::create_dir(case.guest());
    let _ = try_ship(&case);
    assert!(!case.guest().join("parent/file").exists());
    assert_nothing_leaked(&case);
}

#[test]
fn a_submodules_update_command_and_an_included_configuration_run_nothing() {
    let case = Case::new();
    let proof = case.folder.path().join("executed");
    let command = format!("touch '{}'", proof.display());
    case.write(".gitmodules", &format!("[submodule \"x\"]\n\tpath = x\n\turl = ./x\n\tupdate = !{command}\n"));
    case.write(
        "evil.config",
        &format!("[filter \"evil\"]\n\tclean = {command}\n\trequired = true\n[alias]\n\tls-files = !{command}\n"),
    );
    case.write(".gitattributes", "* filter=evil\n");
    case.git(&["add", "-A"]);
    case.git(&["config", "include.path", "../evil.config"]);
    case.write("file", "dirty\n");
    try_ship(&case).expect("it ships");
    assert!(!proof.exists(), "the repository made us run its command");
}

type Break = fn(&Case);

#[test]
fn a_broken_repository_is_one_sentence() {
    let break_it: &[(&str, Break)] = &[
        ("nonsense in the configuration", |case| write_git(case, "config", b"[[[\n")),
        ("nonsense in HEAD", |case| write_git(case, "HEAD", b"\0\0\0")),
        ("HEAD at a commit that is not there", |case| write_git(case, "HEAD", &[b'a'; 40])),
        ("a cut index", |case| {
            let index = std::fs::read(case.host().join(".git/index")).expect("the index reads");
            write_git(case, "index", &index[..index.len() / 2]);
        }),
        ("an index of noise", |case| write_git(case, "index", &[7; 4096])),
        ("no objects", |case| std::fs::remove_dir_all(case.host().join(".git/objects")).expect("it can be removed")),
        ("cut objects", |case| {
            let commit = String::from_utf8(case.git(&["rev-parse", "HEAD"])).expect("a name is text");
            let (folder, rest) = commit.trim().split_at(2);
            let path = format!("objects/{folder}/{rest}");
            std::fs::remove_file(case.host().join(".git").join(&path)).expect("it can be removed");
            write_git(case, &path, b"x");
        }),
    ];
    for (what, break_it) in break_it {
        let case = Case::new();
        break_it(&case);
        let before = fingerprint(&case.host());
        // A folder whose repository is no repository at all may be refused or shipped as a folder; it never hangs or panics.
        if let Err(error) = case.ship_with(&options()) {
            let sentence = error.to_string();
            assert!(!sentence.contains('\n') && sentence.len() < 500, "{what}: {sentence:?}");
        }
        assert_eq!(before, fingerprint(&case.host()), "{what}: the host's repository changed");
    }
}

fn write_git(case: &Case, name: &str, bytes: &[u8]) {
    std::fs::write(case.host().join(".git").join(name), bytes).expect("a file can be written");
}

#[test]
fn long_and_deep_names_arrive() {
    let case = Case::new();
    let long = "n".repeat(255);
    case.write(&long, "x");
    let deep: PathBuf = std::iter::repeat_n("d".repeat(100), 20).collect();
    case.write(deep.join("file"), "x");
    case.git(&["add", "-A"]);
    case.check();
}

#[test]
fn a_folder_whose_name_is_no_plain_text_is_one_sentence() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    for name in [&b"new\nline"[..], b"\xff\xfe", b"esc\x1b[2J"] {
        let path = folder.path().join(OsStr::from_bytes(name));
        std::fs::create_dir(&path).expect("a folder can be made");
        assert!(matches!(inspect(&path), Err(WorkspaceError::NoText { .. })), "{path:?}");
    }
    let dashes = folder.path().join("--upload-pack=x");
    std::fs::create_dir(&dashes).expect("a folder can be made");
    git(&dashes, &["init", "-q"]);
    assert!(matches!(inspect(&dashes), Ok(Source::Git(_))));
}

#[test]
fn a_plain_folder_leads_nowhere_and_knows_no_end_of_links() {
    let case = Case::new();
    let secret = secret(&case);
    let plain = case.folder.path().join("plain");
    std::fs::create_dir(&plain).expect("a folder can be made");
    symlink(&secret, plain.join("link")).expect("a link can be made");
    symlink(".", plain.join("itself")).expect("a link can be made");
    symlink(case.folder.path(), plain.join("folder")).expect("a link can be made");
    let listed = list(&inspect(&plain).expect("it is a folder"), Selection::default()).expect("it can be listed");
    let names: Vec<_> = listed.iter().map(|entry| entry.path.to_string_lossy().into_owned()).collect();
    assert_eq!(names, ["folder", "itself", "link"]);
}
