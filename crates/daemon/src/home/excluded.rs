//! Which files of a guest's tree git would not track: `.gitignore` at every level and `.git/info/exclude`.
//!
//! As gitignore(5) has it: the last matching line of the nearest file decides, and nothing below an excluded folder comes
//! back. Nothing is read here; the lines are what the guest sent, so there are only so many of them and so much time is
//! taken; beyond that nothing is excluded, and so comes home.

#[cfg(test)]
mod agreement;

use super::limits;
use super::pattern::{self, Pattern};
use std::collections::HashMap;

/// 10¹⁰ comparisons of bytes, some 10 s: a million files and a hundred patterns take a hundredth.
const COST_LIMIT: u64 = 10_000_000_000;

#[derive(Default)]
pub struct Excluded {
    /// By folder; the empty one holds the top's rules.
    rules: HashMap<Vec<u8>, Vec<Pattern>>,
    exclude: Vec<Pattern>,
    /// Verdicts about folders.
    known: HashMap<Vec<u8>, bool>,
    lines: usize,
    cost: u64,
}

impl Excluded {
    /// The `.gitignore` of a folder.
    pub fn add(&mut self, folder: &[u8], text: &[u8]) {
        let rules = self.rules(text);
        self.rules.insert(folder.to_vec(), rules);
    }

    /// `.git/info/exclude`.
    pub fn add_exclude(&mut self, text: &[u8]) {
        self.exclude = self.rules(text);
    }

    fn rules(&mut self, text: &[u8]) -> Vec<Pattern> {
        let rules: Vec<Pattern> = pattern::read(text).take(limits::IGNORE_LINES - self.lines).collect();
        self.lines += rules.len();
        rules
    }

    pub fn is_excluded(&mut self, path: &[u8], is_folder: bool) -> bool {
        let folder = parent(path);
        if !folder.is_empty() && self.is_folder_excluded(folder) {
            return true;
        }
        self.matches(path, is_folder)
    }

    fn is_folder_excluded(&mut self, folder: &[u8]) -> bool {
        if let Some(known) = self.known.get(folder) {
            return *known;
        }
        // From the top down, without recursion: a hostile path has thousands of parts.
        let ends = folder.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        let mut excluded = false;
        for end in ends.chain([folder.len()]) {
            let part = &folder[..end];
            excluded = match self.known.get(part) {
                Some(known) => *known,
                None => excluded || self.matches(part, true),
            };
            self.known.insert(part.to_vec(), excluded);
        }
        excluded
    }

    fn matches(&mut self, path: &[u8], is_folder: bool) -> bool {
        let mut folder = parent(path);
        loop {
            if let Some(rules) = self.rules.get(folder)
                && let Some(verdict) = verdict(rules, folder, path, is_folder, &mut self.cost)
            {
                return verdict;
            }
            if folder.is_empty() {
                break;
            }
            folder = parent(folder);
        }
        verdict(&self.exclude, b"", path, is_folder, &mut self.cost).unwrap_or(false)
    }
}

/// What the last of these rules that matches says.
fn verdict(rules: &[Pattern], folder: &[u8], path: &[u8], is_folder: bool, cost: &mut u64) -> Option<bool> {
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let below = if folder.is_empty() { path } else { path.get(folder.len() + 1..).unwrap_or_default() };
    for rule in rules.iter().rev() {
        if *cost > COST_LIMIT {
            return None;
        }
        let text = if rule.by_name { name } else { below };
        if (is_folder || !rule.only_folders) && rule.matches(text, cost) {
            return Some(!rule.keeps);
        }
    }
    None
}

pub fn parent(path: &[u8]) -> &[u8] {
    path.iter().rposition(|byte| *byte == b'/').map_or(b"", |end| &path[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_rule_decides_and_an_excluded_folder_stays_excluded() {
        let mut excluded = Excluded::default();
        excluded.add(b"", b"*.o\n/build/\nnode_modules\n!keep.o\nlog/*\n!log/kept\n");
        excluded.add(b"sub", b"!*.o\nlocal\n");
        excluded.add_exclude(b"secret\n");
        let mut check = |path: &str, folder: bool, expected: bool| {
            assert_eq!(excluded.is_excluded(path.as_bytes(), folder), expected, "{path}");
        };
        check("a.o", false, true);
        check("keep.o", false, false);
        check("sub/a.o", false, false);
        check("sub/deep/a.o", false, false);
        check("sub/local", false, true);
        check("local", false, false);
        check("build", true, true);
        check("build/keep.o", false, true);
        check("sub/build/x", false, false);
        check("sub/node_modules/x/y.js", false, true);
        check("log/x", false, true);
        check("log/kept", false, false);
        check("secret", false, true);
        check("src/main.rs", false, false);
    }
}
