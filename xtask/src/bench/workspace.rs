//! Code in and work out, each against what a person would do by hand, all in one run on guests of one image.
//!
//! ```text
//!  in      a repository into a guest         `git clone --depth 10 ssh://` in the same guest, and rsync of what is dirty
//!  first   a first guest of a repository     the same: a `vm run` of it less one without a repository
//!  again   a second guest of it              the same, and what the first one cost
//!  home    changed files on the host         `vm exec -- tar c` of the same files over the same vsock
//! ```
//! It runs in a network namespace of its own, where this host has an address that a guest may be allowed to reach; needs
//! root, git, rsync, mmdebstrap and OpenSSH's server. An argument makes the repository smaller.

mod repository;
mod world;

use super::median;
use crate::{build, process};
use anyhow::{Context, Result, bail};
use repository::Repository;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use world::{HOST, Sshd, World};

const FILES: usize = 50_000;
const CHANGED: usize = 2000;
/// The plain machine costs next to nothing, so few runs are enough.
const PLAIN_RUNS: usize = 3;
const LIMIT_IN: f64 = 0.7;
const LIMIT_AGAIN: f64 = 0.1;
const LIMIT_HOME: f64 = 1.2;
/// Set for the run inside the namespace.
const INSIDE: &str = "BANGER_BENCH_INSIDE";
/// A template of a large repository is made within this; so is every look at a guest.
const PATIENCE: Duration = Duration::from_secs(600);
/// Between two questions whether something is there.
const TURN: Duration = Duration::from_millis(5);

pub fn run(arguments: &[String]) -> Result<()> {
    if std::env::var_os(INSIDE).is_some() {
        return inside(files(arguments)?);
    }
    files(arguments)?;
    build::release()?;
    world::make_image()?;
    let own = std::env::current_exe().context("xtask does not know its own path")?;
    let mut again = Command::new("unshare");
    again.args(["--net", "--"]).arg(own).args(["bench", "workspace"]).args(arguments).env(INSIDE, "1");
    process::run_command(&mut again)
}

fn files(arguments: &[String]) -> Result<usize> {
    let files =
        arguments.first().map_or(Ok(FILES), |text| text.parse()).context("the argument is a number of files")?;
    if files < 200 { bail!("at least 200 files are needed") } else { Ok(files) }
}

fn inside(files: usize) -> Result<()> {
    let folder = Folder(PathBuf::from(format!("/tmp/bgr-bench-{}", std::process::id())));
    fs::create_dir(&folder.0)?;
    let repository = Repository::make(&folder.0.join("repo"), files)?;
    let world = World::make(&folder.0)?;
    let sshd = Sshd::start(&folder.0)?;
    println!("{files} files in {}, {} of them dirty", mib(repository.bytes), repository.dirty.len());
    let by_hand = into(&world, &repository, &sshd)?;
    let second = again(&world, &repository, by_hand)?;
    home(&world, &repository, &second, files)
}

/// It goes when the benchmark ends; short, since sockets lie in it.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// One guest: by hand first, since nothing of ours runs beside that.
fn into(world: &World, repository: &Repository, sshd: &Sshd) -> Result<Duration> {
    let vm = "in";
    world.create(vm, &["--allow-net", &format!("{HOST}/32")])?;
    world.give(vm, &sshd.client_key, "/root/key")?;
    let ssh = format!("ssh -p {} -i /root/key -o StrictHostKeyChecking=no -o LogLevel=ERROR", sshd.port);
    let top = repository.top.display();
    let clone = format!(
        "chmod 600 /root/key; export GIT_SSH_COMMAND='{ssh}'; exec git clone -q --depth 10 ssh://root@{HOST}{top} /root/by-hand"
    );
    let list = repository.dirty.join("\n");
    let rsync = format!("printf '%s\\n' '{list}' | rsync -a --files-from=- -e '{ssh}' root@{HOST}:{top} /root/by-hand");
    let cloning = timed(|| world.exec(vm, &clone))?;
    let copying = timed(|| world.exec(vm, &rsync))?;
    let by_hand = cloning + copying;
    let theirs = world.exec_output(vm, "cd /root/by-hand && git status --porcelain=v1")?;
    world.exec(vm, "rm -rf /root/by-hand; sync")?;
    let ours = timed(|| world.banger(&["vm", "workspace", "prepare", vm, &repository.text()]).map(drop))?;
    let status = world.exec_output(vm, "cd /root/repo && git status --porcelain=v1")?;
    if status.lines().count() != repository.dirty.len() || status != theirs {
        bail!("the guest's status differs from the one by hand");
    }
    println!("in: git clone --depth 10 ssh:// {cloning:.2?}, then rsync {copying:.2?}");
    gate("in: workspace prepare over clone and rsync", ours, by_hand, LIMIT_IN);
    Ok(by_hand)
}

/// The name of the second guest, which is left running.
fn again(world: &World, repository: &Repository, by_hand: Duration) -> Result<String> {
    // What the guest before left for the next one goes: this one is to be the first.
    world.await_rest("in", PATIENCE)?;
    world.delete("in")?;
    world.banger(&["image", "cache", "prune", "--all"])?;
    let mut plain = Vec::new();
    for _ in 0..PLAIN_RUNS {
        plain.push(timed(|| world.run("plain", None))?);
        world.delete("plain")?;
    }
    let plain = median(plain);
    let first = timed(|| world.run("first", Some(&repository.top)))?;
    // What is made of it for others comes beside the first guest's work, and both have to rest.
    let resting = timed(|| world.await_rest("first", PATIENCE))?;
    let second = timed(|| world.run("second", Some(&repository.top)))?;
    let status =
        |vm: &str| world.exec_output(vm, "cd /root/repo && git status --porcelain=v2 -z && git log --format=%H");
    if status("first")? != status("second")? {
        bail!("the second guest's repository differs from the first one's");
    }
    world.delete("first")?;
    println!("again: plain {plain:.2?}, first {first:.2?}, second {second:.2?}; between the two {resting:.2?} of rest");
    let (first, second) = (first.saturating_sub(plain), second.saturating_sub(plain));
    gate("first: a first guest's share over clone and rsync", first, by_hand, LIMIT_IN);
    gate("again: a second guest's share over clone and rsync", second, by_hand, LIMIT_IN * LIMIT_AGAIN);
    gate("again: a second guest's share over the first's", second, first, LIMIT_AGAIN);
    Ok("second".to_owned())
}

/// From the end of the change to the moment when the host's repository holds it.
fn home(world: &World, repository: &Repository, vm: &str, files: usize) -> Result<()> {
    let changed: Vec<&str> = repository.tracked.iter().map(String::as_str).take(CHANGED.min(files / 2)).collect();
    world.await_rest(vm, PATIENCE)?;
    let list = repository.top.parent().context("it lies in a folder")?.join("changed");
    fs::write(&list, changed.join("\n") + "\n")?;
    world.give(vm, &list, "/tmp/changed")?;
    // Made outside of the workspace, so that the change itself takes a moment.
    world.exec(
        vm,
        "mkdir /tmp/new && cd /root/repo && tar -cf - -T /tmp/changed | tar -xf - -C /tmp/new && cd /tmp/new && \
         xargs sed -i '1s/^/changed /' < /tmp/changed && tar -cf /tmp/new.tar -T /tmp/changed && rm -r /tmp/new",
    )?;
    world.await_rest(vm, PATIENCE)?;
    let reference = format!("refs/banger/{vm}/wip");
    let before = repository.reference(&reference);
    world.exec(vm, "tar -xf /tmp/new.tar -C /root/repo")?;
    let ours = timed(|| await_home(repository, &reference, before.as_deref(), &changed))?;
    let taken = repository.top.with_file_name("taken.tar");
    let by_tar = timed(|| {
        let file = File::create(&taken)?;
        let mut tar =
            world.command(&["vm", "exec", vm, "--", "tar", "-C", "/root/repo", "-cf", "-", "-T", "/tmp/changed"]);
        process::run_command(tar.stdin(Stdio::null()).stdout(file))
    })?;
    println!("home: {} files, {} as a tar", changed.len(), mib(fs::metadata(&taken)?.len()));
    gate("home: changed to on the host over tar", ours, by_tar, LIMIT_HOME);
    Ok(())
}

/// Until the reference holds every one of these as changed. A look may begin in the middle of a change.
fn await_home(repository: &Repository, reference: &str, before: Option<&str>, changed: &[&str]) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    let mut seen = before.map(str::to_owned);
    loop {
        let now = repository.reference(reference);
        if now != seen && repository.holds_all(reference, changed)? {
            return Ok(());
        }
        seen = now;
        if Instant::now() > end {
            bail!("the work did not come home");
        }
        std::thread::sleep(TURN);
    }
}

fn timed(work: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let began = Instant::now();
    work()?;
    Ok(began.elapsed())
}

fn gate(what: &str, ours: Duration, theirs: Duration, limit: f64) {
    let ratio = ours.as_secs_f64() / theirs.as_secs_f64();
    let verdict = if ratio <= limit { "kept" } else { "exceeded" };
    println!("{what:<52} {ours:.2?} over {theirs:.2?}   {ratio:.3} ×   limit {limit:.2}: {verdict}");
}

fn mib(bytes: u64) -> String {
    format!("{:.0} MiB", bytes as f64 / f64::from(1 << 20))
}

fn exists(path: &Path) -> Result<()> {
    if path.exists() { Ok(()) } else { bail!("there is no `{}`", path.display()) }
}
