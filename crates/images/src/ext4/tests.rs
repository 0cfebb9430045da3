use super::*;
use crate::testing::Archive;
use std::process::Command;

fn archive() -> Archive {
    Archive::default().file("etc/os-release", "ID=test\n").file("root/.profile", "hello").file("bin/sh", "#!")
}

fn write(layers: &[Layer], out: &Path, options: &WriteOptions) -> Result<RootfsFacts, ImageError> {
    write_rootfs(layers, out, options, &mut |_| ControlFlow::Continue(()))
}

/// `e2fsck -fn` finds nothing to say. Says so and returns where e2fsprogs is missing.
#[allow(clippy::print_stderr)]
fn assert_clean(image: &Path) {
    match Command::new("e2fsck").arg("-fn").arg(image).output() {
        Err(_) => eprintln!("skip: `e2fsck` is not installed, {} is not checked", image.display()),
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout)),
    }
}

#[test]
fn an_image_is_clean_and_the_same_every_time() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));
    let layers = [archive().layer(), Archive::default().file("bin/.wh.sh", "").hard_link("x", "root/.profile").layer()];
    let facts = write(&layers, &first, &WriteOptions::default()).expect("the layers are good");
    assert_eq!(facts, write(&layers, &second, &WriteOptions::default()).expect("the layers are good"));
    assert!(std::fs::read(&first).unwrap() == std::fs::read(&second).unwrap());
    assert_clean(&first);
    assert_eq!(facts.system.os_release.as_deref(), Some("ID=test\n"));
    assert!(!facts.system.shell);
    assert_eq!(facts.system.init, Init::None);
}

#[test]
fn the_work_seed_holds_what_was_below_root() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let (out, seed) = (folder.path().join("out"), folder.path().join("seed"));
    let options = WriteOptions { work_seed: Some(seed.clone()), ..WriteOptions::default() };
    write(&[archive().layer()], &out, &options).expect("the layer is good");
    for image in [&out, &seed] {
        assert_clean(image);
    }
    let bytes = std::fs::read(&seed).unwrap();
    let image = mkext4::reader::Fs::open(&bytes[..]).expect("it is an ext4");
    assert_eq!(image.read_file(image.resolve("/.profile").unwrap()).unwrap(), b"hello");
    let bytes = std::fs::read(&out).unwrap();
    let image = mkext4::reader::Fs::open(&bytes[..]).expect("it is an ext4");
    assert!(image.resolve("/root").is_ok());
    assert!(image.resolve("/root/.profile").is_err());
}

/// A work disk grows from its seed to many times its size, group by group, and every group is like the first.
#[test]
fn the_groups_of_a_work_seed_have_as_many_inodes_as_those_of_a_large_disk() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let (out, seed) = (folder.path().join("out"), folder.path().join("seed"));
    let options = WriteOptions { work_seed: Some(seed.clone()), ..WriteOptions::default() };
    write(&[archive().layer()], &out, &options).expect("the layer is good");
    let image = std::fs::read(&seed).unwrap();
    // s_inodes_per_group of the superblock, which begins at 1024 (fs/ext4/ext4.h).
    let inodes_per_group = u32::from_le_bytes(image[1024 + 0x28..][..4].try_into().unwrap());
    assert_eq!(inodes_per_group, 8192, "one for 16 KiB, in a group of 128 MiB");
    assert!(image.len() <= 24 << 20, "{} bytes", image.len());
}

#[test]
fn an_error_leaves_nothing_behind_and_touches_nothing_that_was_there() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let out = folder.path().join("out");
    let bad = Archive::default().file("lost+found", "");
    let error = write(&[bad.layer()], &out, &WriteOptions::default()).expect_err("the name is taken");
    assert!(matches!(error, ImageError::LostFound));
    assert!(!out.exists());
    let cancelled =
        write_rootfs(&[archive().layer()], &out, &WriteOptions::default(), &mut |progress| match progress {
            Progress::Reading { .. } => ControlFlow::Continue(()),
            Progress::Writing { .. } => ControlFlow::Break(()),
        });
    assert!(matches!(cancelled, Err(ImageError::Cancelled)));
    assert!(!out.exists());
    std::fs::write(&out, "mine").unwrap();
    let error = write(&[archive().layer()], &out, &WriteOptions::default()).expect_err("the file is there");
    assert!(matches!(error, ImageError::Create { .. }));
    assert_eq!(std::fs::read(&out).unwrap(), b"mine");
}

#[test]
fn an_empty_disk_is_made_at_once_whatever_its_size() {
    use std::os::unix::fs::MetadataExt;
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    for (name, gib) in [("small", 1), ("large", 64)] {
        let path = folder.path().join(name);
        format_empty(&path, ByteSize::from_gib(gib), WORK_LABEL, [7; 16], 0).expect("there is room");
        let metadata = path.metadata().unwrap();
        assert_eq!(metadata.len(), gib << 30);
        assert!(metadata.blocks() * 512 < 8 << 20, "{} bytes are in use", metadata.blocks() * 512);
        assert_clean(&path);
    }
}

/// Names and targets that are no UTF-8, in a directory of one block and in one with an index.
fn odd_names() -> Archive {
    let mut archive = Archive::default().directory("small").directory("large").directory("hot\u{e9}l");
    for number in 0..1500 {
        archive = archive.file(&format!("large/file-number-{number:05}"), "");
    }
    for (path, contents) in [
        (&b"small/\xff\xfe"[..], "latin"),
        (b"small/n\xefve", "one"),
        (b"large/\x80", "two"),
        (b"large/na\xefve name", "three"),
        (b"root/\xe9t\xe9/deep/\xe0", "four"),
        (b"\xc0\xc1", "five"),
    ] {
        archive = archive.pax(&[("path", path)]).file("stands-for-a-path", contents);
    }
    archive = archive.pax(&[("linkpath", b"short/\xff")]).symlink("small/short", "x");
    let long = [b"long/".as_slice(), &[0xfe; 200]].concat();
    archive.pax(&[("linkpath", &long)]).symlink("small/long", "x")
}

#[test]
fn names_that_are_no_utf8_are_in_the_image() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let (out, seed) = (folder.path().join("out"), folder.path().join("seed"));
    let options = WriteOptions { work_seed: Some(seed.clone()), ..WriteOptions::default() };
    write(&[odd_names().layer()], &out, &options).expect("the layer is good");
    assert_clean(&out);
    assert_clean(&seed);
    let bytes = std::fs::read(&out).unwrap();
    let image = mkext4::reader::Fs::open(&bytes[..]).expect("it is an ext4");
    assert!(image.verify().expect("it can be checked").is_empty(), "{:?}", image.verify());
    let inode = |path: &str, name: &[u8]| {
        let directory = image.resolve(path).expect("the directory is there");
        image.lookup(directory, name).expect("it can be read").expect("the name is there")
    };
    assert_eq!(image.read_file(inode("/small", b"\xff\xfe")).unwrap(), b"latin");
    assert_eq!(image.read_file(inode("/large", b"na\xefve name")).unwrap(), b"three");
    assert_eq!(image.read_file(inode("/", b"\xc0\xc1")).unwrap(), b"five");
    assert_eq!(image.symlink_target(inode("/small", b"short")).unwrap(), b"short/\xff");
    assert_eq!(image.symlink_target(inode("/small", b"long")).unwrap().len(), 205);
    let bytes = std::fs::read(&seed).unwrap();
    let image = mkext4::reader::Fs::open(&bytes[..]).expect("it is an ext4");
    let outer = image.lookup(2, b"\xe9t\xe9").unwrap().expect("the directory is there");
    let deep = image.lookup(outer, b"deep").unwrap().expect("the directory is there");
    assert!(image.lookup(deep, b"\xe0").unwrap().is_some());
    // The same layers, the same bytes, stand-ins and all.
    let again = folder.path().join("again");
    write(&[odd_names().layer()], &again, &WriteOptions::default()).expect("the layer is good");
    let third = folder.path().join("third");
    write(&[odd_names().layer()], &third, &WriteOptions::default()).expect("the layer is good");
    assert!(std::fs::read(&again).unwrap() == std::fs::read(&third).unwrap());
}
