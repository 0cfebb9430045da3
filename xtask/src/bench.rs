//! Benchmarks as ratios in one run: shared machines are too noisy for anything else.

use anyhow::{Result, bail};

pub fn run(arguments: &[String]) -> Result<()> {
    match arguments {
        [name] => bail!("there is no benchmark `{name}`"),
        _ => bail!("name one benchmark: create, start, list"),
    }
}
