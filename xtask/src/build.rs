//! The binaries: `banger`, `bangerd`, `bangerd-root` and `banger-gateway` for the host, the agent as a static file for any guest.

use crate::process;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Static glibc needs the target spelled out, or procedural macros would be linked statically too.
const AGENT_TARGET: &str = "x86_64-unknown-linux-gnu";

pub struct Binaries {
    pub folder: PathBuf,
}

impl Binaries {
    pub fn banger(&self) -> PathBuf {
        self.folder.join("banger")
    }
}

/// What a benchmark measures; `BANGER_BIN_FOLDER` may name binaries that were built before.
pub fn measured() -> Result<Binaries> {
    match std::env::var_os("BANGER_BIN_FOLDER") {
        Some(folder) => Ok(Binaries { folder: folder.into() }),
        None => release(),
    }
}

pub fn release() -> Result<Binaries> {
    process::run("cargo", &["build", "--release", "-p", "cli", "-p", "daemon", "-p", "gateway", "-p", "helper"])?;
    place_agent("release")
}

pub fn debug() -> Result<Binaries> {
    process::run("cargo", &["build", "--quiet", "-p", "cli", "-p", "daemon", "-p", "gateway", "-p", "helper"])?;
    place_agent("debug")
}

/// Builds the agent and puts it where `bangerd` of that profile looks: `libexec/` beside it.
fn place_agent(profile: &str) -> Result<Binaries> {
    let agent = agent()?;
    let folder = target_folder().join(profile);
    let libexec = folder.join("libexec");
    std::fs::create_dir_all(&libexec).with_context(|| format!("cannot create {}", libexec.display()))?;
    let placed = libexec.join("banger-vsock-agent");
    copy_if_changed(&agent, &placed)?;
    Ok(Binaries { folder })
}

pub fn agent() -> Result<PathBuf> {
    let flags = "-C target-feature=+crt-static";
    process::run_command(
        Command::new("cargo")
            .args(["build", "--quiet", "-p", "agent", "--profile", "agent", "--target", AGENT_TARGET])
            .env("RUSTFLAGS", flags),
    )?;
    Ok(target_folder().join(AGENT_TARGET).join("agent").join("banger-vsock-agent"))
}

/// An unchanged agent keeps its time stamp, so that no initramfs is built anew for nothing.
fn copy_if_changed(from: &Path, to: &Path) -> Result<()> {
    let new = std::fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    if std::fs::read(to).is_ok_and(|old| old == new) {
        return Ok(());
    }
    let partial = to.with_extension("partial");
    std::fs::copy(from, &partial).with_context(|| format!("cannot write {}", partial.display()))?;
    std::fs::rename(&partial, to).with_context(|| format!("cannot write {}", to.display()))
}

pub fn target_folder() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => crate::root().join(folder),
        None => crate::root().join("target"),
    }
}
