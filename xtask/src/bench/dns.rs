//! Answers per second of the name server for `.vm`, its daemon held to one core, its client on the others. The client is
//! dnsperf where it is installed, else a loop of our own; both keep as many questions under way as a busy resolver.

use super::verdict;
use super::world::World;
use crate::{build, process};
use anyhow::{Context, Result, bail};
use std::fmt::Write as _;
use std::net::UdpSocket;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The goal of the name server, on one core.
const GATE: f64 = 20_000.0;
const SECONDS: u64 = 8;
const UNDER_WAY: usize = 100;
const GUEST: &str = "web";
/// What a host asks most: an address, the one that is not there, a service, and a name that does not exist.
const QUESTIONS: &[(&str, &str, u16)] =
    &[("web.vm", "A", 1), ("web.vm", "AAAA", 28), ("_http._tcp.web.vm", "SRV", 33), ("nobody.vm", "A", 1)];

pub fn run() -> Result<()> {
    let world = World::tiny("dns", &build::measured()?)?.with("BANGER_NETWORK", "user");
    world.boot(GUEST, &["-p", "127.0.0.1:0:80"])?;
    let status = world.json(&["daemon", "status"])?;
    let server = status["dns"].as_str().context("the daemon has a name server")?;
    let pid = status["pid"].to_string();
    process::run_command(Command::new("taskset").args(["-a", "-c", "-p", "0", &pid]).stdout(Stdio::null()))?;
    let daemon = world.daemon()?;
    let before = daemon.cpu_s()?;
    let load = match dnsperf(&world, server)? {
        Some(load) => load,
        None => own_load(server)?,
    };
    let busy = daemon.cpu_s()? - before;
    println!("client                            {}, {UNDER_WAY} questions under way, {SECONDS} s", load.client);
    println!("lost                              {}", load.lost);
    println!("daemon on one core                {:.0} % of it", 100.0 * busy / load.seconds);
    println!("answers per second of that core   {:.0}", load.answers / busy);
    let rate = load.answers / load.seconds;
    println!("answers per second                {rate:.0}, limit {GATE}: {}", verdict(rate >= GATE));
    Ok(())
}

struct Load {
    client: &'static str,
    answers: f64,
    lost: f64,
    seconds: f64,
}

fn dnsperf(world: &World, server: &str) -> Result<Option<Load>> {
    if !Path::new("/usr/bin/dnsperf").is_file() {
        return Ok(None);
    }
    let (address, port) = server.rsplit_once(':').context("a server has a port")?;
    let mut questions = String::new();
    for (name, kind, _) in QUESTIONS {
        writeln!(questions, "{name} {kind}")?;
    }
    let file = world.path("questions");
    std::fs::write(&file, questions).context("cannot write the questions")?;
    let mut command = Command::new("taskset");
    command.args(["-c", &other_cores(), "dnsperf", "-s", address, "-p", port, "-T", "1", "-c", "1"]);
    command.args(["-q", &UNDER_WAY.to_string(), "-l", &SECONDS.to_string(), "-d"]).arg(&file);
    let said = process::output_of(&mut command)?;
    let number = |key: &str| -> Result<f64> {
        let line = said.lines().find_map(|line| line.trim().strip_prefix(key));
        let word = line.and_then(|rest| rest.split_whitespace().next()).context("dnsperf counts")?;
        word.parse().with_context(|| format!("dnsperf says `{word}` for `{key}`"))
    };
    let (answers, lost, seconds) = (number("Queries completed:")?, number("Queries lost:")?, number("Run time (s):")?);
    Ok(Some(Load { client: "dnsperf", answers, lost, seconds }))
}

/// All but the first, which is the daemon's; that one where there is no other.
fn other_cores() -> String {
    match std::thread::available_parallelism().map_or(1, usize::from) {
        1 => "0".to_owned(),
        count => format!("1-{}", count - 1),
    }
}

/// One socket: so many questions out, then one more for each answer.
fn own_load(server: &str) -> Result<Load> {
    let socket = UdpSocket::bind("127.0.0.1:0").and_then(|socket| {
        socket.connect(server)?;
        // An answer that takes a second is lost.
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        Ok(socket)
    });
    let socket = socket.context("cannot reach the name server")?;
    let questions: Vec<Vec<u8>> = QUESTIONS.iter().map(|(name, _, kind)| question(name, *kind)).collect();
    let mut waiting = questions.iter().cycle();
    let mut ask = || socket.send(waiting.next().expect("a cycle does not end")).context("cannot ask");
    for _ in 0..UNDER_WAY {
        ask()?;
    }
    let (began, mut answers, mut lost) = (Instant::now(), 0.0, 0.0);
    let mut answer = [0; 512];
    while began.elapsed() < Duration::from_secs(SECONDS) {
        match socket.recv(&mut answer) {
            Ok(length) if length >= 12 => answers += 1.0,
            Ok(_) => bail!("an answer is shorter than its header"),
            Err(_) => lost += 1.0,
        }
        ask()?;
    }
    Ok(Load { client: "a loop of our own", answers, lost, seconds: began.elapsed().as_secs_f64() })
}

/// A question as RFC 1035 has it: header, name, type, class IN.
fn question(name: &str, kind: u16) -> Vec<u8> {
    let mut bytes = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0, 1]);
    bytes
}
