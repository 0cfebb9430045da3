//! Where this machine's apt gets Debian packages: its own sources, in either notation, reduced to one release.
//!
//! Mirror, keyrings and options stay what the owner configured; only the release is chosen here. A Debian machine of
//! another release has the same mirror, so its suites are rewritten; a machine that knows no Debian mirror cannot help.

use super::Trouble;
use std::fs;
use std::path::{Path, PathBuf};

/// 256 files of 1 MiB: what a folder of sources may hold.
const MAX_FILES: usize = 256;
const MAX_BYTES: u64 = 1024 * 1024;

/// One source: a stanza of sources.list(5) in its deb822 notation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Source {
    uris: Vec<String>,
    suites: Vec<String>,
    components: Vec<String>,
    /// Further fields as they are: `Signed-By`, `Trusted`.
    options: Vec<(String, String)>,
}

/// The host's sources for `codename`, as a file for apt.
pub fn for_release(codename: &str) -> Result<String, Trouble> {
    let host = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let all = read_all(Path::new("/etc/apt"))?;
    let chosen = choose(&all, codename, &host).ok_or_else(|| Trouble::Unfit {
        sentence: format!("apt on this machine knows no source of Debian {codename}"),
        hint: Some(format!("add a Debian mirror with the suite {codename} to /etc/apt/sources.list.d")),
    })?;
    Ok(chosen.iter().map(render).collect())
}

fn read_all(folder: &Path) -> Result<Vec<Source>, Trouble> {
    let mut files = vec![folder.join("sources.list")];
    let mut parts: Vec<PathBuf> = match fs::read_dir(folder.join("sources.list.d")) {
        Ok(entries) => entries.take(MAX_FILES).filter_map(|entry| Some(entry.ok()?.path())).collect(),
        Err(_) => Vec::new(),
    };
    parts.sort();
    files.extend(parts);
    let mut sources = Vec::new();
    for file in files {
        let small = fs::metadata(&file).is_ok_and(|found| found.is_file() && found.len() <= MAX_BYTES);
        let Some(text) = small.then(|| fs::read_to_string(&file).ok()).flatten() else { continue };
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("list") => sources.extend(text.lines().filter_map(one_line)),
            Some("sources") => sources.extend(stanzas(&text)),
            _ => {}
        }
    }
    Ok(sources)
}

/// `deb [signed-by=/k.gpg] http://host/debian bookworm main`.
fn one_line(line: &str) -> Option<Source> {
    let line = line.split('#').next()?.trim();
    let rest = line.strip_prefix("deb")?.strip_prefix([' ', '\t'])?.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => ("", rest),
    };
    let mut words = rest.split_whitespace().map(str::to_owned);
    let (uri, suite) = (words.next()?, words.next()?);
    let option = |word: &str| {
        let (name, value) = word.split_once('=')?;
        let name = match name.to_ascii_lowercase().as_str() {
            "signed-by" => "Signed-By",
            "trusted" => "Trusted",
            "arch" => "Architectures",
            "check-valid-until" => "Check-Valid-Until",
            "check-date" => "Check-Date",
            _ => return None,
        };
        Some((name.to_owned(), value.replace(',', " ")))
    };
    Some(Source {
        uris: vec![uri],
        suites: vec![suite],
        components: words.collect(),
        options: options.split_whitespace().filter_map(option).collect(),
    })
}

fn stanzas(text: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in text.lines().chain([""]) {
        if line.starts_with('#') {
            continue;
        }
        if line.trim().is_empty() {
            sources.extend(source(std::mem::take(&mut fields)));
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = fields.last_mut() {
                value.push('\n');
                value.push_str(line);
            }
        } else if let Some((name, value)) = line.split_once(':') {
            fields.push((name.trim().to_owned(), value.trim().to_owned()));
        }
    }
    sources
}

fn source(fields: Vec<(String, String)>) -> Option<Source> {
    let mut source = Source::default();
    let mut is_binary = false;
    for (name, value) in fields {
        let words = || value.split_whitespace().map(str::to_owned).collect();
        match name.to_ascii_lowercase().as_str() {
            "types" => is_binary = value.split_whitespace().any(|kind| kind == "deb"),
            "uris" => source.uris = words(),
            "suites" => source.suites = words(),
            "components" => source.components = words(),
            "enabled" if matches!(value.to_ascii_lowercase().as_str(), "no" | "false" | "0") => return None,
            "enabled" => {}
            _ => source.options.push((name, value)),
        }
    }
    (is_binary && !source.uris.is_empty() && !source.suites.is_empty()).then_some(source)
}

/// The suites of a release; backports and proposed updates are no part of it.
fn belongs(suite: &str, codename: &str) -> bool {
    let rest = suite.trim_end_matches('/').strip_prefix(codename);
    matches!(rest, Some("" | "-updates" | "-security"))
}

fn choose(all: &[Source], codename: &str, os_release: &str) -> Option<Vec<Source>> {
    let own = reduced(all, codename, codename);
    if own.iter().any(|source| source.suites.iter().any(|suite| suite == codename)) {
        return Some(own);
    }
    let field = |name: &str| os_release.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    if field("ID").map(|id| id.trim_matches('"')) != Some("debian") {
        return None;
    }
    let other = reduced(all, field("VERSION_CODENAME")?.trim_matches('"'), codename);
    other.iter().any(|source| source.suites.iter().any(|suite| suite == codename)).then_some(other)
}

/// Only sources of the release `from`, named as `to`.
fn reduced(all: &[Source], from: &str, to: &str) -> Vec<Source> {
    let reduce = |source: &Source| {
        let suites: Vec<_> = source.suites.iter().filter(|suite| belongs(suite, from)).collect();
        let suites: Vec<_> = suites.into_iter().map(|suite| suite.replacen(from, to, 1)).collect();
        (!suites.is_empty()).then(|| Source { suites, ..source.clone() })
    };
    all.iter().filter_map(reduce).collect()
}

fn render(source: &Source) -> String {
    let mut text = format!(
        "Types: deb\nURIs: {}\nSuites: {}\nComponents: {}\n",
        source.uris.join(" "),
        source.suites.join(" "),
        source.components.join(" ")
    );
    for (name, value) in &source.options {
        text.push_str(&format!("{name}: {value}\n"));
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEB822: &str = "Types: deb deb-src\n# a comment\nURIs: http://mirror.test/debian\n\
        Suites: bookworm bookworm-updates bookworm-backports\nComponents: main\n\
        Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\n\
        Types: deb\nURIs: http://mirror.test/other\nSuites: stable\nComponents: main\nEnabled: no\n";

    fn check(sources: &[Source], codename: &str, os_release: &str, expected: Option<&str>) {
        let chosen = choose(sources, codename, os_release).map(|chosen| chosen.iter().map(render).collect::<String>());
        assert_eq!(chosen.as_deref(), expected);
    }

    #[test]
    fn both_notations_are_read() {
        let expected = "Types: deb\nURIs: http://mirror.test/debian\nSuites: bookworm bookworm-updates\nComponents: main\n\
            Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\n";
        check(&stanzas(DEB822), "bookworm", "", Some(expected));
        let line =
            one_line("deb [arch=amd64 signed-by=/k.gpg] http://mirror.test/debian bookworm main contrib # x").unwrap();
        let expected = "Types: deb\nURIs: http://mirror.test/debian\nSuites: bookworm\nComponents: main contrib\n\
            Architectures: amd64\nSigned-By: /k.gpg\n\n";
        check(&[line], "bookworm", "", Some(expected));
        for other in ["# deb http://a b c", "deb-src http://mirror.test/debian bookworm main", "deb", ""] {
            assert_eq!(one_line(other), None, "{other:?}");
        }
    }

    #[test]
    fn a_debian_of_another_release_lends_its_mirror() {
        let trixie = one_line("deb http://mirror.test/debian trixie main").unwrap();
        let os_release = "ID=debian\nVERSION_CODENAME=trixie\n";
        let expected = "Types: deb\nURIs: http://mirror.test/debian\nSuites: bookworm\nComponents: main\n\n";
        check(&[trixie], "bookworm", os_release, Some(expected));
    }

    #[test]
    fn a_machine_without_a_debian_mirror_cannot_help() {
        let noble = one_line("deb http://mirror.test/ubuntu noble main").unwrap();
        check(&[noble], "bookworm", "ID=ubuntu\nVERSION_CODENAME=noble\n", None);
        check(&[], "bookworm", "ID=debian\nVERSION_CODENAME=bookworm\n", None);
    }
}
