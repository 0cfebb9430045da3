//! The tools that a repository pins, read on the host from its own files before anything is made. What is read is hostile: small
//! regular files at the top that travel themselves, opened without following a link, and only plain words come out.

use super::Result;
use super::inspect::Source;
use super::list::Entry;
use super::ship::read_small;
use std::path::Path;

/// A tool in the words of `mise`: `go` at `1.22.3`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tool {
    pub name: String,
    pub version: String,
    /// The file that pins it.
    pub source: &'static str,
    /// `mise` reads that file itself.
    pub native: bool,
}

/// More tools than any repository pins.
const MAX_TOOLS: usize = 64;

type Reader = fn(&str) -> Vec<(String, String)>;

/// The first file that names a tool decides.
const FILES: &[(&str, bool, Reader)] = &[
    ("mise.toml", true, mise),
    (".mise.toml", true, mise),
    (".tool-versions", true, tool_versions),
    ("rust-toolchain.toml", false, rust_toolchain),
    ("rust-toolchain", false, rust_channel),
    (".nvmrc", false, node),
    (".node-version", false, node),
    ("go.mod", false, go_mod),
    (".python-version", false, python),
];

pub fn pinned(source: &Source, entries: &[Entry]) -> Result<Vec<Tool>> {
    let mut tools: Vec<Tool> = Vec::new();
    for (file, native, read) in FILES {
        if entries.binary_search_by(|entry| entry.path.as_path().cmp(Path::new(file))).is_err() {
            continue;
        }
        let Some(text) = read_small(source.path(), Path::new(file))? else { continue };
        for (name, version) in read(&text) {
            let known = tools.iter().any(|tool| tool.name == name);
            if !known && is_word(&name) && is_word(&version) && tools.len() < MAX_TOOLS {
                tools.push(Tool { name, version, source: file, native: *native });
            }
        }
    }
    Ok(tools)
}

/// What may stand on a command line of the guest: `npm:prettier`, `1.22.3`, `lts`, `>=3.11` not.
fn is_word(word: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'+' | b':' | b'/' | b'@');
    (1..=80).contains(&word.len()) && !word.starts_with('-') && word.bytes().all(plain)
}

fn one(name: &str, version: &str) -> Vec<(String, String)> {
    vec![(name.to_owned(), version.trim().to_owned())]
}

fn first_line(text: &str) -> &str {
    text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#')).unwrap_or_default()
}

fn mise(text: &str) -> Vec<(String, String)> {
    let Ok(document) = text.parse::<toml_edit::DocumentMut>() else { return Vec::new() };
    let Some(tools) = document.get("tools").and_then(toml_edit::Item::as_table_like) else { return Vec::new() };
    let version = |item: &toml_edit::Item| -> Option<String> {
        let value = item.as_array().and_then(|list| list.get(0)).or_else(|| item.as_value());
        let text = value.and_then(|value| value.as_str().map(str::to_owned));
        let text = text.or_else(|| Some(value?.as_integer()?.to_string()));
        text.or_else(|| item.as_table_like()?.get("version")?.as_str().map(str::to_owned))
    };
    tools.iter().filter_map(|(name, item)| Some((name.to_owned(), version(item)?))).collect()
}

fn tool_versions(text: &str) -> Vec<(String, String)> {
    let line = |line: &str| {
        let mut words = line.split('#').next()?.split_whitespace();
        let name = words.next()?;
        // The names of asdf, where they differ from those of mise.
        let name = match name {
            "nodejs" => "node",
            "golang" => "go",
            other => other,
        };
        Some((name.to_owned(), words.next()?.to_owned()))
    };
    text.lines().filter_map(line).collect()
}

fn rust_toolchain(text: &str) -> Vec<(String, String)> {
    let document = text.parse::<toml_edit::DocumentMut>().ok();
    let channel = document.as_ref().and_then(|document| document.get("toolchain")?.get("channel")?.as_str());
    channel.map(|channel| one("rust", channel)).unwrap_or_default()
}

fn rust_channel(text: &str) -> Vec<(String, String)> {
    if text.contains('[') { rust_toolchain(text) } else { one("rust", first_line(text)) }
}

fn node(text: &str) -> Vec<(String, String)> {
    let version = first_line(text);
    let version = version.strip_prefix('v').unwrap_or(version);
    one("node", if version.starts_with("lts/") { "lts" } else { version })
}

fn go_mod(text: &str) -> Vec<(String, String)> {
    let word =
        |key: &str| text.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix(' ').map(str::trim));
    let version = word("toolchain").and_then(|version| version.strip_prefix("go")).or_else(|| word("go"));
    version.map(|version| one("go", version.split_whitespace().next().unwrap_or_default())).unwrap_or_default()
}

fn python(text: &str) -> Vec<(String, String)> {
    one("python", first_line(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(file: &str, text: &str, expected: &[(&str, &str)]) {
        let (_, _, read) = FILES.iter().find(|(name, ..)| *name == file).expect("the file is known");
        let read = read(text);
        let read: Vec<_> = read.iter().map(|(name, version)| (name.as_str(), version.as_str())).collect();
        assert_eq!(read, expected, "{file}: {text}");
    }

    #[test]
    fn every_file_is_read_in_its_own_words() {
        check(
            "mise.toml",
            "[tools]\ngo = '1.22'\nnode = ['20', '18']\npython = { version = '3.12' }\nruby = 3\n",
            &[("go", "1.22"), ("node", "20"), ("python", "3.12"), ("ruby", "3")],
        );
        check(".tool-versions", "# x\nnodejs 20.1.0 # y\ngolang 1.22\nbad\n", &[("node", "20.1.0"), ("go", "1.22")]);
        check("rust-toolchain.toml", "[toolchain]\nchannel = \"1.80.0\"\n", &[("rust", "1.80.0")]);
        check("rust-toolchain", "stable\n", &[("rust", "stable")]);
        check(".nvmrc", "v20.1.0\n", &[("node", "20.1.0")]);
        check(".nvmrc", "lts/*\n", &[("node", "lts")]);
        check("go.mod", "module x\n\ngo 1.21\ntoolchain go1.22.3\n", &[("go", "1.22.3")]);
        check("go.mod", "module x\ngo 1.21\n", &[("go", "1.21")]);
        check(".python-version", "\n3.12.1\n3.11\n", &[("python", "3.12.1")]);
        for nonsense in ["", "[", "[tools]\nx = 1.5\n", "tools = 3"] {
            check("mise.toml", nonsense, &[]);
        }
    }

    #[test]
    fn only_plain_words_come_out() {
        for (word, plain) in [
            ("1.22", true),
            ("npm:prettier", true),
            ("-rf", false),
            ("a;b", false),
            ("$(x)", false),
            ("", false),
            ("a b", false),
        ] {
            assert_eq!(is_word(word), plain, "{word}");
        }
    }
}
