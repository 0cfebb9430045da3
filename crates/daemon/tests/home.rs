//! Work comes home: what a guest committed, staged, edited and left untracked is found in the host's repository, and
//! nothing of the host's own changes. A guest is a folder here; the same code looks at real ones.

mod repositories;

use daemon::home::disk::DiskTree;
use daemon::home::view::{self, Range};
use daemon::home::{pull, sync};
use repositories::home::{FolderTree, Rig, command, git, run, write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use wire::control::WorkView;

/// One of everything that git tells apart.
fn work_hard(guest: &Path) {
    write(&guest.join("src/new.txt"), "committed\n");
    git(guest, &["add", "src/new.txt"]);
    git(guest, &["commit", "-q", "-m", "made in the guest"]);
    git(guest, &["branch", "side"]);
    write(&guest.join("count"), "edited\n");
    write(&guest.join("staged.txt"), "staged\n");
    git(guest, &["add", "staged.txt"]);
    write(&guest.join("untracked/deep/er.txt"), "untracked\n");
    write(&guest.join("noise.log"), "ignored\n");
    write(&guest.join("target/debug/x"), "ignored\n");
    std::fs::remove_file(guest.join("src/file1.txt")).unwrap();
    std::fs::set_permissions(guest.join("src/file2.txt"), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::os::unix::fs::symlink("../outside", guest.join("link")).unwrap();
    std::fs::write(guest.join(std::ffi::OsStr::from_bytes(b"odd \"\n\xff name")), "odd\n").unwrap();
    write(&guest.join("-dash"), "dash\n");
    git(guest, &["rm", "-q", "src/file3.txt"]);
    write(&guest.join("src/file3.txt/inside"), "a folder where a file was\n");
}

#[test]
fn commits_and_edits_come_home_and_nothing_else_changes() {
    let rig = Rig::new();
    write(&rig.host.join("count"), "the host's own edit\n");
    let before = rig.fingerprint();
    work_hard(&rig.guest);
    let report = rig.sync_all();
    let head = git(&rig.guest, &["rev-parse", "HEAD"]);
    assert_eq!(rig.host_ref("main").as_deref(), Some(head.as_str()));
    assert_eq!(rig.host_ref("side").as_deref(), Some(head.as_str()));
    assert_eq!(report.commits, 1);
    assert_eq!(git(&rig.host, &["rev-parse", "refs/banger/x/wip^{tree}"]), rig.guest_tree());
    assert_eq!(git(&rig.host, &["rev-parse", "refs/banger/x/wip^"]), head);
    assert_eq!(git(&rig.host, &["log", "-1", "--format=%s", "refs/banger/x/main"]), "made in the guest");
    assert_eq!(rig.fingerprint(), before);
    rig.assert_host_is_sound();
}

#[test]
fn an_untouched_guest_is_its_last_commit() {
    let rig = Rig::new();
    let report = rig.sync_all();
    assert_eq!(report.wip, report.head);
    assert!(!report.moved);
    assert_eq!(git(&rig.host, &["for-each-ref", "refs/banger"]), "", "a guest that did nothing leaves no trace");
    work_hard(&rig.guest);
    let report = rig.sync_all();
    assert!(report.moved);
    assert!(report.changed_files > 5, "{}", report.changed_files);
    git(&rig.guest, &["add", "-A"]);
    git(&rig.guest, &["commit", "-q", "-m", "all of it"]);
    let report = rig.sync_all();
    assert_eq!((report.wip.clone(), report.changed_files, report.commits), (report.head, 0, 2));
}

#[test]
fn what_was_shipped_uncommitted_and_not_touched_leaves_no_trace() {
    let rig = Rig::new();
    for top in [&rig.host, &rig.guest] {
        write(&top.join("count"), "edited before it was shipped\n");
        std::fs::remove_file(top.join("src/file1.txt")).unwrap();
        write(&top.join("staged.txt"), "staged\n");
        git(top, &["add", "staged.txt"]);
    }
    let before = rig.fingerprint();
    rig.sync_all();
    assert_eq!(git(&rig.host, &["for-each-ref", "refs/banger"]), "");
    assert_eq!(rig.fingerprint(), before);
    write(&rig.guest.join("count"), "edited in the guest\n");
    rig.sync_all();
    assert_eq!(git(&rig.host, &["show", "refs/banger/x/wip:count"]), "edited in the guest");
    assert_eq!(rig.fingerprint(), before);
}

#[test]
fn what_is_staged_and_edited_again_is_kept_in_between() {
    let rig = Rig::new();
    write(&rig.guest.join("count"), "staged\n");
    git(&rig.guest, &["add", "count"]);
    write(&rig.guest.join("count"), "edited after\n");
    rig.sync_all();
    assert_eq!(git(&rig.host, &["show", "refs/banger/x/wip:count"]), "edited after");
    assert_eq!(git(&rig.host, &["show", "refs/banger/x/wip^:count"]), "staged");
    assert_eq!(rig.host_ref("wip^^"), rig.host_ref("main"));
}

#[test]
fn only_what_is_new_is_fetched() {
    let rig = Rig::new();
    work_hard(&rig.guest);
    rig.sync_all();
    let wip = rig.host_ref("wip");
    let mut tree = rig.tree();
    sync(&mut tree, &rig.place, 2).unwrap();
    assert_eq!(rig.host_ref("wip"), wip, "the same tree is the same commit");
    let work = |path: &&Vec<u8>| !path.starts_with(b".git") && !path.ends_with(b".gitignore");
    assert_eq!(tree.read.iter().filter(work).count(), 0, "{:?}", tree.read);
    assert!(!tree.read.iter().any(|path| path.starts_with(b".git/objects")), "{:?}", tree.read);
    write(&rig.guest.join("one.txt"), "one\n");
    let mut tree = rig.tree();
    sync(&mut tree, &rig.place, 3).unwrap();
    assert_eq!(tree.read.iter().filter(work).collect::<Vec<_>>(), [b"one.txt"]);
    assert_eq!(git(&rig.host, &["show", "refs/banger/x/wip:one.txt"]), "one");
}

#[test]
fn detached_unborn_stashed_and_tagged_work_comes_home() {
    let rig = Rig::new();
    write(&rig.guest.join("count"), "stashed\n");
    git(&rig.guest, &["stash", "-q"]);
    git(&rig.guest, &["checkout", "-q", "--detach"]);
    git(&rig.guest, &["commit", "-q", "--allow-empty", "-m", "on no branch"]);
    git(&rig.guest, &["tag", "-a", "-m", "a tag", "v1"]);
    git(&rig.guest, &["branch", "wip"]);
    let report = rig.sync_all();
    assert_eq!(report.branch, None);
    assert_eq!(git(&rig.host, &["log", "-1", "--format=%s", "refs/banger/x/wip"]), "on no branch");
    assert_eq!(git(&rig.host, &["show", "refs/banger/x/stash/0:count"]), "stashed");
    assert_eq!(git(&rig.host, &["cat-file", "-t", "refs/banger/x/tags/v1"]), "tag");
    assert_eq!(rig.host_ref("wip-branch"), report.head);
    git(&rig.guest, &["checkout", "-q", "--orphan", "fresh"]);
    let report = rig.sync_all();
    assert_eq!(report.head, None);
    assert_eq!(git(&rig.host, &["rev-parse", "refs/banger/x/wip^{tree}"]), rig.guest_tree());
    assert_eq!(git(&rig.host, &["rev-list", "--count", "refs/banger/x/wip"]), "1");
    rig.assert_host_is_sound();
}

#[test]
fn earlier_work_is_put_aside_and_never_overwritten() {
    let mut rig = Rig::new();
    git(&rig.guest, &["commit", "-q", "--allow-empty", "-m", "of the first"]);
    git(&rig.guest, &["branch", "topic"]);
    rig.sync_all();
    let old = rig.host_ref("main").unwrap();
    // A branch that became a folder.
    git(&rig.guest, &["branch", "-D", "topic"]);
    git(&rig.guest, &["branch", "topic/a"]);
    rig.sync_all();
    assert_eq!(git(&rig.host, &["rev-parse", "refs/banger/x.1/topic"]), old);
    // Another sandbox of the same name.
    rig.place.folder = rig.folder.path().join("home2");
    git(&rig.guest, &["reset", "-q", "--hard", "HEAD~1"]);
    rig.sync_all();
    assert_eq!(rig.host_ref("main").unwrap(), old, "one that did nothing takes nobody's place");
    git(&rig.guest, &["commit", "-q", "--allow-empty", "-m", "of the second"]);
    rig.sync_all();
    assert_ne!(rig.host_ref("main").unwrap(), old);
    assert_eq!(git(&rig.host, &["rev-parse", "refs/banger/x.2/main"]), old);
}

#[test]
fn submodules_come_home_into_their_own_repositories() {
    let rig = Rig::new();
    let library = rig.folder.path().join("library");
    std::fs::create_dir(&library).unwrap();
    git(&library, &["init", "-q", "-b", "main"]);
    write(&library.join("lib.txt"), "one\n");
    git(&library, &["add", "-A"]);
    git(&library, &["commit", "-q", "-m", "library"]);
    let url = library.display().to_string();
    git(&rig.host, &["-c", "protocol.file.allow=always", "submodule", "--quiet", "add", &url, "lib"]);
    git(&rig.host, &["commit", "-q", "-m", "with a library"]);
    std::fs::remove_dir_all(&rig.guest).unwrap();
    git(rig.folder.path(), &["clone", "-q", &rig.host.display().to_string(), "guest"]);
    std::fs::remove_dir_all(rig.guest.join("lib")).unwrap();
    git(&rig.guest, &["clone", "-q", &url, "lib"]);
    write(&rig.guest.join("lib/lib.txt"), "two\n");
    git(&rig.guest.join("lib"), &["commit", "-q", "-am", "in the guest"]);
    write(&rig.guest.join("lib/left.txt"), "untracked\n");
    rig.sync_all();
    let lib = rig.host.join("lib");
    assert_eq!(git(&lib, &["log", "-1", "--format=%s", "refs/banger/x/main"]), "in the guest");
    assert_eq!(git(&lib, &["show", "refs/banger/x/wip:left.txt"]), "untracked");
    // One that the host does not have keeps its commits in the guest, and that is said.
    git(&rig.guest, &["clone", "-q", &url, "other"]);
    let report = rig.sync().unwrap();
    assert!(report.left[0].contains("`other` is a repository of its own"), "{:?}", report.left);
    assert_eq!(git(&rig.host, &["show", "refs/banger/x/wip:other/lib.txt"]), "one");
}

#[test]
fn a_host_that_is_being_rebased_is_left_alone() {
    let rig = Rig::new();
    git(&rig.host, &["checkout", "-q", "-b", "topic", "HEAD~1"]);
    write(&rig.host.join("count"), "conflict\n");
    git(&rig.host, &["commit", "-q", "-am", "conflict"]);
    assert!(!run(&rig.host, &["rebase", "-q", "main"]).status.success());
    let before = rig.fingerprint();
    work_hard(&rig.guest);
    rig.sync_all();
    assert_eq!(rig.fingerprint(), before);
    git(&rig.host, &["rebase", "--abort"]);
    rig.assert_host_is_sound();
}

#[test]
fn a_dead_guests_disk_tells_the_same_and_is_not_written_to() {
    let rig = Rig::new();
    work_hard(&rig.guest);
    let live = rig.sync_all();
    let disk = rig.folder.path().join("work.ext4");
    let mut made = Command::new("/sbin/mkfs.ext4");
    made.args(["-q", "-b", "4096", "-d"]).arg(&rig.guest).arg(&disk).arg("64M");
    let made = made.output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let bytes = std::fs::read(&disk).unwrap();
    let place = sync::Place { folder: rig.folder.path().join("home2"), home: "y".to_owned(), ..rig.place.clone() };
    std::fs::create_dir(&place.folder).unwrap();
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    let mut tree = DiskTree::open(&disk, "/root", "", &place.folder, end).unwrap();
    let dead = sync(&mut tree, &place, 1_700_000_000_000_000_000).unwrap();
    assert_eq!((dead.left.clone(), dead.head, dead.wip), (Vec::new(), live.head, live.wip));
    assert!(bytes == std::fs::read(&disk).unwrap(), "the disk was written to");
}

#[test]
fn every_export_holds_all_of_the_work() {
    let rig = Rig::new();
    let base = git(&rig.guest, &["rev-parse", "HEAD"]);
    work_hard(&rig.guest);
    let report = rig.sync_all();
    let wanted = rig.guest_tree();
    let quarantine = sync::open(&rig.place, &sync::repository(&rig.host).unwrap()).unwrap();
    check_exports(&rig, &quarantine, &Range::new(&report, Some(base.clone())), &base, &wanted);
    // The same without the host's repository.
    std::fs::rename(&rig.host, rig.folder.path().join("moved")).unwrap();
    let (quarantine, report) = sync::without_host(&mut rig.tree(), &rig.place, 1_700_000_000_000_000_000).unwrap();
    std::fs::rename(rig.folder.path().join("moved"), &rig.host).unwrap();
    check_exports(&rig, &quarantine, &Range::new(&report, Some(base.clone())), &base, &wanted);
}

fn check_exports(
    rig: &Rig,
    quarantine: &daemon::home::quarantine::Quarantine,
    range: &Range,
    base: &str,
    wanted: &str,
) {
    let file = rig.folder.path().join("export");
    let file_name = file.display().to_string();
    for (view, apply) in [
        (WorkView::Patch, &["apply", "--index", "--whitespace=nowarn", &file_name][..]),
        (WorkView::Mbox, &["am", "-q", "--keep-cr", &file_name]),
        (WorkView::Bundle, &["pull", "-q", "--ff-only", &file_name, "refs/banger/export/wip"]),
    ] {
        let copy = rig.folder.path().join("copy");
        let _ = std::fs::remove_dir_all(&copy);
        git(rig.folder.path(), &["clone", "-q", &rig.host.display().to_string(), "copy"]);
        git(&copy, &["checkout", "-q", "--detach", base]);
        std::fs::write(&file, view::render(quarantine, range, view).unwrap()).unwrap();
        git(&copy, apply);
        assert_eq!(git(&copy, &["write-tree"]), wanted, "{view:?}");
    }
    let log = String::from_utf8(view::render(quarantine, range, WorkView::Log).unwrap()).unwrap();
    assert!(log.contains("made in the guest") && !log.contains("    commit "), "{log}");
    let status = String::from_utf8_lossy(&view::render(quarantine, range, WorkView::Status).unwrap()).into_owned();
    assert!(status.contains("M\tcount") && status.contains("D\tsrc/file1.txt"), "{status}");
}

#[test]
fn a_pull_moves_a_clean_checkout_forward_and_refuses_any_other() {
    let rig = Rig::new();
    work_hard(&rig.guest);
    let report = rig.sync_all();
    let host = || sync::repository(&rig.host).unwrap();
    write(&rig.host.join("src/file2.txt"), "the host's own\n");
    let refused = pull::forward(&host(), &report).unwrap_err();
    assert!(matches!(refused, pull::PullError::Dirty { .. }), "{refused}");
    git(&rig.host, &["checkout", "-q", "--", "."]);
    write(&rig.host.join("untracked/deep/er.txt"), "in the way\n");
    let refused = pull::forward(&host(), &report).unwrap_err();
    assert!(matches!(refused, pull::PullError::InTheWay { .. }), "{refused}");
    std::fs::remove_dir_all(rig.host.join("untracked")).unwrap();
    let pulled = pull::into_branch(&host(), &report, "guest-work").unwrap();
    assert_eq!(Some(git(&rig.host, &["rev-parse", "guest-work"])), pulled.to_commit);
    assert!(pull::into_branch(&host(), &report, "guest-work").is_err());
    assert!(pull::into_branch(&host(), &report, "--upload-pack=x").is_err());
    pull::forward(&host(), &report).unwrap();
    assert_eq!(Some(git(&rig.host, &["rev-parse", "main"])), report.head);
    let status = |folder: &Path| {
        let mut command = command(folder, &["status", "--porcelain", "-z", "-uall"]);
        let mut lines: Vec<Vec<u8>> = command.output().unwrap().stdout.split(|b| *b == 0).map(<[u8]>::to_vec).collect();
        // What was staged in the guest is a plain change here.
        lines.iter_mut().for_each(|line| drop(line.drain(..line.len().min(3))));
        lines.sort();
        lines
    };
    assert_eq!(status(&rig.host), status(&rig.guest));
    write(&rig.host.join("count"), "elsewhere\n");
    git(&rig.host, &["add", "-A"]);
    git(&rig.host, &["commit", "-q", "-m", "the host went on"]);
    let refused = pull::forward(&host(), &report).unwrap_err();
    assert!(matches!(refused, pull::PullError::Diverged { .. }), "{refused}");
    rig.assert_host_is_sound();
}

#[test]
fn a_shallow_host_and_a_repacked_guest_are_fine() {
    let rig = Rig::new();
    let shallow = rig.folder.path().join("shallow");
    git(rig.folder.path(), &["clone", "-q", "--depth=1", &format!("file://{}", rig.host.display()), "shallow"]);
    let place = sync::Place { host_path: shallow.clone(), ..rig.place.clone() };
    work_hard(&rig.guest);
    git(&rig.guest, &["gc", "-q"]);
    git(&rig.guest, &["pack-refs", "--all"]);
    let report = sync(&mut FolderTree::new(&rig.guest), &place, 1).unwrap();
    assert_eq!(report.left, Vec::<String>::new());
    assert_eq!(git(&shallow, &["rev-parse", "refs/banger/x/wip^{tree}"]), rig.guest_tree());
    assert!(run(&shallow, &["fsck", "--strict"]).status.success());
}
