//! Our tree against what others make of the same layers: `umoci unpack` for the rules of OCI, the kernel for the
//! images we write. Both need root; without it, or without umoci, the tests say so and pass.
#![allow(clippy::print_stderr)]

use crate::archive::BLOCK;
use crate::digest;
use crate::ext4::{WriteOptions, write_rootfs};
use crate::layer::LayerError;
use crate::limits::Limits;
use crate::stack::Stack;
use crate::testing::{Archive, layer};
use crate::tree::NodeKind;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::Command;
use tar::EntryType;

/// What is compared of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    kind: String,
    mode: u32,
    owner: (u32, u32),
    mtime: Option<(i64, u32)>,
    /// The first path, in byte order, of the same file.
    links_to: Vec<u8>,
    xattrs: BTreeMap<String, Vec<u8>>,
}

type Listing = BTreeMap<Vec<u8>, Seen>;

/// Time of directories that no layer describes; `umoci` gives them the current one, so they are not compared.
const IMPLIED: i64 = 4242;

/// Later than any time that the generated archives hold: made by whoever unpacked.
const NOT_IN_ARCHIVES: i64 = 1_750_000_000;

fn see_stack(stack: &Stack) -> Listing {
    let mut first = BTreeMap::new();
    let mut listing = Listing::new();
    for (path, id) in stack.tree().paths() {
        let node = stack.tree().node(id);
        let kind = match &node.kind {
            NodeKind::Directory(_) => "directory".into(),
            NodeKind::File { .. } => {
                let contents = stack.read_node(id, "a file", 1 << 30).expect("it can be read");
                format!("file {}", digest::of_bytes(&contents))
            }
            NodeKind::Symlink(target) => format!("link {}", String::from_utf8_lossy(target)),
            NodeKind::CharDevice { major, minor } => format!("char {major}:{minor}"),
            NodeKind::BlockDevice { major, minor } => format!("block {major}:{minor}"),
            NodeKind::Fifo => "fifo".into(),
        };
        let links_to = first.entry(id).or_insert_with(|| path.clone()).clone();
        let metadata = &node.metadata;
        let xattrs = metadata.xattrs.iter().map(|(name, value)| (name.to_string(), value.to_vec())).collect();
        let mode = metadata.mode.into();
        let owner = (metadata.uid, metadata.gid);
        let mtime = (metadata.mtime.0 != IMPLIED).then_some(metadata.mtime);
        listing.insert(path, Seen { kind, mode, owner, mtime, links_to, xattrs });
    }
    listing
}

fn see_folder(root: &Path) -> Listing {
    let mut listing = Listing::new();
    let mut inodes = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    let mut paths = Vec::new();
    while let Some(path) = todo.pop() {
        if path.symlink_metadata().expect("it is there").is_dir() {
            todo.extend(path.read_dir().expect("it is a directory").map(|entry| entry.expect("it can be read").path()));
        }
        paths.push(path);
    }
    // The order of `Tree::paths`: parents first, then byte order of names.
    paths.sort_by_key(|path| path.components().map(|c| c.as_os_str().as_bytes().to_vec()).collect::<Vec<_>>());
    for path in paths {
        let name = path.strip_prefix(root).expect("it is below").as_os_str().as_bytes().to_vec();
        if name == b"lost+found" {
            continue;
        }
        let metadata = path.symlink_metadata().expect("it is there");
        let device = || format!("{}:{}", rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev()));
        let kind = match metadata.file_type() {
            kind if kind.is_dir() => "directory".into(),
            kind if kind.is_symlink() => format!("link {}", path.read_link().expect("it is one").display()),
            kind if kind.is_char_device() => format!("char {}", device()),
            kind if kind.is_block_device() => format!("block {}", device()),
            kind if kind.is_fifo() => "fifo".into(),
            _ => format!("file {}", digest::of_bytes(&std::fs::read(&path).expect("it can be read"))),
        };
        let links_to = inodes.entry(metadata.ino()).or_insert_with(|| name.clone()).clone();
        let mtime = Some((metadata.mtime(), metadata.mtime_nsec() as u32));
        let owner = (metadata.uid(), metadata.gid());
        let seen = Seen { kind, mode: metadata.mode() & 0o7777, owner, mtime, links_to, xattrs: see_xattrs(&path) };
        listing.insert(name, seen);
    }
    listing
}

fn see_xattrs(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut names = vec![0u8; 65536];
    let length = rustix::fs::llistxattr(path, &mut names).expect("attributes can be listed");
    let names = names[..length].split(|&b| b == 0).filter(|name| !name.is_empty());
    let names = names.map(|name| String::from_utf8_lossy(name).into_owned());
    // ACLs have one form in an archive and on disk another; they have tests of their own.
    names
        .filter(|name| !name.starts_with("system.posix_acl") && name != "security.selinux")
        .map(|name| {
            let mut value = vec![0u8; 65536];
            let length = rustix::fs::lgetxattr(path, name.as_str(), &mut value).expect("the attribute is there");
            value.truncate(length);
            (name, value)
        })
        .collect()
}

fn assert_same(ours: &Listing, theirs: &Listing, what: &str) {
    let mut differences = Vec::new();
    for path in ours.keys().chain(theirs.keys()) {
        let (mine, other) = (ours.get(path), theirs.get(path).cloned());
        let other = other.map(|other| match mine {
            Some(mine) if mine.mtime.is_none() => Seen { mtime: None, ..other },
            // Taking a name away touches its directory; umoci does not always put the time back.
            Some(mine) if other.mtime > Some((NOT_IN_ARCHIVES, 0)) => Seen { mtime: mine.mtime, ..other },
            _ => other,
        });
        if mine != other.as_ref() {
            differences.push(format!("{}\n  ours:   {mine:?}\n  theirs: {other:?}", String::from_utf8_lossy(path)));
        }
    }
    assert!(differences.is_empty(), "{what}\n{}", differences.join("\n"));
}

fn stack(layers: &[Vec<u8>]) -> Result<Stack, LayerError> {
    let limits = Limits::default();
    let layers = layers.iter().map(|bytes| layer(bytes)).collect();
    Stack::with_implied_time(layers, &limits, IMPLIED)
}

fn have(tool: &str) -> bool {
    let is_root = rustix::process::geteuid().is_root();
    let present = Command::new(tool).arg("--version").output().is_ok();
    if !is_root {
        eprintln!("skip: comparing with `{tool}` needs root");
    } else if !present {
        eprintln!("skip: `{tool}` is not installed");
    }
    is_root && present
}

/// Unpacks layers with umoci; `None` if it refuses them.
fn umoci(layers: &[Vec<u8>], folder: &Path) -> Option<Listing> {
    let layout = folder.join("layout");
    let blobs = layout.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).expect("folders can be made");
    let blob = |media_type: &str, bytes: &[u8]| {
        let digest = digest::of_bytes(bytes);
        std::fs::write(blobs.join(digest.hex()), bytes).expect("blobs can be written");
        format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{}}}"#, bytes.len())
    };
    let diff_ids: Vec<_> = layers.iter().map(|bytes| format!("{:?}", digest::of_bytes(bytes).as_str())).collect();
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
        diff_ids.join(",")
    );
    let config = blob("application/vnd.oci.image.config.v1+json", config.as_bytes());
    let layers: Vec<_> = layers.iter().map(|bytes| blob("application/vnd.oci.image.layer.v1.tar", bytes)).collect();
    let manifest = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{}]}}"#, layers.join(","));
    let manifest = blob("application/vnd.oci.image.manifest.v1+json", manifest.as_bytes());
    let manifest =
        manifest.replace(r#"{"mediaType""#, r#"{"annotations":{"org.opencontainers.image.ref.name":"t"},"mediaType""#);
    std::fs::write(layout.join("index.json"), format!(r#"{{"schemaVersion":2,"manifests":[{manifest}]}}"#))
        .expect("it can be written");
    std::fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("it can be written");
    let bundle = folder.join("bundle");
    let image = format!("{}:t", layout.display());
    let output = Command::new("umoci").args(["unpack", "--image", &image]).arg(&bundle).output().expect("umoci runs");
    if !output.status.success() {
        eprintln!("umoci refuses: {}", String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default());
        return None;
    }
    Some(see_folder(&bundle.join("rootfs")))
}

/// The entries of archives, one a line, for a failed case.
fn describe(layers: &[Vec<u8>]) -> String {
    let limits = Limits::default();
    let line = |entry: crate::archive::Entry| format!("{}  {:?}\n", String::from_utf8_lossy(&entry.path), entry.kind);
    let entries = |layer: &Vec<u8>| -> String {
        let entries = crate::archive::Entries::new(layer.as_slice(), layer.len() as u64, &limits);
        entries.map(|entry| line(entry.expect("it is well formed"))).collect()
    };
    layers.iter().map(entries).collect::<Vec<_>>().join("---\n")
}

/// Numbers that are the same in every run (xorshift64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % sides as u64) as usize
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.roll(from.len())]
    }

    fn path(&mut self) -> String {
        let depth = 1 + self.roll(3);
        let names: Vec<_> = (0..depth).map(|_| self.pick(&["a", "b", "c", "d"])).collect();
        self.pick(&["", "", "", "./", "/", "../", "x/../"]).to_owned() + &names.join("/")
    }

    fn layer(&mut self) -> Vec<u8> {
        let mut archive = Archive::default();
        let mut files = Vec::new();
        for number in 0..2 + self.roll(8) {
            let path = self.path();
            let parent = || path.rsplit_once('/').map_or(String::new(), |(parent, _)| format!("{parent}/"));
            archive = match self.roll(12) {
                0..=2 => {
                    files.push(path.clone());
                    archive.file(&path, &format!("contents {number}"))
                }
                3..=4 => archive.directory(&path),
                5..=6 => {
                    archive.symlink(&path, self.pick(&["a", "../b", "/c", "../../..", "b/../c", "x", "/a/b", "."]))
                }
                7 if files.is_empty() => archive.hard_link(&path, &self.path()),
                7 => archive.hard_link(&path, &files[self.roll(files.len())]),
                8 => archive.file(&format!("{}.wh.{}", parent(), self.pick(&["a", "b", "c"])), ""),
                9 => archive.file(&format!("{}.wh..wh..opq", parent()), ""),
                10 => archive.entry(EntryType::Fifo, &path, "", b""),
                _ => archive.pax(&[("SCHILY.xattr.user.note", b"a\nb"), ("mtime", b"1700000000.5")]).file(&path, "x"),
            };
        }
        archive.bytes()
    }
}

/// Seeds to try; each costs two processes.
const CASES: u64 = 60;

#[test]
fn generated_layers_give_the_tree_that_umoci_gives() {
    if !have("umoci") {
        return;
    }
    let mut compared = 0;
    for seed in 1..=CASES {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let layers: Vec<_> = (0..1 + dice.roll(3)).map(|_| dice.layer()).collect();
        assert!(layers.iter().all(|layer| (layer.len() as u64).is_multiple_of(BLOCK)));
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let (ours, theirs) = (stack(&layers), umoci(&layers, folder.path()));
        match (ours, theirs) {
            (Ok(ours), Some(theirs)) => {
                assert_same(&see_stack(&ours), &theirs, &format!("seed {seed}"));
                compared += 1;
            }
            (Err(_), None) => {}
            (ours, theirs) => {
                eprintln!("{}", describe(&layers));
                panic!("seed {seed}: ours {:?}, umoci's {}", ours.err(), theirs.is_some())
            }
        }
    }
    assert!(compared > CASES / 3, "only {compared} cases were good layers");
}

/// Names in Latin-1, also in a directory that is large enough for an index, which the kernel finds only by their hashes.
fn odd_layer() -> Vec<u8> {
    let mut archive = Archive::default().directory("large");
    for number in 0..700 {
        archive = archive.file(&format!("large/a-rather-long-name-{number}"), "");
    }
    for path in [&b"large/caf\xe9"[..], b"large/\xff", b"na\xefve/\xfe", b"\x80"] {
        archive = archive.pax(&[("path", path)]).file("stands-for-a-path", "odd");
    }
    archive.pax(&[("linkpath", b"to/\xff")]).symlink("link", "x").bytes()
}

#[test]
fn the_kernel_sees_the_tree_in_the_image() {
    if !have("mount") {
        return;
    }
    for seed in 100..106 {
        let mut dice = Dice(seed);
        let layers = if seed == 105 { [odd_layer(), dice.layer()] } else { [dice.layer(), dice.layer()] };
        let Ok(stack) = stack(&layers) else { continue };
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let (image, mount) = (folder.path().join("image"), folder.path().join("mount"));
        let options = WriteOptions { epoch: IMPLIED as u32, ..WriteOptions::default() };
        write_rootfs(stack.layers(), &image, &options, &mut |_| ControlFlow::Continue(()))
            .expect("the tree can be written");
        std::fs::create_dir(&mount).expect("a folder can be made");
        let mounted =
            Command::new("mount").args(["-o", "loop,ro"]).args([&image, &mount]).output().expect("mount runs");
        if !mounted.status.success() {
            eprintln!("skip: no loop mounts here: {}", String::from_utf8_lossy(&mounted.stderr));
            return;
        }
        let theirs = see_folder(&mount);
        assert!(Command::new("umount").arg(&mount).status().expect("umount runs").success());
        assert_same(&see_stack(&stack), &theirs, &format!("seed {seed}"));
    }
}
