//! What ssh costs: `true` in a guest by a bare exec over its vsock, by `banger vm exec`, and by ssh through our ProxyCommand,
//! with and without a connection that is there already. In turn, on one guest. To ssh a command is a line for the user's
//! shell, so the bare exec that it is held against asks for the same shell and line.

use super::world::{TINY, World};
use super::{agent, median, verdict};
use crate::{build, process};
use anyhow::{Context, Result, bail};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const VM: &str = "speaks";
const RUNS: usize = 41;
/// The limit of the promise.
const LIMIT: f64 = 1.3;

pub fn run() -> Result<()> {
    let world = World::tiny("ssh", &build::measured()?)?.with("BANGER_NETWORK", "user");
    world.run(&[&["vm", "create", "--name", VM, "--net", "none"], TINY].concat())?;
    let config = world.path("ssh_config");
    std::fs::write(&config, world.answer(&["ssh-config", "--print"])?)?;
    let control = format!("ControlPath={}", world.path("mux").display());
    let to = format!("{VM}.vm");
    let ssh = |more: &[&str]| {
        let mut command = Command::new("ssh");
        world.environment(&mut command);
        command.arg("-F").arg(&config).args(["-o", "LogLevel=ERROR"]).args(more).arg(&to);
        command
    };
    process::run_command(&mut ssh(&["-fN", "-o", "ControlMaster=yes", "-o", &control]))?;
    let socket = world.vsock(VM)?;
    let (mut words, mut bare, mut exec) = (Vec::new(), Vec::new(), Vec::new());
    let (mut full, mut shared) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        words.push(timed(|| agent::exec(&socket, &agent::words(&["true"])))?);
        bare.push(timed(|| agent::exec(&socket, &agent::line("true")))?);
        exec.push(timed(|| ran(&mut world.command(&["vm", "exec", VM, "--", "true"])))?);
        full.push(timed(|| ran(ssh(&[]).arg("true")))?);
        shared.push(timed(|| ran(ssh(&["-o", &control]).arg("true")))?);
    }
    process::run_command(ssh(&["-O", "exit", "-o", &control]).stderr(Stdio::null()))?;
    let (words, bare, exec, full, shared) = (median(words), median(bare), median(exec), median(full), median(shared));
    println!("`true` in the guest, median of {RUNS}:");
    let row = |what: &str, time: Duration| {
        let (to_bare, to_exec) = (ratio(time, bare), ratio(time, exec));
        println!("{what:<47} {time:>9.2?}   {to_bare:.2} × bare   {to_exec:.2} × banger vm exec");
    };
    row("a bare exec of the program, no process of ours", words);
    row("a bare exec of the line, no process of ours", bare);
    row("banger vm exec", exec);
    row("ssh through the ProxyCommand, ControlMaster", shared);
    row("ssh through the ProxyCommand, a handshake each", full);
    for (what, time) in [("with ControlMaster", shared), ("a handshake each", full)] {
        println!("ssh {what}: limit {LIMIT} × bare: {}", verdict(ratio(time, bare) <= LIMIT));
    }
    Ok(())
}

fn ratio(time: Duration, to: Duration) -> f64 {
    time.as_secs_f64() / to.as_secs_f64()
}

fn timed(work: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let began = Instant::now();
    work()?;
    Ok(began.elapsed())
}

fn ran(command: &mut Command) -> Result<()> {
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status().context("cannot start a program")?;
    if status.success() { Ok(()) } else { bail!("{command:?} ended with {status}") }
}
