//! The generated pages: written from the code by the code that knows them, checked by the tests of the same code.

use crate::process;
use anyhow::Result;
use std::process::Command;

/// Beginnings and parts of the names of tests that write what they compare when they are asked to.
const WRITERS: &[&str] = &[
    "golden",
    "the_document_in_the_repository_is_this_one",
    "the_manual_shows_every_key",
    "the_page_is_what_the_operations_say",
];

pub fn write() -> Result<()> {
    process::run_command(
        Command::new("cargo")
            .args(["test", "--quiet", "--workspace", "--all-features", "--exclude", "e2e", "--"])
            .args(WRITERS)
            .env("UPDATE_GOLDEN", "1"),
    )
}
