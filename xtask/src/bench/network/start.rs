//! The network's part of a start while others run: the link, as the span tree tells of it, and in user mode the gateway
//! besides, which belongs to the VMM's span and is timed by itself.

use crate::bench::world::World;
use crate::bench::{median, verdict};
use crate::build::Binaries;
use anyhow::{Context, Result};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const RUNS: usize = 7;
const GATE: Duration = Duration::from_millis(10);

pub fn measure(world: &World, binaries: &Binaries, mode: &str) -> Result<()> {
    // Its bridge, its rules and the root helper are there from now on.
    world.boot("first", &[])?;
    let mut links = Vec::new();
    for _ in 0..RUNS {
        world.boot("next", &[])?;
        links.push(span(world, "next", "ensure link")?);
        world.delete("next")?;
    }
    world.delete("first")?;
    let link = median(links);
    println!("{mode}: link of a start                {link:.2?} (median of {RUNS})");
    let gateway = match mode {
        "user" => median((0..RUNS).map(|_| gateway(world, binaries)).collect::<Result<_>>()?),
        _ => Duration::ZERO,
    };
    if mode == "user" {
        println!("{mode}: gateway until it answers       {gateway:.2?}");
    }
    let all = link + gateway;
    println!("{mode}: network part of a start        {all:.2?}, limit {GATE:?}: {}", verdict(all < GATE));
    Ok(())
}

/// How long a step of the last start took.
pub fn span(world: &World, name: &str, step: &str) -> Result<Duration> {
    let shown = world.json(&["vm", "show", name])?;
    let spans = shown["timing"].as_array().context("a start leaves its spans")?;
    let found = spans.iter().find(|span| span["name"].as_str().is_some_and(|name| name.starts_with(step)));
    let found = found.with_context(|| format!("a start has the step `{step}`"))?;
    Ok(Duration::from_micros(found["duration_us"].as_u64().context("a span has a length")?))
}

/// From its `execve` to the first connection that its control socket takes, as the daemon waits for it.
fn gateway(world: &World, binaries: &Binaries) -> Result<Duration> {
    let (policy, control) = (world.path("policy"), world.path("gateway"));
    std::fs::write(&policy, br#"{"outbound":"nat"}"#).context("cannot write a policy")?;
    let _ = std::fs::remove_file(&control);
    let (ours, theirs) = UnixStream::pair().context("cannot make a wire")?;
    let mut command = Command::new("sh");
    // Its wire has to be another descriptor than the standard ones.
    command.args(["-c", "exec \"$0\" --link 3 --mac 02:00:00:00:00:01 --policy \"$1\" --control \"$2\" 3<&0"]);
    command.arg(binaries.folder.join("banger-gateway")).arg(&policy).arg(&control);
    command.stdin(Stdio::from(OwnedFd::from(theirs)));
    let began = Instant::now();
    let mut child = Ended(command.spawn().context("cannot start the gateway")?);
    while UnixStream::connect(&control).is_err() {
        if let Some(status) = child.0.try_wait().context("cannot wait for the gateway")? {
            anyhow::bail!("the gateway ended with {status}");
        }
    }
    let took = began.elapsed();
    drop(ours);
    Ok(took)
}

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
