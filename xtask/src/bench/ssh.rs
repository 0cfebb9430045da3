//! What ssh costs: `true` in a guest by a bare exec over its vsock, by `banger vm exec`, and by ssh through our ProxyCommand,
//! with and without a connection that is there already. In turn, on one guest.

use super::world::{TINY, World};
use super::{median, verdict};
use crate::{build, process};
use anyhow::{Context, Result, bail};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
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
    let (mut bare, mut exec, mut full, mut shared) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..RUNS {
        bare.push(timed(|| bare_exec(&socket))?);
        exec.push(timed(|| ran(&mut world.command(&["vm", "exec", VM, "--", "true"])))?);
        full.push(timed(|| ran(ssh(&[]).arg("true")))?);
        shared.push(timed(|| ran(ssh(&["-o", &control]).arg("true")))?);
    }
    process::run_command(ssh(&["-O", "exit", "-o", &control]).stderr(Stdio::null()))?;
    let (bare, exec, full, shared) = (median(bare), median(exec), median(full), median(shared));
    println!("`true` in the guest, median of {RUNS}:");
    let row = |what: &str, time: Duration| {
        let (to_bare, to_exec) = (ratio(time, bare), ratio(time, exec));
        println!("{what:<47} {time:>9.2?}   {to_bare:.2} × bare   {to_exec:.2} × banger vm exec");
    };
    row("a bare exec over vsock, no process of ours", bare);
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

/// Dial, WebSocket handshake, the request, frames until the status: `wire::guest`, by hand.
fn bare_exec(socket: &Path) -> Result<()> {
    let mut stream = UnixStream::connect(socket).context("cannot reach the vsock")?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    stream.write_all(b"CONNECT 5000\n")?;
    read_until(&mut stream, b"\n")?;
    stream.write_all(
        b"GET /exec HTTP/1.1\r\nHost: guest\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
          Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
    )?;
    read_until(&mut stream, b"\r\n\r\n")?;
    let request = br#"{"argv":["true"]}"#;
    // A text frame, masked with zeros (RFC 6455, 5.2).
    let mut frame = vec![0x81, 0x80 | request.len() as u8, 0, 0, 0, 0];
    frame.extend_from_slice(request);
    stream.write_all(&frame)?;
    loop {
        let mut head = [0; 2];
        stream.read_exact(&mut head)?;
        let mut payload = vec![0; usize::from(head[1])];
        stream.read_exact(&mut payload)?;
        match (head[0] & 0x0f, payload.first()) {
            (2, Some(3)) if payload.ends_with(br#"{"exited":{"code":0}}"#) => return Ok(()),
            (2, Some(3)) => bail!("the command ended otherwise: {}", String::from_utf8_lossy(&payload)),
            (8, _) => bail!("the agent closed before the end"),
            _ => {}
        }
    }
}

fn read_until(stream: &mut UnixStream, end: &[u8]) -> Result<()> {
    let mut seen = Vec::new();
    while !seen.ends_with(end) {
        let mut byte = [0];
        stream.read_exact(&mut byte).context("the agent closed the connection")?;
        seen.push(byte[0]);
    }
    Ok(())
}
