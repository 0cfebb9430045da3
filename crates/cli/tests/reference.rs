//! `docs/reference/cli.md` is what `banger internal reference` prints, and every command explains itself.

use std::path::PathBuf;
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
fn every_command_has_a_sentence_and_every_verb_an_example() {
    for section in reference().split("\n## ").skip(1) {
        let name = section.lines().next().unwrap_or_default();
        let said = section.lines().nth(3).unwrap_or_default();
        let imperative = said.chars().next().is_some_and(char::is_uppercase);
        assert!(imperative && said.len() > 10, "{name} says {said:?}");
        let is_group = section.contains("\nCommands:\n");
        assert!(is_group || section.contains("\nExample:\n  banger "), "{name} has no example");
    }
}
