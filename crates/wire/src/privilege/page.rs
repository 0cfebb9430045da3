//! `docs/privileges.md`, rendered from the operations, so that the page cannot forget one.

use super::OPERATIONS;
use std::fmt::Write;

const HEAD: &str = "\
# What root does for banger

This page is generated from the request types in `crates/wire/src/privilege.rs`; a test fails when it is stale.

`bangerd-root` is the only part of banger that runs as root. It serves one owner over a Unix socket (mode 0600): each
connection's peer credentials are read from the kernel, and anybody but root and the owner is turned away. It takes the
operations below and no others. A request carries ids and validated values, never a path, a device name or a command;
names, addresses and paths are derived by root. A ledger (`/run/banger-root/ledger.json`, mode 0600) records each thing
before it is made, and only what stands in it is ever removed. A request with an unknown field is refused.

It runs three other programs by their absolute paths, with an empty environment: `nft`, with rules on standard input, and
`resolvectl` or `nmcli`.
It never touches tables, links or settings of docker, firewalld, libvirt or anybody else.

";

/// The whole page.
pub fn render() -> String {
    let mut page = HEAD.to_owned();
    page.push_str("| operation | takes | answers |\n|---|---|---|\n");
    for operation in OPERATIONS {
        let fields: Vec<_> = operation.fields.iter().map(|(name, kind)| format!("`{name}: {kind}`")).collect();
        let fields = if fields.is_empty() { "nothing".to_owned() } else { fields.join(", ") };
        writeln!(page, "| {} | {fields} | `{}` |", operation.name, operation.reply).expect("a string takes text");
    }
    for operation in OPERATIONS {
        write!(page, "\n## {}\n{}", operation.name, paragraph(operation.paragraph)).expect("a string takes text");
    }
    page
}

/// Doc comments keep the blank after `///`.
fn paragraph(text: &str) -> String {
    text.lines().map(|line| format!("{}\n", line.trim())).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_page_is_what_the_operations_say() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/privileges.md");
        let wanted = super::render();
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(path, &wanted).unwrap();
        }
        let page = std::fs::read_to_string(path).unwrap_or_default();
        assert_eq!(page, wanted, "docs/privileges.md is stale: run the test again with UPDATE_GOLDEN=1");
    }
}
