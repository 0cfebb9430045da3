//! `cargo xtask fuzz [TARGET…] [--seconds N]`: every fuzz target of the tree, for a bounded time, on the stable compiler.
//!
//! A crate with untrusted input has a folder `fuzz/` that is no member of the workspace: `Cargo.toml` with one `[[bin]]` per
//! target and `corpus/<target>/`. All of them are built into one folder:
//! ```text
//! target/fuzz/x86_64-unknown-linux-gnu/release/<target>   the program
//! target/fuzz/corpus/<target>/                            finds of earlier runs; the checked-in corpus is only read
//! target/fuzz/crashes/<target>/                           what broke it: mend the code, move the case into the corpus
//! target/fuzz/logs/<target>.log                           all that libFuzzer said
//! ```
//! `cargo fuzz` wants a nightly compiler for its sanitizers. Coverage alone needs none: a pass of LLVM that `-C passes` names.

use crate::{build, process};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

/// Of each target. `make test` runs them all, so this is a cost of every run.
const SECONDS: u32 = 12;
/// A case that takes longer is a finding; most take well under a millisecond.
const CASE_SECONDS: u32 = 25;
const MEMORY_MIB: u32 = 2048;

/// Spelled out, so that the flags below reach neither build scripts nor procedural macros.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// What `cargo fuzz` passes for coverage.
const FLAGS: [&str; 6] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "--cfg=fuzzing",
];

struct Target {
    name: String,
    /// The folder `fuzz/` it lies in.
    folder: PathBuf,
}

struct Outcome {
    runs: u64,
    branches: u64,
}

pub fn run(arguments: &[String]) -> Result<()> {
    let (wanted, seconds) = parse(arguments)?;
    let targets = choose(find()?, &wanted)?;
    build(&targets)?;
    let queue = Mutex::new(targets.iter());
    let failures = Mutex::new(Vec::new());
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(target) = { queue.lock().expect("no worker panics with the queue").next() } {
                    match fuzz(target, seconds) {
                        Ok(done) => println!(
                            "fuzz {}: {} runs in {seconds} s, {} branches reached",
                            target.name, done.runs, done.branches
                        ),
                        Err(error) => failures.lock().expect("no worker panics with it").push(format!("{error:#}")),
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().expect("the workers have ended");
    match failures.is_empty() {
        true => Ok(()),
        false => bail!("{} of {} fuzz targets failed:\n{}", failures.len(), targets.len(), failures.join("\n")),
    }
}

fn parse(arguments: &[String]) -> Result<(Vec<&str>, u32)> {
    let mut wanted = Vec::new();
    let mut seconds = SECONDS;
    let mut rest = arguments.iter().map(String::as_str);
    while let Some(argument) = rest.next() {
        match argument {
            "--seconds" => {
                let value = rest.next().context("`--seconds` needs a number")?;
                seconds = value.parse().ok().filter(|seconds| *seconds > 0).with_context(|| {
                    // 0 would be libFuzzer's word for no limit at all.
                    format!("`--seconds {value}` is not a number of seconds above 0")
                })?;
            }
            flag if flag.starts_with('-') => bail!("`cargo xtask fuzz` does not know `{flag}`"),
            name => wanted.push(name),
        }
    }
    Ok((wanted, seconds))
}

/// Every target of the tree. Programs of all crates lie in one folder, so a name is taken once.
fn find() -> Result<Vec<Target>> {
    let mut targets: Vec<Target> = Vec::new();
    let mut crates = children(Path::new("crates"))?;
    crates.sort();
    for folder in crates.into_iter().map(|path| path.join("fuzz")) {
        let manifest = folder.join("Cargo.toml");
        if !manifest.exists() {
            continue;
        }
        let text = std::fs::read_to_string(&manifest).with_context(|| format!("cannot read {}", manifest.display()))?;
        for name in names(&text).with_context(|| format!("cannot read {}", manifest.display()))? {
            if let Some(other) = targets.iter().find(|target| target.name == name) {
                bail!("{} and {} both have a fuzz target `{name}`", other.folder.display(), folder.display());
            }
            targets.push(Target { name, folder: folder.clone() });
        }
    }
    Ok(targets)
}

fn names(manifest: &str) -> Result<Vec<String>> {
    let document: toml_edit::DocumentMut = manifest.parse()?;
    let bins = document.get("bin").and_then(toml_edit::Item::as_array_of_tables).context("it has no [[bin]]")?;
    bins.iter()
        .map(|bin| {
            bin.get("name").and_then(toml_edit::Item::as_str).map(str::to_owned).context("a [[bin]] has no name")
        })
        .collect()
}

fn choose(mut targets: Vec<Target>, wanted: &[&str]) -> Result<Vec<Target>> {
    if let Some(unknown) = wanted.iter().find(|name| targets.iter().all(|target| target.name != **name)) {
        let known: Vec<&str> = targets.iter().map(|target| target.name.as_str()).collect();
        bail!("there is no fuzz target `{unknown}`; there are {}", known.join(", "));
    }
    targets.retain(|target| wanted.is_empty() || wanted.contains(&target.name.as_str()));
    Ok(targets)
}

/// One cargo call per crate, for the wanted targets only.
fn build(targets: &[Target]) -> Result<()> {
    for of_crate in targets.chunk_by(|one, other| one.folder == other.folder) {
        let folder = &of_crate[0].folder;
        lock_as_workspace(folder)?;
        let mut command = Command::new("cargo");
        command.args(["build", "--quiet", "--release", "--target", TARGET, "--target-dir"]).arg(home());
        command.arg("--manifest-path").arg(folder.join("Cargo.toml"));
        for target in of_crate {
            command.args(["--bin", &target.name]);
        }
        command
            .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f"))
            // Twice as many runs a second are not worth three times the build, which every fresh `make test` waits for.
            .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")
            // An overflow or a broken assertion is a finding.
            .env("CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS", "true")
            .env("CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS", "true");
        process::run_command(&mut command)?;
    }
    Ok(())
}

/// The versions that the product is built with are the ones to fuzz: the workspace's lock file is where a fuzz crate's own
/// starts from. Cargo then adds the fuzzer, once, until the workspace's changes.
fn lock_as_workspace(folder: &Path) -> Result<()> {
    let (workspace, own) = (Path::new("Cargo.lock"), folder.join("Cargo.lock"));
    let modified = |path: &Path| path.metadata().and_then(|metadata| metadata.modified());
    let workspace_at = modified(workspace).context("cannot read Cargo.lock")?;
    if modified(&own).is_ok_and(|own_at| own_at >= workspace_at) {
        return Ok(());
    }
    let text = std::fs::read(workspace).context("cannot read Cargo.lock")?;
    std::fs::write(&own, text).with_context(|| format!("cannot write {}", own.display()))
}

fn fuzz(target: &Target, seconds: u32) -> Result<Outcome> {
    let name = &target.name;
    let finds = home().join("corpus").join(name);
    let crashes = home().join("crashes").join(name);
    let scratch = home().join("scratch").join(name);
    // What a crash left behind; there is nothing to say when it is not there.
    let _ = std::fs::remove_dir_all(&scratch);
    for folder in [&finds, &crashes, &scratch, &home().join("logs")] {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let output = Command::new(program(name))
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-timeout={CASE_SECONDS}"))
        .arg(format!("-rss_limit_mb={MEMORY_MIB}"))
        .arg(format!("-artifact_prefix={}/", crashes.display()))
        .arg("-print_final_stats=1")
        .args([finds, target.folder.join("corpus").join(name)])
        .env("TMPDIR", &scratch)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run fuzz target `{name}`"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let log = home().join("logs").join(format!("{name}.log"));
    std::fs::write(&log, said.as_bytes()).with_context(|| format!("cannot write {}", log.display()))?;
    if !output.status.success() {
        bail!("{}", failure(name, &said, &log));
    }
    outcome(&said).with_context(|| format!("fuzz target `{name}` counted nothing; see {}", log.display()))
}

/// The case, what it broke, and how to see it again.
fn failure(name: &str, said: &str, log: &Path) -> String {
    let broken = |line: &&str| line.contains("panicked at") || line.contains("ERROR: libFuzzer");
    let mut lines = said.lines().skip_while(|line| !broken(line));
    let first = lines.next().unwrap_or("it ended early").trim().to_owned();
    // A panic's message is in the line below its place.
    let reason = match first.contains("panicked at") {
        true => format!("{first} {}", lines.next().unwrap_or_default()),
        false => first,
    };
    let case = match said.lines().find_map(|line| line.split_once("Test unit written to ")) {
        Some((_, path)) => format!("again with: {} {path}", program(name).display()),
        None => "no case was kept".to_owned(),
    };
    format!("  {name}: {reason}\n    {case}\n    log: {}", log.display())
}

/// Runs and reached branches as libFuzzer's last lines tell them; a program without counters is no fuzzer.
fn outcome(said: &str) -> Result<Outcome> {
    let runs = said.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    let done = said.lines().find(|line| line.contains("\tDONE ")).and_then(|line| line.split("cov: ").nth(1));
    let branches = done.and_then(|rest| rest.split_whitespace().next());
    let number = |text: Option<&str>| text.and_then(|text| text.trim().parse::<u64>().ok()).filter(|count| *count > 0);
    Ok(Outcome {
        runs: number(runs).context("it tells no number of runs")?,
        branches: number(branches).context("it tells no reached branches")?,
    })
}

fn home() -> PathBuf {
    build::target_folder().join("fuzz")
}

fn program(name: &str) -> PathBuf {
    home().join(TARGET).join("release").join(name)
}

fn children(folder: &Path) -> Result<Vec<PathBuf>> {
    let read = || std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<PathBuf>>>();
    read().with_context(|| format!("cannot read {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_of_the_tree_has_a_program_and_a_corpus() {
        std::env::set_current_dir(crate::root()).expect("the checkout is there");
        let targets = find().expect("the manifests can be read");
        assert!(targets.iter().any(|target| target.name == "tar_tree"));
        for target in targets {
            let source = target.folder.join(format!("fuzz_targets/{}.rs", target.name));
            assert!(source.exists(), "{}", source.display());
            let corpus = children(&target.folder.join("corpus").join(&target.name)).expect("it has a corpus");
            assert!(!corpus.is_empty(), "{} has no corpus", target.name);
        }
    }

    #[test]
    fn a_bounded_run_tells_what_it_did() {
        let said = "#8\tINITED cov: 631 ft: 1205\n#440788\tDONE   cov: 963 ft: 1972 corp: 253/418Kb\n\
                    stat::number_of_executed_units: 440788\n";
        let done = outcome(said).expect("both numbers are there");
        assert_eq!((done.runs, done.branches), (440_788, 963));
        assert!(outcome("stat::number_of_executed_units: 5\n").is_err(), "a program without counters passes");
    }

    #[test]
    fn a_crash_names_its_case_and_its_panic() {
        let said = "INFO: Seed: 1\nthread '<unnamed>' panicked at src/a.rs:3:5:\nindex out of bounds\n\
                    ==1== ERROR: libFuzzer: deadly signal\nartifact_prefix='/t/'; Test unit written to /t/crash-1\n";
        let told = failure("tar_tree", said, Path::new("/t/log"));
        assert!(told.contains("panicked at src/a.rs:3:5: index out of bounds"), "{told}");
        assert!(told.contains("tar_tree /t/crash-1"), "{told}");
    }

    #[test]
    fn seconds_are_bounded_and_names_are_known() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<String>>();
        assert_eq!(parse(&words("tar_tree --seconds 3")).expect("it is well formed"), (vec!["tar_tree"], 3));
        for bad in ["--seconds 0", "--seconds", "--seconds many", "--forever"] {
            assert!(parse(&words(bad)).is_err(), "{bad}");
        }
        let target = || vec![Target { name: "a".into(), folder: "f".into() }];
        assert_eq!(choose(target(), &["a"]).expect("it is there").len(), 1);
        assert!(choose(target(), &["b"]).is_err());
    }
}
