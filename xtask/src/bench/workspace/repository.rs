//! A repository like those that people work on: small text files in folders of fifty, a short history, some of it dirty.

use crate::process;
use anyhow::{Context, Result, bail};
use std::collections::HashSet;
use std::fs;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const COMMITS: usize = 12;
/// Changed by each commit but the first.
const PER_COMMIT: usize = 100;
const DIRTY: usize = 20;
const FOLDER_FILES: usize = 50;
/// 0.5 to 5.5 KiB, with 3 KiB in the middle: what source files have.
const LEAST_BYTES: usize = 512;
const SPREAD_BYTES: u64 = 5 << 10;
/// A file that was just written counts as changed for 2 s.
const SETTLE: Duration = Duration::from_secs(3);

pub struct Repository {
    pub top: PathBuf,
    pub tracked: Vec<String>,
    /// What differs from the last commit.
    pub dirty: Vec<String>,
    /// Of the work tree.
    pub bytes: u64,
}

impl Repository {
    pub fn make(top: &Path, files: usize) -> Result<Repository> {
        let tracked: Vec<String> = (0..files).map(path).collect();
        fs::create_dir_all(top)?;
        let mut repository = Repository { top: top.to_owned(), tracked, dirty: Vec::new(), bytes: 0 };
        repository.git(&["init", "--quiet", "--initial-branch=main"])?;
        for (key, value) in [("user.name", "A Person"), ("user.email", "person@example.org"), ("gc.auto", "0")] {
            repository.git(&["config", key, value])?;
        }
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        for number in 0..files {
            repository.bytes += repository.write(number, &mut random)?;
        }
        repository.commit(0)?;
        for commit in 1..COMMITS {
            for _ in 0..PER_COMMIT.min(files / 2) {
                let number = random.below(files);
                repository.write(number, &mut random)?;
            }
            repository.commit(commit)?;
        }
        repository.git(&["repack", "-a", "-d", "-q"])?;
        repository.spoil(&mut random)?;
        std::thread::sleep(SETTLE);
        Ok(repository)
    }

    /// Edits of files that are spread over all of them.
    fn spoil(&mut self, random: &mut Random) -> Result<()> {
        let step = self.tracked.len() / DIRTY;
        for number in (0..DIRTY).map(|at| at * step + step / 2) {
            self.write(number, random)?;
            self.dirty.push(self.tracked[number].clone());
        }
        Ok(())
    }

    fn write(&self, number: usize, random: &mut Random) -> Result<u64> {
        let path = self.top.join(&self.tracked[number]);
        fs::create_dir_all(path.parent().context("a file lies in a folder")?)?;
        let bytes = LEAST_BYTES + random.below(SPREAD_BYTES as usize);
        let mut file = BufWriter::new(fs::File::create(&path)?);
        let mut written = 0;
        while written < bytes {
            let line = format!("let {} = {}({:x});\n", random.word(), random.word(), random.next() & 0xffff_ffff);
            file.write_all(line.as_bytes())?;
            written += line.len();
        }
        file.flush()?;
        Ok(written as u64)
    }

    fn commit(&self, number: usize) -> Result<()> {
        self.git(&["add", "--all"])?;
        self.git(&["commit", "--quiet", "--message", &format!("commit {number}")])
    }

    pub fn text(&self) -> String {
        self.top.display().to_string()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("git");
        command.arg("-C").arg(&self.top).args(arguments).env("GIT_CONFIG_GLOBAL", "/dev/null").stdin(Stdio::null());
        command
    }

    fn git(&self, arguments: &[&str]) -> Result<()> {
        process::run_command(&mut self.command(arguments))
    }

    /// What a reference says, without a process: it is asked often.
    pub fn reference(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.top.join(".git").join(name)).ok()
    }

    /// Whether all these paths differ from HEAD there.
    pub fn holds_all(&self, reference: &str, paths: &[&str]) -> Result<bool> {
        let listed = process::output_of(&mut self.command(&["diff", "--name-only", "-z", "HEAD", reference]))?;
        let listed: HashSet<&str> = listed.split('\0').collect();
        if listed.len() < self.dirty.len() {
            bail!("`{reference}` lacks what was dirty from the beginning");
        }
        Ok(paths.iter().all(|path| listed.contains(path)))
    }
}

fn path(number: usize) -> String {
    let folder = number / FOLDER_FILES;
    format!("src/{:02}/{folder:04}/module_{number:06}.rs", folder / FOLDER_FILES)
}

/// xorshift: the same repository each time.
struct Random(u64);

const WORDS: &[&str] = &[
    "sandbox", "kernel", "image", "layer", "registry", "manifest", "digest", "result", "buffer", "address", "network",
    "folder", "length", "offset", "config", "session", "request", "answer", "worker", "journal",
];

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn word(&mut self) -> &'static str {
        WORDS[self.below(WORDS.len())]
    }
}
