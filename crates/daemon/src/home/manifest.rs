//! What a look found: git's own files apart from the work, and what is neither.

use super::tree::Tree;
use super::{HomeError, Result, limits};
use std::collections::BTreeSet;
use wire::guest::work::{Kind, Record};

/// Parts of `.git` in which nothing is that comes home.
const LEFT_OUT: &[&[u8]] = &[b".git/hooks", b".git/logs", b".git/lfs", b".git/modules", b".git/worktrees"];

#[derive(Debug, Default)]
pub struct Manifest {
    /// Files below `.git/`.
    pub git: Vec<Record>,
    /// Files and links of the tree.
    pub work: Vec<Record>,
    pub folders: Vec<Vec<u8>>,
    /// Folders with a `.git` of their own: submodules, and repositories somebody cloned.
    pub nested: BTreeSet<Vec<u8>>,
    /// Names that git's own rules refuse in a tree.
    pub refused: BTreeSet<Vec<u8>>,
    /// There is a `.git` folder.
    pub is_repository: bool,
}

impl Manifest {
    /// One scan; the insides of `pruned` are left out, too.
    pub fn take(tree: &mut dyn Tree, pruned: &[Vec<u8>]) -> Result<Manifest> {
        let mut wanted: Vec<Vec<u8>> = LEFT_OUT.iter().map(|path| path.to_vec()).collect();
        wanted.extend(pruned.iter().cloned());
        let mut manifest = Manifest::default();
        let (mut count, mut name_bytes) = (0, 0);
        let path = tree.path().to_owned();
        tree.scan(&wanted, &mut |record| {
            count += 1;
            name_bytes += record.path.len();
            let unfit = |what| Err(HomeError::Unfit { path: path.clone(), what });
            if count > limits::ENTRIES {
                return unfit(format!("holds more than {} files", limits::ENTRIES));
            }
            if name_bytes > limits::NAMES_BYTES {
                return unfit(format!("has more than {} bytes of names", limits::NAMES_BYTES));
            }
            manifest.place(record);
            Ok(())
        })?;
        // A map of paths is built from this more than once; one order for all sources keeps reports alike.
        manifest.work.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(manifest)
    }

    fn place(&mut self, record: Record) {
        if record.path == b".git" {
            self.is_repository = record.kind == Kind::Folder;
        } else if record.path.starts_with(b".git/") {
            if record.kind == Kind::File {
                self.git.push(record);
            }
        } else if let Some(folder) = inside_nested(&record.path) {
            self.nested.insert(folder.to_vec());
        } else if record.path.split(|byte| *byte == b'/').any(is_refused_name) {
            if record.kind != Kind::Folder {
                self.refused.insert(record.path);
            }
        } else {
            match record.kind {
                Kind::File | Kind::Link => self.work.push(record),
                Kind::Folder => self.folders.push(record.path),
                Kind::Other | Kind::Absent | Kind::End => {}
            }
        }
    }
}

/// The folder whose `.git` this is, or lies in.
fn inside_nested(path: &[u8]) -> Option<&[u8]> {
    let at = path.windows(6).position(|part| part == b"/.git/");
    at.or_else(|| path.ends_with(b"/.git").then(|| path.len() - 5)).map(|at| &path[..at])
}

/// As fsck's `hasDotgit` judges, a little wider: names that some file system would take for `.git` (CVE-2014-9390).
pub fn is_refused_name(name: &[u8]) -> bool {
    let text: String = String::from_utf8_lossy(name).chars().filter(|c| !is_ignorable(*c)).collect();
    let text = text.to_ascii_lowercase();
    let plain = text.split(['\\', ':']).map(|part| part.trim_end_matches([' ', '.']));
    plain.into_iter().any(|part| part == ".git" || part == "git~1")
}

/// Code points that HFS+ passes over in names (utf8.c of git, `next_hfs_char`).
fn is_ignorable(c: char) -> bool {
    matches!(c, '\u{200c}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{206a}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_a_file_system_takes_for_git_are_refused() {
        for name in [".git", ".GIT", "git~1", "GIT~1", ".git ", ".git.", ".g\u{200c}it", ".git:x", "a\\.git"] {
            assert!(is_refused_name(name.as_bytes()), "{name}");
        }
        for name in [".gitignore", "git", ".gitx", "x.git", "a:b", ".github"] {
            assert!(!is_refused_name(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn a_repository_inside_is_told_apart_from_the_work() {
        for (path, folder) in
            [("a/.git", Some("a")), ("a/b/.git/HEAD", Some("a/b")), ("a/.gitignore", None), ("a/x.git/y", None)]
        {
            assert_eq!(inside_nested(path.as_bytes()), folder.map(str::as_bytes), "{path}");
        }
    }
}
