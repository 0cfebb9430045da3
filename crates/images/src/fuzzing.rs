//! What fuzzers call, and what a bounded run of their corpus calls in every test: hostile bytes through each border of this
//! crate, with limits that keep one case short. A finding is a panic, a broken law or a case that does not end.
//!
//! The targets of `cargo fuzz` in `fuzz/` are one line each; `tests/fuzz_corpus.rs` runs the same functions over the
//! corpus that is checked in, and over mutations of it that are the same in every run.

use crate::archive::Entries;
use crate::layer::{Compression, Layer};
use crate::limits::Limits;
use crate::stack::Stack;
use crate::tree::{NodeKind, Tree};
use crate::{bundle, catalog, config, kernel, manifest};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// A target by its name.
pub type Target = (&'static str, fn(&[u8]));

pub const TARGETS: [Target; 4] =
    [("tar_tree", tar_tree), ("manifest", manifest_document), ("kernel", kernel_file), ("bundle", bundle_file)];

/// 16 MiB of kernel or bundle: a bomb is told from a file well before.
const MAX_UNPACKED_BYTES: usize = 16 << 20;

fn limits() -> Limits {
    Limits {
        entries: 1000,
        path_bytes: 300,
        layer_bytes: 1 << 20,
        expansion_floor_bytes: 1 << 20,
        content_bytes: 8 << 20,
        file_bytes: 1 << 30,
        header_bytes: 1 << 16,
        sparse_pieces: 1000,
        ..Limits::default()
    }
}

/// An archive, twice, as two layers: a tree has no name that would leave it, and nothing over its limits.
pub fn tar_tree(bytes: &[u8]) {
    let limits = limits();
    let mut tree = Tree::new(limits.clone(), 0);
    for _ in 0..2 {
        tree.begin_layer();
        for entry in Entries::new(bytes, bytes.len() as u64, &limits) {
            let Ok(entry) = entry else { break };
            if tree.apply(entry).is_err() {
                break;
            }
        }
    }
    for (path, id) in tree.paths().skip(1) {
        let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
        assert!(!matches!(name, b"" | b"." | b".."), "a name leaves the tree: {path:?}");
        assert!(path.len() <= limits.path_bytes && name.len() <= 255, "a path is too long: {path:?}");
        if let NodeKind::File { contents, .. } = &tree.node(id).kind {
            assert!(contents.size <= limits.file_bytes);
            for piece in &contents.pieces {
                assert!(piece.at + piece.length <= contents.size, "a piece lies outside its file: {path:?}");
                assert!(piece.stored_at + piece.length <= bytes.len() as u64, "a piece lies outside the archive");
            }
        }
    }
}

/// Everything that arrives as a document: manifests, indexes, configurations, catalogs.
pub fn manifest_document(bytes: &[u8]) {
    if let Ok(manifest::Document::Index(index)) = manifest::parse(bytes, None) {
        let _ = manifest::choose(&index, "linux", "amd64");
    }
    if let Ok(document) = config::parse(bytes) {
        let _ = document.check("amd64", document.diff_ids.len());
    }
    if let Ok(text) = str::from_utf8(bytes) {
        let _ = catalog::Catalog::builtin().add("fuzz", text);
    }
}

/// A kernel of either format; what is taken for one holds its entry.
pub fn kernel_file(bytes: &[u8]) {
    if let Ok(vmlinux) = kernel::unpack_within(bytes, MAX_UNPACKED_BYTES) {
        assert!(vmlinux.bytes.len() <= MAX_UNPACKED_BYTES.max(bytes.len()));
        assert!(vmlinux.bytes.starts_with(b"\x7fELF"));
        let _ = vmlinux.facts.backends();
    }
}

/// A bundle writes below its folder and nowhere else; a kernel's is read in memory.
pub fn bundle_file(bytes: &[u8]) {
    let Ok(folder) = Scratch::new() else { return };
    let mut read = 0;
    let mut progress = |more: u64| {
        read += more;
        if read > MAX_UNPACKED_BYTES as u64 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let inner = folder.0.join("inner");
    if std::fs::create_dir(&inner).is_ok() && bundle::read(bytes, None, &inner, &mut progress).is_ok() {
        assert_eq!(entries(&folder.0), 1, "something lies beside the bundle's folder");
    }
    kernel_bundle(bytes, &folder.0.join("spool"));
}

fn kernel_bundle(bytes: &[u8], spool: &Path) {
    let Ok(spool) = std::fs::File::options().read(true).write(true).create_new(true).open(spool) else { return };
    let go_on = &mut |_| ControlFlow::Continue(());
    let layer = Layer::spool(bytes, Compression::detect(bytes), spool, &limits(), go_on);
    if let Ok(stack) = layer.and_then(|layer| Stack::new(vec![layer], &limits()))
        && let Ok(bundle) = kernel::bundle::read(&stack)
    {
        let is_word = |name: &str| !name.is_empty() && !name.contains(['/', '.']);
        assert!(bundle.modules.iter().all(|module| is_word(&module.name)), "a module's name leads elsewhere");
    }
}

fn entries(folder: &Path) -> usize {
    std::fs::read_dir(folder).map_or(0, Iterator::count)
}

/// A folder of one case's own.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> std::io::Result<Scratch> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("banger-fuzz-{}-{number}", std::process::id()));
        std::fs::create_dir(&path)?;
        Ok(Scratch(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
