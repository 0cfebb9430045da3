//! What a repository is made of, and where that lies: `.git`, HEAD, references, objects, index.

use super::{Expect, Row, canary, plain, secret};
use crate::repositories::host::{Case, git, try_git};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

const NO_REPOSITORY: Expect = Expect::Refused("leads to no repository");
const CLAIMED: Expect = Expect::Refused("another folder's repository claims it");
const NO_HEAD: Expect = Expect::Refused("its HEAD leads to no commit");
const GIT_SAID: Expect = Expect::Refused("git said: ");
const NO_FILE: Expect = Expect::Refused("is no file");

pub fn rows() -> Vec<Row> {
    let parts = [places(), heads(), references(), wishes(), objects(), indexes(), formats()];
    parts.into_iter().flatten().collect()
}

/// `.git` is something else, or lies somewhere else.
fn places() -> Vec<Row> {
    let at_plain = |row: Row| row.wishing(|case, wish| wish.path = plain(case));
    let mut rows = vec![
        at_plain(Row::new("`.git` is a file that leads to another repository", CLAIMED, |case| {
            write(&plain(case).join(".git"), format!("gitdir: {}\n", case.host().join(".git").display()));
        })),
        at_plain(Row::new("`.git` is a file that leads to itself", NO_REPOSITORY, |case| {
            write(&plain(case).join(".git"), "gitdir: .git\n");
        })),
        at_plain(Row::new("`.git` is a file that leads to the host's files", NO_REPOSITORY, |case| {
            write(&plain(case).join(".git"), format!("gitdir: {}\n", secret(case).display()));
        })),
        at_plain(Row::new("`.git` is a link to itself", NO_REPOSITORY, |case| link(".git", &plain(case).join(".git")))),
        at_plain(Row::new("`.git` is a link to another repository's", CLAIMED, |case| {
            link(case.host().join(".git"), &plain(case).join(".git"));
        })),
        Row::new("a work tree whose git folder belongs to another one", CLAIMED, |case| {
            case.git(&["worktree", "add", "-q", "../real"]);
            let folder = case.host().join(".git/worktrees/real");
            write(&plain(case).join(".git"), format!("gitdir: {}\n", folder.display()));
        })
        .wishing(|case, wish| wish.path = plain(case)),
        Row::new("a work tree of its own", Expect::Same, |case| {
            case.git(&["worktree", "add", "-q", "../real"]);
            write(&case.folder.path().join("real/file"), "edited there");
        })
        .wishing(|case, wish| wish.path = case.folder.path().join("real")),
    ];
    for name in ["", "/HEAD", "/config", "/index", "/packed-refs", "/info/exclude", "/objects/info/alternates"] {
        rows.push(Row::new(format!("a pipe in the place of `.git{name}`"), NO_FILE, move |case| {
            let path = case.host().join(format!(".git{name}"));
            let _ = std::fs::rename(&path, case.folder.path().join("before"));
            mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o644), 0).expect("a pipe can be made");
        }));
    }
    rows
}

fn heads() -> Vec<Row> {
    vec![
        Row::new("nonsense in HEAD", NO_REPOSITORY, |case| in_git(case, "HEAD", b"\0\xff nonsense\n")),
        Row::new("HEAD leads in a circle", NO_HEAD, |case| {
            in_git(case, "refs/heads/a", b"ref: refs/heads/b\n");
            in_git(case, "refs/heads/b", b"ref: refs/heads/a\n");
            in_git(case, "HEAD", b"ref: refs/heads/a\n");
        }),
        Row::new("HEAD at a commit that is not there", NO_HEAD, |case| in_git(case, "HEAD", &[b'a'; 40])),
        Row::new("a branch at a commit that is not there", NO_HEAD, |case| {
            in_git(case, "refs/heads/main", "ab".repeat(20).as_bytes());
        }),
        Row::new("a branch at no commit at all", NO_HEAD, |case| {
            let blob = text(case.git(&["rev-parse", "HEAD:file"]));
            in_git(case, "refs/heads/main", blob.as_bytes());
        }),
        Row::new("HEAD at the branch before", NO_HEAD, |case| in_git(case, "HEAD", b"ref: refs/heads/@{-1}\n")),
        Row::new("HEAD beside the branches", Expect::Refused("its HEAD leads"), |case| {
            in_git(case, "HEAD", b"ref: refs/elsewhere/x\n");
        }),
        Row::new("no commit yet", Expect::Same, |case| {
            std::fs::remove_dir_all(case.host().join(".git")).expect("it was there");
            case.git(&["init", "-q", "-b", "trunk"]);
            case.git(&["add", "file"]);
        }),
    ]
}

/// Names of references that look like something else.
fn references() -> Vec<Row> {
    let names = ["--upload-pack=touch", "-c", "--exec=x", "$(touch,x)", "a;b", "a'b", "\u{202e}x", "x|y", "&"];
    let rows = names.into_iter().map(|name| {
        Row::new(format!("a branch called {name:?}"), Expect::Same, move |case| {
            let commit = text(case.git(&["rev-parse", "HEAD"]));
            // Written by hand: `git branch` refuses what a packed file may hold.
            let reference = format!("refs/heads/{name}");
            in_git(case, "packed-refs", format!("{commit} {reference}\n").as_bytes());
            in_git(case, "HEAD", format!("ref: {reference}\n").as_bytes());
        })
    });
    let mut rows: Vec<Row> = rows.collect();
    rows.push(Row::new("ten thousand references, some of them broken", Expect::Same, |case| {
        let commit = text(case.git(&["rev-parse", "HEAD"]));
        let lines: String = (10000..20000).map(|number| format!("{commit} refs/tags/t{number}\n")).collect();
        in_git(case, "packed-refs", lines.as_bytes());
        in_git(case, "refs/heads/nonsense", b"nonsense\n");
        in_git(case, "refs/heads/a..b", commit.as_bytes());
    }));
    rows
}

/// What a person is made to type.
fn wishes() -> Vec<Row> {
    let branches = ["-x", "-c", "--upload-pack=touch canary", "@{-1}", "a..b", "x.lock", "a\nb", ""];
    let branches = branches.into_iter().map(|name| {
        Row::new(format!("`--branch` {name:?}"), Expect::Refused("is no name for a branch"), |_| ())
            .wishing(move |_, wish| wish.branch = Some(name.into()))
    });
    let froms =
        ["-c", "--upload-pack=touch canary", "@{-1}", "HEAD..HEAD~1", "HEAD:file", "$(touch canary)", "--all", ""];
    let froms = froms.into_iter().map(|name| {
        Row::new(format!("`--from` {name:?}"), Expect::Refused("there is no `"), |_| ()).wishing(move |_, wish| {
            wish.branch = Some("try".into());
            wish.from = Some(name.into());
        })
    });
    branches.chain(froms).collect()
}

fn objects() -> Vec<Row> {
    let object = |case: &Case, name: &str| -> PathBuf {
        let object = text(case.git(&["rev-parse", name]));
        case.host().join(".git/objects").join(&object[..2]).join(&object[2..])
    };
    let lost =
        move |name: &'static str| move |case: &Case| std::fs::remove_file(object(case, name)).expect("it was loose");
    let cut = move |case: &Case| {
        let path = object(case, "HEAD:file");
        std::fs::remove_file(&path).expect("it was loose");
        write(&path, "x");
    };
    vec![
        Row::new("a tree is lost", GIT_SAID, lost("HEAD^{tree}")),
        Row::new("a file's content is lost", GIT_SAID, lost("HEAD:file")),
        Row::new("a commit before is lost", GIT_SAID, lost("HEAD~1")),
        Row::new("a file's content is cut", GIT_SAID, cut),
        Row::new("objects borrowed from another repository", Expect::Same, |case| {
            git(case.folder.path(), &["clone", "-q", "--shared", "host repo", "shared"]);
        })
        .wishing(|case, wish| wish.path = case.folder.path().join("shared")),
        Row::new("objects borrowed from themselves and from nowhere", Expect::Same, |case| {
            in_git(case, "objects/info/alternates", b"../objects\n/nowhere/at/all\n-x\n");
        }),
        Row::new("another commit in the place of the last one", Expect::Files, |case| {
            let tree = text(case.git(&["rev-parse", "HEAD~1^{tree}"]));
            let other = text(case.git(&["commit-tree", "-m", "other", &tree]));
            case.git(&["replace", "HEAD", &other]);
            case.git(&["read-tree", "HEAD"]);
        }),
        Row::new("a graft", Expect::Files, |case| {
            let [last, first] = ["HEAD", "HEAD~2"].map(|name| text(case.git(&["rev-parse", name])));
            in_git(case, "info/grafts", format!("{last} {first}\n").as_bytes());
        }),
    ]
}

fn indexes() -> Vec<Row> {
    fn index(case: &Case) -> Vec<u8> {
        std::fs::read(case.host().join(".git/index")).expect("the index reads")
    }
    /// An entry of an index that git would not have written.
    fn renamed(case: &Case, from: &str, to: &str) {
        case.write(from, "x");
        case.git(&["add", "-A"]);
        case.git(&["update-index", "--index-version", "2"]);
        let mut bytes = index(case);
        let at = bytes.windows(from.len()).position(|window| window == from.as_bytes()).expect("the entry is there");
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        in_git(case, "index", &bytes);
    }
    let claims_many = |case: &Case| {
        let mut bytes = index(case);
        bytes[8..12].copy_from_slice(&[0xff; 4]);
        in_git(case, "index", &bytes);
    };
    vec![
        Row::new("an index cut in half", Expect::Refused("cannot ship"), |case| {
            in_git(case, "index", &index(case)[..index(case).len() / 2])
        }),
        Row::new("an index of noise", GIT_SAID, |case| in_git(case, "index", &[7; 4096])),
        Row::new("an index that claims four billion entries", GIT_SAID, claims_many),
        Row::new("an index that leads out of the tree", Expect::Refused("its index names `../secret`"), |case| {
            renamed(case, "aa/secret", "../secret");
        }),
        Row::new("an index that names git's configuration", Expect::Refused("its index names `.git/config`"), |case| {
            renamed(case, ".gix/config", ".git/config");
        }),
        Row::new("an index that names content that is lost", GIT_SAID, |case| {
            let lost = format!("100644,{},lost", "ab".repeat(20));
            case.git(&["update-index", "--add", "--cacheinfo", &lost]);
        }),
        Row::new("no index", Expect::Same, |case| {
            std::fs::remove_file(case.host().join(".git/index")).expect("it was there");
        }),
        Row::new("the locks of a git at work", Expect::Same, |case| {
            for name in ["index.lock", "HEAD.lock", "config.lock", "packed-refs.lock", "refs/heads/main.lock"] {
                in_git(case, name, b"");
            }
        }),
    ]
}

fn formats() -> Vec<Row> {
    let made_with = |case: &Case, option: &str| {
        let place = plain(case);
        git(&place, &["init", "-q", "-b", "main", option]);
        for (name, value) in [("user.name", "A"), ("user.email", "a@example.org")] {
            git(&place, &["config", name, value]);
        }
        write(&place.join("file"), "one");
        git(&place, &["add", "-A"]);
        git(&place, &["commit", "-q", "-m", "one"]);
        write(&place.join("file"), "two");
    };
    let at_plain = |row: Row| row.wishing(|case, wish| wish.path = plain(case));
    let mut rows = vec![
        at_plain(Row::new("names by SHA-256", Expect::Same, move |case| made_with(case, "--object-format=sha256"))),
        Row::new("a format of a later git", NO_REPOSITORY, |case| {
            case.git(&["config", "core.repositoryFormatVersion", "99"]);
        }),
        Row::new("nonsense in the configuration", NO_REPOSITORY, |case| in_git(case, "config", b"[[[\n")),
        Row::new("a configuration that includes itself", NO_REPOSITORY, |case| {
            case.git(&["config", "include.path", "config"]);
        }),
        Row::new("nonsense in `shallow`", NO_HEAD, |case| in_git(case, "shallow", b"$(touch canary)\n")),
        Row::new("files in a folder that says it has none", Expect::Refused("bare"), |case| {
            case.git(&["config", "core.bare", "true"]);
        }),
        Row::new("a work tree that it says is elsewhere", CLAIMED, |case| {
            case.git(&["config", "core.worktree", &case.folder.path().display().to_string()]);
        }),
        Row::new("a program in the place of an object folder", Expect::Files, |case| {
            // No link is followed out of the git folder; what is no pack is no pack.
            write(&case.host().join(".git/objects/pack/pack-x.pack"), canary(case));
            write(&case.host().join(".git/objects/pack/pack-x.idx"), "nonsense");
        }),
    ];
    // Git 2.45 brought them.
    if String::from_utf8_lossy(&try_git(Path::new("/"), &["init", "-h"])).contains("ref-format") {
        rows.push(at_plain(Row::new("references in a table", Expect::Same, move |case| {
            made_with(case, "--ref-format=reftable");
        })));
    }
    rows
}

fn text(answer: Vec<u8>) -> String {
    String::from_utf8(answer).expect("a name is text").trim().to_owned()
}

fn in_git(case: &Case, name: &str, bytes: &[u8]) {
    write(&case.host().join(".git").join(name), bytes);
}

fn write(path: &Path, bytes: impl AsRef<[u8]>) {
    // Not through a link or into an object that cannot be written.
    let _ = std::fs::remove_file(path);
    std::fs::write(path, bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

fn link(target: impl AsRef<Path>, at: &Path) {
    symlink(target, at).expect("a link can be made");
}
