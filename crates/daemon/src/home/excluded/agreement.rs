//! What git would not track, git and we agree on: what we took for ignored would never come home.

use super::Excluded;
use proptest::prelude::*;
use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// Names of all kinds, files and folders.
const NAMES: &[&str] = &[
    "a",
    "b",
    "a.log",
    "x.{js,css}",
    "x.js",
    "[a]",
    "a b",
    "a ",
    "b\\c",
    "!a",
    "#a",
    "-x",
    "]",
    "a-b",
    "é",
    "build",
    "d/a",
    "d/b",
    "d/a.log",
    "d/e/a",
    "d/e/b.log",
    "d/build/x",
    "ab/ab/ab",
    "ab/a/b",
    "build2/x",
    "*",
    "d/*",
    "**",
];

struct Rig(TempDir);

impl Rig {
    fn new() -> Rig {
        let rig = Rig(tempfile::tempdir().expect("a folder can be made"));
        assert!(rig.git(&["init", "-q"]).status().expect("git runs").success());
        for name in NAMES {
            rig.write(name, b"x\n");
        }
        rig
    }

    fn git(&self, arguments: &[&str]) -> Command {
        let mut git = Command::new("git");
        git.arg("-C").arg(self.0.path()).args(arguments).stdin(Stdio::null());
        git.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
        git
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().expect("it lies in a folder")).expect("a folder can be made");
        fs::write(path, bytes).expect("a file can be written");
    }

    fn ignored_by_git(&self) -> Vec<String> {
        let mut git = self.git(&["check-ignore", "--no-index", "-z", "--stdin"]);
        let mut child = git.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("git runs");
        let asked: Vec<u8> = NAMES.iter().flat_map(|name| [name.as_bytes(), b"\0"].concat()).collect();
        child.stdin.take().expect("stdin is piped").write_all(&asked).expect("git reads");
        let told = child.wait_with_output().expect("git ends").stdout;
        let names = told.split(|byte| *byte == 0).filter(|name| !name.is_empty());
        names.map(|name| String::from_utf8_lossy(name).into_owned()).collect()
    }

    /// `rules`: of the top, of the folder `d`, and of `.git/info/exclude`.
    fn check(&self, rules: [&str; 3]) -> Result<(), TestCaseError> {
        let mut excluded = Excluded::default();
        for (name, text) in [(".gitignore", rules[0]), ("d/.gitignore", rules[1]), (".git/info/exclude", rules[2])] {
            self.write(name, text.as_bytes());
        }
        excluded.add(b"", rules[0].as_bytes());
        excluded.add(b"d", rules[1].as_bytes());
        excluded.add_exclude(rules[2].as_bytes());
        let ours = NAMES.iter().filter(|name| excluded.is_excluded(name.as_bytes(), false));
        let ours: Vec<String> = ours.map(|name| (*name).to_owned()).collect();
        prop_assert_eq!(ours, self.ignored_by_git(), "{:?}", rules);
        Ok(())
    }
}

thread_local! {
    static RIG: Rig = Rig::new();
}

#[test]
fn patterns_that_are_easily_misread_are_read_as_git_reads_them() {
    let rig = Rig::new();
    for text in [
        "x.{js,css}\n",
        "{a,b}\n",
        "[[:alpha:]]\n",
        "[^a]\n",
        "[!a]\n",
        "[a\n",
        "[]a]\n",
        "[]-a]\n",
        "a \n",
        "a\\ \n",
        "\\!a\n",
        "\\#a\n",
        "d/*\n",
        "d/**\n",
        "**/a\n",
        "d/**/a\n",
        "a**\n",
        "**\n",
        "*\n!d\n",
        "*\n!*/\n!a\n",
        "/a\n",
        "/d/\n",
        "d/\n!d/a\n",
        "ab/*/b\n",
        "a\\\n",
        "a\r\n",
        "\u{feff}a\n",
        "\t\n",
        "*/a\n",
        "d/e\n!d/e/a\n",
        "b\\\\c\n",
        "?\n",
        "d?a\n",
        "[a-]-b\n",
        "a[-]b\n",
        "\\*\n",
        "**/build/**\n",
        "[\\]]\n",
        "/\n",
        "//a\n",
        "a\0b\n",
        "[a-\\c]\n",
        "[[:nothing:]a]\n",
        "[[:alpha]\n",
        "*a*b\n",
        "ab/**/ab\n",
        "**b\n",
    ] {
        rig.check([text, "", ""]).unwrap_or_else(|error| panic!("{text:?}: {error}"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn git_and_we_agree_on_what_is_ignored(
        top in proptest::collection::vec("[!]?/?(a|b|d|e|ab|build|\\*|\\*\\*|\\?|\\[|\\]|\\[a-b\\]|\\[!a\\]|\\\\|/|\\{|,|\\}|-| |\\.log){1,5}/?", 0..5),
        below in proptest::collection::vec("[!]?/?(a|b|e|\\*|\\*\\*|\\?|\\[a\\]|/|\\.log){1,4}/?", 0..3),
        exclude in proptest::collection::vec("[!]?(a|b|d|\\*|/){1,3}", 0..2),
    ) {
        let (top, below, exclude) = (top.join("\n"), below.join("\n"), exclude.join("\n"));
        RIG.with(|rig| rig.check([&top, &below, &exclude]))?;
    }
}
