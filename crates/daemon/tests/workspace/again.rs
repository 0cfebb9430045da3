//! The second shipment: what the host did since is seen, and only that travels.

use crate::rig::{Case, git, try_git};
use daemon::workspace::delta::{Delta, Manifest, delta};
use daemon::workspace::drift::{HostSide, host_side};
use daemon::workspace::ship::ship_delta;
use daemon::workspace::{Preparation, Wish};
use model::workspace::Workspace;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

fn look(case: &Case) -> Preparation {
    Preparation::look(Wish { path: case.host(), ..Wish::default() }).expect("it is a repository")
}

/// A case whose files have been as they are for a while, shipped once.
fn shipped() -> (Case, Workspace, Manifest) {
    shipped_after(|_| ())
}

fn shipped_after(set_up: impl FnOnce(&Case)) -> (Case, Workspace, Manifest) {
    let case = Case::new();
    set_up(&case);
    std::thread::sleep(Duration::from_millis(3100));
    let first = look(&case);
    let manifest = Manifest::take(&first, "1".into());
    case.check();
    (case, first.record(1), manifest)
}

fn changes(case: &Case, record: &Workspace, before: Manifest) -> Option<Delta> {
    let now = look(case);
    delta(&now, Some(record), Some(before), &Manifest::take(&now, "2".into()))
}

/// As the agent does it: what went goes, what came joins what is there.
fn apply(case: &Case, delta: &Delta) {
    let now = look(case);
    let scratch = tempfile::tempdir().expect("a folder can be made");
    let mut archive = Vec::new();
    ship_delta(&now.source, delta, &now.options, scratch.path(), &mut archive).expect("it ships");
    let mut archive = tar::Archive::new(archive.as_slice());
    archive.set_preserve_permissions(true);
    for entry in archive.entries().expect("the archive reads") {
        let mut entry = entry.expect("an entry reads");
        if entry.path().expect("a path") == Path::new(wire::guest::REMOVED_LIST) {
            let mut list = Vec::new();
            entry.read_to_end(&mut list).expect("the list reads");
            for path in list.split(|byte| *byte == 0).filter(|path| !path.is_empty()) {
                std::fs::remove_file(case.guest().join(std::ffi::OsStr::from_bytes(path))).expect("it was there");
            }
        } else {
            entry.unpack_in(case.guest()).expect("an entry unpacks");
        }
    }
}

#[test]
fn only_what_changed_travels_again_and_makes_the_same_tree() {
    let (case, record, before) = shipped();
    case.write("file", "edited\n");
    case.git(&["commit", "-q", "-a", "-m", "four"]);
    case.write("staged", "never committed\n");
    case.git(&["add", "staged"]);
    case.git(&["mv", "dir/1", "dir/renamed"]);
    std::fs::remove_file(case.host().join("dir/2")).expect("a file can be removed");
    case.write("file", "edited again\n");
    let changes = changes(&case, &record, before).expect("changes are enough");
    let travels: Vec<_> = changes.changed.iter().map(|entry| entry.path.display().to_string()).collect();
    assert!(!travels.contains(&"dir/3".to_owned()) && travels.contains(&"file".to_owned()), "{travels:?}");
    let mut removed: Vec<_> = changes.removed.iter().map(|path| path.display().to_string()).collect();
    removed.sort();
    assert_eq!(removed, ["dir/1", "dir/2"]);
    apply(&case, &changes);
    case.compare();
}

#[test]
fn nothing_new_is_next_to_nothing() {
    let (case, record, before) = shipped();
    let changes = changes(&case, &record, before).expect("changes are enough");
    assert!(changes.changed.is_empty() && changes.removed.is_empty(), "{changes:?}");
    apply(&case, &changes);
    case.compare();
}

/// What a guest's git says of these, one line each.
fn told(case: &Case, names: &[&str]) -> Vec<String> {
    let tell =
        |name: &&str| String::from_utf8_lossy(&try_git(&case.guest(), &["config", "--get-all", name])).into_owned();
    names.iter().map(tell).collect()
}

#[test]
fn settings_that_changed_since_arrive_and_those_of_the_guest_stay() {
    let set_up = |case: &Case| {
        case.git(&["remote", "add", "origin", "https://example.org/old"]);
        case.git(&["config", "core.eol", "lf"]);
    };
    let (case, record, before) = shipped_after(set_up);
    git(&case.guest(), &["config", "user.email", "guest@example.org"]);
    git(&case.guest(), &["config", "branch.main.description", "of the guest"]);
    git(&case.guest(), &["remote", "add", "mine", "https://example.org/mine"]);
    case.git(&["config", "user.name", "--global"]);
    case.git(&["remote", "set-url", "origin", "https://me:secret@example.org/new"]);
    case.git(&["config", "--unset", "core.eol"]);
    case.git(&["sparse-checkout", "set", "--no-cone", "/file"]);
    let mut changes = changes(&case, &record, before).expect("changes are enough");
    changes.guest_config = Some(std::fs::read(case.guest().join(".git/config")).expect("it is there"));
    apply(&case, &changes);
    case.compare();
    let names = ["user.name", "user.email", "remote.origin.url", "core.eol", "core.sparsecheckout", "core.checkstat"];
    let expected = ["--global\n", "guest@example.org\n", "https://me@example.org/new\n", "", "true\n", "minimal\n"];
    assert_eq!(told(&case, &names), expected);
    let own = told(&case, &["branch.main.description", "remote.mine.url"]);
    assert_eq!(own, ["of the guest\n", "https://example.org/mine\n"]);
}

#[test]
fn a_configuration_that_cannot_be_read_is_made_anew_and_one_without_news_stays() {
    let (case, record, before) = shipped();
    case.write("file", "edited\n");
    std::fs::write(case.guest().join(".git/config"), "[[[").expect("a file can be written");
    let same = changes(&case, &record, before).expect("changes are enough");
    apply(&case, &same);
    assert_eq!(std::fs::read_to_string(case.guest().join(".git/config")).expect("it is there"), "[[[");
    let (case, record, before) = shipped();
    case.git(&["config", "user.name", "Another"]);
    let mut changes = changes(&case, &record, before).expect("changes are enough");
    changes.guest_config = Some(b"[[[".to_vec());
    apply(&case, &changes);
    case.compare();
    assert_eq!(told(&case, &["user.name", "user.email"]), ["Another\n", "person@example.org\n"]);
}

#[test]
fn a_history_that_went_another_way_travels_whole() {
    let (case, record, before) = shipped();
    case.git(&["reset", "-q", "--hard", "HEAD~1"]);
    case.write("file", "another way\n");
    case.git(&["commit", "-q", "-a", "-m", "other"]);
    assert!(changes(&case, &record, before).is_none());
    let (case, record, before) = shipped();
    case.git(&["checkout", "-q", "-b", "other"]);
    assert!(changes(&case, &record, before).is_none());
}

#[test]
fn the_host_moving_on_is_seen() {
    let case = Case::new();
    let record = look(&case).record(1);
    assert_eq!(host_side(&record), HostSide::Same);
    case.git(&["status"]);
    case.write("untracked", "x");
    assert_eq!(host_side(&record), HostSide::Same);
    case.write("file", "edited in another size\n");
    assert_eq!(host_side(&record), HostSide::Edits);
    case.git(&["commit", "-q", "-a", "-m", "four"]);
    assert_eq!(host_side(&record), HostSide::Commits(Some(1)));
    case.git(&["reset", "-q", "--hard", "HEAD~2"]);
    assert_eq!(host_side(&record), HostSide::Commits(None));
    std::fs::remove_dir_all(case.host()).expect("a folder can be removed");
    assert!(matches!(host_side(&record), HostSide::Gone(_)));
}
