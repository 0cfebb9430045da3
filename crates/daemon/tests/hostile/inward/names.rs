//! Names of files and folders.

use super::{Expect, Row, plain};
use crate::repositories::host::{Case, git};
use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

const STRANGE: &[&[u8]] = &[
    b"new\nline",
    b"tab\tand\rreturn",
    b"quo\"te and 'other'",
    b"-rf",
    b"--upload-pack=touch canary",
    b"-c",
    b"@{-1}",
    b"HEAD",
    b"non-utf8-\xff\xfe",
    b" begins and ends with a blank ",
    b"back\\slash",
    b"$(touch canary)",
    b"`touch canary`",
    b"*?[a-z]",
    b":(exclude)*",
    b":x",
    b"!x",
    b"#x",
    b"\x1b[2J",
    b"~",
    b"a=b",
    b"%2e%2e",
    b"\xe2\x80\xae" as &[u8],
];

const ALIKE: &[&str] = &["File", "FILE", "fiLe", "a\u{308}", "\u{e4}", "con", "aux.", "nul.txt", "file:stream", "x."];

pub fn rows() -> Vec<Row> {
    let mut rows = vec![
        Row::new("names that are strange in every way", Expect::Same, |case| {
            write_all(&case.host(), STRANGE);
            case.git(&["add", "-A"]);
            case.git(&["commit", "-q", "-m", "names"]);
            std::fs::write(case.host().join("-rf"), "edited").expect("a file can be written");
            std::fs::remove_file(case.host().join(OsStr::from_bytes(b"new\nline"))).expect("it was there");
            write_all(&case.host().join("untracked"), STRANGE);
        }),
        Row::new("a plain folder of such names", Expect::Files, |case| write_all(&plain(case), STRANGE))
            .wishing(|case, wish| wish.path = plain(case)),
        Row::new("names as long as they can be, twenty deep", Expect::Same, |case| {
            let long: PathBuf = std::iter::repeat_n("d".repeat(100), 20).collect();
            case.write("n".repeat(255), "x");
            case.write(long.join("m".repeat(255)), "x");
            case.git(&["add", "-A"]);
        }),
        Row::new("names that differ in case or form, or that another system keeps", Expect::Same, |case| {
            for name in ALIKE {
                case.write(format!("names/{name}"), name);
            }
            case.git(&["add", "-A"]);
        }),
        Row::new("names that another system takes for git's folder", Expect::Same, |case| {
            for name in [".GIT/config", "git~1", ".git./x", ".g\u{200c}it/x", "deep/.Git"] {
                case.write(name, "x");
            }
        }),
        Row::new("a path longer than the system takes", Expect::Refused("cannot read"), |case| too_deep(&plain(case)))
            .wishing(|case, wish| wish.path = plain(case)),
        Row::new("a folder that looks like an option", Expect::Same, |case| option(case, "--upload-pack=x"))
            .wishing(|case, wish| wish.path = case.folder.path().join("--upload-pack=x")),
        Row::new("a folder with a colon and a percent sign", Expect::Same, |case| option(case, "host:50%"))
            .wishing(|case, wish| wish.path = case.folder.path().join("host:50%")),
        Row::new("a folder that is one of git's words", Expect::Same, |case| option(case, "ext::sh -c x"))
            .wishing(|case, wish| wish.path = case.folder.path().join("ext::sh -c x")),
    ];
    for name in [&b"new\nline"[..], b"\xff\xfe", b"\x1b[2J"] {
        let shown = format!("a folder called {:?}", OsStr::from_bytes(name));
        let row = Row::new(shown, Expect::Refused("no plain text"), move |case| {
            std::fs::create_dir(case.folder.path().join(OsStr::from_bytes(name))).expect("a folder can be made");
        });
        rows.push(row.wishing(move |case, wish| wish.path = case.folder.path().join(OsStr::from_bytes(name))));
    }
    rows
}

fn write_all(folder: &Path, names: &[&[u8]]) {
    std::fs::create_dir_all(folder).expect("a folder can be made");
    for name in names {
        std::fs::write(folder.join(OsStr::from_bytes(name)), name).expect("a file can be written");
    }
}

/// A copy of the repository under another name.
fn option(case: &Case, name: &str) {
    let into = format!("./{name}");
    git(case.folder.path(), &["clone", "-q", "--no-hardlinks", "host repo", &into]);
}

/// 60 folders of 100 bytes each; made step by step, as a program does that means to.
fn too_deep(top: &Path) {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut here = openat(CWD, top, flags, Mode::empty()).expect("the folder is there");
    for _ in 0..60 {
        let name = "d".repeat(100);
        mkdirat(&here, &*name, Mode::from_raw_mode(0o755)).expect("a folder can be made");
        here = openat(&here, &*name, flags, Mode::empty()).expect("the folder is there");
    }
}
