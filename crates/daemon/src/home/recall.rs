//! A folder in a guest of which an earlier look remembers what it held: only folders that changed since are listed again.
//!
//! ```text
//!  first scan ─► everything, by folder ─► Memory          watch: these folders changed ─► Memory
//!  next scan  ─► the changed ones anew, new ones with all that is in them, `.git` whole ─► Memory ─► all of it, in order
//! ```
//! It stands before the tree that it remembers, so whoever looks sees no difference. A guest that names the wrong folders
//! shows us an old state of its own work, until the look that comes before anything is removed: that one never
//! remembers. A folder that took the place of another one is told by its inode and times.

use super::state::decode_path;
use super::tree::{Each, Tree};
use super::{HomeError, Result, limits};
use std::collections::{BTreeMap, BTreeSet};
use wire::guest::work::{Kind, Record, check_path};

/// 200000 files and folders: some 40 MiB; of a larger tree nothing is remembered.
const MOST_RECORDS: usize = 200_000;
const GIT: &[u8] = b".git";

#[derive(Debug, Default)]
pub struct Memory {
    seen: Option<Seen>,
}

#[derive(Debug)]
struct Seen {
    pruned: Vec<Vec<u8>>,
    /// What each folder holds; the top is the empty name.
    folders: BTreeMap<Vec<u8>, Vec<Record>>,
    changed: BTreeSet<Vec<u8>>,
}

impl Memory {
    /// The guest says that these folders changed since the last scan.
    pub fn note(&mut self, changed: Option<&[String]>) {
        let decoded: Option<Vec<Vec<u8>>> = changed.and_then(|names| names.iter().map(|name| folder(name)).collect());
        match (&mut self.seen, decoded) {
            (Some(seen), Some(names)) => seen.changed.extend(names),
            _ => self.forget(),
        }
    }

    pub fn forget(&mut self) {
        self.seen = None;
    }
}

/// A folder's name as the agent tells it; none for what is no path.
fn folder(name: &str) -> Option<Vec<u8>> {
    let path = decode_path(name)?;
    (path.is_empty() || check_path(&path).is_ok()).then_some(path)
}

/// A tree with the memory of it.
pub struct Recalled<'a, T> {
    pub tree: T,
    pub memory: &'a mut Memory,
}

/// What a [`Recalled`] needs beyond a tree.
pub trait Listed: Tree {
    /// What these folders hold, without what is in folders below; the empty name is the top.
    fn list(&mut self, folders: &[Vec<u8>], each: &mut dyn FnMut(Record) -> Result<()>) -> Result<()>;
}

impl<T: Listed> Tree for Recalled<'_, T> {
    fn path(&self) -> &str {
        self.tree.path()
    }

    fn scan(&mut self, pruned: &[Vec<u8>], each: &mut dyn FnMut(Record) -> Result<()>) -> Result<()> {
        // Taken out: what fails in the middle is not remembered.
        let seen = match self.memory.seen.take().filter(|seen| seen.pruned == pruned) {
            Some(seen) => refresh(&mut self.tree, seen)?,
            None => {
                let mut seen = Seen { pruned: pruned.to_vec(), folders: BTreeMap::new(), changed: BTreeSet::new() };
                let mut bounded = Bounded::default();
                self.tree.scan(pruned, &mut |record| bounded.take(&mut seen, record, each))?;
                if !bounded.whole() {
                    return Ok(());
                }
                self.memory.seen = Some(seen);
                return Ok(());
            }
        };
        let told = tell(&seen, each);
        self.memory.seen = Some(seen);
        told
    }

    fn read(&mut self, paths: &[Vec<u8>], each: Each) -> Result<()> {
        self.tree.read(paths, each)
    }

    fn below(&self, path: &str) -> Box<dyn Tree + '_> {
        self.tree.below(path)
    }
}

/// Passes a whole scan on, and keeps it while it is small enough.
#[derive(Default)]
struct Bounded(usize);

impl Bounded {
    fn take(&mut self, seen: &mut Seen, record: Record, each: &mut dyn FnMut(Record) -> Result<()>) -> Result<()> {
        self.0 += 1;
        match self.whole() {
            true => seen.place(record.clone()),
            false => seen.folders.clear(),
        }
        each(record)
    }

    fn whole(&self) -> bool {
        self.0 <= MOST_RECORDS
    }
}

impl Seen {
    fn place(&mut self, record: Record) {
        self.folders.entry(parent(&record.path).to_vec()).or_default().push(record);
    }

    /// A folder with everything below it.
    fn drop_below(&mut self, folder: &[u8]) {
        let below = [folder, b"/"].concat();
        self.folders.remove(folder);
        let inside: Vec<Vec<u8>> = self
            .folders
            .range(below.clone()..)
            .map(|(name, _)| name)
            .take_while(|name| name.starts_with(&below))
            .cloned()
            .collect();
        inside.iter().for_each(|name| drop(self.folders.remove(name)));
    }
}

fn parent(path: &[u8]) -> &[u8] {
    path.iter().rposition(|byte| *byte == b'/').map_or(&[], |at| &path[..at])
}

fn refresh(tree: &mut impl Listed, mut seen: Seen) -> Result<Seen> {
    // What lies deep in `.git` is not watched, and is little.
    let mut waiting: BTreeSet<Vec<u8>> =
        std::mem::take(&mut seen.changed).into_iter().filter(|name| !is_git(name)).collect();
    waiting.insert(Vec::new());
    refresh_git(tree, &mut seen)?;
    let mut listed: BTreeSet<Vec<u8>> = BTreeSet::new();
    while !waiting.is_empty() {
        let now: Vec<Vec<u8>> = std::mem::take(&mut waiting).into_iter().filter(|name| !seen.is_pruned(name)).collect();
        let mut anew: BTreeMap<Vec<u8>, Vec<Record>> = now.iter().map(|name| (name.clone(), Vec::new())).collect();
        let path = tree.path().to_owned();
        let mut count = 0;
        tree.list(&now, &mut |record| {
            count += 1;
            match anew.get_mut(parent(&record.path)) {
                Some(held) if count <= limits::ENTRIES => held.push(record),
                _ => {
                    return Err(HomeError::Unfit {
                        path: path.clone(),
                        what: "lists what it was not asked for".to_owned(),
                    });
                }
            }
            Ok(())
        })?;
        listed.extend(now);
        for (name, records) in anew {
            for (wanted, how) in seen.replace(&name, records) {
                // What was listed of a folder of that name may be of the one that was there before.
                if how == Wanted::Another {
                    let below = [wanted.as_slice(), b"/"].concat();
                    listed.retain(|name| *name != wanted && !name.starts_with(&below));
                }
                waiting.insert(wanted);
            }
        }
        waiting.retain(|name| !listed.contains(name));
    }
    Ok(seen)
}

/// A folder that changed, or one that was not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Same,
    Another,
}

fn is_git(path: &[u8]) -> bool {
    path == GIT || path.starts_with(b".git/")
}

impl Seen {
    fn is_pruned(&self, folder: &[u8]) -> bool {
        self.pruned.iter().any(|pruned| pruned == folder)
    }

    /// Answers which folders in it have to be listed, too.
    fn replace(&mut self, folder: &[u8], records: Vec<Record>) -> Vec<(Vec<u8>, Wanted)> {
        let before = self.folders.remove(folder).unwrap_or_default();
        let before: BTreeMap<&[u8], &Record> = before
            .iter()
            .filter(|record| record.kind == Kind::Folder)
            .map(|record| (record.path.as_slice(), record))
            .collect();
        let mut wanted = Vec::new();
        let mut kept: BTreeSet<&[u8]> = BTreeSet::new();
        for record in records.iter().filter(|record| record.kind == Kind::Folder && !is_git(&record.path)) {
            let same = |old: &&Record| {
                (old.inode, old.mtime_ns, old.ctime_ns) == (record.inode, record.mtime_ns, record.ctime_ns)
            };
            match before.get(record.path.as_slice()) {
                Some(old) if same(old) => {
                    kept.insert(&record.path);
                }
                Some(old) if old.inode == record.inode => {
                    kept.insert(&record.path);
                    wanted.push((record.path.clone(), Wanted::Same));
                }
                _ => wanted.push((record.path.clone(), Wanted::Another)),
            }
        }
        let gone: Vec<Vec<u8>> =
            before.keys().filter(|name| !kept.contains(*name) && !is_git(name)).map(|name| name.to_vec()).collect();
        gone.iter().for_each(|name| self.drop_below(name));
        self.folders.insert(folder.to_vec(), records);
        wanted
    }
}

fn refresh_git(tree: &mut impl Listed, seen: &mut Seen) -> Result<()> {
    let inside = |path: &Vec<u8>| path.strip_prefix(b".git/").map(<[u8]>::to_vec);
    let pruned: Vec<Vec<u8>> = seen.pruned.iter().filter_map(inside).collect();
    let mut anew = Vec::new();
    let mut below = tree.below(".git");
    let scanned = below.scan(&pruned, &mut |record| {
        if anew.len() >= limits::ENTRIES {
            let what = format!("holds more than {} files", limits::ENTRIES);
            return Err(HomeError::Unfit { path: ".git".to_owned(), what });
        }
        let path = [b".git/", record.path.as_slice()].concat();
        anew.push(Record { path, ..record });
        Ok(())
    });
    drop(below);
    match scanned {
        // The list of the top tells whether there is one.
        Ok(()) | Err(HomeError::Nothing { .. }) => {}
        Err(error) => return Err(error),
    }
    seen.drop_below(GIT);
    anew.into_iter().for_each(|record| seen.place(record));
    Ok(())
}

/// Folders before what they hold, as a scan does.
fn tell(seen: &Seen, each: &mut dyn FnMut(Record) -> Result<()>) -> Result<()> {
    let mut waiting: Vec<&[u8]> = vec![b""];
    while let Some(folder) = waiting.pop() {
        for record in seen.folders.get(folder).into_iter().flatten() {
            each(record.clone())?;
            if record.kind == Kind::Folder {
                waiting.push(&record.path);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::MetadataExt;
    use std::path::PathBuf;

    /// A folder of this machine, which counts what it was asked for.
    struct Local {
        top: PathBuf,
        name: String,
        scans: usize,
        lists: Vec<Vec<u8>>,
    }

    impl Local {
        fn children(&self, folder: &[u8], each: &mut dyn FnMut(Record) -> Result<()>) -> Result<Vec<Vec<u8>>> {
            let place = self.top.join(std::ffi::OsStr::from_bytes(folder));
            let mut folders = Vec::new();
            for child in fs::read_dir(place).into_iter().flatten().flatten() {
                let facts = child.metadata().unwrap();
                let name = child.file_name();
                let path =
                    if folder.is_empty() { name.as_bytes().to_vec() } else { [folder, b"/", name.as_bytes()].concat() };
                let kind = if facts.is_dir() { Kind::Folder } else { Kind::File };
                let ns = |seconds: i64, rest: i64| seconds * 1_000_000_000 + rest;
                if facts.is_dir() {
                    folders.push(path.clone());
                }
                each(Record {
                    size: facts.len(),
                    mtime_ns: ns(facts.mtime(), facts.mtime_nsec()),
                    ctime_ns: ns(facts.ctime(), facts.ctime_nsec()),
                    inode: facts.ino(),
                    path,
                    ..Record::plain(kind)
                })?;
            }
            Ok(folders)
        }
    }

    impl Tree for Local {
        fn path(&self) -> &str {
            &self.name
        }
        fn scan(&mut self, pruned: &[Vec<u8>], each: &mut dyn FnMut(Record) -> Result<()>) -> Result<()> {
            self.scans += 1;
            let mut waiting = vec![Vec::new()];
            while let Some(folder) = waiting.pop() {
                let below = self.children(&folder, each)?;
                waiting.extend(below.into_iter().filter(|name| !pruned.contains(name)));
            }
            Ok(())
        }
        fn read(&mut self, _: &[Vec<u8>], _: Each) -> Result<()> {
            Ok(())
        }
        fn below(&self, path: &str) -> Box<dyn Tree + '_> {
            Box::new(Local { top: self.top.join(path), name: path.to_owned(), scans: 0, lists: Vec::new() })
        }
    }

    impl Listed for Local {
        fn list(&mut self, folders: &[Vec<u8>], each: &mut dyn FnMut(Record) -> Result<()>) -> Result<()> {
            self.lists.extend(folders.iter().cloned());
            folders.iter().try_for_each(|folder| self.children(folder, each).map(drop))
        }
    }

    struct Rig {
        folder: tempfile::TempDir,
        memory: Memory,
        pruned: Vec<Vec<u8>>,
    }

    impl Rig {
        fn new() -> Rig {
            let rig =
                Rig { folder: tempfile::tempdir().unwrap(), memory: Memory::default(), pruned: vec![b"left".to_vec()] };
            for name in ["a/x", "a/b/y", "c/z", "left/out", ".git/HEAD", ".git/refs/heads/main"] {
                rig.write(name);
            }
            rig
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn write(&self, name: &str) {
            let path = self.path(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        }

        fn local(&self) -> Local {
            Local { top: self.folder.path().into(), name: "/top".into(), scans: 0, lists: Vec::new() }
        }

        fn records(tree: &mut dyn Tree, pruned: &[Vec<u8>]) -> Vec<Record> {
            let mut found = Vec::new();
            tree.scan(pruned, &mut |record| {
                found.push(record);
                Ok(())
            })
            .unwrap();
            found.sort_by(|a, b| a.path.cmp(&b.path));
            found
        }

        /// What a look sees is what a look without a memory sees. Answers which folders were listed.
        #[track_caller]
        fn check(&mut self) -> (usize, Vec<String>) {
            let local = self.local();
            let mut recalled = Recalled { tree: local, memory: &mut self.memory };
            let found = Rig::records(&mut recalled, &self.pruned);
            let Local { scans, lists, .. } = recalled.tree;
            // A folder that was listed anew keeps its own times of before until the one above it is: nobody asks for those.
            let timeless = |record: Record| match record.kind {
                Kind::Folder => Record { mtime_ns: 0, ctime_ns: 0, ..record },
                _ => record,
            };
            let whole = Rig::records(&mut self.local(), &self.pruned);
            let [found, whole] = [found, whole].map(|all| all.into_iter().map(timeless).collect::<Vec<_>>());
            assert_eq!(found, whole);
            (scans, lists.iter().map(|name| super::super::state::encode_path(name)).collect())
        }

        fn note(&mut self, folders: &[&str]) {
            let folders: Vec<String> = folders.iter().map(|name| (*name).to_owned()).collect();
            self.memory.note(Some(&folders));
        }
    }

    #[test]
    fn only_what_changed_is_listed_again() {
        let mut rig = Rig::new();
        assert_eq!(rig.check(), (1, vec![]));
        rig.write("a/b/new");
        rig.write(".git/refs/heads/other");
        rig.note(&["a/b", ".git/refs/heads"]);
        assert_eq!(rig.check(), (0, vec![String::new(), "a/b".into()]));
        assert_eq!(rig.check(), (0, vec![String::new()]));
    }

    #[test]
    fn folders_that_come_go_and_change_places_are_seen() {
        let mut rig = Rig::new();
        rig.check();
        rig.write("d/e/f/g");
        rig.note(&[""]);
        assert_eq!(rig.check().1, ["", "d", "d/e", "d/e/f"]);
        fs::remove_dir_all(rig.path("a")).unwrap();
        rig.note(&["", "a", "a/b"]);
        rig.check();
        // Another folder under the same name, of which only the parent tells.
        fs::rename(rig.path("c"), rig.path("old")).unwrap();
        rig.write("c/other/deep");
        rig.note(&[""]);
        rig.check();
        fs::rename(rig.path("old"), rig.path("d/e/moved")).unwrap();
        rig.note(&["", "d/e"]);
        rig.check();
        fs::remove_dir_all(rig.path(".git")).unwrap();
        rig.note(&[""]);
        rig.check();
    }

    #[test]
    fn what_is_not_known_for_sure_is_scanned_whole() {
        let mut rig = Rig::new();
        rig.check();
        rig.memory.note(None);
        assert_eq!(rig.check(), (1, vec![]));
        rig.memory.note(Some(&["../x".to_owned()]));
        assert_eq!(rig.check(), (1, vec![]));
        rig.pruned.push(b"c".to_vec());
        assert_eq!(rig.check(), (1, vec![]));
    }

    #[test]
    fn a_list_that_holds_more_than_was_asked_for_is_refused() {
        struct Liar(Local);
        impl Tree for Liar {
            fn path(&self) -> &str {
                "/top"
            }
            fn scan(&mut self, pruned: &[Vec<u8>], each: &mut dyn FnMut(Record) -> Result<()>) -> Result<()> {
                self.0.scan(pruned, each)
            }
            fn read(&mut self, _: &[Vec<u8>], _: Each) -> Result<()> {
                Ok(())
            }
            fn below(&self, path: &str) -> Box<dyn Tree + '_> {
                self.0.below(path)
            }
        }
        impl Listed for Liar {
            fn list(&mut self, _: &[Vec<u8>], each: &mut dyn FnMut(Record) -> Result<()>) -> Result<()> {
                each(Record { path: b"elsewhere/x".to_vec(), ..Record::plain(Kind::File) })
            }
        }
        let rig = Rig::new();
        let mut memory = Memory::default();
        Rig::records(&mut Recalled { tree: rig.local(), memory: &mut memory }, &[]);
        let mut liar = Recalled { tree: Liar(rig.local()), memory: &mut memory };
        assert!(liar.scan(&[], &mut |_| Ok(())).is_err());
        assert!(memory.seen.is_none());
    }
}
