//! Pulls from registries that are honest, slow, torn or hostile. What must hold of each: one sentence, nothing half-made,
//! and the next pull goes on where it can.

mod access;
mod broken;
mod documents;
mod signatures;
mod whole;

use super::fake::{Asked, Fake, Held, Reply};
use super::*;
use crate::host::images::{Library, PullOptions};
use crate::layout::Layout;
use engine::host::images::Images;
use engine::host::{HostError, HostErrorKind, Report, Unwatched, Watch};
use model::image_ref::ImageRef;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

struct Rig {
    folder: tempfile::TempDir,
    library: Library,
}

/// Short, so that a test of giving up ends.
const PATIENCE: Patience = Patience {
    connect: Duration::from_secs(5),
    stall: Duration::from_millis(400),
    attempts: 3,
    backoff: Duration::from_millis(10),
};

impl Rig {
    fn new() -> Rig {
        Rig::with(Access { patience: PATIENCE, ..Access::default() })
    }

    fn with(access: Access) -> Rig {
        let folder = tempfile::tempdir().unwrap();
        let library = open(folder.path(), access);
        Rig { folder, library }
    }

    fn pull(&self, fake: &Fake, image: &str) -> Result<String, HostError> {
        self.pull_watched(fake, image, &Unwatched)
    }

    fn pull_watched(&self, fake: &Fake, image: &str, watch: &dyn Watch) -> Result<String, HostError> {
        let reference: ImageRef = format!("{}/{image}", fake.address).parse().unwrap();
        self.library
            .pull_image(&reference, &PullOptions::default(), &|_| Vec::new(), watch)
            .map(|name| name.to_string())
    }

    /// Names in a folder of the library that are not whole entries.
    fn half_made(&self) -> Vec<String> {
        let names = |folder: &str| {
            let entries = std::fs::read_dir(self.folder.path().join(folder)).into_iter().flatten();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>()
        };
        names("s/images").into_iter().filter(|name| name.starts_with('.')).collect()
    }

    fn partials(&self) -> Vec<u64> {
        let entries = std::fs::read_dir(self.folder.path().join("c/blobs/sha256")).into_iter().flatten();
        let partial = |entry: std::io::Result<std::fs::DirEntry>| {
            let entry = entry.unwrap();
            entry.file_name().to_string_lossy().ends_with(".partial").then(|| entry.metadata().unwrap().len())
        };
        entries.filter_map(partial).collect()
    }

    #[track_caller]
    fn refused(&self, fake: &Fake, kind: HostErrorKind, words: &str) {
        self.refused_by_name(fake, "a/b:1", kind, words);
    }

    #[track_caller]
    fn refused_by_name(&self, fake: &Fake, image: &str, kind: HostErrorKind, words: &str) {
        let error = self.pull(fake, image).expect_err("it is refused");
        let said = chain(&error);
        assert!(said.contains(words), "{words:?} is not in: {said}");
        assert_eq!(error.kind, kind, "{said}");
        assert!(self.library.images().unwrap().is_empty() && self.half_made().is_empty());
    }
}

fn open(folder: &std::path::Path, access: Access) -> Library {
    let below = |name: &str| folder.join(name);
    let layout = Layout::at(below("s"), below("r"), below("c")).unwrap();
    layout.prepare().unwrap();
    Library::open(layout).unwrap().with_access(access)
}

fn chain(error: &HostError) -> String {
    let mut said = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(source) = cause {
        said.push_str(&format!(": {source}"));
        cause = source.source();
    }
    said
}

fn has_checker() -> bool {
    std::process::Command::new("e2fsck").arg("-V").output().is_ok()
}

const FILES: &[&[(&str, &[u8])]] = &[
    &[("etc/os-release", b"PRETTY_NAME=\"Tiny 1\"\n"), ("bin/a", b"first")],
    &[("bin/a", b"second"), ("bin/b", b"b")],
    &[("bin/.wh.b", b""), ("srv/c", b"c")],
];

fn held() -> Held {
    Held::image(FILES)
}

/// A blob of some size that does not compress, so that it can be cut.
fn large() -> Held {
    let mut state = 1u32;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    })
    .take(300_000)
    .collect();
    Held::image(&[&[("noise", &noise)]])
}

/// Answers as `held` does, but for layers.
fn but_for_layers(held: Held, answer: impl Fn(&Asked, Reply) -> Reply + Send + Sync + 'static) -> Fake {
    let layers = held.layers.clone();
    Fake::serve(move |asked| {
        let honest = held.answer(asked);
        match layers.iter().any(|layer| asked.path.ends_with(layer)) {
            true => answer(asked, honest),
            false => honest,
        }
    })
}
