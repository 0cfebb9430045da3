//! Every key of the configuration, once: the reader refuses what is not here, the manual prints what is.

use super::Problem;
use std::fmt::Write;
use toml_edit::{Item, Table};

pub struct Key {
    /// Dotted path: `vm_defaults.memory`.
    pub path: &'static str,
    /// What stands to the right of `=` in an example.
    pub example: &'static str,
    pub default: &'static str,
    pub what: &'static str,
}

const fn key(path: &'static str, example: &'static str, default: &'static str, what: &'static str) -> Key {
    Key { path, example, default, what }
}

/// Sections of which there may be several.
const LISTS: &[&str] = &["file_sync"];

/// Sections last, as TOML wants them.
pub const KEYS: &[Key] = &[
    key(
        "log_level",
        "\"info\"",
        "`info`",
        "What `bangerd.log` holds: `error`, `warn`, `info`, `debug`, `trace`, or a filter of the `tracing` crate.",
    ),
    key(
        "state",
        "\"/srv/banger\"",
        "`~/.local/state/banger`",
        "The folder for records, disks, images and logs. `bangerd --state` overrides it.",
    ),
    key("firecracker_bin", "\"/usr/local/bin/firecracker\"", "`firecracker` on `PATH`", "The Firecracker to run."),
    key("qemu_bin", "\"/usr/bin/qemu-system-x86_64\"", "`qemu-system-x86_64` on `PATH`", "The QEMU to run."),
    key(
        "vsock_device_bin",
        "\"/usr/local/bin/vhost-device-vsock\"",
        "`vhost-device-vsock` on `PATH` or beside `bangerd`",
        "The vsock device that QEMU needs.",
    ),
    key(
        "default_image",
        "\"debian-bookworm\"",
        "`debian-bookworm`",
        "The image of a sandbox made without `--image`: a name, or a reference to one in a registry.",
    ),
    key(
        "default_kernel",
        "\"debian-cloud\"",
        "the image's own, else `debian-cloud`",
        "The kernel of a sandbox made without `--kernel`.",
    ),
    key(
        "ready_timeout",
        "\"90s\"",
        "`60s`, `180s` where the processor is emulated",
        "How long a guest may take from start to its first word.",
    ),
    key("stop_grace", "\"20s\"", "`20s`", "How long a guest's services may take to stop before the machine is killed."),
    key("auto_stop_stale_after", "\"2h\"", "never", "Stop a sandbox nobody has used for this long."),
    key(
        "restart",
        "\"on-failure\"",
        "`no`",
        "The restart policy of a sandbox made without `--restart`: `no`, `on-failure`, `always`.",
    ),
    key(
        "dns_port",
        "42069",
        "`42069`",
        "Where sandboxes are found by name, on 127.0.0.1; 0 switches the name server off.",
    ),
    key(
        "network",
        "\"auto\"",
        "`auto`",
        "How sandboxes are connected: `bridged` (through the root helper: own addresses, reachable from this host), `user` (no \
         privilege at all), or `auto`, which takes bridges where that changes nothing for others. `BANGER_NETWORK` overrides it.",
    ),
    key("network_range", "\"10.20.30.0/24\"", "the first free one", "The private IPv4 range of the bridge."),
    key(
        "blob_cache_size",
        "\"20G\"",
        "`20GiB`",
        "What downloaded layers may take in the cache; beyond it the oldest go, first those that no image was made of.",
    ),
    key("vm_defaults.vcpu", "2", "a quarter of the host's, 1 to 4", "CPUs of a sandbox."),
    key(
        "vm_defaults.memory",
        "\"2G\"",
        "an eighth of the host's, at most 8 GiB",
        "Memory of a sandbox. A bare number is MiB.",
    ),
    key("vm_defaults.disk_size", "\"16G\"", "`8GiB`", "Size of the work disk on `/root`; sparse on the host."),
    key("vm_defaults.root_size", "\"8G\"", "`8GiB`", "What a guest may write outside `/root`; sparse on the host."),
    key("caps.vms", "20", "no cap", "How many sandboxes there may be."),
    key("caps.memory", "\"16G\"", "no cap", "Memory of all running sandboxes together."),
    key("caps.disk", "\"200G\"", "no cap", "What all disks together may take on the host."),
    key(
        "limits.cpu_weight",
        "50",
        "`100`",
        "A running sandbox's share of the host's CPUs where there are too few: 1 to 10000; 100 is any other program's.",
    ),
    key("limits.io_weight", "50", "`100`", "The same for the host's disks."),
    key(
        "file_sync.host",
        "\"~/.gitconfig\"",
        "none",
        "A file or folder of this host that every guest gets at each start; as many `[[file_sync]]` as you like. One that is not there is left out with a word.",
    ),
    key(
        "file_sync.guest",
        "\"~/.gitconfig\"",
        "the same below `~/`",
        "Where it lies in the guest: below `~/` or `/root/`. It belongs to root.",
    ),
    key(
        "file_sync.mode",
        "\"0600\"",
        "`0600`",
        "The file's mode. What is in a folder keeps its own; symbolic links in it are left out.",
    ),
];

pub(super) fn refuse_unknown(root: &Table) -> Result<(), Problem> {
    refuse_unknown_below("", root)
}

fn refuse_unknown_below(prefix: &str, table: &Table) -> Result<(), Problem> {
    for (name, item) in table.iter() {
        let path = format!("{prefix}{name}");
        let at = table.key(name).and_then(|key| key.span()).or(item.span()).map(|span| span.start);
        let section = format!("{path}.");
        let is_section = KEYS.iter().any(|key| key.path.starts_with(&section));
        let is_list = LISTS.contains(&path.as_str());
        match item {
            Item::ArrayOfTables(several) if is_list => {
                several.iter().try_for_each(|below| refuse_unknown_below(&section, below))?;
            }
            _ if is_list => {
                return Err(Problem { at, message: format!("`{path}` is a list: write `[[{path}]]`") });
            }
            Item::Table(below) if is_section => refuse_unknown_below(&section, below)?,
            Item::Value(value) if is_section && value.is_inline_table() => {}
            _ if is_section => {
                return Err(Problem { at, message: format!("`{path}` is a section: write `[{path}]`") });
            }
            _ if KEYS.iter().any(|key| key.path == path) => {}
            _ => return Err(Problem { at, message: format!("unknown key `{path}`; {}", suggestion(&path)) }),
        }
    }
    Ok(())
}

/// Three edits: more is another word.
const MAX_EDITS: usize = 3;

fn suggestion(path: &str) -> String {
    let nearest = KEYS.iter().map(|key| (edits(path, key.path), key.path)).min();
    match nearest {
        Some((distance, meant)) if distance <= MAX_EDITS => format!("did you mean `{meant}`?"),
        _ => "docs/reference/config.md lists every key".to_owned(),
    }
}

/// Levenshtein's distance.
fn edits(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

/// A file that sets every key.
pub fn example() -> String {
    let mut text = String::new();
    let mut section = "";
    for key in KEYS {
        let (above, name) = key.path.rsplit_once('.').unwrap_or(("", key.path));
        if above != section {
            let _ = match LISTS.contains(&above) {
                true => write!(text, "\n[[{above}]]\n"),
                false => write!(text, "\n[{above}]\n"),
            };
            section = above;
        }
        let _ = writeln!(text, "{name} = {}", key.example);
    }
    text
}

/// The manual page.
pub fn manual() -> String {
    let mut text = String::from(
        "# Configuration\n\n\
         `bangerd` reads `~/.config/banger/config.toml` (`$XDG_CONFIG_HOME/banger/config.toml`) when it starts. Every key may be left out;\n\
         an unknown one is refused with its line. `banger doctor` prints each default with where it comes from.\n\n\
         | key | default | what |\n|---|---|---|\n",
    );
    for key in KEYS {
        let _ = writeln!(text, "| `{}` | {} | {} |", key.path, key.default, key.what);
    }
    let _ = write!(text, "\n```toml\n{}```\n", example());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manual_shows_every_key() {
        crate::golden::check("docs/reference/config.md", &manual());
    }

    #[test]
    fn edits_are_counted() {
        assert_eq!(edits("kitten", "sitting"), 3);
        assert_eq!(edits("", "abc"), 3);
        assert_eq!(edits("same", "same"), 0);
    }
}
