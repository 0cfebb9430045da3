//! A work disk that begins with more than its seed: what the seed holds, file by file, and an archive on top of it.
//!
//! The seed is an image of ours, or one that a person registered: it is read, never mounted, and what cannot be read
//! makes no disk. Its files stay where they lie until they are copied: the seed is one layer of the tree, the archive the
//! other one. Extended attributes are kept but for POSIX ACLs, whose stored form is not the archives'.

use super::{ImageError, Mkext4, Progress, Volume, WORK_LABEL, write_volume};
use crate::archive::{Entry, Kind};
use crate::layer::{Layer, LayerError};
use crate::limits::Limits;
use crate::sparse::{Contents, Piece};
use crate::tree::{self, Tree};
use mkext4::reader::{FileExtent, Fs};
use mkext4::spec::inode::{FileType, Inode};
use model::{ByteSize, Digest};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;

const ROOT_INODE: u32 = 2;
const BLOCK: u64 = 4096;
const PERMISSIONS: u16 = 0o7777;

#[derive(Debug, Clone, Copy)]
pub struct WorkDisk<'a> {
    pub seed: Option<&'a Path>,
    /// An archive that is not compressed, in a file that nobody else writes to.
    pub archive: &'a Path,
    /// What the archive brings is new: a seed that has something of this name is refused.
    pub new_name: &'a [u8],
    pub uuid: [u8; 16],
}

/// Writes it to `out`, which must not exist yet; no larger than it has to be.
pub fn write_work_disk(
    disk: &WorkDisk<'_>,
    out: &Path,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<ByteSize, ImageError> {
    let limits = Limits::default();
    let mut tree = Tree::new(limits.clone(), 0);
    let mut layers = Vec::new();
    if let Some(seed) = disk.seed {
        let file = open(seed)?;
        tree.begin_layer();
        take_seed(&mut tree, &file).map_err(|error| failed(layers.len(), error))?;
        if tree.child(tree::ROOT, disk.new_name).is_some() {
            return Err(failed(layers.len(), LayerError::Read(io::ErrorKind::AlreadyExists.into())));
        }
        layers.push(unnamed(file).map_err(|error| failed(layers.len(), error))?);
    }
    let archive = unnamed(open(disk.archive)?).map_err(|error| failed(layers.len(), error))?;
    let mut go_on = || progress(Progress::Reading { layer: layers.len(), of: layers.len() + 1 });
    tree.apply_layer(&archive, &limits, &mut go_on).map_err(|error| match error {
        LayerError::Cancelled => ImageError::Cancelled,
        error => failed(layers.len(), error),
    })?;
    layers.push(archive);
    let volume = Volume {
        tree: &tree,
        layers: &layers,
        root: tree::ROOT,
        emptied: None,
        uuid: disk.uuid,
        epoch: 0,
        label: WORK_LABEL,
        free_bytes: 0,
        grows: true,
    };
    let written = write_volume(&Mkext4, &volume, out, progress)?;
    Ok(ByteSize::from_bytes(written.bytes))
}

fn open(path: &Path) -> Result<File, ImageError> {
    File::open(path).map_err(|source| ImageError::Create { path: path.to_owned(), source })
}

fn failed(before: usize, source: LayerError) -> ImageError {
    ImageError::Layer { number: before + 1, source }
}

/// Nobody asks such a layer for its name.
fn unnamed(file: File) -> Result<Layer, LayerError> {
    Layer::from_parts(file, Digest::from_sha256([0; 32]))
}

fn take_seed(tree: &mut Tree, seed: &File) -> Result<(), LayerError> {
    let system = Fs::open(seed).map_err(unreadable)?;
    let mut names: HashMap<u32, Vec<u8>> = HashMap::new();
    let mut folders = vec![(ROOT_INODE, Vec::new())];
    apply(tree, entry(&system, ROOT_INODE, Vec::new(), &names)?)?;
    while let Some((folder, path)) = folders.pop() {
        for child in system.read_dir(folder).map_err(unreadable)? {
            let is_own = matches!(child.name.as_slice(), b"." | b"..");
            if child.inode == 0 || is_own || folder == ROOT_INODE && child.name == b"lost+found" {
                continue;
            }
            let path = if path.is_empty() { child.name } else { [path.as_slice(), b"/", &child.name].concat() };
            let entry = entry(&system, child.inode, path.clone(), &names)?;
            let kind = entry.kind.clone();
            // A disk that is broken shows a folder within itself: the limit on a path ends that.
            apply(tree, entry)?;
            match kind {
                Kind::Directory => folders.push((child.inode, path)),
                Kind::HardLink(_) => {}
                _ => drop(names.insert(child.inode, path)),
            }
        }
    }
    Ok(())
}

fn apply(tree: &mut Tree, entry: Entry) -> Result<(), LayerError> {
    tree.apply(entry).map_err(LayerError::Tree)
}

fn entry(system: &Fs<&File>, number: u32, path: Vec<u8>, names: &HashMap<u32, Vec<u8>>) -> Result<Entry, LayerError> {
    let inode = system.inode(number).map_err(unreadable)?;
    let kind = match names.get(&number) {
        Some(first) => Kind::HardLink(first.clone()),
        None => kind(system, number, &inode)?,
    };
    let mut xattrs = crate::archive::Xattrs::new();
    for one in system.xattrs(number).map_err(unreadable)? {
        let name = one.full_name().filter(|name| !name.starts_with(b"system."));
        xattrs.insert(name.ok_or_else(|| unsupported("an attribute of the file system's own"))?, one.value);
    }
    let mtime = Inode::timestamp(inode.mtime, inode.mtime_extra);
    Ok(Entry { path, kind, mode: inode.mode & PERMISSIONS, uid: inode.uid, gid: inode.gid, mtime, xattrs })
}

fn kind(system: &Fs<&File>, number: u32, inode: &Inode) -> Result<Kind, LayerError> {
    let device = || inode.dev_numbers().ok_or_else(|| unsupported("a device without numbers"));
    Ok(match inode.file_type() {
        FileType::Regular => Kind::File(contents(inode.size, &system.extents(number, inode).map_err(unreadable)?)?),
        FileType::Dir => Kind::Directory,
        FileType::Symlink => Kind::Symlink(system.symlink_target(number).map_err(unreadable)?),
        FileType::CharDev => device().map(|(major, minor)| Kind::CharDevice { major, minor })?,
        FileType::BlockDev => device().map(|(major, minor)| Kind::BlockDevice { major, minor })?,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket | FileType::Unknown => return Err(unsupported("a file of another kind")),
    })
}

/// Where the bytes of a file lie in its image.
fn contents(size: u64, extents: &[FileExtent]) -> Result<Contents, LayerError> {
    let mut pieces: Vec<Piece> = Vec::new();
    let mut end = 0;
    for extent in extents.iter().filter(|extent| !extent.unwritten) {
        let at = u64::from(extent.logical) * BLOCK;
        let length = (u64::from(extent.len) * BLOCK).min(size.saturating_sub(at));
        if at < end {
            return Err(unsupported("pieces of a file that overlap"));
        }
        end = at + length;
        if length > 0 {
            pieces.push(Piece { at, length, stored_at: extent.physical.saturating_mul(BLOCK) });
        }
    }
    Ok(Contents { size, pieces: pieces.into() })
}

fn unreadable(error: mkext4::Error) -> LayerError {
    LayerError::Read(io::Error::other(error))
}

fn unsupported(what: &str) -> LayerError {
    LayerError::Read(io::Error::new(io::ErrorKind::Unsupported, format!("the seed holds {what}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ext4::{WriteOptions, write_rootfs};
    use crate::testing::Archive;
    use std::path::PathBuf;
    use std::process::Command;

    struct Place {
        folder: tempfile::TempDir,
    }

    impl Place {
        /// A folder with the seed of an image whose `/root` holds these.
        fn with_seed(archive: Archive) -> Place {
            let place = Place { folder: tempfile::tempdir().expect("a temporary folder can be made") };
            let options = WriteOptions { work_seed: Some(place.at("seed")), ..WriteOptions::default() };
            let mut go_on = |_| ControlFlow::Continue(());
            write_rootfs(&[archive.layer()], &place.at("rootfs"), &options, &mut go_on).expect("the layer is good");
            place
        }

        fn at(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn write(&self, archive: Archive) -> Result<ByteSize, ImageError> {
            std::fs::write(self.at("tar"), archive.bytes()).expect("a file can be written");
            let (seed, archive) = (self.at("seed"), self.at("tar"));
            let disk = WorkDisk { seed: Some(&seed), archive: &archive, new_name: b"repo", uuid: [7; 16] };
            write_work_disk(&disk, &self.at("out"), &mut |_| ControlFlow::Continue(()))
        }
    }

    #[test]
    fn the_seed_is_kept_and_the_archive_comes_on_top() {
        let seed = Archive::default()
            .file("root/.profile", "hello")
            .file("root/large", &"x".repeat(3 * 4096 + 1))
            .file("root/tools/a", "one")
            .hard_link("root/tools/b", "root/tools/a")
            .symlink("root/link", "tools/a");
        let place = Place::with_seed(seed);
        let size = place.write(Archive::default().file("repo/src/main", "fn").file(".repo.banger", "x")).unwrap();
        let bytes = std::fs::read(place.at("out")).unwrap();
        assert_eq!(bytes.len() as u64, size.bytes());
        let image = Fs::open(&bytes[..]).expect("it is an ext4");
        let read = |path: &str| image.read_file(image.resolve(path).unwrap()).unwrap();
        assert_eq!(read("/.profile"), b"hello");
        assert!(read("/large") == "x".repeat(3 * 4096 + 1).into_bytes());
        assert_eq!(read("/repo/src/main"), b"fn");
        assert_eq!(read("/.repo.banger"), b"x");
        assert_eq!(image.resolve("/tools/a").unwrap(), image.resolve("/tools/b").unwrap());
        assert_eq!(image.symlink_target(image.resolve("/link").unwrap()).unwrap(), b"tools/a");
        if let Ok(output) = Command::new("e2fsck").arg("-fn").arg(place.at("out")).output() {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        }
    }

    #[test]
    fn a_seed_that_has_the_name_already_is_refused_and_nothing_is_left() {
        let place = Place::with_seed(Archive::default().file("root/repo/x", "the image's own"));
        assert!(place.write(Archive::default().file("repo/x", "y")).is_err());
        assert!(!place.at("out").exists());
    }
}
