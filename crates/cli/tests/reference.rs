//! `docs/reference/cli.md` and `docs/man` are what `banger internal reference` and `internal man` print, and every command
//! explains itself.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

fn reference() -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_banger")).args(["internal", "reference"]).output();
    String::from_utf8(output.expect("it can be run").stdout).expect("it is text")
}

#[test]
fn the_golden_page_of_commands_is_up_to_date() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/cli.md");
    let page = reference();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &page).expect("the page can be written");
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == page, "{} is out of date: `UPDATE_GOLDEN=1` writes it anew", path.display());
}

#[test]
fn the_golden_pages_of_the_manual_are_up_to_date() {
    let checked_in = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/man");
    let folder = tempfile::tempdir().expect("a folder can be made");
    let written = Command::new(env!("CARGO_BIN_EXE_banger")).args(["internal", "man"]).arg(folder.path()).status();
    assert!(written.expect("it can be run").success());
    let wanted = pages(folder.path());
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let _ = std::fs::remove_dir_all(&checked_in);
        std::fs::create_dir_all(&checked_in).expect("the folder can be made");
        wanted
            .iter()
            .for_each(|(name, page)| std::fs::write(checked_in.join(name), page).expect("a page can be written"));
    }
    let found = pages(&checked_in);
    let stale: Vec<_> =
        wanted.iter().filter(|(name, page)| found.get(*name) != Some(page)).map(|(name, _)| name).collect();
    let gone: Vec<_> = found.keys().filter(|name| !wanted.contains_key(*name)).collect();
    assert!(
        stale.is_empty() && gone.is_empty(),
        "docs/man: {stale:?} out of date, {gone:?} too many: `UPDATE_GOLDEN=1` writes them anew"
    );
}

fn pages(folder: &Path) -> BTreeMap<OsString, Vec<u8>> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| (entry.file_name(), std::fs::read(entry.path()).expect("a page can be read"))).collect()
}

#[test]
fn every_command_has_a_sentence_and_every_verb_an_example() {
    for section in reference().split("\n## ").skip(1) {
        let name = section.lines().next().unwrap_or_default();
        let said = section.lines().nth(3).unwrap_or_default();
        let imperative = said.chars().next().is_some_and(char::is_uppercase);
        assert!(imperative && said.len() > 10, "{name} says {said:?}");
        let is_group = section.contains("\nCommands:\n");
        let example = ["\nExample:\n  banger ", "\nExamples:\n  banger "].iter().any(|head| section.contains(head));
        assert!(is_group || example, "{name} has no example");
    }
}
