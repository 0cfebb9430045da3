//! `banger image pull` against the tools a person would chain by hand: skopeo, umoci, mkfs.ext4. The same registry
//! (Debian's, on loopback), the same image, the same run; one after the other, theirs first and last halves of the pairs.

use crate::{build, process};
use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const LAYERS: usize = 12;
/// 1 GB of files, as the goal has it; `BENCH_PULL_MB` makes it smaller on a busy machine.
const MEGABYTES: usize = 1000;
/// 64 KiB: between a source file and a library.
const FILE_BYTES: usize = 64 << 10;
const RUNS: usize = 3;
const LIMIT_RATIO: f64 = 0.5;
const LIMIT_PEAK_MIB: u64 = 150;

pub fn run() -> Result<()> {
    let megabytes = std::env::var("BENCH_PULL_MB").ok().and_then(|text| text.parse().ok()).unwrap_or(MEGABYTES);
    let binaries = build::release()?;
    let place = Place(build::target_folder().join("bench-pull"));
    let _ = fs::remove_dir_all(&place.0);
    fs::create_dir_all(&place.0)?;
    let registry = Registry::start(&place.0)?;
    fill(&place.0, &registry.address, megabytes)?;
    let (mut ours, mut theirs, mut peak) = (Vec::new(), Vec::new(), 0);
    for run in 1..=RUNS {
        theirs.push(by_hand(&place.0, &registry.address)?);
        let (took, most) = with_banger(&binaries.banger(), &place.0, &registry.address)?;
        ours.push(took);
        peak = peak.max(most);
        eprintln!("run {run} of {RUNS}: by hand {:.2?}, banger {took:.2?}, peak {most} MiB", theirs[run - 1]);
    }
    let (ours, theirs) = (super::median(ours), super::median(theirs));
    let ratio = ours.as_secs_f64() / theirs.as_secs_f64();
    println!("{megabytes} MB of files in {LAYERS} layers");
    println!("skopeo copy + umoci unpack + mkfs.ext4 -d   {theirs:.2?} (median of {RUNS})");
    println!("banger image pull                           {ours:.2?} (median of {RUNS})");
    println!(
        "ratio                                       {ratio:.3}, limit {LIMIT_RATIO}: {}",
        kept(ratio <= LIMIT_RATIO)
    );
    println!(
        "peak memory of bangerd                      {peak} MiB, limit {LIMIT_PEAK_MIB}: {}",
        kept(peak < LIMIT_PEAK_MIB)
    );
    Ok(())
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

struct Registry {
    server: Child,
    address: String,
}

impl Registry {
    fn start(folder: &Path) -> Result<Registry> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let config = folder.join("config.yml");
        let store = folder.join("store");
        fs::write(
            &config,
            format!(
                "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\nstorage:\n  filesystem:\n    \
                 rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\n  secret: x\n",
                store.display()
            ),
        )?;
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&config).stdout(Stdio::null()).stderr(Stdio::null());
        let server = command.spawn().context("cannot start docker-registry (package docker-registry)")?;
        let registry = Registry { server, address: format!("127.0.0.1:{port}") };
        let end = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if Instant::now() > end {
                bail!("docker-registry does not listen");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(registry)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// Pushes the image: files of words, which compress as programs and texts do, to a third.
fn fill(place: &Path, address: &str, megabytes: usize) -> Result<()> {
    let layout = place.join("layout");
    let image = format!("{}:1", layout.display());
    process::run("umoci", &["init", "--layout", &layout.display().to_string()])?;
    process::run("umoci", &["new", "--image", &image])?;
    let tar = place.join("layer.tar");
    let files = megabytes * 1_000_000 / LAYERS / FILE_BYTES;
    for layer in 0..LAYERS {
        write_layer(&tar, layer, files)?;
        process::run("umoci", &["raw", "add-layer", "--image", &image, &tar.display().to_string()])?;
    }
    fs::remove_file(&tar)?;
    let to = format!("docker://{address}/bench:1");
    let from = format!("oci:{image}");
    process::run("skopeo", &["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false", &from, &to])?;
    Ok(fs::remove_dir_all(layout)?)
}

fn write_layer(path: &Path, layer: usize, files: usize) -> Result<()> {
    let mut archive = tar::Builder::new(BufWriter::new(File::create(path)?));
    let mut state = 88_172_645_463_325_252u64 + layer as u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for file in 0..files {
        let mut bytes = Vec::with_capacity(FILE_BYTES + 32);
        while bytes.len() < FILE_BYTES {
            // A number now and then between words that come back: about a third when packed.
            match next() % 4 {
                0 => bytes.extend(next().to_le_bytes()),
                _ => write!(bytes, "{} ", WORDS[(next() % WORDS.len() as u64) as usize])?,
            }
        }
        bytes.truncate(FILE_BYTES);
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, format!("usr/share/{layer}/{}/{file}", file % 16), &bytes[..])?;
    }
    archive.into_inner()?.flush()?;
    Ok(())
}

const WORDS: &[&str] = &[
    "sandbox", "kernel", "image", "layer", "registry", "manifest", "digest", "return", "struct", "static", "const",
    "include", "define", "extern", "unsigned", "pointer", "buffer", "length", "offset", "config",
];

fn by_hand(place: &Path, address: &str) -> Result<Duration> {
    let folder = place.join("by-hand");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder)?;
    process::run("sync", &[])?;
    let at = |name: &str| folder.join(name).display().to_string();
    let (from, layout) = (format!("docker://{address}/bench:1"), at("layout"));
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

/// How long it took, and the most memory that the daemon held (`VmHWM`, proc(5)).
fn with_banger(banger: &Path, place: &Path, address: &str) -> Result<(Duration, u64)> {
    let folder = place.join("banger");
    let _ = fs::remove_dir_all(&folder);
    for name in ["state", "run", "cache", "config"] {
        fs::create_dir_all(folder.join(name))?;
    }
    let command = |arguments: &[&str]| {
        let mut command = Command::new(banger);
        command
            .args(arguments)
            .env("BANGER_STATE", folder.join("state"))
            .env("XDG_RUNTIME_DIR", folder.join("run"))
            .env("XDG_CACHE_HOME", folder.join("cache"))
            .env("XDG_CONFIG_HOME", folder.join("config"))
            .env_remove("BANGER_SOCKET")
            .stdout(Stdio::piped());
        command
    };
    process::output_of(&mut command(&["image", "list"]))?;
    let status = process::output_of(&mut command(&["daemon", "status", "--json"]))?;
    let status: serde_json::Value = serde_json::from_str(&status).context("`daemon status --json` is not JSON")?;
    let pid = status["pid"].as_u64().context("a daemon has a pid")?;
    process::run("sync", &[])?;
    let began = Instant::now();
    process::output_of(&mut command(&["image", "pull", "--no-progress", &format!("{address}/bench:1")]))?;
    let took = began.elapsed();
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let peak =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.trim().parse().ok());
    process::output_of(&mut command(&["daemon", "stop"]))?;
    fs::remove_dir_all(&folder)?;
    Ok((took, peak.unwrap_or(0u64) / 1024))
}
