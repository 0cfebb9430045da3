//! What a hundred published ports cost: a start with and without them, a connection, and the daemon while nothing happens.

use super::start::span;
use crate::bench::median;
use crate::bench::world::World;
use anyhow::{Context, Result};
use std::io::Read;
use std::net::TcpStream;
use std::time::{Duration, Instant};

const PORTS: u16 = 100;
const FIRST: u16 = 42_100;
const STARTS: usize = 5;
const CONNECTIONS: usize = 51;
const IDLE: Duration = Duration::from_secs(10);

pub fn measure(world: &World) -> Result<()> {
    let published: Vec<String> = (0..PORTS).map(|number| format!("{}:{}", FIRST + number, 2000 + number)).collect();
    let many: Vec<&str> = published.iter().flat_map(|port| ["-p", port.as_str()]).collect();
    let (mut without, mut with, mut step) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..STARTS {
        without.push(start(world, &[])?);
        with.push(start(world, &many)?);
        step.push(span(world, "ports", "ensure ports")?);
    }
    println!("ports: a start without any           {:.2?} (median of {STARTS})", median(without));
    println!("ports: a start with {PORTS}              {:.2?}", median(with));
    println!("ports: of it, publishing             {:.2?}", median(step));

    let _first = start(world, &many[..2])?;
    let one = at_rest(world)?;
    let _all = start(world, &many)?;
    let hundred = at_rest(world)?;
    println!("ports: a connection, 1 and {PORTS}       {:.2?} and {:.2?}", one.connection, hundred.connection);
    println!(
        "ports: the daemon at rest, 1 and {PORTS} {:.1} and {:.1} ms of processor a second; {} and {} KiB",
        one.cpu_ms, hundred.cpu_ms, one.resident_kib, hundred.resident_kib
    );
    world.delete("ports")
}

/// The whole of a start, in place of the sandbox of before.
fn start(world: &World, more: &[&str]) -> Result<Duration> {
    world.run(&["vm", "delete", "--all", "--force", "--quiet"])?;
    world.boot("ports", more)?;
    span(world, "ports", "create")
}

struct AtRest {
    connection: Duration,
    cpu_ms: f64,
    resident_kib: u64,
}

fn at_rest(world: &World) -> Result<AtRest> {
    let mut times = Vec::new();
    for _ in 0..CONNECTIONS {
        let began = Instant::now();
        let mut stream = TcpStream::connect(("127.0.0.1", FIRST)).context("the port does not answer")?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        // Nothing listens in there: the end that comes back came from the guest.
        let _ = stream.read(&mut [0]);
        times.push(began.elapsed());
    }
    let daemon = world.daemon()?;
    let before = daemon.cpu_s()?;
    std::thread::sleep(IDLE);
    let busy = daemon.cpu_s()? - before;
    Ok(AtRest {
        connection: median(times),
        cpu_ms: busy * 1000.0 / IDLE.as_secs_f64(),
        resident_kib: daemon.resident_kib()?,
    })
}
