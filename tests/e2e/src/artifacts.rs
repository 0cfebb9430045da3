//! Images and kernels that tests share, made once per checkout by the product itself and kept below `target/`.
//!
//! A set is a state folder of its own; a world links its images and kernels. A file lock lets one test make a set
//! while the others wait; a set without its mark is made anew.

use crate::world::{Ran, World, binary};
use nix::fcntl::{Flock, FlockArg};
use std::path::{Path, PathBuf};

/// The kernel every QEMU test boots.
pub const KERNEL: &str = "debian-cloud";
pub const TINY_IMAGE: &str = "tiny";
pub const DEBIAN_IMAGE: &str = "debian-bookworm";
pub const TEST_KERNEL: &str = "fcemu";

/// Firecracker's test kernel dies without these (its README says why).
const TEST_KERNEL_ARGUMENTS: &str = "clearcpuid=cx16,popcnt,clflushopt,clwb,xsave,rdrand,rdseed,smap,erms,fsrm rodata=off \
     GLIBC_TUNABLES=glibc.cpu.hwcaps=-AVX,-AVX2,-AVX512F";

pub fn tiny() -> PathBuf {
    made_once("tiny", |world| {
        world.banger(&["kernel", "pull", KERNEL]).ok();
        import_tiny(world);
    })
}

pub fn debian() -> PathBuf {
    made_once("debian", |world| {
        world.banger(&["kernel", "pull", KERNEL]).ok();
        world.banger(&["image", "pull", DEBIAN_IMAGE]).ok();
    })
}

pub fn firecracker() -> PathBuf {
    made_once("firecracker", |world| {
        let kernel = crate::needs::test_kernel().expect("the need was checked");
        let kernel = kernel.to_string_lossy().into_owned();
        world.banger(&["kernel", "import", TEST_KERNEL, &kernel, "--boot-args", TEST_KERNEL_ARGUMENTS]).ok();
        import_tiny(world);
    })
}

/// The program of `probe/main.rs`, static, made once per checkout.
pub fn probe() -> Vec<u8> {
    let folder = binary("bangerd").parent().expect("a binary lies in a folder").join("e2e-artifacts");
    std::fs::create_dir_all(&folder).expect("a folder below target can be made");
    let lock = std::fs::File::create(folder.join("probe.lock")).expect("a lock file can be made");
    let _held = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error).expect("a file can be locked");
    let (source, program) = (folder.join("probe.rs"), folder.join("probe"));
    let text = include_str!("../probe/main.rs");
    if std::fs::read_to_string(&source).ok().as_deref() != Some(text) || !program.exists() {
        let partial = folder.join("probe.partial");
        std::fs::write(folder.join("probe-now.rs"), text).expect("the source can be written");
        let mut rustc = std::process::Command::new("rustc");
        rustc.args(["--edition", "2024", "-O", "-C", "target-feature=+crt-static", "--crate-name", "probe"]);
        rustc.args(["--target", "x86_64-unknown-linux-gnu", "-o"]).arg(&partial);
        let status = rustc.arg(folder.join("probe-now.rs")).status().expect("rustc runs");
        assert!(status.success(), "the probe does not compile");
        std::fs::rename(&partial, &program).expect("it can be renamed");
        std::fs::write(&source, text).expect("the source can be written");
    }
    std::fs::read(&program).expect("the probe reads")
}

fn import_tiny(world: &World) -> Ran {
    let tar = world.path().join("tiny.tar");
    write_tiny_tar(&tar);
    world.banger(&["image", "import", TINY_IMAGE, &tar.to_string_lossy()]).ok()
}

pub fn made_once(name: &str, make: impl FnOnce(&World)) -> PathBuf {
    let folder = binary("bangerd").parent().expect("a binary lies in a folder").join("e2e-artifacts");
    std::fs::create_dir_all(&folder).expect("a folder below target can be made");
    let lock = std::fs::File::create(folder.join(format!("{name}.lock"))).expect("a lock file can be made");
    let _held = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error).expect("a file can be locked");
    let set = folder.join(name);
    if set.join("complete").exists() {
        return set;
    }
    let _ = std::fs::remove_dir_all(&set);
    let world = World::empty();
    make(&world);
    copy(&world.state(), &set);
    std::fs::write(set.join("complete"), "").expect("the mark can be written");
    set
}

fn copy(state: &Path, set: &Path) {
    std::fs::create_dir_all(set).expect("a folder below target can be made");
    for kind in ["images", "kernels"] {
        let from = state.join(kind);
        if from.is_dir() {
            let status = std::process::Command::new("cp").args(["-a", "--sparse=always"]).arg(&from).arg(set).status();
            assert!(status.expect("cp runs").success(), "cannot copy {}", from.display());
        }
    }
}

/// Busybox, its links and the few files a machine wants; no init, no libc, no package manager.
pub fn write_tiny_tar(path: &Path) {
    let busybox = crate::needs::which("busybox").expect("busybox is installed (package busybox-static)");
    let mut tar = tar::Builder::new(std::fs::File::create(path).expect("a tar can be made"));
    tar.mode(tar::HeaderMode::Deterministic);
    for folder in ["bin", "dev", "etc", "proc", "root", "run", "sys", "tmp", "usr", "usr/bin", "var"] {
        append(&mut tar, tar::EntryType::Directory, folder, 0o755, &[], None);
    }
    append(
        &mut tar,
        tar::EntryType::Regular,
        "bin/busybox",
        0o755,
        &std::fs::read(&busybox).expect("busybox reads"),
        None,
    );
    let listed = std::process::Command::new(&busybox).arg("--list").output().expect("busybox runs").stdout;
    for applet in String::from_utf8_lossy(&listed).lines().filter(|applet| *applet != "busybox") {
        append(&mut tar, tar::EntryType::Symlink, &format!("bin/{applet}"), 0o777, &[], Some("busybox"));
    }
    let passwd = b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n";
    append(&mut tar, tar::EntryType::Regular, "etc/passwd", 0o644, passwd, None);
    append(&mut tar, tar::EntryType::Regular, "etc/group", 0o644, b"root:x:0:\nnogroup:x:65534:\n", None);
    append(&mut tar, tar::EntryType::Regular, "etc/os-release", 0o644, b"ID=tiny\nPRETTY_NAME=\"Tiny\"\n", None);
    tar.finish().expect("the tar can be finished");
}

pub fn append(
    tar: &mut tar::Builder<std::fs::File>,
    kind: tar::EntryType,
    path: &str,
    mode: u32,
    data: &[u8],
    link: Option<&str>,
) {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(data.len() as u64);
    header.set_mtime(1_700_000_000);
    match link {
        Some(target) => tar.append_link(&mut header, path, target),
        None => tar.append_data(&mut header, path, data),
    }
    .expect("an entry can be written");
}
