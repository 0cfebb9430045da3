//! Debian's registry on loopback, and the images in it: the same words and numbers in each run.

use crate::process;
use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

pub const LAYERS: usize = 12;
/// 64 KiB: between a source file and a library.
const FILE_BYTES: usize = 64 << 10;

pub struct Registry {
    server: Child,
    address: String,
    log: PathBuf,
}

impl Registry {
    pub fn start(folder: &Path) -> Result<Registry> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let (config, store, log) = (folder.join("config.yml"), folder.join("store"), folder.join("registry.log"));
        let text = format!(
            "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: false\nstorage:\n  filesystem:\n    \
             rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\n  secret: x\n",
            store.display()
        );
        fs::write(&config, text)?;
        let out = File::create(&log)?;
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&config).stdout(out.try_clone()?).stderr(out);
        let server = command.spawn().context("cannot start docker-registry (package docker-registry)")?;
        let registry = Registry { server, address: format!("127.0.0.1:{port}"), log };
        let end = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if Instant::now() > end {
                bail!("docker-registry does not listen");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(registry)
    }

    /// `127.0.0.1:5000/bench:1`
    pub fn image(&self, tag: &str) -> String {
        format!("{}/bench:{tag}", self.address)
    }

    /// How many blobs somebody asked for so far.
    pub fn blobs_served(&self) -> Result<usize> {
        let log = fs::read_to_string(&self.log).context("the registry keeps a log")?;
        Ok(log.lines().filter(|line| line.contains("\"GET /v2/bench/blobs/")).count())
    }

    /// Pushes three images: `1` of twelve layers, `2` of the same and one more, `one` of a single layer with as many bytes.
    pub fn fill(&self, place: &Path, megabytes: usize) -> Result<()> {
        let layout = place.join("layout");
        process::run("umoci", &["init", "--layout", &layout.display().to_string()])?;
        let tar = place.join("layer.tar");
        let files = megabytes * 1_000_000 / LAYERS / FILE_BYTES;
        let image = |tag: &str| format!("{}:{tag}", layout.display());
        let add = |layers: &[usize], from: &str, to: &str| {
            write_archive(&tar, layers, files)?;
            let (from, tar) = (image(from), tar.display().to_string());
            process::run("umoci", &["raw", "add-layer", "--image", &from, "--tag", to, &tar])
        };
        process::run("umoci", &["new", "--image", &image("1")])?;
        process::run("umoci", &["new", "--image", &image("one")])?;
        for layer in 0..LAYERS {
            add(&[layer], "1", "1")?;
        }
        add(&[LAYERS], "1", "2")?;
        add(&(0..LAYERS).collect::<Vec<_>>(), "one", "one")?;
        fs::remove_file(&tar)?;
        for tag in ["1", "2", "one"] {
            let (from, to) = (format!("oci:{}", image(tag)), format!("docker://{}", self.image(tag)));
            process::run("skopeo", &["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false", &from, &to])?;
        }
        Ok(fs::remove_dir_all(layout)?)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// Files of words, which compress as programs and texts do, to a third.
fn write_archive(path: &Path, layers: &[usize], files: usize) -> Result<()> {
    let mut archive = tar::Builder::new(BufWriter::new(File::create(path)?));
    for layer in layers {
        let mut state = 88_172_645_463_325_252u64 + *layer as u64;
        for file in 0..files {
            let bytes = words(&mut state)?;
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            archive.append_data(&mut header, format!("usr/share/{layer}/{}/{file}", file % 16), &bytes[..])?;
        }
    }
    archive.into_inner()?.flush()?;
    Ok(())
}

fn words(state: &mut u64) -> Result<Vec<u8>> {
    let mut next = || {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    };
    let mut bytes = Vec::with_capacity(FILE_BYTES + 32);
    while bytes.len() < FILE_BYTES {
        // A number now and then between words that come back: about a third when packed.
        match next() % 4 {
            0 => bytes.extend(next().to_le_bytes()),
            _ => write!(bytes, "{} ", WORDS[(next() % WORDS.len() as u64) as usize])?,
        }
    }
    bytes.truncate(FILE_BYTES);
    Ok(bytes)
}

const WORDS: &[&str] = &[
    "sandbox", "kernel", "image", "layer", "registry", "manifest", "digest", "return", "struct", "static", "const",
    "include", "define", "extern", "unsigned", "pointer", "buffer", "length", "offset", "config",
];
