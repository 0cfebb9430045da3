//! The references of a guest's repository: read from its files, names proven, none taken on trust.

use super::index::hex;
use super::manifest::Manifest;
use super::tree::{Tree, read_small};
use super::{HomeError, Result, limits};
use std::collections::BTreeMap;

/// What a guest's repository points at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct References {
    /// The branch that is checked out; none when HEAD is detached.
    pub branch: Option<String>,
    /// What is checked out; none before the first commit.
    pub head: Option<String>,
    /// By short name.
    pub branches: BTreeMap<String, String>,
    pub tags: BTreeMap<String, String>,
    /// The latest first.
    pub stashes: Vec<String>,
    /// One line for each that could not be taken.
    pub complaints: Vec<String>,
}

/// `digits`: 40 for SHA-1, 64 for SHA-256.
pub fn read(tree: &mut dyn Tree, manifest: &Manifest, digits: usize) -> Result<References> {
    let mut wanted = vec![
        (b".git/HEAD".to_vec(), limits::SMALL_BYTES),
        (b".git/packed-refs".to_vec(), limits::PACKED_REFERENCES_BYTES),
        (b".git/logs/refs/stash".to_vec(), limits::SMALL_BYTES),
    ];
    let loose = manifest.git.iter().map(|record| &record.path).filter(|path| path.starts_with(b".git/refs/"));
    wanted.extend(loose.take(limits::REFERENCES * 2).map(|path| (path.clone(), limits::REFERENCE_BYTES)));
    let texts = read_small(tree, &wanted)?;
    let [head, packed, log] = [0, 1, 2].map(|at| texts[at].clone().unwrap_or_default());
    let mut raw = packed_references(&packed);
    for ((path, _), text) in wanted[3..].iter().zip(&texts[3..]) {
        if let (Ok(name), Some(text)) = (std::str::from_utf8(&path[5..]), text) {
            raw.insert(name.to_owned(), String::from_utf8_lossy(text).trim().to_owned());
        }
    }
    let head = String::from_utf8_lossy(&head).trim().to_owned();
    if head.is_empty() {
        return Err(HomeError::Unfit { path: tree.path().to_owned(), what: "has no HEAD in its `.git`".to_owned() });
    }
    Ok(sort(&head, &raw, &String::from_utf8_lossy(&log), digits))
}

pub(super) fn packed_references(text: &[u8]) -> BTreeMap<String, String> {
    let text = String::from_utf8_lossy(text);
    let lines = text.lines().filter(|line| !line.starts_with(['#', '^'])).filter_map(|line| line.split_once(' '));
    lines.map(|(object, name)| (name.trim().to_owned(), object.to_owned())).collect()
}

pub(super) fn sort(head: &str, raw: &BTreeMap<String, String>, log: &str, digits: usize) -> References {
    let mut found = References::default();
    let object = |name: &str| -> Option<String> {
        let mut value = raw.get(name)?.as_str();
        // A reference may name another one; honest ones stop at the first.
        for _ in 0..5 {
            match value.strip_prefix("ref:") {
                Some(next) => value = raw.get(next.trim())?.as_str(),
                None => break,
            }
        }
        is_object(value, digits).then(|| value.to_owned())
    };
    match head.strip_prefix("ref:").map(str::trim) {
        Some(name) => {
            found.head = object(name);
            found.branch = name.strip_prefix("refs/heads/").filter(|short| is_valid(short)).map(str::to_owned);
        }
        None => found.head = is_object(head, digits).then(|| head.to_owned()),
    }
    for name in raw.keys() {
        let (list, short) = match (name.strip_prefix("refs/heads/"), name.strip_prefix("refs/tags/")) {
            (Some(short), _) => (&mut found.branches, short),
            (_, Some(short)) => (&mut found.tags, short),
            _ => continue,
        };
        match object(name) {
            _ if !is_valid(short) => found.complaints.push(format!("`{}` is no valid reference", shown(name))),
            None => found.complaints.push(format!("`{}` names no object", shown(name))),
            Some(_) if list.len() >= limits::REFERENCES => {
                found.complaints.push(format!("`{}` is one reference too many", shown(name)));
            }
            Some(object) => drop(list.insert(short.to_owned(), object)),
        }
    }
    let stashes =
        log.lines().rev().filter_map(|line| line.split(' ').nth(1)).filter(|object| is_object(object, digits));
    found.stashes = stashes.map(str::to_owned).take(limits::REFERENCES).collect();
    if found.stashes.is_empty() {
        found.stashes.extend(object("refs/stash"));
    }
    found
}

pub fn is_object(text: &str, digits: usize) -> bool {
    let hexadecimal = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    text.len() == digits && text.bytes().all(hexadecimal) && text.bytes().any(|byte| byte != b'0')
}

/// Whether `refs/heads/<short>` is a name that git takes (git-check-ref-format(1)), and no longer than a file's path may be.
pub fn is_valid(short: &str) -> bool {
    let part = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.ends_with(".lock") && part.len() <= 250;
    let bad = |c: char| c.is_control() || matches!(c, ' ' | '~' | '^' | ':' | '?' | '*' | '[' | '\\' | '\u{7f}');
    let sound = !short.contains("..") && !short.contains("@{") && !short.ends_with('.') && !short.contains(bad);
    // A leading dash is legal there and an option everywhere else.
    sound && short.len() <= 1024 && !short.starts_with('-') && short != "HEAD" && short.split('/').all(part)
}

/// A guest's words in a sentence of ours.
pub fn shown(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).take(120).collect()
}

pub fn shown_path(path: &[u8]) -> String {
    match std::str::from_utf8(path) {
        Ok(text) => shown(text),
        Err(_) => format!("{} (in hexadecimal)", hex(&path[..path.len().min(60)])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    #[test]
    fn git_and_we_agree_on_names() {
        let names = [
            "main",
            "a/b",
            "ä",
            "-x",
            "--upload-pack=touch /x",
            "a..b",
            ".a",
            "a/.b",
            "a.lock",
            "a/b.lock/c",
            "a b",
            "a~1",
            "a^",
            "a:b",
            "a?",
            "a*",
            "a[",
            "a\\b",
            "a//b",
            "/a",
            "a/",
            "a.",
            "@",
            "a@{b",
            "HEAD",
            "\u{7f}",
            "a\nb",
            "@/x",
        ];
        for name in names {
            let full = format!("refs/heads/{name}");
            let git = std::process::Command::new("git").args(["check-ref-format", &full]).status().unwrap().success();
            // Stricter than git in two: an option's look, and the name of HEAD itself.
            let expected = git && !name.starts_with('-') && name != "HEAD";
            assert_eq!(is_valid(name), expected, "{name:?}");
        }
    }

    #[test]
    fn references_are_found_loose_packed_and_symbolic() {
        let raw = [
            ("refs/heads/main", A),
            ("refs/heads/alias", "ref: refs/heads/main"),
            ("refs/heads/loop", "ref: refs/heads/loop"),
            ("refs/heads/bad name", A),
            ("refs/tags/v1", A),
            ("refs/remotes/origin/main", A),
        ];
        let raw = raw.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let found = sort("ref: refs/heads/main", &raw, "", 40);
        assert_eq!(found.head.as_deref(), Some(A));
        assert_eq!(found.branch.as_deref(), Some("main"));
        assert_eq!(found.branches.keys().collect::<Vec<_>>(), ["alias", "main"]);
        assert_eq!(found.tags.len(), 1);
        assert_eq!(found.complaints.len(), 2, "{:?}", found.complaints);
        assert_eq!(sort(A, &raw, "", 40).branch, None);
    }
}
