//! The two writers against each other: the same layers, two images, one tree.

use super::*;
use ::images::ext4::{Mkext4, WriteOptions, write_rootfs_with};
use ::images::{Compression, Layer, Limits};
use std::collections::BTreeMap;
use tar::{EntryType, Header};

struct Archive(tar::Builder<Vec<u8>>);

impl Archive {
    fn new() -> Archive {
        Archive(tar::Builder::new(Vec::new()))
    }

    fn entry(&mut self, kind: EntryType, path: &str, mode: u32, owner: u64, data: &[u8], link: Option<&str>) {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(owner);
        header.set_gid(owner + 1);
        header.set_mtime(1_600_000_000 + owner);
        header.set_size(data.len() as u64);
        if matches!(kind, EntryType::Char | EntryType::Block) {
            header.set_device_major(1).expect("it fits");
            header.set_device_minor(3).expect("it fits");
        }
        match link {
            Some(target) => self.0.append_link(&mut header, path, target),
            None => self.0.append_data(&mut header, path, data),
        }
        .expect("memory takes it");
    }

    fn layer(self) -> Layer {
        let bytes = self.0.into_inner().expect("memory takes it");
        let spool = tempfile::tempfile().expect("a temporary file can be made");
        let mut go_on = |_| ControlFlow::Continue(());
        Layer::spool(&bytes[..], Compression::Plain, spool, &Limits::default(), &mut go_on).expect("it is good")
    }
}

fn layers() -> Vec<Layer> {
    let mut first = Archive::new();
    for folder in ["bin", "etc", "root", "srv/deep/er"] {
        first.entry(EntryType::Directory, folder, 0o2751, 3, b"", None);
    }
    first.entry(EntryType::Regular, "bin/tool", 0o4755, 0, &[7; 70_000], None);
    first.entry(EntryType::Link, "bin/other", 0o4755, 0, b"", Some("bin/tool"));
    first.entry(EntryType::Symlink, "etc/link", 0o777, 2, b"", Some("../bin/tool"));
    first.entry(EntryType::Symlink, "etc/long", 0o777, 2, b"", Some(&"t".repeat(90)));
    first.entry(EntryType::Char, "srv/null", 0o666, 0, b"", None);
    first.entry(EntryType::Fifo, "srv/pipe", 0o600, 65_534, b"", None);
    first.entry(EntryType::Regular, "etc/gone", 0o644, 0, b"gone", None);
    for number in 0..400 {
        first.entry(EntryType::Regular, &format!("srv/deep/a-file-with-number-{number}"), 0o640, 1, b"x", None);
    }
    let mut second = Archive::new();
    second.entry(EntryType::Regular, "etc/.wh.gone", 0o644, 0, b"", None);
    second.entry(EntryType::Regular, "etc/empty", 0o600, 3_000_000, b"", None);
    vec![first.layer(), second.layer()]
}

/// By path: kind, mode, owner, time, contents or target, and the first path of the same inode.
type Listing = BTreeMap<Vec<u8>, (u16, u32, u32, u32, Vec<u8>, Vec<u8>)>;

fn list(image: &[u8]) -> Listing {
    let fs = mkext4::reader::Fs::open(image).expect("it is an ext4");
    let mut listing = Listing::new();
    let mut first: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
    let mut todo = vec![(Vec::new(), 2u32)];
    while let Some((path, number)) = todo.pop() {
        let inode = fs.inode(number).expect("it can be read");
        let kind = inode.mode & 0xf000;
        let contents = match kind {
            0x4000 => Vec::new(),
            0x8000 => fs.read_file(number).expect("it can be read"),
            0xa000 => fs.symlink_target(number).expect("it can be read"),
            _ => inode.block[..8].to_vec(),
        };
        if kind == 0x4000 {
            let mut names = fs.read_dir(number).expect("it can be read");
            names.sort_by(|one, other| other.name.cmp(&one.name));
            for entry in names.into_iter().filter(|entry| !matches!(&entry.name[..], b"." | b".." | b"lost+found")) {
                todo.push(([path.clone(), b"/".to_vec(), entry.name].concat(), entry.inode));
            }
        }
        let links_to = first.entry(number).or_insert_with(|| path.clone()).clone();
        listing.insert(path, (inode.mode, inode.uid, inode.gid, inode.mtime, contents, links_to));
    }
    listing
}

#[test]
fn both_writers_make_the_same_tree() {
    if !MkfsExt4::is_possible() {
        let _ = io::Write::write_all(&mut io::stderr(), b"skipped: the other writer needs root and mkfs.ext4\n");
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let other = MkfsExt4 { scratch: folder.path().to_owned() };
    let writers: [(&str, &dyn RootfsWriter); 2] = [("own", &Mkext4), ("mkfs", &other)];
    let images = writers.map(|(name, writer)| {
        let out = folder.path().join(name);
        let options = WriteOptions { epoch: 1_600_000_000, ..WriteOptions::default() };
        write_rootfs_with(writer, &layers(), &out, &options, &mut |_| ControlFlow::Continue(())).expect("it is good");
        let checked = crate::program::command("e2fsck").arg("-fn").arg(&out).output().expect("e2fsck runs");
        assert!(checked.status.success(), "{name}: {}", String::from_utf8_lossy(&checked.stdout));
        list(&fs::read(&out).expect("it can be read"))
    });
    let [own, mkfs] = images;
    for path in own.keys().chain(mkfs.keys()) {
        assert_eq!(own.get(path), mkfs.get(path), "{}", String::from_utf8_lossy(path));
    }
    assert!(own.len() > 400 && own.contains_key(&b"/bin/other"[..]));
    assert_eq!(fs::read_dir(folder.path()).expect("it is there").count(), 2, "the unpacked tree is gone");
}
