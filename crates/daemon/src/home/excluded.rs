//! Which files of a guest's tree git would not track: `.gitignore` at every level and `.git/info/exclude`.
//!
//! As gitignore(5) has it: the last matching line of the nearest file decides, and nothing below an excluded folder comes
//! back. Nothing is read here; the lines are what the guest sent.

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A root that no path of a guest has, so that a rule knows which folder it speaks of.
const TOP: &str = "/tree";

#[derive(Default)]
pub struct Excluded {
    /// By folder; the empty one holds the top's rules.
    rules: HashMap<Vec<u8>, Gitignore>,
    exclude: Option<Gitignore>,
    /// Verdicts about folders.
    known: HashMap<Vec<u8>, bool>,
}

impl Excluded {
    /// The `.gitignore` of a folder.
    pub fn add(&mut self, folder: &[u8], text: &[u8]) {
        self.rules.insert(folder.to_vec(), rules(folder, text));
    }

    /// `.git/info/exclude`.
    pub fn add_exclude(&mut self, text: &[u8]) {
        self.exclude = Some(rules(b"", text));
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

    fn matches(&self, path: &[u8], is_folder: bool) -> bool {
        let full = Path::new(TOP).join(OsStr::from_bytes(path));
        let mut folder = parent(path);
        loop {
            if let Some(rules) = self.rules.get(folder) {
                match rules.matched(&full, is_folder) {
                    Match::Ignore(_) => return true,
                    Match::Whitelist(_) => return false,
                    Match::None => {}
                }
            }
            if folder.is_empty() {
                break;
            }
            folder = parent(folder);
        }
        self.exclude.as_ref().is_some_and(|rules| rules.matched(&full, is_folder).is_ignore())
    }
}

pub fn parent(path: &[u8]) -> &[u8] {
    path.iter().rposition(|byte| *byte == b'/').map_or(b"", |end| &path[..end])
}

fn rules(folder: &[u8], text: &[u8]) -> Gitignore {
    let root = if folder.is_empty() { PathBuf::from(TOP) } else { Path::new(TOP).join(OsStr::from_bytes(folder)) };
    let mut builder = GitignoreBuilder::new(root);
    for line in String::from_utf8_lossy(text).trim_start_matches('\u{feff}').lines() {
        // A line that is no pattern excludes nothing, as for git.
        let _ = builder.add_line(None, line);
    }
    builder.build().unwrap_or_else(|_| Gitignore::empty())
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
