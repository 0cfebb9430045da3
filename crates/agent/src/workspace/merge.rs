//! A new tree into an old one, path by path: by rename, so that each path is the old or the new one at any moment.

use super::clear;
use super::ledger::{Ledger, example, is_git};
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use wire::guest::Placed;

/// What came.
#[derive(Debug)]
pub enum Shipment {
    /// All that the host has.
    Whole,
    /// What changed since the last one, and what went.
    Changes { removed: Vec<PathBuf> },
}

pub struct Merged {
    pub placed: Placed,
    /// Every path that was shipped, as it lies there now.
    pub shipped: Ledger,
}

/// Moves `incoming`, which holds `new`, into `folder`, and removes what the last shipment had and the host has no more.
pub fn merge(incoming: &Path, folder: &Path, before: Ledger, shipment: &Shipment, new: &Ledger) -> io::Result<Merged> {
    let mut placed = Placed::default();
    let gone: Vec<&Path> = match shipment {
        Shipment::Whole => before.paths().filter(|path| !new.holds(path) && !is_git(path)).collect(),
        Shipment::Changes { removed } => {
            removed.iter().map(PathBuf::as_path).filter(|path| before.holds(path)).collect()
        }
    };
    for path in gone {
        match fs::remove_file(folder.join(path)) {
            Ok(()) => placed.removed += 1,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            // The guest made a folder of it, which was found to be no loss, or is to be discarded.
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => {}
            Err(error) => return Err(error),
        }
        remove_empty_parents(folder, path);
    }
    into(incoming, folder, matches!(shipment, Shipment::Whole), &mut placed)?;
    // A rename is a change, too.
    let new = new.anew(folder)?;
    let shipped = match shipment {
        Shipment::Whole => new,
        Shipment::Changes { removed } => before.with(new, removed),
    };
    Ok(Merged { placed, shipped })
}

/// Paths of the guest's own where the host now has something else.
pub fn collisions(incoming: &Path, folder: &Path, before: &Ledger, new: &Ledger) -> io::Result<(u64, Vec<String>)> {
    let (mut count, mut examples) = (0, Vec::new());
    for path in new.paths().filter(|path| !before.holds(path) && !is_git(path)) {
        let there = folder.join(path);
        let Ok(facts) = fs::symlink_metadata(&there) else { continue };
        // A folder is in the way only while it holds something that was not shipped.
        let in_the_way = match facts.is_dir() {
            true => Ledger::of(&there)?.paths().any(|inner| !before.holds(&path.join(inner))),
            false => !same(&incoming.join(path), &fs::symlink_metadata(incoming.join(path))?, &there, &facts)?,
        };
        if in_the_way {
            count += 1;
            example(&mut examples, path);
        }
    }
    Ok((count, examples))
}

/// `whole`: a git folder takes the place of the one that is there; else its files join those.
fn into(from: &Path, to: &Path, whole: bool, placed: &mut Placed) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let facts = entry.metadata()?;
        let there = match fs::symlink_metadata(&target) {
            Ok(there) => Some(there),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        match there {
            // Git's own folder is one thing: half of it is worth nothing.
            Some(_) if whole && entry.file_name() == ".git" => replace_whole(&source, &target, placed)?,
            Some(there) if facts.is_dir() && there.is_dir() => into(&source, &target, whole, placed)?,
            Some(there) if !facts.is_dir() && same(&source, &facts, &target, &there)? => {
                keep(&target, &facts)?;
                placed.kept += 1;
            }
            Some(there) => {
                if facts.is_dir() || there.is_dir() {
                    clear(&target)?;
                }
                move_there(&source, &target, placed)?;
            }
            None => move_there(&source, &target, placed)?,
        }
    }
    Ok(())
}

fn move_there(source: &Path, target: &Path, placed: &mut Placed) -> io::Result<()> {
    fs::rename(source, target)?;
    placed.written += 1;
    Ok(())
}

/// The old one takes the new one's place among what is cleared away.
fn replace_whole(source: &Path, target: &Path, placed: &mut Placed) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    match renameat_with(CWD, source, CWD, target, RenameFlags::EXCHANGE) {
        Ok(()) => {}
        // A file system that cannot exchange: two steps.
        Err(_) => {
            clear(target)?;
            fs::rename(source, target)?;
        }
    }
    placed.written += 1;
    Ok(())
}

/// The same kind, permissions and bytes.
fn same(a: &Path, a_facts: &Metadata, b: &Path, b_facts: &Metadata) -> io::Result<bool> {
    if a_facts.mode() != b_facts.mode() || a_facts.size() != b_facts.size() {
        return Ok(false);
    }
    if a_facts.is_symlink() {
        return Ok(fs::read_link(a)? == fs::read_link(b)?);
    }
    Ok(a_facts.is_file() && same_bytes(File::open(a)?, File::open(b)?)?)
}

fn same_bytes(mut a: File, mut b: File) -> io::Result<bool> {
    const CHUNK_BYTES: usize = 64 * 1024;
    let (mut left, mut right) = (vec![0; CHUNK_BYTES], vec![0; CHUNK_BYTES]);
    loop {
        let count = a.read(&mut left)?;
        if count == 0 {
            return Ok(true);
        }
        match b.read_exact(&mut right[..count]) {
            Ok(()) if left[..count] == right[..count] => {}
            Ok(()) => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(error) => return Err(error),
        }
    }
}

/// The host's time, by which git sees at a glance that nothing changed.
fn keep(path: &Path, facts: &Metadata) -> io::Result<()> {
    if facts.is_symlink() || fs::symlink_metadata(path)?.mtime() == facts.mtime() {
        return Ok(());
    }
    crate::files::set_time(path, u64::try_from(facts.mtime()).unwrap_or(0))
}

/// Folders that a removal left empty; the first one that holds something ends it.
fn remove_empty_parents(folder: &Path, path: &Path) {
    for parent in path.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty()) {
        if fs::remove_dir(folder.join(parent)).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Trees {
        folder: tempfile::TempDir,
    }

    impl Trees {
        fn new(shipped: &[(&str, &str)]) -> (Trees, Ledger) {
            let trees = Trees { folder: tempfile::tempdir().unwrap() };
            trees.write("there", shipped);
            let ledger = Ledger::of(&trees.path("there")).unwrap();
            (trees, ledger)
        }

        fn path(&self, name: &str) -> std::path::PathBuf {
            self.folder.path().join(name)
        }

        fn new_ones(&self) -> Ledger {
            Ledger::of(&self.path("new")).unwrap()
        }

        fn merge(&self, before: Ledger, shipment: &Shipment) -> Merged {
            merge(&self.path("new"), &self.path("there"), before, shipment, &self.new_ones()).unwrap()
        }

        fn collisions(&self, before: &Ledger) -> (u64, Vec<String>) {
            collisions(&self.path("new"), &self.path("there"), before, &self.new_ones()).unwrap()
        }

        fn write(&self, tree: &str, files: &[(&str, &str)]) {
            for (name, text) in files {
                let path = self.path(tree).join(name);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
        }
    }

    #[test]
    fn what_is_gone_goes_what_is_new_comes_and_what_is_the_guests_stays() {
        let (trees, before) =
            Trees::new(&[("same", "1"), ("old", "1"), ("gone/deep/x", "1"), (".git/HEAD", "a"), (".git/x", "1")]);
        trees.write("there", &[("built/output", "guest's own")]);
        let kept = fs::metadata(trees.path("there/same")).unwrap().ino();
        trees.write("new", &[("same", "1"), ("old", "2"), ("fresh/y", "2"), (".git/HEAD", "b")]);
        let merged = trees.merge(before, &Shipment::Whole);
        assert_eq!((merged.placed.kept, merged.placed.removed), (1, 1), "{:?}", merged.placed);
        let read = |name: &str| fs::read_to_string(trees.path("there").join(name)).ok();
        assert_eq!(read("old").as_deref(), Some("2"));
        assert_eq!(read("fresh/y").as_deref(), Some("2"));
        assert_eq!(read("built/output").as_deref(), Some("guest's own"));
        assert_eq!(read(".git/HEAD").as_deref(), Some("b"));
        assert_eq!(read(".git/x"), None);
        assert!(!trees.path("there/gone").exists());
        assert_eq!(fs::metadata(trees.path("there/same")).unwrap().ino(), kept);
    }

    #[test]
    fn changes_join_what_is_there() {
        let (trees, before) =
            Trees::new(&[("same", "1"), ("old", "1"), ("gone/x", "1"), (".git/HEAD", "a"), (".git/kept", "1")]);
        trees.write("new", &[("old", "2"), (".git/index", "2")]);
        let removed = vec![PathBuf::from("gone/x"), PathBuf::from("../outside")];
        let merged = trees.merge(before, &Shipment::Changes { removed });
        let read = |name: &str| fs::read_to_string(trees.path("there").join(name)).ok();
        let all = ["same", "old", "gone/x", ".git/HEAD", ".git/kept", ".git/index"].map(read);
        let all: Vec<_> = all.iter().map(Option::as_deref).collect();
        assert_eq!(all, [Some("1"), Some("2"), None, Some("a"), Some("1"), Some("2")]);
        let left: Vec<_> = merged.shipped.paths().map(|path| path.display().to_string()).collect();
        assert_eq!(left, [".git/HEAD", "old", "same"]);
    }

    #[test]
    fn a_file_and_a_folder_may_change_places() {
        let (trees, before) = Trees::new(&[("a", "1"), ("b/c", "1")]);
        trees.write("new", &[("a/x", "2"), ("b", "2")]);
        assert_eq!(trees.collisions(&before).0, 0);
        trees.merge(before, &Shipment::Whole);
        assert_eq!(fs::read_to_string(trees.path("there/a/x")).unwrap(), "2");
        assert_eq!(fs::read_to_string(trees.path("there/b")).unwrap(), "2");
    }

    #[test]
    fn a_path_of_the_guests_own_that_the_host_has_now_too_is_a_collision() {
        let (trees, before) = Trees::new(&[("a", "1")]);
        trees.write("there", &[("equal", "1"), ("other", "guest"), ("folder/x", "guest")]);
        trees.write("new", &[("a", "1"), ("equal", "1"), ("other", "host"), ("folder", "host")]);
        let (count, mut examples) = trees.collisions(&before);
        examples.sort();
        assert_eq!((count, examples), (2, vec!["folder".to_owned(), "other".to_owned()]));
    }
}
