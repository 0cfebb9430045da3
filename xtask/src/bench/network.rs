//! What the bridge, its rules and masquerading cost: one guest sends as fast as it can to a server beyond its host, first
//! through banger's network, then over the same tap with nothing around it but a route. In network namespaces of the
//! benchmark's own; needs root.
//!
//! ```text
//!  guest ═ tap ═ br-banger ─ rules, NAT ─ out0 ═ eth0 ─ sink        guest ═ tap ─ route ─ out0 ═ eth0 ─ sink
//! ```

use super::median;
use crate::{build, process};
use anyhow::{Context, Result, bail};
use std::io::Read;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const SAMPLE: &str = "banger-bench-network";
/// 256 MiB: a second and a half on an emulated processor.
const MEGABYTES: u32 = 256;
const RUNS: usize = 5;
const HOST: &str = "203.0.113.1";
const SINK: &str = "203.0.113.2";
const PORT: u16 = 5001;
/// Set for the run inside the namespace.
const INSIDE: &str = "BANGER_BENCH_INSIDE";

pub fn run() -> Result<()> {
    if std::env::var_os(INSIDE).is_some() {
        return inside();
    }
    build::debug()?;
    let own = std::env::current_exe().context("xtask does not know its own path")?;
    let mut again = Command::new("unshare");
    again.args(["--net", "--"]).arg(own).args(["bench", "network"]).env(INSIDE, "1");
    process::run_command(&mut again)
}

/// Runs in the far namespace: takes connections for ever, and reads each to its end.
pub fn sink() -> Result<()> {
    let listener = TcpListener::bind((SINK, PORT)).context("cannot listen beyond the host")?;
    let mut buffer = vec![0; 1 << 20];
    for stream in listener.incoming() {
        let mut stream = stream.context("cannot take a connection")?;
        while stream.read(&mut buffer).is_ok_and(|count| count > 0) {}
    }
    Ok(())
}

fn inside() -> Result<()> {
    let outside = Outside::make()?;
    let world = World::make()?;
    world.banger(&["vm", "create", "--name", SAMPLE, "--init", "agent", "--vcpu", "1", "--memory", "512"])?;
    let net: serde_json::Value =
        serde_json::from_str(&world.banger(&["vm", "net", "show", SAMPLE, "--json"])?).context("facts are JSON")?;
    if net["mode"] != "bridged" {
        bail!("the guest is not on a bridge: {net}");
    }
    let ours = measure(&world, "banger's bridge")?;
    let device = net["device"].as_str().context("a bridged guest has a device")?;
    let gateway = net["gateways"][0].as_str().context("a bridged guest has a gateway")?;
    outside.strip(device, gateway)?;
    let bare = measure(&world, "bare tap")?;
    let rate = |took: Duration| f64::from(MEGABYTES) * 8.0 * 1.048_576 / 1000.0 / took.as_secs_f64();
    println!("bare tap         {:.2} Gbit/s (median of {RUNS}, {MEGABYTES} MiB each)", rate(bare));
    println!("banger's bridge  {:.2} Gbit/s", rate(ours));
    println!("ratio            {:.3}", bare.as_secs_f64() / ours.as_secs_f64());
    Ok(())
}

/// From the guest's first byte to the sink's last; the command's own round trip is a hundredth of it.
fn measure(world: &World, what: &str) -> Result<Duration> {
    let send = format!("exec dd if=/dev/zero bs=1M count={MEGABYTES} status=none > /dev/tcp/{SINK}/{PORT}");
    let mut times = Vec::new();
    for run in 0..=RUNS {
        let began = Instant::now();
        world.banger(&["vm", "exec", SAMPLE, "--", "bash", "-c", &send])?;
        // The first one warms up.
        if run > 0 {
            eprintln!("{what}, run {run} of {RUNS}: {:.2?}", began.elapsed());
            times.push(began.elapsed());
        }
    }
    Ok(median(times))
}

/// The world beyond the host: a namespace held by a process that serves in it.
struct Outside(Child);

impl Outside {
    fn make() -> Result<Outside> {
        let own = std::env::current_exe().context("xtask does not know its own path")?;
        ip("link set lo up")?;
        // It waits for its link before it listens.
        let script = "ip link set lo up; until ip -o link show eth0 >/dev/null 2>&1; do sleep 0.05; done; \
                      ip addr add 203.0.113.2/24 dev eth0; ip link set eth0 up; exec \"$0\" bench sink";
        let child = Command::new("unshare").args(["--net", "--", "sh", "-c", script]).arg(own).spawn();
        let outside = Outside(child.context("cannot make a namespace")?);
        // unshare(1) becomes the shell, so its namespace is known by its pid as soon as it differs from ours.
        let here = std::fs::read_link("/proc/self/ns/net").context("a process has a namespace")?;
        let there = PathBuf::from(format!("/proc/{}/ns/net", outside.0.id()));
        while std::fs::read_link(&there).is_ok_and(|there| there == here) {
            std::thread::sleep(Duration::from_millis(5));
        }
        ip(&format!("link add out0 type veth peer name eth0 netns {}", outside.0.id()))?;
        ip(&format!("addr add {HOST}/24 dev out0"))?;
        ip("link set out0 up")?;
        Ok(outside)
    }

    /// The same tap with nothing around it: no bridge, no rules, no masquerading; a route each way.
    fn strip(&self, device: &str, gateway: &str) -> Result<()> {
        process::run("nft", &["flush", "ruleset"])?;
        let shown = process::output("ip", &["-j", "link", "show", "br-banger"])?;
        let shown: serde_json::Value = serde_json::from_str(&shown).context("`ip -j` prints JSON")?;
        let mac = shown[0]["address"].as_str().context("a bridge has a hardware address")?.to_owned();
        ip("link del br-banger")?;
        // The guest goes on sending to the hardware address that it knows.
        ip(&format!("link set {device} down"))?;
        ip(&format!("link set {device} address {mac}"))?;
        ip(&format!("link set {device} up"))?;
        ip(&format!("addr add {gateway}/22 dev {device}"))?;
        let back = ["-t", &self.0.id().to_string(), "-n", "ip", "route", "add", "default", "via", HOST];
        process::run("nsenter", &back)
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A state of its own, with the kernels and images that are here already.
struct World(PathBuf);

impl World {
    fn make() -> Result<World> {
        let folder = PathBuf::from(format!("/tmp/bgr-bench-{}", std::process::id()));
        let world = World(folder);
        std::fs::create_dir_all(world.0.join("state")).context("cannot make a folder")?;
        let home = PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?);
        let state = std::env::var_os("BANGER_STATE").map_or(home.join(".local/state/banger"), PathBuf::from);
        for kind in ["images", "kernels", "templates"] {
            let from = state.join(kind);
            if from.is_dir() {
                let (from, to) = (from.display().to_string(), world.0.join("state").display().to_string());
                process::run("cp", &["-a", "--sparse=always", &from, &to])?;
            }
        }
        Ok(world)
    }

    fn banger(&self, arguments: &[&str]) -> Result<String> {
        let folder = |name: &str| self.0.join(name);
        let binary = build::target_folder().join("debug/banger");
        let mut command = Command::new(binary);
        command.args(arguments).env("BANGER_STATE", folder("state")).env("XDG_RUNTIME_DIR", folder("run"));
        command.env("XDG_CONFIG_HOME", folder("config")).env("XDG_CACHE_HOME", folder("cache"));
        command.env("BANGER_NETWORK", "bridged").env_remove("BANGER_SOCKET").stdin(Stdio::null());
        std::fs::create_dir_all(folder("run")).context("cannot make a folder")?;
        process::output_of(&mut command)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.banger(&["vm", "delete", "--all", "--force"]);
        let _ = self.banger(&["daemon", "stop"]);
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn ip(line: &str) -> Result<()> {
    let words: Vec<&str> = line.split(' ').collect();
    process::run("ip", &words)
}
