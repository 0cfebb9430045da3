//! A host whose disk is full, in the middle of anything: one sentence, nothing lost, and once there is room all is well.

use crate::repositories::home::{Rig, git, write};
use crate::repositories::host::{Case, compare, options};
use daemon::home::HomeError;
use daemon::homecoming::chain;
use daemon::workspace::ship::ShipOptions;
use daemon::workspace::{WorkspaceError, inspect, list, ship};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use wire::Fault;

/// A file system with so little room, gone when it is dropped. Needs root.
struct Small(PathBuf);

impl Small {
    fn mount(at: PathBuf, kib: u64) -> Option<Small> {
        std::fs::create_dir_all(&at).expect("a folder can be made");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={kib}k"), "tmpfs"]).arg(&at);
        let mounted = mount.stderr(Stdio::null()).status().is_ok_and(|status| status.success());
        if !mounted {
            let _ = io::stderr().write_all(b"skipped: nothing can be mounted here\n");
        }
        mounted.then(|| Small(at))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(&self.0).status();
        assert!(unmounted.is_ok_and(|status| status.success()));
    }
}

/// Bytes that nothing makes smaller.
fn noise(bytes: usize) -> String {
    let mut state = 0x9e37_79b9_u64;
    let letter = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        char::from(b' ' + (state >> 57) as u8 % 95)
    };
    (0..bytes).map(letter).collect()
}

/// Work of 300 KiB in commits, in the index and beside it.
fn work_hard(guest: &Path) {
    for (name, seed) in [("committed", 1), ("staged", 2), ("untracked", 3)] {
        write(&guest.join(name), &noise(100_000 + seed));
        match name {
            "committed" => {
                git(guest, &["add", "-A"]);
                git(guest, &["commit", "-q", "-m", "large"]);
            }
            "staged" => drop(git(guest, &["add", "-A"])),
            _ => {}
        }
    }
}

#[test]
fn a_disk_that_is_full_keeps_no_work_and_loses_none() {
    let sizes = [16, 64, 100, 150, 200, 250, 300, 400, 600, 4000];
    let mut short = 0;
    for kib in sizes {
        let rig = Rig::new();
        work_hard(&rig.guest);
        let before = rig.fingerprint();
        let Some(small) = Small::mount(rig.place.folder.clone(), kib) else { return };
        short += u32::from(is_short(&rig, kib));
        drop(small);
        assert_eq!(rig.fingerprint(), before, "{kib} KiB");
        rig.assert_host_is_sound();
        rig.sync_all();
        assert_eq!(git(&rig.host, &["rev-parse", "refs/banger/x/wip^{tree}"]), rig.guest_tree(), "{kib} KiB");
    }
    assert!((3..sizes.len() as u32).contains(&short), "{short} of {} were too small", sizes.len());
}

#[test]
fn a_host_repository_without_room_is_left_whole() {
    let mut short = 0;
    for kib in [0, 40, 100, 200, 4000] {
        let rig = Rig::new();
        let objects = rig.host.join(".git/objects");
        let aside = rig.folder.path().join("objects");
        std::fs::rename(&objects, &aside).expect("it can be renamed");
        // What lies there takes a page each.
        let Some(small) = Small::mount(objects.clone(), 300 + kib) else { return };
        let copied = Command::new("cp").arg("-a").arg(format!("{}/.", aside.display())).arg(&objects).status();
        assert!(copied.expect("cp runs").success(), "it does not fit");
        work_hard(&rig.guest);
        let before = rig.fingerprint();
        short += u32::from(is_short(&rig, kib));
        assert_eq!(rig.fingerprint(), before, "{kib} KiB");
        rig.assert_host_is_sound();
        let half: Vec<_> = std::fs::read_dir(objects.join("pack")).into_iter().flatten().flatten().collect();
        assert!(half.iter().all(|entry| !entry.file_name().to_string_lossy().starts_with("tmp_")), "{half:?}");
        let wider = Command::new("mount").args(["-o", "remount,size=8m"]).arg(&objects).status();
        assert!(wider.expect("mount runs").success());
        rig.sync_all();
        assert_eq!(git(&rig.host, &["rev-parse", "refs/banger/x/wip^{tree}"]), rig.guest_tree(), "{kib} KiB");
        rig.assert_host_is_sound();
        drop(small);
    }
    assert!((1..5).contains(&short), "{short} of 5 were too small");
}

/// Whether something was left for want of room; then that is said.
#[track_caller]
fn is_short(rig: &Rig, kib: u64) -> bool {
    let (said, short) = match rig.sync() {
        Ok(report) => (report.left.join("; "), !report.left.is_empty()),
        Err(error) => {
            let fault = daemon::homecoming::fault(&error);
            let has_hint = fault.hint.is_some() || !matches!(error, HomeError::Store { .. });
            assert!(has_hint, "{kib} KiB: no hint with {fault:?}");
            (chain(&error), true)
        }
    };
    assert!(!short || said.contains("No space left on device"), "{kib} KiB: {said:?} does not say why");
    short
}

#[test]
fn a_shipment_that_finds_no_room_is_one_sentence() {
    let mut short = 0;
    let sizes = [16, 100, 150, 200, 250, 300, 400, 600, 4000];
    for kib in sizes {
        let case = Case::new();
        case.write("committed", &noise(100_000));
        case.git(&["add", "-A"]);
        case.git(&["commit", "-q", "-m", "large"]);
        case.write("staged", &noise(100_001));
        case.git(&["add", "-A"]);
        let scratch = case.folder.path().join("scratch");
        let Some(small) = Small::mount(scratch.clone(), kib) else { return };
        let source = inspect(&case.host()).expect("it is a repository");
        let entries = list(&source, options().selection).expect("it can be listed");
        let mut archive = Vec::new();
        match ship(&source, &entries, &options(), &scratch, &mut archive) {
            Ok(_) => assert!(short > 0, "{kib} KiB is enough"),
            Err(error) => {
                short += 1;
                assert_told(kib, error);
            }
        }
        drop(small);
        case.check();
    }
    assert!((2..sizes.len()).contains(&short), "{short} of {} were too small", sizes.len());
}

fn assert_told(kib: u64, error: WorkspaceError) {
    let said = chain(&error);
    assert!(said.contains("No space left on device") && !said.contains('\n'), "{kib} KiB: {said:?}");
    let fault = Fault::from(error);
    assert!(fault.hint.as_deref().is_some_and(|hint| hint.contains("make room")), "{kib} KiB: {fault:?}");
}

/// A writer that takes so much and no more, as a socket does whose guest is full.
struct Narrow {
    left: usize,
    largest: usize,
}

impl Write for Narrow {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.largest = self.largest.max(bytes.len());
        if bytes.len() > self.left {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.left -= bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_stream_that_takes_no_more_ends_the_shipment_wherever_it_stands() {
    let case = Case::new();
    let source = inspect(&case.host()).expect("it is a repository");
    let entries = list(&source, options().selection).expect("it can be listed");
    let mut ended = 0;
    for left in (0..200_000).step_by(10_000) {
        let scratch = tempfile::tempdir().expect("a folder can be made");
        let shipped = ship(&source, &entries, &options(), scratch.path(), &mut Narrow { left, largest: 0 });
        if let Err(error) = shipped {
            assert!(matches!(error, WorkspaceError::Write { .. }), "{error:?}");
            ended += 1;
        }
    }
    assert!(ended > 1, "only {ended} were too narrow");
    case.check();
}

/// 10 GiB without a block on the host: the size is known first, and it is never held in memory.
#[test]
fn a_file_of_ten_gigabytes_is_refused_or_streamed_in_pieces() {
    let case = Case::new();
    let file = std::fs::File::create(case.host().join("huge")).expect("a file can be made");
    file.set_len(10 << 30).expect("a file can be sparse");
    let wish = daemon::workspace::Wish { path: case.host(), include_untracked: true, ..Default::default() };
    let preparation = daemon::workspace::Preparation::look(wish).expect("it can be looked at");
    assert!(preparation.measured.bytes > 10 << 30);
    let refused = preparation.check_size(8 << 30).expect_err("it does not fit");
    assert!(refused.to_string().contains("10GiB") && refused.to_string().contains("8GiB"), "{refused}");
    assert!(Fault::from(refused).hint.is_some());
    preparation.check_size(16 << 30).expect("it fits");
    let scratch = tempfile::tempdir().expect("a folder can be made");
    // Enough to tell how it goes on.
    let mut narrow = Narrow { left: 1 << 30, largest: 0 };
    let ended = ship(&preparation.source, &preparation.entries, &preparation.options, scratch.path(), &mut narrow);
    assert!(matches!(ended, Err(WorkspaceError::Write { .. })), "{ended:?}");
    assert!(narrow.largest <= 1 << 20, "{} bytes at once", narrow.largest);
}

/// Also for one that fails.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Shipped ten times while another git rebases it to and fro.
#[test]
fn a_repository_that_is_rebased_all_the_while_arrives_whole_or_is_refused() {
    let case = Case::new();
    case.git(&["checkout", "-q", "-b", "topic", "HEAD~1"]);
    for number in 0..4 {
        case.write(format!("topic/{number}"), "x\n");
        case.git(&["add", "-A"]);
        case.git(&["commit", "-q", "-m", "topic"]);
    }
    let (top, ended) = (case.host(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let _end = End(&ended);
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                for onto in ["main", "main~2"] {
                    let mut command = Command::new("git");
                    command.arg("-C").arg(&top).args(["rebase", "-q", "--onto", onto, "HEAD~4"]);
                    let rebased = command.env("GIT_CONFIG_GLOBAL", "/dev/null").output().expect("git runs");
                    assert!(rebased.status.success(), "{}", String::from_utf8_lossy(&rebased.stderr));
                }
            }
        });
        let mut arrived = 0;
        for _ in 0..10 {
            match case.ship_with(&ShipOptions { depth: None, ..options() }) {
                Ok(_) => {
                    arrived += 1;
                    crate::repositories::host::git(&case.guest(), &["fsck", "--no-dangling"]);
                }
                Err(error) => {
                    let said = error.to_string();
                    assert!(!said.contains('\n') && Fault::from(error).hint.is_some(), "{said}");
                }
            }
        }
        assert!(arrived > 0, "it never arrives");
    });
    case.git(&["fsck", "--no-dangling"]);
    case.ship();
    compare(&case.host(), &case.guest());
}

#[test]
fn a_hundred_thousand_files_arrive() {
    let case = Case::new();
    for number in 0..100_000 {
        let folder = case.host().join(format!("many/{}", number / 1000));
        if number % 1000 == 0 {
            std::fs::create_dir_all(&folder).expect("a folder can be made");
        }
        std::fs::write(folder.join(number.to_string()), b"x\n").expect("a file can be written");
    }
    case.git(&["add", "-A"]);
    let source = inspect(&case.host()).expect("it is a repository");
    let entries = list(&source, options().selection).expect("it can be listed");
    assert_eq!(entries.len(), 100_004);
    let scratch = tempfile::tempdir().expect("a folder can be made");
    let mut sink = Narrow { left: 1 << 30, largest: 0 };
    let shipped = ship(&source, &entries, &options(), scratch.path(), &mut sink).expect("it ships");
    assert_eq!((shipped.files, shipped.notes), (100_004, Vec::new()));
}
