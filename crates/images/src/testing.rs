//! Archives for tests: one line per entry, and the tree that comes of them as text.

use crate::archive::Entries;
use crate::layer::{Compression, Layer};
use crate::limits::Limits;
use crate::tree::{NodeKind, Tree, TreeError};
use std::io::Write;
use std::ops::ControlFlow;
use tar::{EntryType, Header};

/// Builds an archive by hand, so that nothing tidies up what a hostile one would hold.
#[derive(Default)]
pub struct Archive(Vec<u8>);

impl Archive {
    pub fn entry(mut self, kind: EntryType, path: &str, link: &str, contents: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1);
        header.set_size(contents.len() as u64);
        self.raw(header, contents);
        self
    }

    pub fn file(self, path: &str, contents: &str) -> Self {
        self.entry(EntryType::Regular, path, "", contents.as_bytes())
    }

    pub fn directory(self, path: &str) -> Self {
        self.entry(EntryType::Directory, path, "", b"")
    }

    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, path, target, b"")
    }

    pub fn hard_link(self, path: &str, target: &str) -> Self {
        self.entry(EntryType::Link, path, target, b"")
    }

    /// PAX records for the next entry.
    pub fn pax(mut self, records: &[(&str, &[u8])]) -> Self {
        let mut contents = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length != rest + length.to_string().len() {
                length += 1;
            }
            contents.extend(format!("{length} {key}=").bytes());
            contents.extend(*value);
            contents.push(b'\n');
        }
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::XHeader);
        header.set_size(contents.len() as u64);
        self.raw(header, &contents);
        self
    }

    pub fn raw(&mut self, mut header: Header, contents: &[u8]) {
        header.set_cksum();
        self.0.extend(header.as_bytes());
        self.0.extend(contents);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
    }

    /// Without the two empty blocks at the end: some archives lack them.
    pub fn unfinished(self) -> Vec<u8> {
        self.0
    }

    pub fn bytes(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }

    pub fn layer(self) -> Layer {
        layer(&self.bytes())
    }
}

pub fn layer(bytes: &[u8]) -> Layer {
    let file = tempfile::tempfile().expect("a temporary file can be made");
    Layer::spool(bytes, Compression::Plain, file, &Limits::default(), &mut |_| ControlFlow::Continue(()))
        .expect("a plain layer can be spooled")
}

/// Applies archives as layers.
pub fn tree(layers: &[Vec<u8>]) -> Result<Tree, TreeError> {
    tree_within(layers, Limits::default())
}

pub fn tree_within(layers: &[Vec<u8>], limits: Limits) -> Result<Tree, TreeError> {
    let mut tree = Tree::new(limits.clone(), 0);
    for layer in layers {
        tree.begin_layer();
        for entry in Entries::new(layer.as_slice(), layer.len() as u64, &limits) {
            tree.apply(entry.expect("the archive is well formed"))?;
        }
    }
    Ok(tree)
}

/// One word per name: `a/ a/file=0:4 link->target` (layer and size of a file).
pub fn listing(tree: &Tree) -> String {
    let mut listing = Vec::new();
    for (path, id) in tree.paths().skip(1) {
        write!(listing, "{}", String::from_utf8_lossy(&path)).expect("memory takes it");
        match &tree.node(id).kind {
            NodeKind::Directory(_) => write!(listing, "/"),
            NodeKind::File { layer, contents } => write!(listing, "={layer}:{}", contents.size),
            NodeKind::Symlink(target) => write!(listing, "->{}", String::from_utf8_lossy(target)),
            NodeKind::CharDevice { major, minor } => write!(listing, "=c{major}:{minor}"),
            NodeKind::BlockDevice { major, minor } => write!(listing, "=b{major}:{minor}"),
            NodeKind::Fifo => write!(listing, "=fifo"),
        }
        .expect("memory takes it");
        listing.push(b' ');
    }
    String::from_utf8(listing).expect("it was made from text").trim_end().to_owned()
}
