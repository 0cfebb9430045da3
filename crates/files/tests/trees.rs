//! Trees there and back: by our own hand, and with the tar of this machine on the other side.

use files::{Archive, Entry, Facts, Kind, Owner, PackOptions, Trust, UnpackOptions, Writer, pack, unpack};
use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

const OWN: UnpackOptions = UnpackOptions { owner: Owner::AsArchived, trust: Trust::Own };
const FOREIGN: UnpackOptions = UnpackOptions { owner: Owner::Ours, trust: Trust::Foreign };
const MIB: u64 = 1024 * 1024;

fn packed(path: &Path, options: &PackOptions) -> Vec<u8> {
    let mut archive = Vec::new();
    pack(path, options, &mut archive, &mut |_| {}).expect("packed");
    archive
}

fn set_note(path: &Path, value: &[u8]) -> bool {
    rustix::fs::setxattr(path, "user.note", value, rustix::fs::XattrFlags::empty()).is_ok()
}

fn note(path: &Path) -> Vec<u8> {
    let mut value = vec![0; 100];
    let count = rustix::fs::getxattr(path, "user.note", &mut value).unwrap_or_default();
    value.truncate(count);
    value
}

/// Everything that a tree can have; answers whether the file system knows attributes.
fn plant(tree: &Path) -> bool {
    fs::create_dir_all(tree.join("deep/closed")).expect("folders");
    fs::write(tree.join("run.sh"), "#!/bin/sh\n").expect("a file");
    fs::set_permissions(tree.join("run.sh"), Permissions::from_mode(0o4751)).expect("a mode");
    fs::hard_link(tree.join("run.sh"), tree.join("same.sh")).expect("a hard link");
    symlink("../run.sh", tree.join("deep/link")).expect("a link");
    symlink("x".repeat(300), tree.join("deep/long-link")).expect("a link");
    fs::write(tree.join("deep").join("n".repeat(250)), "long").expect("a file");
    fs::write(tree.join("empty"), "").expect("a file");
    fs::write(tree.join("deep/closed/inner"), "inner").expect("a file");
    let large: Vec<u8> = (0..3_000_000u32).map(|number| (number * 7) as u8 | 1).collect();
    fs::write(tree.join("large"), large).expect("a file");
    let holes = File::create(tree.join("holes")).expect("a file");
    holes.write_all_at(b"begin", 0).expect("written");
    for at in 1..40 {
        holes.write_all_at(b"island", at * 8 * MIB).expect("written");
    }
    holes.set_len(1024 * MIB).expect("longer");
    File::create(tree.join("nothing")).and_then(|file| file.set_len(64 * MIB)).expect("a file of one hole");
    let known = set_note(&tree.join("large"), b"line\nline\0 7 x=y\n") && set_note(&tree.join("deep"), b"folder");
    fs::set_permissions(tree.join("deep/closed"), Permissions::from_mode(0o500)).expect("a mode");
    known
}

fn assert_same(one: &Path, other: &Path, attributes: bool) {
    for name in ["run.sh", "empty", "deep/closed/inner", "large", "nothing", "deep/closed", "deep"] {
        let [a, b] =
            [one, other].map(|tree| fs::metadata(tree.join(name)).unwrap_or_else(|error| panic!("{name}: {error}")));
        assert_eq!((a.mode(), a.uid(), a.gid()), (b.mode(), b.uid(), b.gid()), "{name}");
        if a.is_file() {
            assert_eq!(fs::read(one.join(name)).expect("read"), fs::read(other.join(name)).expect("read"), "{name}");
            assert_eq!(a.mtime(), b.mtime(), "{name}");
        }
    }
    let inodes = ["run.sh", "same.sh"].map(|name| fs::metadata(other.join(name)).expect("facts").ino());
    assert_eq!(inodes[0], inodes[1]);
    for name in ["deep/link", "deep/long-link"] {
        assert_eq!(fs::read_link(one.join(name)).expect("a link"), fs::read_link(other.join(name)).expect("a link"));
    }
    assert_eq!(fs::read(other.join("deep").join("n".repeat(250))).expect("a file"), b"long");
    let holes = fs::metadata(other.join("holes")).expect("facts");
    assert_eq!(holes.len(), 1024 * MIB);
    assert!(holes.blocks() * 512 < 2 * MIB, "{} blocks", holes.blocks());
    let mut island = [0; 6];
    File::open(other.join("holes")).and_then(|file| file.read_exact_at(&mut island, 39 * 8 * MIB)).expect("read");
    assert_eq!(&island, b"island");
    if attributes {
        assert_eq!(note(&other.join("large")), b"line\nline\0 7 x=y\n");
        assert_eq!(note(&other.join("deep")), b"folder");
    }
}

fn left_over(tree: &Path) -> usize {
    let names = fs::read_dir(tree).expect("a folder").flatten().map(|entry| entry.file_name());
    names.filter(|name| name.to_string_lossy().starts_with(".banger-")).count()
}

#[test]
fn a_tree_is_the_same_on_the_other_side() {
    let folder = tempfile::tempdir().expect("a folder");
    let source = folder.path().join("source");
    let attributes = plant(&source);
    let archive = packed(&source, &PackOptions::default());
    assert!(archive.len() < 4 * MIB as usize, "holes are not sent: {}", archive.len());
    let target = folder.path().join("new/target");
    let done = unpack(&target, OWN, archive.as_slice()).expect("unpacked");
    assert_eq!(done.notes, [""; 0]);
    assert_same(&source, &target.join("source"), attributes);
    let [a, b] = [&source, &target.join("source")].map(|tree| fs::metadata(tree.join("large")).expect("facts"));
    assert_eq!((a.mtime(), a.mtime_nsec()), (b.mtime(), b.mtime_nsec()));
    // Once more over what is there, under another name, and what is in it without itself.
    if !rustix::process::geteuid().is_root() {
        // Into a folder that nobody may write to only root unpacks, as with tar.
        let closed = target.join("source/deep/closed");
        fs::set_permissions(&closed, Permissions::from_mode(0o700)).expect("it is ours");
    }
    unpack(&target, OWN, archive.as_slice()).expect("unpacked again");
    let renamed = packed(&source, &PackOptions { name: Some("other".into()), ..PackOptions::default() });
    unpack(&target, OWN, renamed.as_slice()).expect("unpacked");
    assert_same(&source, &target.join("other"), attributes);
    let inner = packed(&source, &PackOptions { name: Some(".".into()), ..PackOptions::default() });
    fs::create_dir(folder.path().join("here")).expect("a folder");
    unpack(&folder.path().join("here"), OWN, inner.as_slice()).expect("unpacked");
    assert_same(&source, &folder.path().join("here"), attributes);
    assert_eq!(left_over(&folder.path().join("here")), 0);
}

#[test]
fn the_tar_of_this_machine_reads_what_we_write_and_writes_what_we_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let source = folder.path().join("source");
    let attributes = plant(&source);
    let archive = packed(&source, &PackOptions::default());
    let theirs = folder.path().join("theirs");
    fs::create_dir(&theirs).expect("a folder");
    let mut tar = Command::new("tar");
    tar.args(["--xattrs", "--xattrs-include=*", "-xpf", "-", "-C"])
        .arg(&theirs)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = tar.spawn().expect("tar runs");
    child.stdin.take().expect("piped").write_all(&archive).expect("taken");
    let output = child.wait_with_output().expect("tar ends");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_same(&source, &theirs.join("source"), attributes);
    for format in [&["--format=gnu"][..], &["--format=posix", "--xattrs", "--xattrs-include=*"]] {
        // GNU tar writes holes in PAX's own way with POSIX archives, which we refuse with a sentence.
        let sparse = if format[0] == "--format=gnu" { "-cSf" } else { "-cf" };
        let mut tar = Command::new("tar");
        tar.args(format).args([sparse, "-", "-C"]).arg(folder.path()).arg("source");
        let archive = tar.output().expect("tar runs").stdout;
        let ours = folder.path().join(format[0]);
        unpack(&ours, OWN, archive.as_slice()).expect("unpacked");
        assert_same(&source, &ours.join("source"), attributes && format.len() > 1);
    }
    let mut tar = Command::new("tar");
    let posix = tar.args(["--format=posix", "-cSf", "-", "-C"]).arg(folder.path()).arg("source/holes").output();
    let refused = unpack(&folder.path().join("no"), OWN, posix.expect("tar runs").stdout.as_slice());
    assert_eq!(refused.map_err(|error| error.kind()), Err(ErrorKind::InvalidData));
}

fn one(make: impl FnOnce(&mut Writer<Vec<u8>>) -> io::Result<()>) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    make(&mut writer).expect("written");
    writer.finish().expect("finished")
}

fn file(writer: &mut Writer<Vec<u8>>, name: &str, text: &str) -> io::Result<()> {
    let facts = Facts { mode: 0o644, ..Facts::default() };
    writer.file(Path::new(name), &facts, text.len() as u64, &[(0, text.len() as u64)], text.as_bytes())
}

#[test]
fn nothing_leaves_the_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    let (target, outside) = (folder.path().join("target"), folder.path().join("outside"));
    fs::create_dir(&target).expect("a folder");
    fs::create_dir(&outside).expect("a folder");
    fs::write(outside.join("secret"), "secret").expect("a file");
    symlink(&outside, target.join("door")).expect("a link");
    symlink("../outside", target.join("window")).expect("a link");
    symlink("nowhere", target.join("dangling")).expect("a link");
    let facts = Facts { mode: 0o755, ..Facts::default() };
    let link =
        |writer: &mut Writer<Vec<u8>>, name: &str, to: &str| writer.symlink(Path::new(name), Path::new(to), &facts);
    let hostile: &[(&str, Vec<u8>)] = &[
        ("dots", one(|writer| file(writer, "../evil", "x"))),
        ("dots inside", one(|writer| file(writer, "a/../../evil", "x"))),
        ("absolute", one(|writer| file(writer, "/tmp/banger-evil", "x"))),
        ("a link that is there", one(|writer| file(writer, "door/evil", "x"))),
        ("a relative one", one(|writer| file(writer, "window/evil", "x"))),
        ("a folder through it", one(|writer| writer.folder(Path::new("door/evil"), &facts))),
        ("a folder over it", one(|writer| writer.folder(Path::new("door"), &facts))),
        (
            "a link of its own",
            one(|writer| {
                link(writer, "exit", outside.to_str().expect("text"))?;
                file(writer, "exit/evil", "x")
            }),
        ),
        (
            "a link of its own, later",
            one(|writer| {
                file(writer, "folder/first", "x")?;
                link(writer, "folder2", "../outside")?;
                file(writer, "folder2/evil", "x")
            }),
        ),
        ("a hard link out", one(|writer| writer.hard_link(Path::new("mine"), Path::new("../outside/secret"), &facts))),
        (
            "a hard link through a link",
            one(|writer| writer.hard_link(Path::new("mine"), Path::new("door/secret"), &facts)),
        ),
        (
            "magic",
            one(|writer| {
                link(writer, "magic", "/proc/self/root")?;
                file(writer, "magic/tmp/banger-evil", "x")
            }),
        ),
    ];
    for (what, archive) in hostile {
        let error = unpack(&target, FOREIGN, archive.as_slice()).expect_err(what);
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{what}: {error}");
    }
    assert_eq!(fs::read_dir(&outside).expect("a folder").count(), 1);
    assert!(!folder.path().join("evil").exists() && !Path::new("/tmp/banger-evil").exists());
    assert!(!target.join("mine").exists());
    let dangling = one(|writer| file(writer, "dangling/evil", "x"));
    assert!(unpack(&target, FOREIGN, dangling.as_slice()).is_err());
    // A link stays a link; a file of its name replaces it and not what it leads to.
    let over = one(|writer| file(writer, "door", "x"));
    unpack(&target, FOREIGN, over.as_slice()).expect("unpacked");
    assert!(fs::symlink_metadata(target.join("door")).expect("facts").is_file() && outside.join("secret").exists());
}

#[test]
fn what_comes_from_a_guest_gets_no_rights() {
    let folder = tempfile::tempdir().expect("a folder");
    let facts = Facts {
        mode: 0o6755,
        xattrs: vec![(b"security.capability".to_vec(), vec![1; 20]), (b"user.note".to_vec(), b"mine".to_vec())],
        ..Facts::default()
    };
    let archive = one(|writer| {
        writer.device(Path::new("kmem"), false, (1, 2), &facts)?;
        writer.file(Path::new("sudo"), &facts, 2, &[(0, 2)], b"hi".as_slice())
    });
    let done = unpack(folder.path(), FOREIGN, archive.as_slice()).expect("unpacked");
    assert_eq!(done.notes, ["kmem: a device is not copied"]);
    assert!(!folder.path().join("kmem").exists());
    let sudo = folder.path().join("sudo");
    assert_eq!(fs::metadata(&sudo).expect("facts").mode() & 0o7777, 0o755);
    assert!(rustix::fs::getxattr(&sudo, "security.capability", &mut [0; 64]).is_err());
}

#[test]
fn a_file_is_whole_or_as_it_was() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("f"), "old").expect("a file");
    let archive = one(|writer| file(writer, "f", &"new".repeat(1000)));
    for length in [512, 1024, 2000, archive.len() - 1024] {
        let error = unpack(folder.path(), OWN, &archive[..length]).expect_err("it was cut short");
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
        let now = fs::read_to_string(folder.path().join("f")).expect("a file");
        assert!(now == "old" || length > 3512 && now.len() == 3000, "{length}");
        assert_eq!(left_over(folder.path()), 0);
    }
    fs::create_dir(folder.path().join("d")).expect("a folder");
    let over = one(|writer| file(writer, "d", "x"));
    assert!(unpack(folder.path(), OWN, over.as_slice()).is_err());
    assert!(folder.path().join("d").is_dir());
}

#[test]
fn a_packer_says_why_it_stops() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut writer = Writer::new(Vec::new());
    file(&mut writer, "f", "x").expect("written");
    writer.fault("cannot read /root/secret: Permission denied").expect("written");
    let archive = writer.finish().expect("finished");
    let error = unpack(folder.path(), OWN, archive.as_slice()).expect_err("it was cut short");
    assert_eq!(error.to_string(), "cannot read /root/secret: Permission denied");
    assert!(folder.path().join("f").exists());
}

#[test]
fn garbage_is_an_error_and_no_panic() {
    let folder = tempfile::tempdir().expect("a folder");
    let good = packed(folder.path(), &PackOptions::default());
    let tree = folder.path().join("tree");
    fs::create_dir(&tree).expect("a folder");
    File::create(tree.join("holes")).and_then(|file| file.write_all_at(b"x", 3 * MIB)).expect("a file");
    set_note(&tree.join("holes"), b"note");
    let archive = packed(&tree, &PackOptions::default());
    let read = |bytes: &[u8]| -> io::Result<Vec<Entry>> {
        let mut archive = Archive::new(bytes);
        let mut entries = Vec::new();
        while let Some(entry) = archive.next_entry()? {
            archive.contents(&entry, |_, _| Ok(()))?;
            entries.push(entry);
        }
        Ok(entries)
    };
    assert_eq!(read(&good).expect("entries").len(), 1);
    let entries = read(&archive).expect("entries");
    assert!(matches!(entries[1].kind, Kind::File) && entries[1].size == 3 * MIB + 1, "{entries:?}");
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..20_000 {
        let mut broken = archive.clone();
        for _ in 0..3 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let at = (state >> 8) as usize % broken.len();
            broken[at] ^= state as u8;
            // The sum is mended, so that what it covers is read.
            let block = at / 512 * 512;
            let sum: u32 = (block..block + 512)
                .map(|at| if (block + 148..block + 156).contains(&at) { 32 } else { u32::from(broken[at]) })
                .sum();
            broken[block + 148..block + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        let _ = read(&broken);
    }
}
