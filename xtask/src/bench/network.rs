//! What the network costs: its part of a start, the bridge's throughput, published ports. All of it in a network namespace
//! of the benchmark's own, with a world beyond it; needs root.
//!
//! ```text
//!  guest ═ tap ═ br-banger ─ rules, NAT ─ out0 ═ eth0 ─ sink        guest ═ tap ─ route ─ out0 ═ eth0 ─ sink
//! ```

mod ports;
mod start;
mod throughput;

use crate::bench::world::World;
use crate::{build, process};
use anyhow::{Context, Result, bail};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// The host's address towards the world beyond, and the sink's there.
const HOST: &str = "203.0.113.1";
const SINK: &str = "203.0.113.2";
const PORT: u16 = 5001;
/// Set for the run inside the namespace.
const INSIDE: &str = "BANGER_BENCH_INSIDE";
const PATIENCE: Duration = Duration::from_secs(10);

pub fn run() -> Result<()> {
    if std::env::var_os(INSIDE).is_some() {
        return inside();
    }
    let binaries = build::measured()?;
    let own = std::env::current_exe().context("xtask does not know its own path")?;
    let mut again = Command::new("unshare");
    again.args(["--net", "--"]).arg(own).args(["bench", "network"]);
    again.env(INSIDE, "1").env("BANGER_BIN_FOLDER", &binaries.folder);
    process::run_command(&mut again)
}

/// Runs in the far namespace: takes connections for ever, reads each to its end, and then says so.
pub fn sink() -> Result<()> {
    let listener = TcpListener::bind((SINK, PORT)).context("cannot listen beyond the host")?;
    let mut buffer = vec![0; 1 << 20];
    for stream in listener.incoming() {
        let mut stream = stream.context("cannot take a connection")?;
        while stream.read(&mut buffer).is_ok_and(|count| count > 0) {}
        // Told to who waits for the last byte.
        std::io::stdout().write_all(b".").and_then(|()| std::io::stdout().flush()).context("nobody listens")?;
    }
    Ok(())
}

fn inside() -> Result<()> {
    let binaries = build::measured()?;
    let mut outside = Outside::make()?;
    let world = World::tiny("net", &binaries)?.with("BANGER_NETWORK", "bridged");
    start::measure(&world, &binaries, "bridged")?;
    throughput::measure(&world, &mut outside)?;
    world.run(&["vm", "delete", "--all", "--force", "--quiet"])?;
    world.run(&["system", "network", "down"])?;
    drop(world);
    let world = World::tiny("net", &binaries)?.with("BANGER_NETWORK", "user");
    start::measure(&world, &binaries, "user")?;
    ports::measure(&world)
}

/// The world beyond the host: a namespace held by a process that serves in it.
struct Outside {
    child: Child,
    heard: UnixStream,
}

impl Outside {
    fn make() -> Result<Outside> {
        let own = std::env::current_exe().context("xtask does not know its own path")?;
        ip("link set lo up")?;
        // It waits for its link before it listens.
        let script = "ip link set lo up; until ip -o link show eth0 >/dev/null 2>&1; do sleep 0.05; done; \
                      ip addr add 203.0.113.2/24 dev eth0; ip link set eth0 up; exec \"$0\" bench sink";
        let (heard, told) = UnixStream::pair().context("cannot make a pair of sockets")?;
        heard.set_read_timeout(Some(PATIENCE * 6))?;
        let mut command = Command::new("unshare");
        command.args(["--net", "--", "sh", "-c", script]).arg(own).stdout(OwnedFd::from(told));
        let child = command.spawn().context("cannot make a namespace")?;
        let outside = Outside { child, heard };
        // unshare(1) becomes the shell, so its namespace is known by its pid as soon as it differs from ours.
        let here = std::fs::read_link("/proc/self/ns/net").context("a process has a namespace")?;
        let there = PathBuf::from(format!("/proc/{}/ns/net", outside.child.id()));
        wait("the namespace beyond the host", || std::fs::read_link(&there).is_ok_and(|there| there != here))?;
        ip(&format!("link add out0 type veth peer name eth0 netns {}", outside.child.id()))?;
        ip(&format!("addr add {HOST}/24 dev out0"))?;
        ip("link set out0 up")?;
        wait("the link to the world beyond", || {
            outside.ip("-o addr show dev eth0 up").is_ok_and(|told| told.contains(SINK))
        })?;
        outside.ip(&format!("route add default via {HOST}"))?;
        Ok(outside)
    }

    /// Until one more connection has been read to its end.
    fn await_end(&mut self) -> Result<()> {
        self.heard.read_exact(&mut [0]).context("the sink does not come to the end of a connection")
    }

    /// `ip` in there.
    fn ip(&self, line: &str) -> Result<String> {
        let pid = self.child.id().to_string();
        let words: Vec<&str> = ["-t", &pid, "-n", "ip"].into_iter().chain(line.split(' ')).collect();
        process::output("nsenter", &words)
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait(what: &str, mut met: impl FnMut() -> bool) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while !met() {
        if Instant::now() > end {
            bail!("not within {} s: {what}", PATIENCE.as_secs());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn ip(line: &str) -> Result<()> {
    let words: Vec<&str> = line.split(' ').collect();
    process::run("ip", &words)
}
