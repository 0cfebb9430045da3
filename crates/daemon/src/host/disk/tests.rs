//! The seam on real files; every file system that results is checked by e2fsck.

use super::*;
use model::ImageName;
use std::process::Command;
use std::time::Instant;

struct World {
    disk: HostDisk,
    layout: Layout,
    _folder: tempfile::TempDir,
}

const MIB: u64 = 1 << 20;

fn world() -> World {
    let folder = tempfile::tempdir().unwrap();
    let [state, runtime, cache] = ["s", "r", "c"].map(|name| folder.path().join(name));
    let layout = Layout::at(state, runtime, cache).unwrap();
    layout.prepare().unwrap();
    fs::create_dir(layout.image(&image())).unwrap();
    fs::write(layout.image_rootfs(&image()), "").unwrap();
    World { disk: HostDisk::new(layout.clone()), layout, _folder: folder }
}

fn image() -> ImageName {
    "debian".parse().unwrap()
}

fn disks(root_mib: u64, work_mib: u64) -> Disks {
    let [root_size, work_size] = [root_mib, work_mib].map(ByteSize::from_mib);
    Disks { id: SandboxId::from_bits(0xd15c), image: image(), root_size, work_size, work_template: None }
}

impl World {
    fn id(&self) -> SandboxId {
        disks(1, 1).id
    }

    /// Like a seed that `images` makes: a small file system with something in it.
    fn seed(&self, mib: u64) {
        let path = self.layout.image_work_seed(&image());
        ext4::format(&path, ByteSize::from_mib(mib), ext4::Label::Work).unwrap();
        let note = self.layout.cache().join("note");
        fs::write(&note, "from the seed").unwrap();
        debugfs(&path, &format!("write {} note", note.display()), true);
    }

    fn assert_clean(&self) {
        for path in [self.layout.root_disk(&self.id()), self.layout.work_disk(&self.id())] {
            let checked = Command::new("/sbin/e2fsck").arg("-fn").arg(&path).output().unwrap();
            assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
        }
    }
}

fn debugfs(path: &Path, request: &str, write: bool) -> String {
    let mut command = Command::new("/sbin/debugfs");
    command.args(write.then_some("-w")).args(["-R", request]).arg(path);
    String::from_utf8_lossy(&command.output().unwrap().stdout).into_owned()
}

/// The size of the file system itself, which may differ from its file's.
fn blocks(path: &Path) -> u64 {
    let shown = debugfs(path, "stats -h", false);
    let line = shown.lines().find(|line| line.starts_with("Block count:")).unwrap();
    line.rsplit(' ').next().unwrap().parse::<u64>().unwrap() * 4096
}

#[test]
fn both_disks_are_made_once_and_sparse() {
    let world = world();
    assert_eq!(world.disk.observe().unwrap(), []);
    assert_eq!(world.disk.ensure_disks(&disks(4096, 1024)).unwrap(), Change::Changed);
    assert_eq!(world.disk.ensure_disks(&disks(4096, 1024)).unwrap(), Change::Unchanged);
    world.assert_clean();
    let facts = &world.disk.observe().unwrap()[0];
    assert_eq!((facts.root_size, facts.work_size), (ByteSize::from_gib(4), ByteSize::from_gib(1)));
    assert!(facts.allocated < ByteSize::from_mib(8), "{}", facts.allocated);
    assert!(world.disk.free_bytes().unwrap() > ByteSize::from_mib(1));
    assert_eq!(world.disk.remove_disks(&world.id()).unwrap(), Change::Changed);
    assert_eq!(world.disk.remove_disks(&world.id()).unwrap(), Change::Unchanged);
    assert_eq!(world.disk.observe().unwrap(), []);
}

#[test]
fn a_work_disk_starts_as_its_images_seed_and_grows_to_its_size() {
    let world = world();
    world.seed(16);
    let _changed = world.disk.ensure_disks(&disks(64, 256)).unwrap();
    let work = world.layout.work_disk(&world.id());
    assert_eq!(blocks(&work), 256 * MIB);
    assert_eq!(debugfs(&work, "cat note", false), "from the seed");
    world.assert_clean();
}

#[test]
fn a_template_that_a_daemon_left_half_made_is_gone_with_the_next_one() {
    let world = world();
    let left = world.layout.templates().join("seed-debian-1f-1.00000000000000aa.partial");
    fs::write(&left, "half").unwrap();
    let kept = world.layout.templates().join("work-1.ext4");
    fs::write(&kept, "whole").unwrap();
    HostDisk::new(world.layout.clone());
    assert!(!left.exists() && kept.exists());
}

#[test]
fn a_seed_is_grown_once_and_a_renewed_seed_is_another() {
    let world = world();
    let templates = || {
        let names = fs::read_dir(world.layout.templates()).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = names.filter(|name| name.to_string_lossy().starts_with("seed-")).collect();
        names.sort();
        names
    };
    world.seed(16);
    let other = Disks { id: SandboxId::from_bits(0xd15d), ..disks(64, 256) };
    let _changed = world.disk.ensure_disks(&disks(64, 256)).unwrap();
    let first = templates();
    assert_eq!(first.len(), 1);
    let _changed = world.disk.ensure_disks(&other).unwrap();
    assert_eq!(templates(), first);
    let _changed = world.disk.remove_disks(&other.id).unwrap();

    fs::remove_file(world.layout.image_work_seed(&image())).unwrap();
    world.seed(32);
    let _changed = world.disk.ensure_disks(&other).unwrap();
    assert_ne!(templates(), first, "the old one is gone");
    assert_eq!(templates().len(), 1);
    world.assert_clean();
}

#[test]
fn disks_grow_with_what_is_on_them_and_never_shrink() {
    let world = world();
    world.seed(16);
    let _changed = world.disk.ensure_disks(&disks(64, 64)).unwrap();
    assert_eq!(world.disk.ensure_disks(&disks(128, 512)).unwrap(), Change::Changed);
    let work = world.layout.work_disk(&world.id());
    assert_eq!((blocks(&world.layout.root_disk(&world.id())), blocks(&work)), (128 * MIB, 512 * MIB));
    assert_eq!(debugfs(&work, "cat note", false), "from the seed");
    world.assert_clean();
    for smaller in [disks(64, 512), disks(128, 64)] {
        assert_eq!(world.disk.ensure_disks(&smaller).unwrap(), Change::Unchanged);
    }
    assert_eq!((blocks(&world.layout.root_disk(&world.id())), blocks(&work)), (128 * MIB, 512 * MIB));
}

#[test]
fn a_disk_in_use_gets_room_and_its_guest_does_the_rest() {
    let world = world();
    assert_eq!(world.disk.extend(&disks(64, 64)).unwrap_err().kind, HostErrorKind::NotFound);
    let _changed = world.disk.ensure_disks(&disks(64, 64)).unwrap();
    let _lock = hold_disks(&world.layout, &world.id()).unwrap();
    assert_eq!(world.disk.extend(&disks(64, 256)).unwrap(), Change::Changed);
    assert_eq!(world.disk.extend(&disks(64, 256)).unwrap(), Change::Unchanged);
    assert_eq!(world.disk.extend(&disks(64, 128)).unwrap(), Change::Unchanged);
    let work = world.layout.work_disk(&world.id());
    assert_eq!(
        (fs::metadata(&work).unwrap().len(), blocks(&work)),
        (256 << 20, 64 * MIB),
        "the file system is the guest's"
    );
}

#[test]
fn a_seed_larger_than_the_disk_is_refused_and_nothing_is_left() {
    let world = world();
    world.seed(128);
    let error = world.disk.ensure_disks(&disks(64, 64)).unwrap_err();
    assert_eq!(error.kind, HostErrorKind::Invalid);
    assert!(!world.layout.vm(&world.id()).exists());
}

#[test]
fn a_reset_renews_the_root_and_keeps_the_work() {
    let world = world();
    world.seed(16);
    assert_eq!(world.disk.renew_root(&disks(64, 64)).unwrap_err().kind, HostErrorKind::NotFound);
    let _changed = world.disk.ensure_disks(&disks(64, 64)).unwrap();
    let (root, work) = (world.layout.root_disk(&world.id()), world.layout.work_disk(&world.id()));
    debugfs(&root, "mkdir marked", true);
    debugfs(&work, "mkdir marked", true);
    assert_eq!(world.disk.renew_root(&disks(96, 64)).unwrap(), Change::Changed);
    assert_eq!(blocks(&root), 96 * MIB);
    assert!(!debugfs(&root, "ls", false).contains("marked"));
    assert!(debugfs(&work, "ls", false).contains("marked"));
    world.assert_clean();
}

#[test]
fn disks_in_use_are_left_alone() {
    let world = world();
    let _changed = world.disk.ensure_disks(&disks(64, 64)).unwrap();
    let lock = hold_disks(&world.layout, &world.id()).unwrap();
    assert_eq!(world.disk.ensure_disks(&disks(64, 64)).unwrap(), Change::Unchanged);
    assert_eq!(world.disk.ensure_disks(&disks(128, 64)).unwrap_err().kind, HostErrorKind::Busy);
    assert_eq!(world.disk.renew_root(&disks(64, 64)).unwrap_err().kind, HostErrorKind::Busy);
    assert_eq!(world.disk.remove_disks(&world.id()).unwrap_err().kind, HostErrorKind::Busy);
    drop(lock);
    assert_eq!(world.disk.remove_disks(&world.id()).unwrap(), Change::Changed);
}

#[test]
fn no_disks_are_made_for_an_image_that_is_not_there() {
    let world = world();
    let wanted = Disks { image: "missing".parse().unwrap(), ..disks(64, 64) };
    let error = world.disk.ensure_disks(&wanted).unwrap_err();
    assert_eq!(error.kind, HostErrorKind::NotFound);
    assert!(!world.layout.vm(&world.id()).exists());
}

#[test]
fn a_damaged_disk_is_not_grown() {
    let world = world();
    let _changed = world.disk.ensure_disks(&disks(64, 64)).unwrap();
    let work = world.layout.work_disk(&world.id());
    fs::write(&work, vec![0x5a; 64 << 20]).unwrap();
    let error = world.disk.ensure_disks(&disks(64, 128)).unwrap_err();
    assert_eq!(error.kind, HostErrorKind::Broken);
    assert!(error.source.unwrap().to_string().contains("`e2fsck` refused the disk"));
    assert_eq!(fs::metadata(&work).unwrap().len(), 64 << 20);
}

#[test]
fn what_a_crash_left_beside_a_disk_is_in_nobodys_way() {
    let world = world();
    fs::create_dir(world.layout.vm(&world.id())).unwrap();
    fs::write(world.layout.root_disk(&world.id()).with_extension("ext4.partial"), "half").unwrap();
    let _changed = world.disk.ensure_disks(&disks(64, 64)).unwrap();
    world.assert_clean();
    let mut names: Vec<_> =
        fs::read_dir(world.layout.vm(&world.id())).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["lock", "root.ext4", "work.ext4"]);
}

#[test]
fn a_full_file_system_gets_one_sentence_and_nothing_half_made() {
    let world = world();
    let full = DiskError::from(io::Error::from(io::ErrorKind::StorageFull));
    let error = seam_error("cannot make the disks of x".into(), full);
    assert_eq!((error.kind, error.hint.is_some()), (HostErrorKind::Unfit, true));
    let failed = make_whole(&partial(Path::new("/nowhere/x")), Path::new("/nowhere/x"), |_| Err(DiskError::Full));
    assert!(matches!(failed, Err(DiskError::Full)));
    let path = world.layout.cache().join("disk.ext4");
    let failed =
        make_whole(&partial(&path), &path, |partial| Ok(fs::write(partial, "half")?).and(Err(DiskError::Full)));
    assert!(failed.is_err() && !path.exists() && !partial(&path).exists());
}

/// The second disk of a size is a clone: its cost is bytes, not time. Times are printed for who looks.
#[test]
#[allow(clippy::print_stderr)]
fn the_cost_of_a_disk_does_not_follow_its_size() {
    let world = world();
    for gib in [1, 8, 64] {
        for round in 0..2 {
            let begun = Instant::now();
            let id = SandboxId::from_bits(gib * 10 + round);
            let wanted = Disks { root_size: ByteSize::from_gib(gib), id, ..disks(0, 64) };
            let _changed = world.disk.ensure_disks(&wanted).unwrap();
            let took = begun.elapsed();
            let allocated = world.disk.facts_of(wanted.id).allocated;
            eprintln!("{gib} GiB, round {round}: {took:?}, {allocated}");
            assert!(allocated < ByteSize::from_mib(8), "{gib} GiB take {allocated}");
        }
    }
}

/// What a program that is being started beside us copies is a descriptor, not the lock.
#[test]
fn a_lock_that_was_let_go_is_free_though_a_copy_is_left() {
    let world = world();
    let _changed = world.disk.ensure_disks(&disks(64, 64)).unwrap();
    let held = hold_disks(&world.layout, &world.id()).unwrap();
    let copy = held.copy();
    assert!(hold_disks(&world.layout, &world.id()).is_err());
    drop(held);
    assert!(hold_disks(&world.layout, &world.id()).is_ok());
    drop(copy);
}
