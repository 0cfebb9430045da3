//! Manifests and indexes that make no sense, or are not there.

use super::*;

#[test]
fn documents_that_make_no_sense_are_refused() {
    let check = |manifest: Vec<u8>, words: &str| {
        let held = held();
        let fake = Fake::serve(move |asked| match asked.path.contains("/manifests/") {
            true => Reply::new(200, manifest.clone()),
            false => held.answer(asked),
        });
        Rig::new().refused(&fake, HostErrorKind::Invalid, words);
    };
    let good = String::from_utf8(held().manifest).unwrap();
    check(b"<html>".to_vec(), "no valid JSON");
    check(vec![b' '; (4 << 20) + 1], "more than");
    check(good.replace("layer.v1.tar+gzip", "layer.v1.squashfs").into_bytes(), "media type");
    check(good.replace("\"size\":", "\"size\":99999999").into_bytes(), "larger than");
    let huge = good
        .replacen("\"layers\":[", "\"layers\":[ ", 1)
        .replace("tar+gzip\",\"digest\"", "tar+gzip\",\"x\":0,\"digest\"");
    let lie =
        huge.rsplit_once("\"size\":").map(|(before, _)| format!("{before}\"size\":18446744073709551615}}]}}")).unwrap();
    check(lie.into_bytes(), "larger than");
    let swapped = {
        let held = held();
        good.replace(&held.layers[0], "x")
            .replace(&held.layers[2], &held.layers[0])
            .replace("\"x\"", &format!("\"{}\"", held.layers[2]))
    };
    let error = Rig::new();
    let held = held();
    let fake = Fake::serve(move |asked| match asked.path.contains("/manifests/") {
        true => Reply::new(200, swapped.clone()),
        false => held.answer(asked),
    });
    assert!(error.pull(&fake, "a/b:1").is_err(), "the sizes of the two differ");
}

#[test]
fn what_is_not_there_is_said_at_once() {
    let fake = Fake::serve(|_| Reply::new(404, r#"{"errors":[{"code":"MANIFEST_UNKNOWN"}]}"#));
    Rig::new().refused(&fake, HostErrorKind::NotFound, "has no a/b/manifests/1");
    assert_eq!(fake.asked().len(), 1);
}

#[test]
fn a_manifest_that_is_not_what_its_digest_says_is_refused() {
    let (wanted, other) = (held(), large());
    let digest = images::digest::of_bytes(&wanted.manifest);
    let by_digest = format!("a/b@{digest}");
    let fake = Fake::serve(move |asked| other.answer(asked));
    Rig::new().refused_by_name(&fake, &by_digest, HostErrorKind::Invalid, "the manifest is not what its digest says");
    // The same behind an index that is honest about what it lists.
    let own = crate::host::images::architecture();
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{}","digest":"{digest}","size":{},"platform":{{"os":"linux","architecture":"{own}"}}}}]}}"#,
        fake::OCI_MANIFEST,
        wanted.manifest.len()
    );
    let other = large();
    let fake = Fake::serve(move |asked| match asked.path.ends_with("/manifests/1") {
        true => Reply::new(200, index.clone()),
        false => other.answer(asked),
    });
    Rig::new().refused(&fake, HostErrorKind::Invalid, "the manifest is not what its digest says");
}

#[test]
fn ten_thousand_layers_are_refused_before_the_first_is_fetched() {
    let held = held();
    let manifest = String::from_utf8(held.manifest.clone()).unwrap();
    let (before, layers) = manifest.split_once("\"layers\":[").unwrap();
    let layer = layers.split("},").next().unwrap();
    let crowd = format!("{before}\"layers\":[{}}}]}}", vec![layer; 10_000].join("},"));
    let fake = Fake::serve(move |asked| match asked.path.contains("/manifests/") {
        true => Reply::new(200, crowd.clone()),
        false => held.answer(asked),
    });
    Rig::new().refused(&fake, HostErrorKind::Invalid, "10000 layers");
    assert_eq!(fake.count("/blobs/"), 0);
}

#[test]
fn indexes_that_lead_in_circles_are_followed_for_a_while_only() {
    let own = crate::host::images::architecture();
    // An index cannot name itself, as its digest is not known beforehand; ever new ones it can.
    let index = |inner: &[u8]| {
        let digest = images::digest::of_bytes(inner);
        let media = "application/vnd.oci.image.index.v1+json";
        format!(
            r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{media}","digest":"{digest}","size":{},"platform":{{"os":"linux","architecture":"{own}"}}}}]}}"#,
            inner.len()
        )
        .into_bytes()
    };
    let mut held = held();
    let mut document = held.manifest.clone();
    for _ in 0..10 {
        held.blobs.insert(images::digest::of_bytes(&document).to_string(), document.clone());
        document = index(&document);
    }
    held.manifest = document;
    let fake = Fake::serve(move |asked| match asked.path.ends_with("/manifests/1") {
        true => Reply::new(200, held.manifest.clone()),
        false => held.answer(asked),
    });
    Rig::new().refused(&fake, HostErrorKind::Invalid, "nested too deeply");
}
