//! A world of its own for one test: folders, a daemon on `--host sim` that the first command starts, and a terminal
//! session that is written down.

#![allow(dead_code, reason = "each test file uses its part")]

pub mod fake;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

pub struct World {
    folder: TempDir,
}

impl World {
    pub fn new() -> Self {
        // A short path: a socket's has 107 bytes.
        let folder = tempfile::Builder::new().prefix("banger").tempdir_in("/tmp").expect("a folder can be made");
        for name in ["home", "run", "work"] {
            std::fs::create_dir(folder.path().join(name)).expect("a folder can be made");
        }
        World { folder }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A program in this world and in no other one.
    pub fn command(&self, program: &str) -> Command {
        let banger = Path::new(env!("CARGO_BIN_EXE_banger"));
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", format!("{}:{path}", banger.parent().expect("it lies in a folder").display()))
            .env("HOME", self.path("home"))
            .env("XDG_RUNTIME_DIR", self.path("run"))
            .env("BANGER_HOST", "sim")
            .env("BANGER_BANGERD", bangerd())
            .env("TZ", "UTC")
            .env("TERM", "dumb")
            .current_dir(self.path("work"))
            .stdin(Stdio::null());
        // Where a coverage run gathers what both programs did.
        if let Some(profile) = std::env::var_os("LLVM_PROFILE_FILE") {
            command.env("LLVM_PROFILE_FILE", profile);
        }
        command
    }

    pub fn run(&self, line: &str) -> Output {
        self.command("sh").args(["-c", line]).output().expect("sh can be run")
    }

    /// What a person sees of one line.
    pub fn answer(&self, line: &str) -> String {
        let output = self.run(line);
        let mut answer = self.settle(&String::from_utf8_lossy(&output.stdout));
        if !answer.is_empty() && !answer.ends_with('\n') {
            answer.push_str("<no newline>\n");
        }
        for line in self.settle(&String::from_utf8_lossy(&output.stderr)).lines() {
            answer.push_str(&format!("! {line}\n"));
        }
        match output.status.code() {
            Some(0) => {}
            Some(code) => answer.push_str(&format!("[{code}]\n")),
            None => answer.push_str("[signalled]\n"),
        }
        answer
    }

    /// Replaces what differs from run to run.
    fn settle(&self, text: &str) -> String {
        let text = text.replace(&self.folder.path().display().to_string(), "<world>");
        text.split_inclusive('\n').map(settle_line).collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // The daemon is this world's alone; one that hangs is a failure of the tests that ask it to stop.
        let _ = self.run("banger --quiet daemon stop");
    }
}

/// Word by word, so that columns whose width depends on a replaced word are left as they are asked for.
fn settle_line(line: &str) -> String {
    let mut settled = String::new();
    let mut rest = line;
    while let Some(start) = rest.find(|c: char| c.is_ascii_alphanumeric()) {
        let (before, word) = rest.split_at(start);
        let end = word.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | ':'))).unwrap_or(word.len());
        let (word, after) = word.split_at(end);
        settled.push_str(before);
        settled.push_str(settle_word(word));
        rest = after;
    }
    settled + rest
}

fn settle_word(word: &str) -> &str {
    let hexadecimal = word.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let numbers = |separator: char, widths: &[usize]| {
        let parts: Vec<&str> = word.split(separator).collect();
        parts.len() == widths.len()
            && parts
                .iter()
                .zip(widths)
                .all(|(part, width)| part.len() == *width && part.bytes().all(|b| b.is_ascii_digit()))
    };
    match word.len() {
        16 if hexadecimal => "<id>",
        8 if hexadecimal => "<id>",
        10 if numbers('-', &[4, 2, 2]) => "<date>",
        8 if numbers(':', &[2, 2, 2]) => "<time>",
        19 if word.bytes().all(|b| b.is_ascii_digit()) => "<time>",
        _ => word,
    }
}

/// The daemon of the same tree, where `cargo xtask test` has put it, or beside `banger`. Not built from here: forty
/// tests would wait for one lock.
fn bangerd() -> PathBuf {
    let beside = Path::new(env!("CARGO_BIN_EXE_banger")).with_file_name("bangerd");
    let bangerd = std::env::var_os("BANGER_BIN_FOLDER").map_or(beside, |folder| Path::new(&folder).join("bangerd"));
    assert!(bangerd.exists(), "{} is not there: `cargo build -p daemon` makes it", bangerd.display());
    bangerd
}
