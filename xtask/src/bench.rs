//! Benchmarks as ratios in one run: shared machines are too noisy for anything else.

mod agent;
mod bare;
mod convert;
mod dns;
mod fleet;
mod network;
mod pull;
mod ssh;
mod workspace;
mod world;

use crate::{build, process};
use anyhow::{Context, Result, bail};
use bare::BareMachine;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const SAMPLE: &str = "banger-bench-sample";
const SHAPE: &[&str] = &["--vmm", "qemu", "--init", "agent", "--vcpu", "1", "--memory", "512"];
const RUNS: usize = 7;
const NAMES: &str = "`create`, `fleet`, `many`, `convert`, `dns`, `network`, `ssh`, `pull`, `workspace`";

pub fn run(arguments: &[String]) -> Result<()> {
    match arguments.first().map(String::as_str) {
        Some("create") => create(),
        Some("fleet") => fleet::run(),
        Some("many") => many(),
        Some("convert") => convert::run(),
        Some("pull") => pull::run(),
        Some("dns") => dns::run(),
        Some("ssh") => ssh::run(),
        Some("network") => network::run(),
        Some("workspace") => workspace::run(&arguments[1..]),
        Some("sink") => network::sink(),
        Some(name) => bail!("there is no benchmark `{name}`; there are {NAMES}"),
        None => bail!("name a benchmark: {NAMES}"),
    }
}

/// From `execve` of `banger` to the first byte of a command's answer in a fresh machine, against the VMM of the same
/// machine started by hand (same kernel, initramfs, drives and command line) to its agent's answer: to a question after its
/// health, and to the same command.
fn create() -> Result<()> {
    let binaries = build::measured()?;
    let banger = binaries.banger();
    let bare = sample(&banger)?;
    let (mut ours, mut health, mut command) = (Vec::new(), Vec::new(), Vec::new());
    for run in 1..=RUNS {
        let answers = bare.boot()?;
        health.push(answers.health);
        command.push(answers.command);
        ours.push(first_byte(&banger)?);
        let (health, command, ours) = (answers.health, answers.command, ours[run - 1]);
        eprintln!("run {run} of {RUNS}: bare {health:.2?}, bare with a command {command:.2?}, banger {ours:.2?}");
    }
    let (ours, health, command) = (median(ours), median(health), median(command));
    println!("banger vm run to a command's answer    {ours:.2?} (median of {RUNS})");
    compare("bare VMM to the same command's answer", ours, command);
    compare("bare VMM to its agent's health", ours, health);
    Ok(())
}

/// How long `list` takes while twenty sandboxes are created and deleted at once: the end-to-end test of that, on release
/// binaries. It prints what it saw; the goal is 50 ms.
fn many() -> Result<()> {
    let binaries = build::measured()?;
    process::run_command(
        Command::new("cargo")
            .args(["test", "--quiet", "-p", "e2e", "--test", "many", "--", "--nocapture"])
            .env("BANGER_BIN_FOLDER", &binaries.folder)
            .env("REQUIRE_NEEDS", "qemu")
            .env_remove("RUST_BACKTRACE"),
    )
}

fn compare(what: &str, ours: Duration, bare: Duration) {
    let limit = bare.mul_f64(1.05) + Duration::from_millis(100);
    let ratio = ours.as_secs_f64() / bare.as_secs_f64();
    let verdict = verdict(ours <= limit);
    println!("{what:<38} {bare:.2?}, ratio {ratio:.3}; limit 1.05 × bare + 100 ms = {limit:.2?}: {verdict}");
}

/// Boots one sandbox, learns how its VMM was started, and keeps copies of its disks.
fn sample(banger: &Path) -> Result<BareMachine> {
    let _ = Command::new(banger).args(["vm", "delete", "--force", SAMPLE]).output();
    process::run_command(Command::new(banger).args(["vm", "create", "--name", SAMPLE]).args(SHAPE))?;
    let shown = process::output_of(Command::new(banger).args(["vm", "show", SAMPLE, "--json"]))?;
    let facts: serde_json::Value = serde_json::from_str(&shown).context("`vm show --json` is not JSON")?;
    let pid = facts["vmm_pid"].as_u64().context("a running sandbox has a VMM")?;
    let bare = BareMachine::like(pid);
    process::run_command(Command::new(banger).args(["vm", "stop", SAMPLE]))?;
    let bare = bare.and_then(BareMachine::with_own_disks);
    process::run_command(Command::new(banger).args(["vm", "delete", SAMPLE]))?;
    bare
}

fn first_byte(banger: &Path) -> Result<Duration> {
    let began = Instant::now();
    let mut child = Command::new(banger)
        .args(["vm", "run", "--rm"])
        .args(SHAPE)
        .args(["--", "echo", "x"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start banger")?;
    let mut byte = [0];
    let answer = child.stdout.as_mut().context("stdout is piped")?.read_exact(&mut byte);
    let took = began.elapsed();
    let status = child.wait().context("cannot wait for banger")?;
    answer.context("banger gave no answer")?;
    if !status.success() {
        bail!("`banger vm run` ended with {status}");
    }
    Ok(took)
}

fn verdict(kept: bool) -> &'static str {
    if kept { "kept" } else { "exceeded" }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
