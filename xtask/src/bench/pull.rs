//! `banger image pull` against the tools a person would chain by hand: skopeo, umoci, mkfs.ext4. The same registry
//! (Debian's, on loopback), the same image, the same run; the two take turns in going first. Then what layers that are here
//! already save, what one large layer takes of memory, and how long a list of 200 images takes.

mod registry;

use super::median;
use crate::{build, process};
use anyhow::{Context, Result};
use registry::{LAYERS, Registry};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// 1 GB of files, as the goal has it; `BENCH_PULL_MB` makes it smaller on a busy machine.
const MEGABYTES: usize = 1000;
const RUNS: usize = 3;
const LIMIT_RATIO: f64 = 0.5;
const LIMIT_PEAK_MIB: u64 = 150;
const IMAGES: usize = 200;
const LISTS: usize = 21;
const LIMIT_LIST: Duration = Duration::from_millis(20);

pub fn run() -> Result<()> {
    let megabytes = std::env::var("BENCH_PULL_MB").ok().and_then(|text| text.parse().ok()).unwrap_or(MEGABYTES);
    let banger = build::measured()?.banger();
    let place = Place(build::target_folder().join("bench-pull"));
    let _ = fs::remove_dir_all(&place.0);
    fs::create_dir_all(&place.0)?;
    let registry = Registry::start(&place.0)?;
    eprintln!("making images of {megabytes} MB");
    registry.fill(&place.0, megabytes)?;
    let first = against_tools(&banger, &place.0, &registry, megabytes)?;
    shared_layers(&banger, &place.0, &registry, first)?;
    one_layer(&banger, &place.0, &registry)?;
    list(&banger, &place.0)
}

/// Tells how long ours took.
fn against_tools(banger: &Path, place: &Path, registry: &Registry, megabytes: usize) -> Result<Duration> {
    let (mut ours, mut theirs, mut peak) = (Vec::new(), Vec::new(), 0);
    for run in 1..=RUNS {
        if run % 2 == 1 {
            theirs.push(by_hand(place, registry)?);
        }
        let daemon = Daemon::start(banger, place)?;
        ours.push(daemon.pull(&registry.image("1"))?);
        let most = daemon.peak_mib()?;
        daemon.stop()?;
        if run % 2 == 0 {
            theirs.push(by_hand(place, registry)?);
        }
        peak = peak.max(most);
        eprintln!(
            "run {run} of {RUNS}: by hand {:.2?}, banger {:.2?}, peak {most} MiB",
            theirs[run - 1],
            ours[run - 1]
        );
    }
    let (ours, theirs) = (median(ours), median(theirs));
    let ratio = ours.as_secs_f64() / theirs.as_secs_f64();
    println!("{megabytes} MB of files in {LAYERS} layers, median of {RUNS}");
    row("skopeo copy + umoci unpack + mkfs.ext4 -d", format!("{theirs:.2?}"));
    row("banger image pull", format!("{ours:.2?}"));
    row("ratio", format!("{ratio:.3}, limit {LIMIT_RATIO}: {}", kept(ratio <= LIMIT_RATIO)));
    row_of_peak("peak memory of bangerd", peak);
    Ok(ours)
}

/// An image of the same layers and one more costs that one: a config and a layer are asked for, nothing else.
fn shared_layers(banger: &Path, place: &Path, registry: &Registry, first: Duration) -> Result<()> {
    let daemon = Daemon::start(banger, place)?;
    daemon.pull(&registry.image("1"))?;
    let before = registry.blobs_served()?;
    let took = daemon.pull(&registry.image("2"))?;
    let blobs = registry.blobs_served()? - before;
    daemon.stop()?;
    let share = took.as_secs_f64() / first.as_secs_f64();
    row("the same and one layer more", format!("{took:.2?}, {share:.2} of the first"));
    row("blobs asked for", format!("{blobs}, limit 2: {}", kept(blobs <= 2)));
    Ok(())
}

fn one_layer(banger: &Path, place: &Path, registry: &Registry) -> Result<()> {
    let daemon = Daemon::start(banger, place)?;
    let took = daemon.pull(&registry.image("one"))?;
    let peak = daemon.peak_mib()?;
    daemon.stop()?;
    row("all of it in one layer", format!("{took:.2?}"));
    row_of_peak("peak memory of bangerd", peak);
    Ok(())
}

/// 200 images by names of their own; what lies behind a name makes no difference to a list.
fn list(banger: &Path, place: &Path) -> Result<()> {
    let daemon = Daemon::start(banger, place)?;
    let folder = place.join("tiny");
    fs::create_dir_all(folder.join("root"))?;
    fs::write(folder.join("root/.profile"), "umask 022\n")?;
    let archive = place.join("tiny.tar").display().to_string();
    process::run("tar", &["--create", "--file", &archive, "--directory", &folder.display().to_string(), "."])?;
    daemon.banger(&["image", "import", "tiny", &archive])?;
    for number in 1..IMAGES {
        daemon.banger(&["image", "tag", "tiny", &format!("tiny-{number}")])?;
    }
    let mut times = Vec::new();
    for _ in 0..LISTS {
        let began = Instant::now();
        let listed = daemon.banger(&["image", "list"])?;
        times.push(began.elapsed());
        let count = listed.lines().filter(|line| line.starts_with("tiny")).count();
        anyhow::ensure!(count == IMAGES, "{count} images are listed");
    }
    daemon.stop()?;
    let took = median(times);
    row(
        "image list with 200 images",
        format!("{took:.2?} (median of {LISTS}), limit {LIMIT_LIST:.0?}: {}", kept(took <= LIMIT_LIST)),
    );
    Ok(())
}

fn row(what: &str, value: String) {
    println!("{what:<44}{value}");
}

fn row_of_peak(what: &str, peak: u64) {
    row(what, format!("{peak} MiB, limit {LIMIT_PEAK_MIB}: {}", kept(peak < LIMIT_PEAK_MIB)));
}

fn kept(kept: bool) -> &'static str {
    if kept { "kept" } else { "exceeded" }
}

/// A folder that goes when the benchmark ends.
struct Place(PathBuf);

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn by_hand(place: &Path, registry: &Registry) -> Result<Duration> {
    let folder = place.join("by-hand");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder)?;
    process::run("sync", &[])?;
    let at = |name: &str| folder.join(name).display().to_string();
    let (from, layout) = (format!("docker://{}", registry.image("1")), at("layout"));
    let began = Instant::now();
    let to = format!("oci:{layout}:1");
    process::run("skopeo", &["--insecure-policy", "copy", "--quiet", "--src-tls-verify=false", &from, &to])?;
    process::run("umoci", &["unpack", "--image", &format!("{layout}:1"), &at("bundle")])?;
    let rootfs = format!("{}/rootfs", at("bundle"));
    process::run("mkfs.ext4", &["-q", "-d", &rootfs, &at("disk.ext4"), "2G"])?;
    let took = began.elapsed();
    fs::remove_dir_all(&folder)?;
    Ok(took)
}

/// A daemon with a library of its own, empty.
struct Daemon<'a> {
    banger: &'a Path,
    folder: PathBuf,
    pid: u64,
}

impl<'a> Daemon<'a> {
    fn start(banger: &'a Path, place: &Path) -> Result<Daemon<'a>> {
        let folder = place.join("banger");
        let _ = fs::remove_dir_all(&folder);
        for name in ["state", "run", "cache", "config"] {
            fs::create_dir_all(folder.join(name))?;
        }
        let mut daemon = Daemon { banger, folder, pid: 0 };
        daemon.banger(&["image", "list"])?;
        let status: serde_json::Value = serde_json::from_str(&daemon.banger(&["daemon", "status", "--json"])?)
            .context("`daemon status --json` is not JSON")?;
        daemon.pid = status["pid"].as_u64().context("a daemon has a pid")?;
        process::run("sync", &[])?;
        Ok(daemon)
    }

    fn banger(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(self.banger);
        command
            .args(arguments)
            .env("BANGER_STATE", self.folder.join("state"))
            .env("XDG_RUNTIME_DIR", self.folder.join("run"))
            .env("XDG_CACHE_HOME", self.folder.join("cache"))
            .env("XDG_CONFIG_HOME", self.folder.join("config"))
            .env_remove("BANGER_SOCKET")
            .stdout(Stdio::piped());
        process::output_of(&mut command)
    }

    fn pull(&self, reference: &str) -> Result<Duration> {
        let began = Instant::now();
        self.banger(&["image", "pull", "--no-progress", reference])?;
        Ok(began.elapsed())
    }

    /// The most memory that it held so far (`VmHWM`, proc(5)).
    fn peak_mib(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
        Ok(kib.context("the kernel tells how much memory a process held")? / 1024)
    }

    fn stop(self) -> Result<()> {
        self.banger(&["daemon", "stop"])?;
        Ok(fs::remove_dir_all(&self.folder)?)
    }
}

impl Drop for Daemon<'_> {
    /// Where something went wrong; the error that is on its way says what.
    fn drop(&mut self) {
        if self.folder.exists() {
            let _ = self.banger(&["daemon", "stop"]);
        }
    }
}
