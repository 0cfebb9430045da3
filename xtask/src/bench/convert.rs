//! tar → ext4 of the default image's packages, against `cp` of the result: the converter may cost a second more.

use super::median;
use crate::process;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const CATALOG: &str = "crates/images/catalog/builtin.toml";
const IMAGE: &str = "debian-bookworm";
const RUNS: usize = 5;

pub fn run() -> Result<()> {
    process::run("cargo", &["build", "--quiet", "--release", "-p", "images", "--example", "rootfs"])?;
    let converter = crate::build::target_folder().join("release/examples/rootfs");
    let folder = Folder::new()?;
    let tar = folder.0.join("rootfs.tar");
    make_tar(&tar)?;
    let (image, copy) = (folder.0.join("image.ext4"), folder.0.join("copy.ext4"));
    let (mut converted, mut copied) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        converted.push(timed(&image, Command::new(&converter).args([&image, &tar]))?);
        copied.push(timed(&copy, Command::new("cp").args([&image, &copy]))?);
    }
    let (converted, copied) = (median(converted), median(copied));
    let size = std::fs::metadata(&tar).context("the archive is there")?.len();
    println!("tar of {} MiB to ext4        {converted:.2?} (median of {RUNS})", size >> 20);
    println!("cp of the result             {copied:.2?}");
    let kept = converted <= copied + Duration::from_secs(1);
    println!("limit cp + 1 s               {}", if kept { "kept" } else { "exceeded" });
    Ok(())
}

/// The packages of the catalog's default image, as the product builds it.
fn make_tar(tar: &Path) -> Result<()> {
    let text = std::fs::read_to_string(CATALOG).with_context(|| format!("cannot read {CATALOG}"))?;
    let catalog: toml_edit::DocumentMut = text.parse().context("the catalog is not TOML")?;
    let images =
        catalog.get("image").and_then(toml_edit::Item::as_array_of_tables).context("the catalog has images")?;
    let named = |table: &&toml_edit::Table| table.get("name").and_then(|name| name.as_str()) == Some(IMAGE);
    let image = images.iter().find(named).with_context(|| format!("the catalog has no {IMAGE}"))?;
    let packages = image.get("packages").and_then(|list| list.as_array()).context("the image has packages")?;
    let packages: Vec<&str> = packages.iter().filter_map(|name| name.as_str()).collect();
    eprintln!("making an archive of {} packages", packages.len());
    let mut command = Command::new("mmdebstrap");
    command.args(["--quiet", "--variant=minbase", "--format=tar", &format!("--include={}", packages.join(","))]);
    process::run_command(command.arg("bookworm").arg(tar))
}

fn timed(out: &PathBuf, command: &mut Command) -> Result<Duration> {
    let _ = std::fs::remove_file(out);
    let began = Instant::now();
    process::run_command(command.stdout(Stdio::null()))?;
    Ok(began.elapsed())
}

struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Folder> {
        let folder = crate::build::target_folder().join(format!("bench-convert-{}", std::process::id()));
        std::fs::create_dir_all(&folder).context("cannot make a folder for the benchmark")?;
        Ok(Folder(folder))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
