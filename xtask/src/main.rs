//! Automation in Rust, one module per verb. `make` is a thin front over it; a shell is used only before Rust is there.

mod bench;
mod build;
mod check;
mod docs;
mod fuzz;
mod process;
mod run;
mod test;

use anyhow::{Result, bail};

const USAGE: &str = "\
cargo xtask build            release binaries and the static guest agent
cargo xtask run              the main job, from set-up to a command in a real guest
cargo xtask test [FILTER…]   every test; filters are nextest's
cargo xtask check            the rules of the house
cargo xtask lint             rules, rustfmt, clippy, shellcheck
cargo xtask docs             write the generated pages anew
cargo xtask coverage         line coverage of the tests that need no machine
cargo xtask soak [ROUNDS]    kill the daemon at random steps, for as long as you like
cargo xtask fuzz [TARGET…]   every fuzz target for 12 s each; --seconds N for longer
cargo xtask bench NAME       create, fleet, many, convert, dns, network, ssh, pull, workspace";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Err(error) = dispatch(&arguments) {
        eprintln!("error: {error:#}");
        std::process::exit(1);
    }
}

fn dispatch(arguments: &[String]) -> Result<()> {
    std::env::set_current_dir(root())?;
    let (verb, rest) = arguments.split_first().map_or(("", arguments), |(verb, rest)| (verb.as_str(), rest));
    match verb {
        "build" => build::release().map(|_| ()),
        "run" => run::run(),
        "test" => test::run(rest),
        "check" => check::run(),
        "lint" => lint(),
        "docs" => docs::write(),
        "coverage" => test::coverage(),
        "soak" => test::soak(rest),
        "fuzz" => fuzz::run(rest),
        "bench" => bench::run(rest),
        "help" | "--help" | "-h" | "" => {
            println!("{USAGE}");
            Ok(())
        }
        _ => bail!("there is no `cargo xtask {verb}`\n{USAGE}"),
    }
}

fn lint() -> Result<()> {
    check::run()?;
    process::run("cargo", &["fmt", "--all", "--check"])?;
    process::run("cargo", &["clippy", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"])?;
    let scripts = process::output("git", &["ls-files", "scripts", ".ci"])?;
    let scripts: Vec<&str> = scripts.lines().filter(|path| !path.ends_with(".md")).collect();
    process::run("shellcheck", &scripts)
}

/// The top of the checkout: xtask's own manifest lies one folder below it.
pub fn root() -> std::path::PathBuf {
    let manifest = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().expect("xtask lies in a folder of the checkout").to_path_buf()
}
