//! The rules of the house, proven: which crate may use which, the engine's purity, promises tied to tests,
//! generated pages up to date.

use crate::process;
use anyhow::{Context, Result, bail};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// crate → what it may use. An arrow that is not here is forbidden.
const ARROWS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("files", &[]),
    ("wire", &["model"]),
    ("images", &["model"]),
    ("engine", &["model"]),
    ("daemon", &["engine", "files", "images", "model", "wire"]),
    ("gateway", &["model", "wire"]),
    ("helper", &["model", "wire"]),
    ("agent", &["files", "model", "wire"]),
    ("cli", &["files", "model", "wire"]),
    ("e2e", &["wire"]),
    ("xtask", &[]),
];

/// Crates that reach the machine or the network; the engine may never see one.
const IMPURE: &[&str] = &["tokio", "nix", "rustix", "libc", "reqwest", "hyper", "socket2", "tempfile"];

pub fn run() -> Result<()> {
    let mut findings = arrows()?;
    findings.extend(purity()?);
    findings.extend(promises()?);
    if findings.is_empty() {
        println!("check: the rules of the house hold");
        return Ok(());
    }
    for finding in &findings {
        eprintln!("check: {finding}");
    }
    bail!("{} rules are broken", findings.len())
}

fn arrows() -> Result<Vec<String>> {
    let mut findings = Vec::new();
    let members = members()?;
    let known: BTreeMap<&str, BTreeSet<&str>> =
        ARROWS.iter().map(|(from, to)| (*from, to.iter().copied().collect())).collect();
    for (name, dependencies) in &members {
        let Some(allowed) = known.get(name.as_str()) else {
            findings.push(format!("crate `{name}` stands in no arrow; add it to ARROWS and to the architecture"));
            continue;
        };
        for used in dependencies.iter().filter(|used| members.contains_key(*used)) {
            if !allowed.contains(used.as_str()) {
                findings.push(format!("`{name}` may not use `{used}`"));
            }
        }
    }
    Ok(findings)
}

/// Each member with its dependencies of the normal and build kind; tests may reach further.
fn members() -> Result<BTreeMap<String, Vec<String>>> {
    let text = process::output("cargo", &["metadata", "--format-version", "1", "--no-deps", "--offline"])?;
    let metadata: serde_json::Value = serde_json::from_str(&text).context("cargo metadata is not JSON")?;
    let packages = metadata["packages"].as_array().context("cargo metadata names no packages")?;
    let name = |value: &serde_json::Value| value["name"].as_str().unwrap_or_default().to_owned();
    let used = |package: &serde_json::Value| {
        let all = package["dependencies"].as_array().cloned().unwrap_or_default();
        all.iter().filter(|one| one["kind"].as_str() != Some("dev")).map(name).collect()
    };
    Ok(packages.iter().map(|package| (name(package), used(package))).collect())
}

fn purity() -> Result<Vec<String>> {
    let members = members()?;
    let engine = members.get("engine").context("there is no crate `engine`")?;
    let mut findings: Vec<String> = engine
        .iter()
        .filter(|used| IMPURE.contains(&used.as_str()))
        .map(|used| format!("`engine` may not use `{used}`: it decides and cannot touch the machine"))
        .collect();
    if !Path::new("crates/engine/clippy.toml").exists() {
        findings.push("crates/engine/clippy.toml, which forbids files, processes, sockets and time, is missing".into());
    }
    Ok(findings)
}

/// Every promise names a test that exists or says that there is none; every end-to-end test keeps a promise.
fn promises() -> Result<Vec<String>> {
    let path = "docs/promises.md";
    let page = std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    let tests = test_names()?;
    let mut findings = Vec::new();
    let mut named = BTreeSet::new();
    for line in page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| promise")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [promise, proof] = cells.as_slice() else {
            findings.push(format!("{path}: not two columns: {line}"));
            continue;
        };
        let proofs: Vec<&str> = proof.split('`').skip(1).step_by(2).collect();
        if proofs.is_empty() && *proof != "no test yet" {
            findings.push(format!("{path}: `{promise}` names no test and does not say \"no test yet\""));
        }
        for proof in proofs {
            let function = proof.rsplit("::").next().unwrap_or(proof);
            if !tests.contains_key(function) {
                findings.push(format!("{path}: there is no test `{proof}`"));
            }
            named.insert(function.to_owned());
        }
    }
    for (test, file) in tests.iter().filter(|(_, file)| file.starts_with("tests/e2e/tests/")) {
        if !named.contains(test) {
            findings.push(format!("{path}: `{test}` in {file} keeps no promise of this page"));
        }
    }
    Ok(findings)
}

/// Every test function of the tree with the file it stands in, by its attribute.
fn test_names() -> Result<BTreeMap<String, String>> {
    let files = process::output("git", &["ls-files", "-co", "--exclude-standard", "*.rs"])?;
    let mut names = BTreeMap::new();
    for file in files.lines().filter(|file| Path::new(file).exists()) {
        let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?;
        let mut marked = false;
        for line in text.lines().map(str::trim) {
            if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
                marked = true;
            }
            let function = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ");
            let Some(function) = function else { continue };
            if marked || text.contains("proptest!") {
                let name: String = function.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                names.entry(name).or_insert_with(|| file.to_owned());
            }
            marked = false;
        }
    }
    Ok(names)
}
