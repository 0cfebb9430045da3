//! The generated pages: written from the code by the code that knows them, checked by the tests of the same code.

use crate::{build, process};
use anyhow::Result;
use std::process::Command;

pub fn write() -> Result<()> {
    process::run_command(
        Command::new("cargo")
            .args(["test", "--quiet", "--workspace", "--all-features", "--exclude", "e2e", "golden"])
            .env("UPDATE_GOLDEN", "1"),
    )?;
    let binaries = build::debug()?;
    let reference = process::output_of(Command::new(binaries.banger()).args(["internal", "reference"]))?;
    std::fs::write("docs/reference/cli.md", reference)?;
    std::fs::create_dir_all("docs/man")?;
    process::run_command(Command::new(binaries.banger()).args(["internal", "man", "docs/man"]))
}
