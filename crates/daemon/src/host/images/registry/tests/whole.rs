//! What an honest registry has: which image it is, what it is called here, and what is fetched once.

use super::*;

#[test]
fn an_image_of_gzip_zstd_and_plain_layers_is_pulled_once() {
    if !has_checker() {
        return;
    }
    let (rig, held) = (Rig::new(), held());
    let fake = Fake::serve(move |asked| held.answer(asked));
    assert_eq!(rig.pull(&fake, "a/b:1").unwrap(), "b-1");
    let asked = fake.asked().len();
    assert_eq!(rig.pull(&fake, "a/b:1").unwrap(), "b-1");
    assert_eq!(fake.asked().len(), asked + 1, "only whether the tag has moved on");
    let (facts, details) = rig.library.described(&"debian-cloud".parse().unwrap()).unwrap().remove(0);
    assert_eq!(details.references, [format!("{}/a/b:1", fake.address)]);
    assert_eq!(details.config.cmd, ["sh"]);
    assert_eq!(details.system.as_deref(), Some("Tiny 1"));
    assert!(facts.size.bytes() > 0 && rig.partials().is_empty() && rig.half_made().is_empty());
    // Another tag of the same layers costs its manifest alone.
    let blobs = fake.count("/blobs/");
    rig.pull(&fake, "a/b:2").unwrap();
    assert_eq!(fake.count("/blobs/"), blobs);
}

#[test]
fn of_many_platforms_the_own_one_is_chosen_and_of_none_that_is_said() {
    let mut held = held();
    let entry = |architecture: &str, held: &Held| {
        let digest = images::digest::of_bytes(&held.manifest);
        format!(
            r#"{{"mediaType":"{}","digest":"{digest}","size":{},"platform":{{"os":"linux","architecture":"{architecture}"}}}}"#,
            fake::OCI_MANIFEST,
            held.manifest.len()
        )
    };
    let index = |entries: &str| format!(r#"{{"schemaVersion":2,"manifests":[{entries}]}}"#).into_bytes();
    let own = crate::host::images::architecture();
    let both = index(&format!("{},{}", entry("s390x", &held), entry(own, &held)));
    let neither = index(&entry("s390x", &held));
    let crowd = index(&vec![entry(own, &held); 10_000].join(","));
    let digest = images::digest::of_bytes(&held.manifest).to_string();
    held.blobs.insert(digest, held.manifest.clone());
    let serve = |index: Vec<u8>| {
        let held = held.clone();
        Fake::serve(move |asked| match asked.path.ends_with("/manifests/1") {
            true => Reply::new(200, index.clone()),
            false => held.answer(asked),
        })
    };
    if has_checker() {
        Rig::new().pull(&serve(both), "a/b:1").unwrap();
    }
    Rig::new().refused(&serve(neither), HostErrorKind::Invalid, "it is for linux/s390x");
    Rig::new().refused(&serve(crowd), HostErrorKind::Invalid, "lists 10000 manifests");
}

#[test]
fn two_pulls_of_one_image_fetch_each_blob_once() {
    if !has_checker() {
        return;
    }
    let (rig, held) = (Rig::new(), large());
    let fake = Fake::serve(move |asked| {
        std::thread::sleep(Duration::from_millis(50));
        held.answer(asked)
    });
    std::thread::scope(|scope| {
        let pulls: Vec<_> = (0..4).map(|_| scope.spawn(|| rig.pull(&fake, "a/b:1"))).collect();
        for pull in pulls {
            assert_eq!(pull.join().unwrap().unwrap(), "b-1");
        }
    });
    assert_eq!(fake.count("/blobs/"), 2, "one config, one layer");
    // Another name for the same: fetched by nobody again.
    std::thread::scope(|scope| {
        let pulls: Vec<_> = ["x/c:1", "x/d:1"].map(|image| scope.spawn(|| rig.pull(&fake, image))).into();
        pulls.into_iter().for_each(|pull| drop(pull.join().unwrap().unwrap()));
    });
    assert_eq!(fake.count("/blobs/"), 2);
}

#[test]
fn a_reference_whose_short_name_is_taken_gets_another_one() {
    if !has_checker() {
        return;
    }
    let (rig, held) = (Rig::new(), held());
    let fake = Fake::serve(move |asked| held.answer(asked));
    assert_eq!(rig.pull(&fake, "a/b:1").unwrap(), "b-1");
    let other = rig.pull(&fake, "other/b:1").unwrap();
    assert!(other.starts_with("b-1-") && other.len() == 12, "{other}");
    assert_eq!(rig.pull(&fake, "other/b:1").unwrap(), other);
    let debian = rig.pull(&fake, "library/debian:bookworm").unwrap();
    assert!(debian.starts_with("debian-bookworm-"), "the catalog has that name: {debian}");
}

#[test]
fn a_tag_that_moved_on_is_pulled_anew_unless_a_sandbox_uses_what_is_here() {
    if !has_checker() {
        return;
    }
    let (rig, moved) = (Rig::new(), Arc::new(AtomicBool::new(false)));
    let (old, new, now) = (held(), large(), moved.clone());
    let fake = Fake::serve(move |asked| match now.load(Ordering::SeqCst) {
        true => new.answer(asked),
        false => old.answer(asked),
    });
    let reference: ImageRef = format!("{}/a/b:1", fake.address).parse().unwrap();
    let pull = |users: &[&str]| {
        let users: Vec<String> = users.iter().map(|user| (*user).to_owned()).collect();
        rig.library.pull_image(&reference, &PullOptions::default(), &|_| users.clone(), &Unwatched).unwrap();
        rig.library.images().unwrap().remove(0).digest
    };
    let first = pull(&[]);
    moved.store(true, Ordering::SeqCst);
    assert_eq!(pull(&["web"]), first);
    assert_ne!(pull(&[]), first);
    assert!(rig.half_made().is_empty());
}
