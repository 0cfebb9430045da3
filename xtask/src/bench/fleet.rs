//! What banger costs while nothing happens: `ps` over a thousand sandboxes, the start of the CLI, the daemon at rest.
//! On the simulated host, since the machines themselves are not what is measured.

use super::median;
use crate::{build, process};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const SANDBOXES: usize = 1000;
const RUNS: usize = 21;
/// Creates at once; each is a process of its own.
const HANDS: usize = 4;

pub fn run() -> Result<()> {
    let binaries = build::measured()?;
    let world = World::new(binaries.banger())?;
    // The daemon's own weight, before it holds anything.
    let answered = world.answer(&["daemon", "status", "--json"])?;
    let facts: serde_json::Value = serde_json::from_str(&answered).context("`daemon status --json` is not JSON")?;
    let pid = facts["pid"].as_u64().context("a daemon has a pid")?;
    let idle = resident_kib(pid)?;
    world.fill()?;
    let ps = world.median_of(&["ps"])?;
    let json = world.median_of(&["ps", "--json"])?;
    let version = world.median_of(&["version"])?;
    println!("banger version                   {version:.2?} (median of {RUNS})");
    println!("banger ps, {SANDBOXES} running          {ps:.2?}");
    println!("banger ps --json, {SANDBOXES} running   {json:.2?}");
    println!("idle daemon                      {:.1} MiB RSS", idle as f64 / 1024.0);
    println!("daemon of {SANDBOXES}                   {:.1} MiB RSS", resident_kib(pid)? as f64 / 1024.0);
    Ok(())
}

/// A simulated host with folders of its own; its daemon ends with it.
struct World {
    banger: PathBuf,
    folder: PathBuf,
}

impl World {
    fn new(banger: PathBuf) -> Result<World> {
        let folder = std::env::temp_dir().join(format!("banger-bench-fleet-{}", std::process::id()));
        for name in ["state", "run", "config", "cache"] {
            std::fs::create_dir_all(folder.join(name)).context("cannot make a folder for the benchmark")?;
        }
        Ok(World { banger, folder })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.banger);
        command
            .args(arguments)
            .env("BANGER_HOST", "sim")
            .env("BANGER_STATE", self.folder.join("state"))
            .env("XDG_RUNTIME_DIR", self.folder.join("run"))
            .env("XDG_CONFIG_HOME", self.folder.join("config"))
            .env("XDG_CACHE_HOME", self.folder.join("cache"))
            .env_remove("BANGER_SOCKET");
        command
    }

    fn answer(&self, arguments: &[&str]) -> Result<String> {
        process::output_of(&mut self.command(arguments))
    }

    fn fill(&self) -> Result<()> {
        std::thread::scope(|scope| {
            let hands: Vec<_> = (0..HANDS)
                .map(|hand| {
                    scope.spawn(move || -> Result<()> {
                        for number in (hand..SANDBOXES).step_by(HANDS) {
                            let name = format!("vm{number}");
                            let words =
                                ["vm", "create", "--quiet", "--memory", "64", "--disk-size", "64", "--name", &name];
                            process::run_command(self.command(&words).stdout(Stdio::null()))?;
                        }
                        Ok(())
                    })
                })
                .collect();
            hands.into_iter().try_for_each(|hand| hand.join().expect("a hand does not panic"))
        })
    }

    fn median_of(&self, arguments: &[&str]) -> Result<Duration> {
        let mut times = Vec::new();
        for _ in 0..RUNS {
            let began = Instant::now();
            process::run_command(self.command(arguments).stdout(Stdio::null()))?;
            times.push(began.elapsed());
        }
        Ok(median(times))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.command(&["daemon", "stop"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn resident_kib(pid: u64) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(Path::new(&path)).with_context(|| format!("cannot read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("a process has a resident size")?;
    line.trim().trim_end_matches(" kB").trim().parse().context("VmRSS is a number")
}
