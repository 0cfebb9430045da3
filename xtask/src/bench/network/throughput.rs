//! One guest sends as fast as it can to a server beyond its host: through banger's bridge, rules and masquerading, then over
//! the same tap with nothing around it but a route, and so on in turn, since a shared machine has moods.

use super::{Outside, PORT, SINK, ip, wait};
use crate::bench::world::World;
use crate::bench::{agent, median, verdict};
use crate::process;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const GUEST: &str = "sends";
/// 256 MiB: a second and a half on an emulated processor.
const MEGABYTES: u32 = 256;
const RUNS: usize = 7;
const GATE: f64 = 0.95;
const BRIDGE: &str = "br-banger";

pub fn measure(world: &World, outside: &mut Outside) -> Result<()> {
    world.boot(GUEST, &[])?;
    let wire = Wire::of(world)?;
    let vsock = world.vsock(GUEST)?;
    // It would mend at once what is taken away here; the guest and its link live without it.
    world.run(&["daemon", "stop"])?;
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    send(&vsock, outside)?;
    for run in 1..=RUNS {
        ours.push(send(&vsock, outside)?);
        wire.strip()?;
        bare.push(send(&vsock, outside)?);
        wire.restore()?;
        eprintln!("run {run} of {RUNS}: bridge {:.2?}, bare tap {:.2?}", ours[run - 1], bare[run - 1]);
    }
    let (ours, bare) = (median(ours), median(bare));
    let rate = |took: Duration| f64::from(MEGABYTES) * 8.0 * 1.048_576 / 1000.0 / took.as_secs_f64();
    println!("bridged: bare tap                    {:.2} Gbit/s (median of {RUNS}, {MEGABYTES} MiB each)", rate(bare));
    println!("bridged: through the bridge          {:.2} Gbit/s", rate(ours));
    let ratio = bare.as_secs_f64() / ours.as_secs_f64();
    println!("bridged: ratio                       {ratio:.3}, limit {GATE}: {}", verdict(ratio >= GATE));
    Ok(())
}

/// From the guest's first byte to the sink's last; the command's own round trip is a hundredth of it.
fn send(vsock: &Path, outside: &mut Outside) -> Result<Duration> {
    let (megabytes, port) = (format!("count={MEGABYTES}"), PORT.to_string());
    // The program itself has the connection as its output: nobody copies in between.
    let nc = ["nc", SINK, &port, "-e", "dd", "if=/dev/zero", "bs=1M", &megabytes, "status=none"];
    let began = Instant::now();
    agent::exec(vsock, &agent::words(&nc))?;
    outside.await_end()?;
    Ok(began.elapsed())
}

/// What `ip` tells of a device: /sys shows those of the namespace in which it was mounted.
fn facts(device: &str) -> Result<serde_json::Value> {
    let shown = process::output("ip", &["-d", "-j", "link", "show", "dev", device])?;
    let mut shown: serde_json::Value = serde_json::from_str(&shown).context("`ip -j` prints JSON")?;
    Ok(shown[0].take())
}

/// The guest's tap, and what it takes to have it bare and back.
struct Wire {
    device: String,
    gateway: String,
    guest: String,
    guest_mac: String,
    bridge_mac: String,
    rules: PathBuf,
}

impl Wire {
    fn of(world: &World) -> Result<Wire> {
        let net = world.json(&["vm", "net", "show", GUEST])?;
        if net["mode"] != "bridged" {
            bail!("the guest is not on a bridge: {net}");
        }
        let text = |value: &serde_json::Value| value.as_str().map(str::to_owned).context("a link has all its facts");
        let guest = text(&net["addresses"][0])?;
        let rules = world.path("rules.nft");
        // A file that begins so replaces whatever holds.
        let listed = format!("flush ruleset\n{}", process::output("nft", &["list", "ruleset"])?);
        std::fs::write(&rules, listed).context("cannot keep the rules")?;
        Ok(Wire {
            device: text(&net["device"])?,
            gateway: text(&net["gateways"][0])?,
            guest: guest.split('/').next().unwrap_or_default().to_owned(),
            guest_mac: text(&net["mac"])?,
            bridge_mac: text(&facts(BRIDGE)?["address"])?,
            rules,
        })
    }

    /// No bridge, no rules, no masquerading: a route each way.
    fn strip(&self) -> Result<()> {
        let device = &self.device;
        process::run("nft", &["flush", "ruleset"])?;
        ip(&format!("link set {BRIDGE} down"))?;
        ip(&format!("link set {device} nomaster"))?;
        // The guest goes on sending to the hardware address that it knows.
        ip(&format!("link set {device} address {}", self.bridge_mac))?;
        ip(&format!("addr add {}/22 dev {device}", self.gateway))?;
        self.know_guest(device)
    }

    fn restore(&self) -> Result<()> {
        let device = &self.device;
        ip(&format!("addr flush dev {device}"))?;
        ip(&format!("link set {device} address fe:00:00:00:00:01"))?;
        ip(&format!("link set {device} master {BRIDGE}"))?;
        ip(&format!("link set {BRIDGE} up"))?;
        process::run("nft", &["-f", &self.rules.display().to_string()])?;
        wait("the bridge forwards", || {
            facts(device).is_ok_and(|facts| facts["linkinfo"]["info_slave_data"]["state"] == "forwarding")
        })?;
        self.know_guest(BRIDGE)
    }

    fn know_guest(&self, device: &str) -> Result<()> {
        ip(&format!("neigh replace {} lladdr {} dev {device} nud permanent", self.guest, self.guest_mac))
    }
}
