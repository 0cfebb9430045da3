//! Promise: images and kernels come from where their owner says, files and catalogs, and what is half-made is never seen.

use e2e::artifacts::{KERNEL, append};
use e2e::{World, needs};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What a guest cannot do without; the cloud kernel has some of it built in.
const NEEDED: [&str; 6] = ["virtio_mmio", "virtio_blk", "virtio_net", "vmw_vsock_virtio_transport", "overlay", "ext4"];

/// A boot set that somebody keeps for themselves: root file system, kernel, initramfs, modules.
struct BootSet {
    rootfs: PathBuf,
    kernel: PathBuf,
    initrd: PathBuf,
    modules: PathBuf,
}

impl BootSet {
    fn make(world: &World) -> BootSet {
        let at = |name: &str| world.path().join(name);
        let set =
            BootSet { rootfs: at("mine.ext4"), kernel: at("vmlinux"), initrd: at("initrd"), modules: at("modules") };
        let kept = world.state().join("kernels").join(KERNEL);
        fs::copy(world.state().join("images/tiny/rootfs.ext4"), &set.rootfs).expect("a file can be copied");
        fs::copy(kept.join("vmlinux"), &set.kernel).expect("a file can be copied");
        fs::create_dir(&set.modules).expect("a folder can be made");
        for module in fs::read_dir(kept.join("modules")).expect("the kernel has modules").flatten() {
            fs::copy(module.path(), set.modules.join(module.file_name())).expect("a file can be copied");
        }
        let built_in = NEEDED.iter().filter(|name| !set.modules.join(format!("{name}.ko")).exists());
        let lines: String = built_in.map(|name| format!("kernel/{name}.ko\n")).collect();
        fs::write(set.modules.join("modules.builtin"), lines).expect("a file can be written");
        let pack = "cd \"$1\" && mkdir owner && echo here > owner/file && find owner | busybox cpio -o -H newc";
        let packed = Command::new("sh").args(["-c", pack, "sh"]).arg(world.path()).stderr(Stdio::null()).output();
        fs::write(&set.initrd, packed.expect("busybox runs").stdout).expect("a file can be written");
        set
    }
}

#[test]
fn a_registered_boot_set_boots_and_its_files_are_named() {
    let name = "a_registered_boot_set_boots_and_its_files_are_named";
    if !needs::qemu(name) {
        return;
    }
    let world = World::tiny();
    let set = BootSet::make(&world);
    let [rootfs, kernel, initrd, modules] =
        [&set.rootfs, &set.kernel, &set.initrd, &set.modules].map(|path| path.display().to_string());
    let files = ["--rootfs", &rootfs, "--kernel", &kernel, "--initrd", &initrd, "--modules", &modules];
    world.banger(&[&["image", "register", "--name", "mine"], &files[..]].concat()).ok();
    let ran = world.banger(&["vm", "run", "--rm", "--image", "mine", "--", "cat", "/etc/os-release"]).ok();
    assert!(ran.stdout.contains("ID=tiny"), "{ran:?}");

    let shown = world.banger(&["image", "show", "mine", "--json"]).ok().json();
    assert_eq!((shown["managed"].as_bool(), shown["kernel"].as_str()), (Some(false), Some("mine")), "{shown}");
    let file =
        |part: &str| PathBuf::from(shown["files"][part].as_str().unwrap_or_else(|| panic!("no {part}: {shown}")));
    let is = |part: &str, original: &Path| {
        assert!(fs::read(file(part)).expect("it reads") == fs::read(original).expect("it reads"), "{part} is another");
    };
    is("rootfs", &set.rootfs);
    is("kernel", &set.kernel);
    is("initrd", &set.initrd);
    assert!(file("modules").is_dir(), "{shown}");
    // What the guest was started with begins with the owner's archive.
    let started = fs::read(initramfs(&world.state().join("kernels/mine"))).expect("it reads");
    assert!(started.starts_with(&fs::read(&set.initrd).expect("it reads")));

    world.banger(&["image", "delete", "mine"]).ok();
    assert!(set.rootfs.is_file() && set.kernel.is_file(), "they are their owner's");
    let kernels = world.banger(&["kernel", "list", "--quiet"]).ok().stdout;
    assert!(!kernels.lines().any(|kernel| kernel == "mine"), "the copy of the kernel goes with its image: {kernels}");
}

fn initramfs(kernel: &Path) -> PathBuf {
    let entries = fs::read_dir(kernel).expect("the kernel is there").flatten().map(|entry| entry.path());
    let mut made = entries.filter(|path| path.to_string_lossy().contains("initramfs-"));
    made.next().expect("a kernel that booted has one")
}

#[test]
fn a_kernel_of_ones_own_catalog_is_fetched_by_the_run_that_names_it() {
    let name = "a_kernel_of_ones_own_catalog_is_fetched_by_the_run_that_names_it";
    if !needs::qemu(name) || !["jq", "zstd"].into_iter().all(|program| needs::program(program, name)) {
        return;
    }
    let world = World::tiny();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/publish-kernel");
    let mut publish = Command::new(script);
    world.environment(&mut publish);
    publish.env("BANGER", e2e::world::binary("banger")).env("ZSTD_LEVEL", "1");
    let published = publish.args([KERNEL, "published"]).current_dir(world.path()).output().expect("the script runs");
    let named = |name: &str| format!("name = \"{name}\"");
    let entry = String::from_utf8_lossy(&published.stdout).replace(&named(KERNEL), &named("published"));
    assert!(published.status.success() && entry.contains(&named("published")), "{published:?}");
    let folder = world.path().join("config/banger/catalog.d");
    fs::create_dir_all(&folder).expect("a folder can be made");
    fs::write(folder.join("mine.toml"), &entry).expect("a file can be written");

    let available = world.banger(&["kernel", "list", "--available", "--json"]).ok().json();
    let names: Vec<_> = available.as_array().expect("a list").iter().map(|kernel| kernel["name"].clone()).collect();
    assert!(names.contains(&"published".into()) && names.contains(&"generic".into()), "{names:?}");
    let run = ["vm", "run", "--rm", "--image", "tiny", "--kernel", "published", "--", "uname", "-r"];
    let ran = world.banger(&run).ok();
    let own = world.banger(&["kernel", "show", "published", "--json"]).ok().json();
    assert_eq!(own["version"].as_str(), Some(ran.stdout.trim()), "{own}");
    let origin = world.banger(&["kernel", "show", KERNEL, "--json"]).ok().json();
    assert_eq!((&own["digest"], &own["modules"]), (&origin["digest"], &origin["modules"]));

    // Another hash, another file: nothing is made of it.
    let hash = entry.rsplit('"').nth(1).expect("it ends with a hash");
    let hashed = |hash: &str| format!("sha256 = \"{hash}\"");
    let wrong = entry.replace(&named("published"), &named("other")).replace(&hashed(hash), &hashed(&"0".repeat(64)));
    fs::write(folder.join("wrong.toml"), wrong).expect("a file can be written");
    let refused = world.banger(&["kernel", "pull", "other"]);
    assert!(refused.code == 125 && refused.stderr.contains("is not what its hash says"), "{refused:?}");
    assert!(!world.state().join("kernels/other").exists());
}

/// An archive with an os-release and so many bytes of noise.
fn archive(path: &Path, os_release: &str, noise: usize) {
    let mut tar = tar::Builder::new(fs::File::create(path).expect("a tar can be made"));
    append(&mut tar, tar::EntryType::Regular, "etc/os-release", 0o644, os_release.as_bytes(), None);
    let mut state = 88_172_645_463_325_252u64;
    let bytes: Vec<u8> = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
    .take(noise / 8)
    .flatten()
    .collect();
    append(&mut tar, tar::EntryType::Regular, "noise", 0o644, &bytes, None);
    tar.finish().expect("the tar can be finished");
}

#[test]
fn an_image_that_can_get_no_systemd_is_refused_before_it_boots() {
    let name = "an_image_that_can_get_no_systemd_is_refused_before_it_boots";
    if !needs::qemu(name) {
        return;
    }
    let world = World::tiny();
    for (image, os_release, system) in [
        ("alpine", "ID=alpine\nPRETTY_NAME=\"Alpine Linux v3.20\"\n", " (Alpine Linux v3.20)"),
        ("nixos", "ID=nixos\nPRETTY_NAME=\"NixOS 24\"\n", " (NixOS 24)"),
        ("silent", "", ""),
    ] {
        let tar = world.path().join("x.tar");
        archive(&tar, os_release, 0);
        world.banger(&["image", "import", image, &tar.display().to_string()]).ok();
        let refused = world.banger(&["vm", "run", "--name", "x", "--image", image, "--init", "systemd", "--", "true"]);
        let sentence = format!("image {image}{system} has no systemd, and no package of it is known for that system");
        assert!(refused.code == 125 && refused.stderr.contains(&sentence), "{refused:?}");
        assert!(refused.stderr.contains("leave out `--init systemd`"), "{refused:?}");
        assert_eq!(world.banger(&["vm", "list", "--quiet"]).ok().stdout, "", "nothing stays of it");
    }
}

#[test]
fn a_daemon_killed_in_an_import_leaves_nothing_half_made() {
    let world = World::empty();
    let tar = world.path().join("large.tar");
    archive(&tar, "ID=x\n", 256 << 20);
    let file = tar.display().to_string();
    world.banger(&["image", "list"]).ok();
    let mut command = world.command(&["image", "import", "large", &file]);
    let importing = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("banger starts");
    let images = world.state().join("images");
    let staged = || {
        let folders = fs::read_dir(&images).expect("the folder is there").flatten();
        let disks = folders.map(|folder| folder.path().join("rootfs.ext4"));
        disks.filter(|disk| fs::metadata(disk).is_ok_and(|found| found.len() > 0)).count()
    };
    let end = Instant::now() + Duration::from_secs(60);
    while staged() == 0 {
        assert!(Instant::now() < end, "no disk is being written");
        std::thread::sleep(Duration::from_millis(1));
    }
    world.kill_daemon();
    let broken = e2e::world::finish(importing, "banger image import");
    assert_ne!(broken.code, 0, "{broken:?}");
    // The next daemon sweeps before it answers.
    let listed = world.banger(&["image", "list", "--json"]).ok().json();
    assert!(listed.as_array().expect("a list").iter().all(|image| image["present"] == false), "{listed}");
    assert_eq!(fs::read_dir(&images).expect("the folder is there").count(), 0, "nothing half-made stays");
    world.banger(&["image", "import", "large", &file]).ok();
}
