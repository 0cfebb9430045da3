//! What ssh costs over a bare `exec`, and what published ports cost at all: all of it in one run on one guest.

use super::{SHAPE, median};
use crate::{build, process};
use anyhow::{Context, Result, bail};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const VM: &str = "banger-bench-ssh";
const RUNS: usize = 21;
const PORTS: u16 = 100;
const FIRST_PORT: u16 = 42_100;
/// The limit of the promise.
const LIMIT: f64 = 1.3;

pub fn run() -> Result<()> {
    let banger = build::measured()?.banger();
    let _ = Command::new(&banger).args(["vm", "delete", "--force", VM]).output();
    process::run_command(Command::new(&banger).args(["vm", "create", "--name", VM]).args(SHAPE))?;
    let measured = commands(&banger).and_then(|()| ports(&banger));
    process::run_command(Command::new(&banger).args(["vm", "delete", "--force", VM]))?;
    measured
}

fn commands(banger: &Path) -> Result<()> {
    let folder = std::env::temp_dir().join(format!("banger-bench-ssh-{}", std::process::id()));
    std::fs::create_dir_all(&folder).context("cannot make a folder")?;
    let config = folder.join("config");
    std::fs::write(&config, process::output_of(Command::new(banger).args(["ssh-config", "--print"]))?)?;
    let control = format!("ControlPath={}", folder.join("mux").display());
    let ssh = |more: &[&str]| {
        let mut command = Command::new("ssh");
        command.arg("-F").arg(&config).args(["-o", "LogLevel=ERROR"]).args(more);
        command
    };
    process::run_command(ssh(&["-fN", "-o", "ControlMaster=yes", "-o", &control]).arg(format!("{VM}.vm")))?;
    let socket = vsock(banger)?;
    let (mut bare, mut exec, mut full, mut shared) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..RUNS {
        bare.push(timed(|| bare_exec(&socket))?);
        exec.push(timed(|| ran(Command::new(banger).args(["vm", "exec", VM, "--", "true"])))?);
        full.push(timed(|| ran(ssh(&[]).args([&format!("{VM}.vm"), "true"])))?);
        shared.push(timed(|| ran(ssh(&["-o", &control]).args([&format!("{VM}.vm"), "true"])))?);
    }
    process::run_command(ssh(&["-O", "exit", "-o", &control]).arg(format!("{VM}.vm")))?;
    let _ = std::fs::remove_dir_all(&folder);
    let (bare, exec, full, shared) = (median(bare), median(exec), median(full), median(shared));
    let row = |what: &str, time: Duration| {
        let ratio = time.as_secs_f64() / bare.as_secs_f64();
        let verdict = if ratio <= LIMIT { "kept" } else { "exceeded" };
        println!("{what:<50} {time:>9.2?}   {ratio:.2} × bare   limit {LIMIT} {verdict}");
    };
    println!("`true` in the guest, median of {RUNS}:");
    println!("{:<50} {bare:>9.2?}", "a bare exec over vsock, no process of ours");
    row("banger vm exec", exec);
    row("ssh through the ProxyCommand, ControlMaster", shared);
    row("ssh through the ProxyCommand, a handshake each", full);
    Ok(())
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

/// The guest's socket lies in the run folder, under the sandbox's id.
fn vsock(banger: &Path) -> Result<PathBuf> {
    let shown = process::output_of(Command::new(banger).args(["vm", "show", VM, "--json"]))?;
    let facts: serde_json::Value = serde_json::from_str(&shown).context("`vm show --json` is not JSON")?;
    let status = process::output_of(Command::new(banger).args(["daemon", "status", "--json"]))?;
    let status: serde_json::Value = serde_json::from_str(&status).context("`daemon status --json` is not JSON")?;
    let socket = Path::new(status["socket"].as_str().context("the daemon has a socket")?);
    let run = socket.parent().context("a socket lies in a folder")?;
    Ok(run.join("vm").join(facts["id"].as_str().context("a sandbox has an id")?).join("vsock.sock"))
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

/// One connection to a service through a published port, before and after a hundred more were published; and how long
/// the publishing took.
fn ports(banger: &Path) -> Result<()> {
    // The agent itself is a server that every guest has: its ssh port may be closed, a refusal is an answer as well.
    let port = |number: u16| format!("{}:22", FIRST_PORT + number);
    process::run_command(Command::new(banger).args(["vm", "port", "add", "-q", VM, &port(0)]))?;
    let one = connections()?;
    let before = resident(banger)?;
    let rest: Vec<String> = (1..=PORTS).map(port).collect();
    let began = Instant::now();
    process::run_command(Command::new(banger).args(["vm", "port", "add", "-q", VM]).args(&rest))?;
    let publishing = began.elapsed();
    let many = connections()?;
    let after = resident(banger)?;
    println!("\nPublished ports, a connection to the guest's port 22, median of {RUNS}:");
    println!("with 1 port                                        {one:>9.2?}");
    println!(
        "with {} ports                                     {many:>9.2?}   {:.2} ×",
        PORTS + 1,
        many.as_secs_f64() / one.as_secs_f64()
    );
    println!("`vm port add` of {PORTS} ports                           {publishing:>9.2?}");
    println!("the daemon's memory for them                       {:>6} KiB", after.saturating_sub(before));
    Ok(())
}

fn connections() -> Result<Duration> {
    let mut times = Vec::new();
    for _ in 0..RUNS {
        times.push(timed(|| {
            let mut stream = TcpStream::connect(("127.0.0.1", FIRST_PORT)).context("the port does not answer")?;
            stream.set_read_timeout(Some(Duration::from_secs(60)))?;
            // A greeting, or a reset where nothing listens: both came from the guest.
            let _ = stream.read(&mut [0]);
            Ok(())
        })?);
    }
    Ok(median(times))
}

fn resident(banger: &Path) -> Result<u64> {
    let status = process::output_of(Command::new(banger).args(["daemon", "status", "--json"]))?;
    let status: serde_json::Value = serde_json::from_str(&status).context("`daemon status --json` is not JSON")?;
    let text = std::fs::read_to_string(format!("/proc/{}/status", status["pid"])).context("the daemon runs")?;
    let line = text.lines().find(|line| line.starts_with("VmRSS")).context("a process has memory")?;
    line.split_whitespace().nth(1).and_then(|text| text.parse().ok()).context("VmRSS is a number")
}
