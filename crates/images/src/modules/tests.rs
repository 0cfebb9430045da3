use super::*;
use proptest::prelude::*;

/// An ELF object with nothing but a `.modinfo` section.
fn object(modinfo: &str) -> Vec<u8> {
    let names = b"\0.modinfo\0.shstrtab\0";
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    file.extend(1u16.to_le_bytes());
    file.extend(62u16.to_le_bytes());
    file.extend(1u32.to_le_bytes());
    let table = 64 + modinfo.len() + names.len();
    for field in [0u64, 0, table as u64] {
        file.extend(field.to_le_bytes());
    }
    file.extend(0u32.to_le_bytes());
    for field in [64u16, 0, 0, 64, 3, 2] {
        file.extend(field.to_le_bytes());
    }
    file.extend(modinfo.as_bytes());
    file.extend(names);
    for (name, offset, size) in [(0u32, 0, 0), (1, 64, modinfo.len()), (10, 64 + modinfo.len(), names.len())] {
        let start = file.len();
        file.extend(name.to_le_bytes());
        file.resize(start + 24, 0);
        file.extend((offset as u64).to_le_bytes());
        file.extend((size as u64).to_le_bytes());
        file.resize(start + 64, 0);
    }
    file
}

fn library(modules: &[(&str, &str)], builtin: &str) -> (tempfile::TempDir, Library<'static>) {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    std::fs::create_dir(folder.path().join("kernel")).unwrap();
    for (path, modinfo) in modules {
        let bytes = match path.strip_suffix(".zst") {
            Some(_) => zstd::encode_all(&object(modinfo)[..], 0).expect("memory takes it"),
            None => object(modinfo),
        };
        std::fs::write(folder.path().join("kernel").join(path), bytes).unwrap();
    }
    std::fs::write(folder.path().join("modules.builtin"), builtin).unwrap();
    let library = Library::from_folder(folder.path()).expect("the folder can be read");
    (folder, library)
}

fn names(modules: &[Module]) -> Vec<&str> {
    modules.iter().map(|module| module.name.as_str()).collect()
}

#[test]
fn dependencies_come_first_and_once() {
    let (_folder, library) = library(
        &[
            ("virtio-net.ko", "depends=net-failover,virtio\0license=GPL\0"),
            ("net_failover.ko.zst", "depends=failover\0"),
            ("failover.ko", "depends=\0"),
            ("virtio_blk.ko", "depends=virtio\0softdep=pre: crc32c-soft post: later\0"),
            ("crc32c_soft.ko", ""),
            ("later.ko", ""),
        ],
        "kernel/drivers/virtio/virtio.ko\nkernel/fs/ext4/ext4.ko\n",
    );
    let modules = library.resolve(&["virtio_blk", "virtio-net", "ext4"], &["failover", "erofs"]).expect("all is there");
    assert_eq!(names(&modules), ["crc32c_soft", "virtio_blk", "failover", "net_failover", "virtio_net"]);
    assert_eq!(modules[3].bytes, object("depends=failover\0"));
}

#[test]
fn what_is_missing_or_circular_or_broken_is_named() {
    let (folder, library) =
        library(&[("a.ko", "depends=b\0"), ("b.ko", "depends=a\0"), ("c.ko", "depends=none\0")], "");
    let refused = |name: &str, reason: &str| {
        let error = library.resolve(&[name], &[]).expect_err("it cannot be loaded");
        assert!(error.to_string().contains(reason), "{error}");
    };
    refused("a", "circle");
    refused("c", "no module none");
    refused("nowhere", "no module nowhere");
    std::fs::write(folder.path().join("kernel/c.ko"), "no ELF").unwrap();
    refused("c", "malformed");
}

#[test]
fn symbolic_links_are_not_followed() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    std::os::unix::fs::symlink("/", folder.path().join("build")).unwrap();
    let library = Library::from_folder(folder.path()).expect("the folder can be read");
    assert!(library.paths.is_empty());
}

proptest! {
    #[test]
    fn a_damaged_module_never_panics(at in 0usize..300, byte: u8) {
        let mut bytes = object("depends=a,b\0");
        let at = at % bytes.len();
        bytes[at] = byte;
        let _ = ModuleInfo::parse(&bytes);
    }
}
