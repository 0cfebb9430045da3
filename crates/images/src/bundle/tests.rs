use super::*;
use std::os::unix::fs::MetadataExt;

struct BootSet(tempfile::TempDir);

impl BootSet {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let rootfs = File::create(folder.path().join("rootfs.ext4")).unwrap();
        rootfs.set_len(4 << 20).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&rootfs, b"something", 3 << 20).unwrap();
        std::fs::write(folder.path().join("vmlinux"), "a kernel").unwrap();
        BootSet(folder)
    }

    fn manifest(&self) -> BundleManifest {
        let config = ImageConfig { user: "nobody".into(), ..ImageConfig::default() };
        describe(self.0.path(), "tools".parse().unwrap(), "amd64", config, "quiet").expect("it is a boot set")
    }

    fn bundle(&self) -> Vec<u8> {
        let mut bundle = Vec::new();
        write(&self.manifest(), self.0.path(), &mut bundle, &mut |_| ControlFlow::Continue(()))
            .expect("it can be written");
        bundle
    }
}

fn unbundle(bundle: &[u8], expected: Option<&Digest>) -> (tempfile::TempDir, Result<BundleManifest, BundleError>) {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let result = read(bundle, expected, folder.path(), &mut |_| ControlFlow::Continue(()));
    (folder, result)
}

/// The bundle's archive with something done to it.
fn tampered(tamper: impl FnOnce(&mut Vec<u8>)) -> Result<BundleManifest, BundleError> {
    let mut archive = zstd::decode_all(&BootSet::new().bundle()[..]).unwrap();
    tamper(&mut archive);
    unbundle(&zstd::encode_all(&archive[..], 1).unwrap(), None).1
}

#[test]
fn a_bundle_brings_the_boot_set_back_with_its_holes() {
    let set = BootSet::new();
    let (folder, read) = unbundle(&set.bundle(), None);
    assert_eq!(read.expect("it is whole"), set.manifest());
    for name in ["rootfs.ext4", "vmlinux"] {
        assert!(std::fs::read(folder.path().join(name)).unwrap() == std::fs::read(set.0.path().join(name)).unwrap());
    }
    assert!(folder.path().join("rootfs.ext4").metadata().unwrap().blocks() * 512 < 1 << 20);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn the_same_boot_set_has_the_same_bytes_and_name() {
    assert!(BootSet::new().bundle() == BootSet::new().bundle());
    let name = BootSet::new().manifest().file_name();
    assert!(name.starts_with("tools-amd64-") && name.ends_with(".tar.zst"), "{name}");
    let hash: Digest = format!("sha256:{}", &name[12..76]).parse().expect("the name holds a hash");
    assert!(unbundle(&BootSet::new().bundle(), Some(&hash)).1.is_ok());
    let other = digest::of_bytes(b"other");
    assert!(matches!(unbundle(&BootSet::new().bundle(), Some(&other)).1, Err(BundleError::Changed { .. })));
}

#[test]
fn whatever_is_not_exactly_the_boot_set_is_refused() {
    assert!(tampered(|_| {}).is_ok());
    let manifest_bytes = BootSet::new().manifest().to_bytes().len() as u64;
    let rootfs_header = (BLOCK + manifest_bytes.next_multiple_of(BLOCK)) as usize;
    assert!(matches!(tampered(|a| a[rootfs_header + 512] = 1), Err(BundleError::Changed { file: "rootfs.ext4" })));
    assert!(matches!(tampered(|a| a[rootfs_header] = b'x'), Err(BundleError::Refused { .. })), "another name");
    assert!(matches!(tampered(|a| a[rootfs_header + 156] = b'2'), Err(BundleError::Refused { .. })), "a link");
    assert!(matches!(tampered(|a| a.extend([0; 512])), Err(BundleError::Refused { .. })), "more behind the end");
    assert!(matches!(tampered(|a| a.truncate(a.len() - 1)), Err(BundleError::Read(_))), "cut off");
    let end = |a: &mut Vec<u8>| {
        let at = a.len() - 1;
        a[at] = 1
    };
    assert!(matches!(tampered(end), Err(BundleError::Refused { .. })), "something for the end");
    assert!(matches!(unbundle(b"no zstd", None).1, Err(BundleError::Read(_))));
}

#[test]
fn a_manifest_must_make_sense() {
    let refused = |change: &dyn Fn(&mut BundleManifest), reason: &str| {
        let mut manifest = BootSet::new().manifest();
        change(&mut manifest);
        let error = manifest.check().expect_err("it makes no sense");
        assert!(error.to_string().contains(reason), "{error}");
    };
    refused(&|m| m.version = 2, "version 2");
    refused(&|m| m.files.swap(0, 1), "not in order");
    refused(&|m| m.files.push(m.files[1].clone()), "comes twice");
    refused(&|m| drop(m.files.remove(1)), "no vmlinux");
    refused(&|m| m.files[0].bytes = u64::MAX, "larger");
    refused(&|m| m.architecture = "../x".into(), "architecture");
}

#[test]
fn a_file_that_changed_since_it_was_described_is_noticed() {
    let set = BootSet::new();
    let manifest = set.manifest();
    std::fs::write(set.0.path().join("vmlinux"), "A kernel").unwrap();
    let error = write(&manifest, set.0.path(), io::sink(), &mut |_| ControlFlow::Continue(())).expect_err("it changed");
    assert!(matches!(error, BundleError::Changed { file: "vmlinux" }));
}
