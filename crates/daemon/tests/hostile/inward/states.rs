//! What a work tree can be like: links, pipes, half-done merges, flags of the index, files that change while they are read.

use super::{Expect, Row, plain, secret};
use crate::repositories::host::{Case, git, try_git};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use std::fs::{File, FileTimes, Permissions, set_permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

const CLAIMED: Expect = Expect::Refused("another folder's repository claims it");

pub fn rows() -> Vec<Row> {
    [links(), specials(), halfway(), submodules(), moving()].into_iter().flatten().collect()
}

fn links() -> Vec<Row> {
    vec![
        Row::new("links out of the tree, to nowhere and in a circle", Expect::Same, |case| {
            for (name, target) in [
                ("absolute", secret(case).as_path()),
                ("up", Path::new("../secret")),
                ("nowhere", Path::new("/no/such/place")),
                ("loop", Path::new("loop")),
                ("here", Path::new(".")),
                ("git", Path::new(".git/config")),
                ("twice", Path::new("dir//1")),
                ("dots", Path::new("./dir/./1/")),
                ("root", Path::new("/")),
                ("long", Path::new(&"x/".repeat(1500))),
            ] {
                link(target, &case.host().join(name));
            }
            case.git(&["add", "-A"]);
            link(secret(case), &case.host().join("untracked"));
        }),
        Row::new("a folder of tracked files is a link out of the tree", Expect::Files, |case| {
            let outside = case.folder.path().join("outside");
            std::fs::create_dir(&outside).expect("a folder can be made");
            std::fs::copy(secret(case), outside.join("1")).expect("a file can be copied");
            std::fs::remove_dir_all(case.host().join("dir")).expect("it was there");
            link(outside, &case.host().join("dir"));
        }),
        Row::new("a tracked file is a link to the secret", Expect::Same, |case| {
            std::fs::remove_file(case.host().join("file")).expect("it was there");
            link(secret(case), &case.host().join("file"));
        }),
        Row::new("a plain folder of links", Expect::Files, |case| {
            for (name, target) in [("itself", Path::new(".")), ("all", Path::new("//")), ("secret", &secret(case))] {
                link(target, &plain(case).join(name));
            }
        })
        .wishing(|case, wish| wish.path = plain(case)),
        Row::new("ignore files that are links out of the tree", Expect::Same, |case| {
            link(secret(case), &case.host().join(".gitignore"));
            link(secret(case), &case.host().join(".gitattributes"));
            link(secret(case), &case.host().join("dir/.gitignore"));
        }),
        Row::new("files with several names", Expect::Same, |case| {
            std::fs::hard_link(case.host().join("file"), case.host().join("again")).expect("a link can be made");
            std::fs::hard_link(case.host().join("file"), case.host().join("untracked")).expect("a link can be made");
            case.git(&["add", "again"]);
        }),
    ]
}

fn specials() -> Vec<Row> {
    let make_all = |top: &Path| {
        special(&top.join("pipe"), FileType::Fifo);
        drop(UnixListener::bind(top.join("socket")).expect("a socket can be made"));
        special(&top.join("device"), FileType::CharacterDevice);
    };
    vec![
        Row::new("pipes, sockets and devices that nobody tracks", Expect::Same, move |case| make_all(&case.host())),
        Row::new("a plain folder of pipes, sockets and devices", Expect::Files, move |case| make_all(&plain(case)))
            .wishing(|case, wish| wish.path = plain(case)),
        Row::new("tracked files that became a pipe, a folder and a file", Expect::Files, |case| {
            for name in ["file", "dir/1"] {
                std::fs::remove_file(case.host().join(name)).expect("it was there");
            }
            special(&case.host().join("file"), FileType::Fifo);
            case.write("dir/1/inside", "x");
            case.write("other", "x");
            case.git(&["add", "dir", "other"]);
        }),
        Row::new("a file that may not be read", Expect::Refused("cannot read"), |case| {
            set_permissions(case.host().join("file"), Permissions::from_mode(0o000)).expect("a mode can be set");
        })
        .ordinary(),
        Row::new("a folder that may not be looked into", Expect::Refused("cannot"), |case| {
            std::fs::create_dir(plain(case).join("closed")).expect("a folder can be made");
            set_permissions(plain(case).join("closed"), Permissions::from_mode(0o000)).expect("a mode can be set");
        })
        .wishing(|case, wish| wish.path = plain(case))
        .ordinary(),
        Row::new("permissions of every kind", Expect::Same, |case| {
            for mode in [0o4755, 0o2755, 0o1777, 0o400, 0o600, 0o511, 0o422] {
                let name = format!("mode-{mode:o}");
                case.write(&name, "x");
                set_permissions(case.host().join(&name), Permissions::from_mode(mode)).expect("a mode can be set");
            }
            case.git(&["add", "-A"]);
        }),
        Row::new("times before and after all others", Expect::Same, |case| {
            for (name, time) in [
                ("old", UNIX_EPOCH - Duration::from_secs(1 << 30)),
                ("zero", UNIX_EPOCH),
                ("late", UNIX_EPOCH + Duration::from_secs(1 << 33)),
            ] {
                case.write(name, "x");
                let file = File::options().write(true).open(case.host().join(name)).expect("it is there");
                file.set_times(FileTimes::new().set_modified(time)).expect("a time can be set");
            }
            case.git(&["add", "-A"]);
        }),
    ]
}

/// In the middle of something, or with flags that few know.
fn halfway() -> Vec<Row> {
    vec![
        Row::new("a merge with conflicts", Expect::Same, |case| {
            conflicting(case);
            assert!(!status(case, &["merge", "-q", "other"]), "the branches do not conflict");
        }),
        Row::new("a rebase that stopped", Expect::Same, |case| {
            conflicting(case);
            assert!(!status(case, &["rebase", "-q", "other"]), "the branches do not conflict");
        }),
        Row::new("files that are meant to be added, skipped and taken for unchanged", Expect::Same, |case| {
            case.write("meant", "x");
            case.git(&["add", "-N", "meant"]);
            case.git(&["update-index", "--skip-worktree", "dir/1"]);
            case.git(&["update-index", "--assume-unchanged", "dir/2"]);
            case.write("dir/2", "edited unseen\n");
            std::fs::remove_file(case.host().join("dir/1")).expect("it was there");
        }),
        Row::new("an index in two files, of version 4", Expect::Same, |case| {
            case.git(&["update-index", "--split-index"]);
            case.write("file", "edited\n");
            case.git(&["add", "file"]);
            case.git(&["update-index", "--index-version", "4"]);
        }),
        Row::new("an index that knows untracked files and a monitor", Expect::Same, |case| {
            case.git(&["update-index", "--force-untracked-cache"]);
            case.git(&["update-index", "--fsmonitor"]);
            case.write("file", "edited in another size\n");
        }),
        Row::new("a sparse index", Expect::Same, |case| {
            case.git(&["sparse-checkout", "set", "--cone", "--sparse-index", "other"]);
        }),
        Row::new("removed, renamed and changed in mode, staged and not", Expect::Same, |case| {
            case.git(&["mv", "dir/1", "renamed"]);
            case.git(&["rm", "-q", "--cached", "dir/2"]);
            std::fs::remove_file(case.host().join("dir/3")).expect("it was there");
            set_permissions(case.host().join("file"), Permissions::from_mode(0o755)).expect("a mode can be set");
        }),
    ]
}

fn submodules() -> Vec<Row> {
    let link_to = |case: &Case, name: &str| {
        let commit = String::from_utf8(case.git(&["rev-parse", "HEAD"])).expect("a name is text");
        case.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{},{name}", commit.trim())]);
    };
    let mut rows = vec![Row::new("links to other repositories that nobody describes", Expect::Same, move |case| {
        link_to(case, "sub");
        link_to(case, "deep/sub");
        std::fs::create_dir(case.host().join("sub")).expect("a folder can be made");
    })];
    for (what, name, path, url) in [
        ("fetched by a command", "x", "sub", "ext::sh -c touch% canary"),
        ("fetched by an option", "x", "sub", "--upload-pack=touch canary"),
        ("in a place out of the tree", "x", "../sub", "./x"),
        ("with a name out of the tree", "../../x", "sub", "./x"),
        ("with an option for a path", "x", "-c", "./x"),
    ] {
        rows.push(Row::new(format!("a submodule {what}"), Expect::Same, move |case| {
            let text = format!("[submodule \"{name}\"]\n\tpath = {path}\n\turl = {url}\n\tupdate = !touch canary\n");
            case.write(".gitmodules", &text);
            link_to(case, "sub");
            case.git(&["add", ".gitmodules"]);
            case.git(&["commit", "-q", "-m", "submodule"]);
        }));
    }
    rows.push(Row::new("a submodule whose repository is the parent's, or another's", CLAIMED, move |case| {
        let outside = case.folder.path().join("outside");
        std::fs::create_dir(&outside).expect("a folder can be made");
        git(&outside, &["init", "-q"]);
        for (name, gitdir) in [("parent", "../.git".into()), ("other", outside.join(".git").display().to_string())] {
            link_to(case, name);
            std::fs::create_dir(case.host().join(name)).expect("a folder can be made");
            let text = format!("gitdir: {gitdir}\n");
            std::fs::write(case.host().join(name).join(".git"), text).expect("a file can be written");
        }
    }));
    rows.push(Row::new("a repository within that nobody tracks", Expect::Same, |case| {
        git(case.folder.path(), &["clone", "-q", "host repo", "host repo/within"]);
    }));
    rows
}

/// Files that do not hold still.
fn moving() -> Vec<Row> {
    vec![
        Row::new("a file vanishes before it is read", Expect::Files, |_| ()).meddling(b"dir/1", |case| {
            std::fs::remove_file(case.host().join("file")).expect("it was there");
        }),
        Row::new("a folder becomes a link before it is read", Expect::Files, |_| ()).meddling(b"dir/1", |case| {
            std::fs::rename(case.host().join("dir"), case.folder.path().join("moved")).expect("it was there");
            link(case.folder.path(), &case.host().join("dir"));
            link(secret(case), &case.folder.path().join("2"));
        }),
        Row::new("a file is written to while it is read", Expect::Files, large).meddling(&[b'x'; 64], |case| {
            case.write("large", &"y".repeat(3 << 20));
        }),
        Row::new("a file is cut while it is read", Expect::Files, large).meddling(&[b'x'; 64], |case| {
            case.write("large", "short");
        }),
        Row::new("a file grows while it is read", Expect::Files, large).meddling(&[b'x'; 64], |case| {
            case.write("large", &"z".repeat(9 << 20));
        }),
        Row::new("a file is replaced while it is read", Expect::Files, large).meddling(&[b'x'; 64], |case| {
            case.write("fresh", "another one");
            std::fs::rename(case.host().join("fresh"), case.host().join("large")).expect("it can be renamed");
        }),
    ]
}

fn large(case: &Case) {
    case.write("large", &"x".repeat(3 << 20));
    case.git(&["add", "-A"]);
}

/// Two branches that changed the same line.
fn conflicting(case: &Case) {
    case.git(&["checkout", "-q", "-b", "other", "HEAD~1"]);
    case.write("file", "other\n");
    case.git(&["commit", "-q", "-a", "-m", "other"]);
    case.git(&["checkout", "-q", "main"]);
}

/// Whether git says yes.
fn status(case: &Case, arguments: &[&str]) -> bool {
    let _ = try_git(&case.host(), arguments);
    String::from_utf8_lossy(&try_git(&case.host(), &["ls-files", "-u"])).is_empty()
}

fn special(path: &Path, kind: FileType) {
    // Of a device the null one: 1, 3.
    let device = if kind == FileType::CharacterDevice { rustix::fs::makedev(1, 3) } else { 0 };
    let made = mknodat(CWD, path, kind, Mode::from_raw_mode(0o644), device);
    // Only root makes devices.
    assert!(made.is_ok() || kind == FileType::CharacterDevice, "{made:?}");
}

fn link(target: impl AsRef<Path>, at: &Path) {
    symlink(target, at).expect("a link can be made");
}
