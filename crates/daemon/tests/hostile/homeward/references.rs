//! References that lead nowhere, out, in circles, or have names that are something else.

use super::objects::point;
use super::{Expect, Row};
use crate::repositories::home::{Rig, git, raw_object, write};
use std::os::unix::fs::symlink;

pub fn rows() -> Vec<Row> {
    [values(), names(), heads(), others()].into_iter().flatten().collect()
}

fn values() -> Vec<Row> {
    let bad = |what: &str, value: fn(&Rig) -> String| {
        Row::new(format!("a branch at {what}"), Expect::Left, move |rig| point(&rig.guest, "bad", &value(rig)))
    };
    vec![
        bad("a file", |rig| raw_object(&rig.guest, "blob", b"x")),
        bad("a tree", |rig| git(&rig.guest, &["rev-parse", "HEAD^{tree}"])),
        bad("an object that is not there", |_| "cd".repeat(20)),
        bad("no object", |_| "$(touch canary)".into()),
        bad("the object of no object", |_| "0".repeat(40)),
        bad("itself", |_| "ref: refs/heads/bad".into()),
        bad("a file of the host", |_| "ref: ../../../../../etc/passwd".into()),
        // No reference is as long, and git knows none there.
        Row::new("a branch at a megabyte of text", Expect::Home, |rig| point(&rig.guest, "bad", &"a".repeat(1 << 20))),
        Row::new("a branch that is a link to a file of the host", Expect::Home, |rig| {
            symlink("/etc/hostname", rig.guest.join(".git/refs/heads/bad")).expect("a link can be made");
        }),
    ]
}

fn names() -> Vec<Row> {
    let names = [
        "--upload-pack=touch canary",
        "-c",
        "a..b",
        "x.lock",
        "a~1",
        "a^",
        "a:b",
        "with space",
        "@{-1}",
        "a\\b",
        "*",
        "\u{7}bell",
        "new\nline",
        "HEAD",
        ".hidden",
    ];
    let rows = names.into_iter().map(|name| {
        Row::new(format!("a branch called {name:?}"), Expect::Left, move |rig| {
            let head = git(&rig.guest, &["rev-parse", "HEAD"]);
            point(&rig.guest, name, &head);
        })
    });
    let mut rows: Vec<Row> = rows.collect();
    rows.push(Row::new("branches packed with a way out", Expect::Left, |rig| {
        let head = git(&rig.guest, &["rev-parse", "HEAD"]);
        let lines = ["refs/heads/../../../bad", "refs/heads/../bad", "refs/heads//etc/bad", "refs/heads/bad/"];
        let text: String = lines.iter().map(|name| format!("{head} {name}\n")).collect();
        write(&rig.guest.join(".git/packed-refs"), &text);
    }));
    rows.push(Row::new("more branches than anybody has", Expect::Left, |rig| {
        let head = git(&rig.guest, &["rev-parse", "HEAD"]);
        let lines: String = (10000..15000).map(|number| format!("{head} refs/heads/z{number}\n")).collect();
        write(&rig.guest.join(".git/packed-refs"), &lines);
    }));
    rows.push(Row::new("branches and a folder of one name", Expect::Home, |rig| {
        let head = git(&rig.guest, &["rev-parse", "HEAD"]);
        write(&rig.guest.join(".git/packed-refs"), &format!("{head} refs/heads/wip\n{head} refs/heads/tags/x\n"));
    }));
    rows
}

fn heads() -> Vec<Row> {
    let head = |what: &str, expect: Expect, text: &'static str| {
        Row::new(format!("HEAD {what}"), expect, move |rig| write(&rig.guest.join(".git/HEAD"), text))
    };
    vec![
        head("at a file of the host", Expect::Home, "ref: ../../../../../etc/passwd\n"),
        head("of nonsense", Expect::Home, "$(touch canary)\n"),
        head("that is empty", Expect::Refused("has no HEAD"), ""),
        head("at an object that is not there", Expect::Left, "abababababababababababababababababababab\n"),
        Row::new("HEAD that is a link", Expect::Refused("has no HEAD"), |rig| {
            std::fs::remove_file(rig.guest.join(".git/HEAD")).expect("it was there");
            symlink("/etc/hostname", rig.guest.join(".git/HEAD")).expect("a link can be made");
        }),
        Row::new("no HEAD", Expect::Refused("has no HEAD"), |rig| {
            std::fs::remove_file(rig.guest.join(".git/HEAD")).expect("it was there");
        }),
        Row::new("no repository", Expect::Refused("holds no repository"), |rig| {
            std::fs::remove_dir_all(rig.guest.join(".git")).expect("it was there");
        }),
        Row::new("a repository in another place", Expect::Refused("holds no repository"), |rig| {
            std::fs::remove_dir_all(rig.guest.join(".git")).expect("it was there");
            std::fs::write(rig.guest.join(".git"), "gitdir: /etc").expect("a file can be written");
        }),
    ]
}

fn others() -> Vec<Row> {
    vec![
        Row::new("references out of branches and tags", Expect::Home, |rig| {
            let head = git(&rig.guest, &["rev-parse", "HEAD"]);
            for name in
                ["refs/banger/y/main", "refs/remotes/origin/main", "refs/replace/x", "refs/notes/commits", "refs/bad"]
            {
                write(&rig.guest.join(".git").join(name), &format!("{head}\n"));
            }
        }),
        Row::new("another commit in the place of a good one", Expect::Home, |rig| {
            let good = git(&rig.guest, &["rev-parse", "HEAD"]);
            let other = git(&rig.guest, &["rev-parse", "HEAD~1"]);
            write(&rig.guest.join(".git/refs/replace").join(&good), &format!("{other}\n"));
            write(&rig.guest.join(".git/info/grafts"), &format!("{good}\n"));
        }),
        Row::new("a history that says where it ends", Expect::Home, |rig| {
            let text = std::fs::read_to_string(rig.guest.join(".git/shallow")).expect("it is shallow");
            write(&rig.guest.join(".git/shallow"), &format!("{text}nonsense\n{}\n", "ab".repeat(20)));
        }),
        Row::new("a tag of a tag of nothing", Expect::Left, |rig| {
            let text = format!("object {}\ntype commit\ntag x\ntagger A <a@b> 1 +0000\n\nx\n", "ab".repeat(20));
            let inner = raw_object(&rig.guest, "tag", text.as_bytes());
            let text = format!("object {inner}\ntype tag\ntag ../x\ntagger A <a@b> 1 +0000\n\nx\n");
            let outer = raw_object(&rig.guest, "tag", text.as_bytes());
            write(&rig.guest.join(".git/refs/tags/bad"), &format!("{outer}\n"));
        }),
        Row::new("a log of stashes of nonsense", Expect::Left, |rig| {
            let line = format!("{} {} A <a@b> 1 +0000\tx\n", "0".repeat(40), "ab".repeat(20));
            write(&rig.guest.join(".git/logs/refs/stash"), &(line + "nonsense\n\0\0\n"));
        }),
    ]
}
