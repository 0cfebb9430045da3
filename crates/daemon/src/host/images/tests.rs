//! The library over small archives: what it makes, what it refuses, what it leaves behind.

mod catalog;
mod files;

use super::*;
use engine::host::Unwatched;
use std::fs;
use std::path::PathBuf;
use tempfile::TempDir;

struct Rig {
    folder: TempDir,
    library: Library,
}

impl Rig {
    fn new() -> Rig {
        let folder = tempfile::tempdir().unwrap();
        let below = |name: &str| folder.path().join(name);
        let layout = Layout::at(below("s"), below("r"), below("c")).unwrap();
        layout.prepare().unwrap();
        Rig { library: Library::open(layout).unwrap(), folder }
    }

    fn archive(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        let mut archive = tar::Builder::new(fs::File::create(&path).unwrap());
        let mut file = |name: &str, contents: &[u8]| {
            let mut header = tar::Header::new_ustar();
            header.set_size(contents.len() as u64);
            header.set_mode(0o644);
            header.set_mtime(1_700_000_000);
            archive.append_data(&mut header, name, contents).unwrap();
        };
        file("etc/os-release", b"PRETTY_NAME=\"Tiny 1\"\n");
        file("root/.profile", b"umask 022\n");
        archive.into_inner().unwrap();
        path
    }

    fn import(&self, name: &str, archive: &Path) -> Result<()> {
        self.library.import_image(&name.parse().unwrap(), archive, &Unwatched)
    }

    /// A bundle of image `tools` and kernel `mine`.
    fn bundle(&self, boot_args: &str) -> (KernelName, PathBuf) {
        self.import("tools", &self.archive("a.tar")).unwrap();
        let kernel: KernelName = "mine".parse().unwrap();
        let file = self.folder.path().join("vmlinux");
        fs::write(&file, vmlinux()).unwrap();
        let files = KernelFiles { vmlinux: file, modules: None, boot_args: boot_args.to_owned() };
        self.library.import_kernel(&kernel, &files, &Unwatched).unwrap();
        let path = self.library.bundle_image(&name("tools"), &kernel, self.folder.path(), &Unwatched).unwrap();
        (kernel, path)
    }

    fn left(&self) -> Vec<String> {
        let folder = fs::read_dir(self.library.layout.images()).unwrap();
        folder.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

/// The import's second opinion is a program of the host.
fn has_checker() -> bool {
    let found = std::process::Command::new("e2fsck").arg("-V").output().is_ok();
    if !found {
        let _ = std::io::Write::write_all(&mut std::io::stderr(), b"skipped: e2fsck is not installed\n");
    }
    found
}

fn name(text: &str) -> ImageName {
    text.parse().unwrap()
}

/// The smallest ELF that passes for a kernel: one segment with its version in it.
fn vmlinux() -> Vec<u8> {
    let text = b"Linux version %s\0Linux version 6.1.0-test+ (x) #1\0";
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    file.extend(2u16.to_le_bytes());
    file.extend(62u16.to_le_bytes());
    file.extend(1u32.to_le_bytes());
    for field in [0x100_0000u64, 64, 0] {
        file.extend(field.to_le_bytes());
    }
    file.extend(0u32.to_le_bytes());
    for field in [64u16, 56, 1, 0, 0, 0] {
        file.extend(field.to_le_bytes());
    }
    file.extend(1u32.to_le_bytes());
    file.extend(5u32.to_le_bytes());
    for field in [64 + 56u64, 0xffff_ffff_8100_0000, 0x100_0000, text.len() as u64, text.len() as u64, 0] {
        file.extend(field.to_le_bytes());
    }
    file.extend(text);
    file
}

#[test]
fn an_archive_becomes_an_image_and_the_same_one_twice_the_same_bytes() {
    if !has_checker() {
        return;
    }
    let rig = Rig::new();
    let archive = rig.archive("a.tar");
    rig.import("one", &archive).unwrap();
    rig.import("two", &archive).unwrap();
    let images = rig.library.images().unwrap();
    assert_eq!(images.iter().map(|facts| facts.name.as_str()).collect::<Vec<_>>(), ["one", "two"]);
    assert_eq!(images[0].digest, images[1].digest);
    assert!(!images[0].has_systemd() && images[0].allocated <= images[0].size);
    for file in ["rootfs.ext4", "work-seed.ext4"] {
        let bytes = |name: &str| fs::read(rig.library.layout.image(&name.parse().unwrap()).join(file)).unwrap();
        assert!(bytes("one") == bytes("two"), "{file} differs");
    }
    let manifest = ImageManifest::read(&rig.library.layout.image_manifest(&images[0].name)).unwrap();
    assert_eq!(manifest.system.as_deref(), Some("Tiny 1"));
}

#[test]
fn a_name_that_is_taken_and_an_archive_that_is_none_are_refused() {
    if !has_checker() {
        return;
    }
    let rig = Rig::new();
    rig.import("one", &rig.archive("a.tar")).unwrap();
    assert_eq!(rig.import("one", &rig.archive("a.tar")).unwrap_err().kind, HostErrorKind::Busy);
    let broken = rig.folder.path().join("broken.tar");
    fs::write(&broken, [7u8; 4096]).unwrap();
    assert_eq!(rig.import("two", &broken).unwrap_err().kind, HostErrorKind::Invalid);
    assert_eq!(rig.import("two", Path::new("/nonexistent")).unwrap_err().kind, HostErrorKind::NotFound);
    assert_eq!(rig.import("two", Path::new("/")).unwrap_err().kind, HostErrorKind::NotFound);
    assert_eq!(rig.left(), ["one"], "nothing half-made stays");
}

#[test]
fn an_image_that_nobody_knows_is_not_found_and_removal_may_be_repeated() {
    let rig = Rig::new();
    let name: ImageName = "nothing".parse().unwrap();
    assert_eq!(rig.library.ensure_image(&name, &Unwatched).unwrap_err().kind, HostErrorKind::NotFound);
    assert_eq!(rig.library.remove_image(&name).unwrap(), Change::Unchanged);
}

#[test]
fn what_is_no_kernel_is_refused_and_leaves_nothing() {
    let rig = Rig::new();
    let name: KernelName = "mine".parse().unwrap();
    let path = rig.folder.path().join("vmlinux");
    fs::write(&path, "no kernel").unwrap();
    let check = |vmlinux: &Path, boot_args: &str, expected| {
        let files = KernelFiles { vmlinux: vmlinux.to_owned(), modules: None, boot_args: boot_args.to_owned() };
        assert_eq!(rig.library.import_kernel(&name, &files, &Unwatched).unwrap_err().kind, expected);
    };
    check(&path, "quiet", HostErrorKind::Invalid);
    check(&path, "quiet\nroot=/dev/sda", HostErrorKind::Unfit);
    check(Path::new("/nonexistent"), "", HostErrorKind::NotFound);
    assert!(rig.library.kernels().unwrap().is_empty());
    assert!(fs::read_dir(rig.library.layout.kernels()).unwrap().next().is_none());
}

#[test]
fn a_full_disk_is_one_sentence() {
    let rig = Rig::new();
    let full = Trouble::Image(::images::ext4::ImageError::Write(io::Error::from(io::ErrorKind::StorageFull)));
    let error = full.told("cannot build image a", &rig.library.layout);
    assert!(error.attempt.contains("there is no room left"), "{error}");
    assert!(error.kind == HostErrorKind::Unfit && error.source.is_none() && error.hint.is_some());
}
