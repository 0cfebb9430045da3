//! Blobs that are wrong, torn or late, a person who leaves, a disk that is full.

use super::*;

#[test]
fn a_wrong_blob_is_never_committed() {
    let fake = but_for_layers(held(), |_, mut honest| {
        honest.body[0] ^= 1;
        honest
    });
    let rig = Rig::new();
    rig.refused(&fake, HostErrorKind::Invalid, "is not what its digest says");
    assert!(rig.partials().is_empty());
}

#[test]
fn a_layer_that_its_config_does_not_name_is_refused() {
    let mut held = held();
    let config = String::from_utf8(held.blobs[&held.config].clone()).unwrap();
    let diff_id = images::digest::of_bytes(&fake::archive(FILES[0])).to_string();
    let other = config.replace(&diff_id, images::digest::of_bytes(b"other").as_str());
    assert_ne!(other, config);
    held.replace(&held.config.clone(), other.into_bytes());
    let fake = Fake::serve(move |asked| held.answer(asked));
    Rig::new().refused(&fake, HostErrorKind::Invalid, "layer 1 is not the one that the image's config names");
}

/// The blob is what its digest says; what is in it is not.
#[test]
fn a_layer_that_is_whole_and_holds_no_archive_is_refused() {
    let plain = fake::archive(FILES[0]);
    let packed = fake::gzip(&plain);
    let circle = {
        let mut archive = tar::Builder::new(Vec::new());
        for (name, target) in [("a", "b"), ("b", "a")] {
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            archive.append_link(&mut header, name, target).unwrap();
        }
        let mut header = tar::Header::new_ustar();
        header.set_size(0);
        archive.append_data(&mut header, "a/x", std::io::empty()).unwrap();
        archive.into_inner().unwrap()
    };
    let check = |layer: Vec<u8>, unpacked: &[u8], words: &str| {
        let mut held = held();
        held.replace(&held.layers[0].clone(), layer);
        let config = String::from_utf8(held.blobs[&held.config].clone()).unwrap();
        let before = images::digest::of_bytes(&plain).to_string();
        let after = images::digest::of_bytes(unpacked);
        held.replace(&held.config.clone(), config.replace(&before, after.as_str()).into_bytes());
        let fake = Fake::serve(move |asked| held.answer(asked));
        Rig::new().refused(&fake, HostErrorKind::Invalid, words);
    };
    check(packed[..packed.len() / 2].to_vec(), b"", "cannot read the layer");
    check(fake::gzip(b"no archive"), b"no archive", "the archive is broken");
    check(fake::gzip(&plain[..520]), &plain[..520], "the archive is broken");
    check(fake::gzip(&circle), &circle, "too many symbolic links");
}

#[test]
fn a_blob_that_is_shorter_than_announced_is_said_to_be() {
    let fake = but_for_layers(held(), |asked, mut honest| {
        // What is missing never comes, whoever asks for it.
        let lacking = if asked.headers.contains_key("range") { honest.body.len() } else { 1 };
        honest.body.truncate(honest.body.len() - lacking);
        honest
    });
    Rig::new().refused(&fake, HostErrorKind::Unfit, "ended a blob after");
}

#[test]
fn a_blob_that_is_longer_than_announced_is_cut_short() {
    let fake = but_for_layers(held(), |_, mut honest| {
        honest.body.extend(vec![0; 1 << 20]);
        honest
    });
    Rig::new().refused(&fake, HostErrorKind::Invalid, "is longer than");
}

#[test]
fn a_download_that_breaks_off_goes_on_where_it_was() {
    if !has_checker() {
        return;
    }
    let fake = but_for_layers(large(), |_, honest| Reply { cut_after: Some(100_000), ..honest });
    let rig = Rig::new();
    rig.pull(&fake, "a/b:1").unwrap();
    let ranges: Vec<_> = fake.asked().iter().filter_map(|asked| asked.headers.get("range").cloned()).collect();
    assert_eq!(ranges[0], "bytes=100000-");
    assert!(ranges.len() >= 2, "{ranges:?}");
}

#[test]
fn what_a_dead_daemon_had_is_not_fetched_again() {
    if !has_checker() {
        return;
    }
    let broken = but_for_layers(large(), |asked, honest| match asked.headers.contains_key("range") {
        true => Reply::new(500, ""),
        false => Reply { cut_after: Some(200_000), ..honest },
    });
    let rig = Rig::new();
    rig.refused(&broken, HostErrorKind::Unfit, "answers 500");
    assert_eq!(rig.partials(), [200_000]);
    let held = large();
    let fake = Fake::serve(move |asked| held.answer(asked));
    let again = Rig { library: open(rig.folder.path(), Access { patience: PATIENCE, ..Access::default() }), ..rig };
    again.pull(&fake, "a/b:1").unwrap();
    let asked = fake.asked();
    let ranges: Vec<_> = asked.iter().filter_map(|asked| asked.headers.get("range")).collect();
    assert_eq!(ranges, ["bytes=200000-"]);
}

#[test]
fn what_an_earlier_try_left_wrong_is_fetched_anew() {
    if !has_checker() {
        return;
    }
    let (rig, held) = (Rig::new(), large());
    let blobs = rig.folder.path().join("c/blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let hex = held.layers[0].trim_start_matches("sha256:").to_owned();
    std::fs::write(blobs.join(format!("{hex}.partial")), vec![7; 1000]).unwrap();
    let fake = Fake::serve(move |asked| held.answer(asked));
    rig.pull(&fake, "a/b:1").unwrap();
    assert!(rig.partials().is_empty());
}

#[test]
fn a_server_without_ranges_is_asked_for_the_whole_again() {
    if !has_checker() {
        return;
    }
    let tries = AtomicUsize::new(0);
    let fake = but_for_layers(large(), move |asked, honest| match tries.fetch_add(1, Ordering::SeqCst) {
        0 => Reply { cut_after: Some(1000), ..honest },
        _ => {
            let whole = Asked { headers: Default::default(), ..asked.clone() };
            Reply { status: 200, headers: Vec::new(), ..large().answer(&whole) }
        }
    });
    Rig::new().pull(&fake, "a/b:1").unwrap();
}

#[test]
fn a_registry_that_stalls_is_given_up_and_what_came_is_kept() {
    let fake = but_for_layers(large(), |_, honest| match honest.status {
        206 => Reply { cut_after: Some(0), stall: true, ..honest },
        _ => Reply { cut_after: Some(1000), stall: true, ..honest },
    });
    let rig = Rig::new();
    rig.refused(&fake, HostErrorKind::TimedOut, "has said nothing for");
    assert_eq!(rig.partials(), [1000]);
}

#[test]
fn a_server_that_fails_twice_is_asked_a_third_time() {
    if !has_checker() {
        return;
    }
    let (held, tries) = (held(), AtomicUsize::new(0));
    let fake = Fake::serve(move |asked| match tries.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::new(503, ""),
        1 => Reply::new(429, "").header("Retry-After", "0"),
        _ => held.answer(asked),
    });
    Rig::new().pull(&fake, "a/b:1").unwrap();
}

struct Impatient(Instant);

impl Watch for Impatient {
    fn report(&self, _: Report) {}
    fn cancelled(&self) -> bool {
        self.0.elapsed() > Duration::from_millis(150)
    }
}

#[test]
fn who_presses_ctrl_c_is_let_go_and_the_next_pull_goes_on() {
    let fake = but_for_layers(large(), |_, honest| Reply { cut_after: Some(5000), stall: true, ..honest });
    let access = Access { patience: Patience { stall: Duration::from_secs(30), ..PATIENCE }, ..Access::default() };
    let rig = Rig::with(access);
    let error = rig.pull_watched(&fake, "a/b:1", &Impatient(Instant::now())).unwrap_err();
    assert_eq!(error.kind, HostErrorKind::Cancelled);
    assert_eq!(rig.partials(), [5000]);
    assert!(rig.half_made().is_empty());
}

/// A file system with so little room, gone when it is dropped. Needs root.
struct Small(std::path::PathBuf);

impl Small {
    fn mount(at: std::path::PathBuf, kib: u32) -> Option<Small> {
        std::fs::create_dir_all(&at).unwrap();
        let mut mount = std::process::Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={kib}k"), "tmpfs"]).arg(&at);
        let mounted = mount.stderr(std::process::Stdio::null()).status().is_ok_and(|status| status.success());
        mounted.then_some(Small(at))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let unmounted = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
        assert!(unmounted.is_ok_and(|status| status.success()));
    }
}

#[test]
fn a_full_disk_at_any_step_is_one_sentence_and_leaves_nothing_half_made() {
    if !has_checker() {
        return;
    }
    let held = large();
    let fake = Fake::serve(move |asked| held.answer(asked));
    let rig = Rig::new();
    let Some(small) = Small::mount(rig.folder.path().join("c/blobs"), 100) else {
        let _ = std::io::Write::write_all(&mut std::io::stderr(), b"skipped: nothing can be mounted here\n");
        return;
    };
    rig.refused(&fake, HostErrorKind::Unfit, "and there is room for");
    drop(small);
    // While layers are unpacked, while the disks are written.
    let mut full = 0;
    for kib in [32, 200, 310, 400, 600, 1000, 4000] {
        let _small = Small::mount(rig.folder.path().join("s/images"), kib).expect("the first one was mounted");
        let name = format!("a/b:{kib}");
        if let Err(error) = rig.pull(&fake, &name) {
            assert!(error.attempt.contains("there is no room left on the disk"), "{kib}: {}", chain(&error));
            assert!(rig.library.images().unwrap().is_empty() && rig.half_made().is_empty(), "{kib}");
            full += 1;
        }
    }
    assert!((2..7).contains(&full), "{full} of 7 were too small");
}
