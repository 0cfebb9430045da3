//! What a guest did, for people and their tools: patches, mails, a bundle, a log. Made from the quarantine, which borrows
//! from the host's repository; only read.

use super::quarantine::{Quarantine, run_bounded};
use super::refs::is_object;
use super::state::Report;
use super::{HomeError, Result};
use crate::workspace::WorkspaceError;
use wire::control::WorkView as View;

/// From where to where.
#[derive(Debug, Clone)]
pub struct Range {
    /// None: from the beginning.
    pub base: Option<String>,
    pub head: Option<String>,
    pub wip: Option<String>,
}

impl Range {
    /// `base`: a commit that the caller named, else the one that was shipped.
    pub fn new(report: &Report, base: Option<String>) -> Range {
        Range { base, head: report.head.clone(), wip: report.wip.clone().or_else(|| report.head.clone()) }
    }
}

/// The commit that a person named; what looks like an option is none.
pub fn resolve(quarantine: &Quarantine, reference: &str) -> Result<String> {
    let wanted = format!("{reference}^{{commit}}");
    let words = ["rev-parse", "--verify", "--quiet", "--end-of-options", &wanted];
    let found = quarantine.git().line(words)?;
    found.filter(|found| is_object(found, quarantine.hash().digits())).ok_or_else(|| {
        let reference = reference.chars().take(120).collect();
        WorkspaceError::NoSuchReference { path: quarantine.folder().to_owned(), reference }.into()
    })
}

/// The bytes of a view. Empty where the guest did nothing.
pub fn render(quarantine: &Quarantine, range: &Range, view: View) -> Result<Vec<u8>> {
    let empty = empty_tree(quarantine)?;
    let base = range.base.as_deref().unwrap_or(&empty);
    let Some(wip) = range.wip.as_deref() else { return Ok(Vec::new()) };
    let diff = ["diff", "--no-ext-diff", "--no-textconv", "--no-color"];
    match view {
        View::Patch => ask(quarantine, diff.iter().chain(&["--binary", "--full-index", base, wip])),
        View::Diff => ask(quarantine, diff.iter().chain(&["--stat", "--patch", base, wip])),
        View::Status => {
            let head = range.head.as_deref().unwrap_or(&empty);
            ask(quarantine, diff.iter().chain(&["--name-status", head, wip]))
        }
        View::Log => commits(quarantine, range, &["log", "--no-color", "--no-decorate"]),
        View::Mbox => {
            commits(quarantine, range, &["format-patch", "--stdout", "--binary", "--no-ext-diff", "--no-textconv"])
        }
        View::Bundle => bundle(quarantine, range),
    }
}

fn ask<'a>(quarantine: &Quarantine, words: impl IntoIterator<Item = &'a &'a str>) -> Result<Vec<u8>> {
    run_bounded(quarantine.git(), quarantine.git().command(words), b"")
}

/// Of the commits; what is not committed follows as the last one in a mailbox, and stays out of a log.
fn commits(quarantine: &Quarantine, range: &Range, words: &[&str]) -> Result<Vec<u8>> {
    let tip = if words[0] == "log" { range.head.as_deref() } else { range.wip.as_deref() };
    let Some(tip) = tip else { return Ok(Vec::new()) };
    let span = match &range.base {
        Some(base) => format!("{base}..{tip}"),
        None => tip.to_owned(),
    };
    let root = if range.base.is_none() && words[0] == "format-patch" { Some("--root") } else { None };
    ask(quarantine, words.iter().chain(root.iter()).chain(&[span.as_str()]))
}

fn bundle(quarantine: &Quarantine, range: &Range) -> Result<Vec<u8>> {
    let git = quarantine.git();
    let mut names = Vec::new();
    for (name, object) in [("refs/banger/export/head", &range.head), ("refs/banger/export/wip", &range.wip)] {
        if let Some(object) = object {
            git.ask(["update-ref", "--no-deref", name, object])?;
            names.push(name.to_owned());
        }
    }
    if range.base.is_some() && range.base == range.wip {
        return Ok(Vec::new());
    }
    let mut words: Vec<String> = ["bundle", "create", "--quiet", "-"].map(str::to_owned).to_vec();
    words.extend(names);
    words.extend(range.base.as_ref().map(|base| format!("^{base}")));
    run_bounded(git, git.command(&words), b"")
}

/// The tree of nothing, by this repository's hash.
fn empty_tree(quarantine: &Quarantine) -> Result<String> {
    let made = quarantine.git().ask_with_input(["hash-object", "-t", "tree", "-w", "--stdin"], b"");
    let name = String::from_utf8_lossy(&made?).trim().to_owned();
    match is_object(&name, quarantine.hash().digits()) {
        true => Ok(name),
        false => {
            Err(HomeError::Unfit { path: quarantine.folder().display().to_string(), what: "has no empty tree".into() })
        }
    }
}
