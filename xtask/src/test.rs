//! All tests, then every fuzz target for some seconds, then what was skipped and why, then the runner's summary once more
//! as the last line.

use crate::{build, fuzz, process};
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

pub fn run(filters: &[String]) -> Result<()> {
    let binaries = build::debug()?;
    let skips = build::target_folder().join("skips.txt");
    let _ = std::fs::remove_file(&skips);
    let nextest = Command::new("cargo").args(["nextest", "--version"]).output().is_ok_and(|out| out.status.success());
    let mut command = Command::new("cargo");
    match nextest {
        true => command.args(["nextest", "run", "--workspace", "--all-features"]).args(filters),
        false => command.args(["test", "--workspace", "--all-features", "--", "--test-threads=2"]).args(filters),
    };
    command
        .env("BANGER_BIN_FOLDER", &binaries.folder)
        .env("BANGER_SKIP_LOG", &skips)
        .env_remove("RUST_BACKTRACE")
        .env("CARGO_TERM_COLOR", "never");
    let (status, summary) = tee(&mut command)?;
    // Who names tests wants those only.
    let fuzzed = if filters.is_empty() { fuzz::run(&[]) } else { Ok(()) };
    report_skips(&skips)?;
    println!("{summary}");
    fuzzed?;
    if !status.success() {
        bail!("not all tests passed");
    }
    Ok(())
}

/// Passes the runner's lines on and keeps the last summary line.
fn tee(command: &mut Command) -> Result<(std::process::ExitStatus, String)> {
    let mut child = command.stderr(Stdio::piped()).spawn().context("cannot run the test runner")?;
    let stderr = child.stderr.take().context("the test runner has no stderr")?;
    let mut summary = String::new();
    for line in BufReader::new(stderr).split(b'\n') {
        let line = line.context("cannot read from the test runner")?;
        let text = String::from_utf8_lossy(&line);
        if text.contains("Summary [") {
            summary = text.trim().to_owned();
        }
        writeln!(std::io::stderr(), "{text}").context("cannot write to stderr")?;
    }
    Ok((child.wait().context("cannot wait for the test runner")?, summary))
}

/// A test that lacks a need passes and leaves a line here: skips are counted, never hidden.
fn report_skips(path: &Path) -> Result<()> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines.dedup();
    println!("{} tests found a need missing and skipped:", lines.len());
    for line in lines {
        println!("  {line}");
    }
    Ok(())
}

pub fn soak(arguments: &[String]) -> Result<()> {
    let rounds = arguments.first().map_or("200", String::as_str);
    let binaries = build::debug()?;
    process::run_command(
        Command::new("cargo")
            .args(["test", "--quiet", "-p", "e2e", "--test", "soak", "--", "--nocapture"])
            .env("BANGER_BIN_FOLDER", &binaries.folder)
            .env("BANGER_SOAK_ROUNDS", rounds)
            .env("REQUIRE_NEEDS", "qemu"),
    )
}

pub fn coverage() -> Result<()> {
    let installed =
        Command::new("cargo").args(["tarpaulin", "--version"]).output().is_ok_and(|out| out.status.success());
    if !installed {
        eprintln!("installing cargo-tarpaulin (some minutes)");
        process::run("cargo", &["install", "--locked", "--quiet", "cargo-tarpaulin"])?;
    }
    process::run(
        "cargo",
        &[
            "tarpaulin",
            "--workspace",
            "--exclude",
            "e2e",
            "--exclude",
            "xtask",
            "--out",
            "Html",
            "--output-dir",
            "target/coverage",
            "--skip-clean",
            "--target-dir",
            "target/tarpaulin",
        ],
    )
}
