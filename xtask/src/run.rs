//! `make run`: from a fresh checkout to a command in a real guest, each stage timed.

use crate::{build, process};
use anyhow::{Context, Result};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// The sandbox of the demonstration; a name a person would hardly take.
const NAME: &str = "banger-make-run";

pub fn run() -> Result<()> {
    let mut stages = Vec::new();
    let binaries = stage(&mut stages, "build", build::release)?;
    let banger = binaries.banger();
    // What an interrupted run left behind; there is nothing to say when it is not there.
    let _ = Command::new(&banger).args(["vm", "delete", "--force", NAME]).output();
    stage(&mut stages, "kernel", || prepare(&banger, "kernel", "debian-cloud"))?;
    stage(&mut stages, "image", || prepare(&banger, "image", "debian-bookworm"))?;
    stage(&mut stages, "boot", || process::run_command(Command::new(&banger).args(["vm", "create", "--name", NAME])))?;
    println!("$ banger vm exec {NAME} -- sh -c 'uname -a; cat /etc/os-release'");
    let told = stage(&mut stages, "command", || {
        let script = "uname -a; cat /etc/os-release";
        process::output_of(Command::new(&banger).args(["vm", "exec", NAME, "--", "sh", "-c", script]))
    });
    let gone =
        stage(&mut stages, "delete", || process::run_command(Command::new(&banger).args(["vm", "delete", NAME])));
    let told = told?;
    gone?;
    let took: Vec<String> = stages.iter().map(|(name, seconds)| format!("{name} {seconds:.1} s")).collect();
    eprintln!("took: {}", took.join(", "));
    print!("{told}");
    Ok(())
}

/// Pulls what is not there; a second run does no set-up work.
fn prepare(banger: &Path, kind: &str, name: &str) -> Result<()> {
    let listed = process::output_of(Command::new(banger).args([kind, "list", "--json"]))?;
    let listed: Vec<serde_json::Value> = serde_json::from_str(&listed).context("a listing is not JSON")?;
    // The catalog's entries are listed too; `present` says which of them are on this machine.
    match listed.iter().any(|entry| entry["name"] == name && entry["present"] == true) {
        true => Ok(()),
        false => process::run_command(Command::new(banger).args([kind, "pull", name])),
    }
}

fn stage<T>(stages: &mut Vec<(&'static str, f64)>, name: &'static str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let began = Instant::now();
    let result = work();
    stages.push((name, began.elapsed().as_secs_f64()));
    result
}
