//! What fuzzers call, and what every ordinary test calls over their corpus: the bytes of a guest through each place that
//! reads them. A finding is a panic, a broken law, or a case that does not end.
//!
//! The targets of `fuzz/` are one line each; `tests/fuzz_corpus.rs` replays the corpus that is checked in, and mutations
//! of it that are the same in every run. None of them starts a git: what git reads of a guest, git's own fuzzers read.

pub use super::answer::Answer;
use super::disk::DiskTree;
use super::excluded::Excluded;
use super::manifest::{Manifest, is_refused_name};
use super::quarantine::{Hash, quote};
use super::tree::{Each, Tree};
use super::{Result, index, limits, objects, pattern, refs, state, sync};
use std::io::{self, Read};
use std::time::{Duration, Instant};
use wire::guest::work::{Record, WatchEvent, check_path};

/// A target by its name.
pub type Target = (&'static str, fn(&[u8]));

pub const TARGETS: [Target; 7] = [
    ("guest", guest),
    ("index", index_file),
    ("references", references),
    ("pack_index", pack_index),
    ("object", object),
    ("ignore", ignore_file),
    ("disk", disk),
];

/// 20 s: a case that takes longer has no end.
const WITHIN: Duration = Duration::from_secs(20);
/// 1 MiB of what a hostile disk shows.
const SHOWN_BYTES: u64 = 1 << 20;

/// A guest whose answers stand in one string, whatever it is asked.
struct Told<'a> {
    rest: &'a [u8],
    end: Instant,
}

impl Tree for Told<'_> {
    fn path(&self) -> &str {
        "/root/repo"
    }

    fn scan(&mut self, _: &[Vec<u8>], each: &mut dyn FnMut(Record) -> Result<()>) -> Result<()> {
        Answer::new(&mut self.rest, "/root/repo", self.end).scan(each)
    }

    fn read(&mut self, paths: &[Vec<u8>], each: Each) -> Result<()> {
        Answer::new(&mut self.rest, "/root/repo", self.end).contents(0..paths.len(), each)
    }

    fn below(&self, _: &str) -> Box<dyn Tree + '_> {
        Box::new(Told { rest: self.rest, end: self.end })
    }
}

/// A whole look, up to where git comes in: scan, ignore files, references, index. And a line of its watch.
pub fn guest(bytes: &[u8]) {
    let mut told = Told { rest: bytes, end: Instant::now() + WITHIN };
    let _ = look(&mut told);
    let _ = serde_json::from_slice::<WatchEvent>(bytes);
}

fn look(tree: &mut dyn Tree) -> Result<()> {
    let manifest = Manifest::take(tree, &[])?;
    check_manifest(&manifest);
    let (mut excluded, _) = sync::rules(tree, &manifest)?;
    for record in &manifest.work {
        let _ = excluded.is_excluded(&record.path, false);
    }
    let found = refs::read(tree, &manifest, 40)?;
    check_references(&found, 40);
    sync::read_index(tree, &manifest, Hash::Sha1, &mut Vec::new()).map(drop)
}

/// Nothing that is taken for work leaves the tree, is git's own, or would break out of the line that names it to git.
fn check_manifest(manifest: &Manifest) {
    for path in manifest.work.iter().map(|record| &record.path).chain(&manifest.folders) {
        assert!(check_path(path).is_ok(), "{path:?} leaves the tree");
        assert!(!path.split(|byte| *byte == b'/').any(is_refused_name), "{path:?} is git's own");
        assert!(quote(path).iter().all(|byte| (b' '..=b'~').contains(byte)), "{path:?} is not quoted");
        assert_eq!(state::decode_path(&state::encode_path(path)).as_ref(), Some(path), "{path:?} is not remembered");
    }
    assert!(manifest.git.iter().all(|record| record.path.starts_with(b".git/")));
}

fn check_references(found: &refs::References, digits: usize) {
    for (name, object) in found.branches.iter().chain(&found.tags) {
        assert!(refs::is_object(object, digits), "{object:?}");
        let bad = |c: char| c.is_control() || c.is_whitespace() && c.is_ascii();
        assert!(!name.starts_with('-') && !name.contains("..") && !name.contains(bad), "{name:?}");
    }
    assert!(found.branches.len() <= limits::REFERENCES && found.tags.len() <= limits::REFERENCES);
    assert!(found.head.iter().chain(&found.stashes).all(|object| refs::is_object(object, digits)));
    assert!(found.branch.as_deref().is_none_or(refs::is_valid));
    assert!(found.complaints.iter().all(|line| !line.contains(char::is_control)), "{:?}", found.complaints);
}

pub fn index_file(bytes: &[u8]) {
    for object_bytes in [20, 32] {
        let Ok(entries) = index::parse(bytes, object_bytes) else { continue };
        assert!(entries.iter().all(|entry| entry.object.len() == 2 * object_bytes && entry.stage < 4));
        assert!(entries.iter().all(|entry| !entry.path.contains(&0)));
        assert!(entries.len() * (42 + object_bytes) <= bytes.len(), "more entries than bytes for them");
    }
}

/// HEAD, a line feed, packed references.
pub fn references(bytes: &[u8]) {
    let (head, packed) = bytes.split_at(bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len()));
    for digits in [40, 64] {
        let raw = refs::packed_references(packed);
        let found = refs::sort(&String::from_utf8_lossy(head), &raw, &String::from_utf8_lossy(packed), digits);
        check_references(&found, digits);
    }
    for line in String::from_utf8_lossy(&sync::only_objects(bytes, 40)).lines() {
        assert!(refs::is_object(line, 40));
    }
}

pub fn pack_index(bytes: &[u8]) {
    for object_bytes in [20, 32] {
        let names = objects::names_in_index(bytes, object_bytes);
        assert!(names.is_none_or(|names| names.len() % object_bytes == 0 && names.len() <= bytes.len()));
    }
}

/// A loose object; what is taken for one is what its name says.
pub fn object(bytes: &[u8]) {
    for hash in [Hash::Sha1, Hash::Sha256] {
        assert!(!objects::is_sound(bytes, &"0".repeat(hash.digits()), hash), "nothing has this name");
    }
}

/// The first line is a path, the others are an ignore file.
pub fn ignore_file(bytes: &[u8]) {
    let (path, text) = bytes.split_at(bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len()));
    let mut excluded = Excluded::default();
    excluded.add(b"", text);
    let known = excluded.is_excluded(path, false);
    assert_eq!(excluded.is_excluded(path, false), known, "the second verdict is another");
    if pattern::read(text).next().is_none() {
        assert!(!known, "nothing excludes it");
    }
}

/// The disk of a guest that is gone.
pub fn disk(bytes: &[u8]) {
    let end = Instant::now() + WITHIN;
    let Ok(mut tree) = DiskTree::of_bytes(bytes.to_vec(), end) else { return };
    let mut paths = Vec::new();
    let mut shown = 0;
    let _ = tree.scan(&[], &mut |record| {
        assert!(!record.path.is_empty());
        shown += 1;
        paths.push(record.path);
        // A folder that holds itself shows very many; the look's own bound is far away.
        if shown < 2000 { Ok(()) } else { Err(super::HomeError::Late { path: String::new() }) }
    });
    paths.truncate(200);
    let _ = tree.read(&paths, &mut |_, record, content| {
        let size = record.size.min(SHOWN_BYTES);
        let count = io::copy(&mut content.take(size), &mut io::sink()).unwrap_or_default();
        assert!(count <= record.size);
        Ok(())
    });
    assert!(Instant::now() < end, "it takes too long");
}
