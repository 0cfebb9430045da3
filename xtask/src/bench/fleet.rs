//! What banger costs while nothing happens: `ps` over a thousand sandboxes, the start of the CLI, the daemon at rest.
//! On the simulated host, since the machines themselves are not what is measured.

use super::median;
use super::world::World;
use crate::{build, process};
use anyhow::Result;
use std::process::Stdio;
use std::time::{Duration, Instant};

const SANDBOXES: usize = 1000;
const RUNS: usize = 21;
/// Creates at once; each is a process of its own.
const HANDS: usize = 4;

pub fn run() -> Result<()> {
    let world = World::simulated("fleet", &build::measured()?)?;
    world.run(&["ps"])?;
    // The daemon's own weight, before it holds anything.
    let daemon = world.daemon()?;
    let idle = daemon.resident_kib()?;
    fill(&world)?;
    let ps = median_of(&world, &["ps"])?;
    let json = median_of(&world, &["ps", "--json"])?;
    let version = median_of(&world, &["version"])?;
    println!("banger version                   {version:.2?} (median of {RUNS})");
    println!("banger ps, {SANDBOXES} running          {ps:.2?}");
    println!("banger ps --json, {SANDBOXES} running   {json:.2?}");
    println!("idle daemon                      {:.1} MiB RSS", idle as f64 / 1024.0);
    println!("daemon of {SANDBOXES}                   {:.1} MiB RSS", daemon.resident_kib()? as f64 / 1024.0);
    Ok(())
}

fn fill(world: &World) -> Result<()> {
    std::thread::scope(|scope| {
        let hands: Vec<_> = (0..HANDS)
            .map(|hand| {
                scope.spawn(move || -> Result<()> {
                    for number in (hand..SANDBOXES).step_by(HANDS) {
                        let name = format!("vm{number}");
                        world.run(&["vm", "create", "-q", "--memory", "64", "--disk-size", "64", "--name", &name])?;
                    }
                    Ok(())
                })
            })
            .collect();
        hands.into_iter().try_for_each(|hand| hand.join().expect("a hand does not panic"))
    })
}

fn median_of(world: &World, arguments: &[&str]) -> Result<Duration> {
    let mut times = Vec::new();
    for _ in 0..RUNS {
        let began = Instant::now();
        process::run_command(world.command(arguments).stdout(Stdio::null()))?;
        times.push(began.elapsed());
    }
    Ok(median(times))
}
