//! The files of a guest's tree, and the index that tells of them.

use super::{Expect, Row};
use crate::repositories::home::{Rig, git, write};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

pub fn rows() -> Vec<Row> {
    vec![
        Row::new("names that are strange in every way", Expect::Home, |rig| {
            for name in [
                &b"new\nline"[..],
                b"quo\"te",
                b"-rf",
                b"--upload-pack=x",
                b"\xff\xfe",
                b" blank ",
                b"back\\slash",
                b"$(touch canary)",
                b"tab\t",
                b"\x1b[2J",
                b"M 100644 inline x",
            ] {
                fs::write(rig.guest.join(OsStr::from_bytes(name)), name).expect("a file can be written");
            }
        }),
        Row::new("names that a file system takes for git's folder", Expect::Left, |rig| {
            for name in ["a/.GIT/config", "git~1", ".git.", "deep/.g\u{200c}it", "b/.git::$INDEX_ALLOCATION"] {
                write(&rig.guest.join(name), "x");
            }
        }),
        Row::new("names as long as they can be, twenty deep", Expect::Home, |rig| {
            let deep: PathBuf = std::iter::repeat_n("d".repeat(100), 20).collect();
            write(&rig.guest.join(deep).join("n".repeat(255)), "x");
        }),
        Row::new("links out of the tree, to nowhere and in a circle", Expect::Home, |rig| {
            for (name, target) in [("a", "/etc/passwd"), ("b", "../../host/.git/config"), ("c", "c"), ("d", "/nowhere")]
            {
                symlink(target, rig.guest.join(name)).expect("a link can be made");
            }
        }),
        Row::new("a folder of tracked files that became a link", Expect::Home, |rig| {
            fs::remove_dir_all(rig.guest.join("src")).expect("it was there");
            symlink("/etc", rig.guest.join("src")).expect("a link can be made");
        }),
        Row::new("pipes and sockets", Expect::Home, |rig| {
            mknodat(CWD, rig.guest.join("pipe"), FileType::Fifo, Mode::from_raw_mode(0o644), 0)
                .expect("it can be made");
            drop(std::os::unix::net::UnixListener::bind(rig.guest.join("s")).expect("it can be made"));
        }),
        Row::new("a repository within that the host has not", Expect::Left, |rig| {
            git(rig.folder.path(), &["clone", "-q", "host", "guest/within"]);
        }),
        Row::new("a git folder within that is a file", Expect::Left, |rig| {
            write(&rig.guest.join("within/.git"), "gitdir: ../../host/.git\n");
            write(&rig.guest.join("within/file"), "x");
        }),
        Row::new("modules that name what is out of the tree", Expect::Home, |rig| {
            write(&rig.guest.join("sub/x"), "x");
            write(&rig.guest.join("fine"), "[submodule \"../../x\"]\n\tpath = ../x\n\turl = ext::sh -c x\n");
        }),
        Row::new("a description of modules that git refuses", Expect::Left, |rig| {
            write(&rig.guest.join(".gitmodules"), "[submodule \"../../x\"]\n\tpath = x\n\turl = --upload-pack=x\n");
        }),
        Row::new("a description of attributes that is a link", Expect::Left, |rig| {
            symlink("/etc/passwd", rig.guest.join(".gitmodules")).expect("a link can be made");
        }),
        Row::new("filters for every file", Expect::Home, |rig| {
            write(&rig.guest.join(".gitattributes"), "* filter=evil diff=evil\n* working-tree-encoding=UTF-16\n");
            write(&rig.guest.join("count"), "edited\n");
        }),
        Row::new("an index of noise", Expect::Left, |rig| {
            fs::write(rig.guest.join(".git/index"), [7; 4096]).expect("a file can be written");
        }),
        Row::new("an index that claims four billion entries", Expect::Left, |rig| {
            let mut index = fs::read(rig.guest.join(".git/index")).expect("it is there");
            index[8..12].copy_from_slice(&[0xff; 4]);
            fs::write(rig.guest.join(".git/index"), index).expect("a file can be written");
        }),
        Row::new("an index that names what is nowhere", Expect::Home, |rig| {
            let lost = format!("100644,{},../lost", "ab".repeat(20));
            let _ = crate::repositories::home::run(&rig.guest, &["update-index", "--add", "--cacheinfo", &lost]);
            let lost = lost.replace("../lost", "lost");
            git(&rig.guest, &["update-index", "--add", "--cacheinfo", &lost]);
        }),
        Row::new("ignore files by the thousand that ignore each other", Expect::Home, |rig: &Rig| {
            for number in 0..2000 {
                write(&rig.guest.join(format!("i/{number}/.gitignore")), "*\n!.gitignore\n!*/\n**/x/**/y\n[!]]\n\\\n");
            }
        }),
    ]
}
