//! Signatures as cosign keeps them in a registry.

use super::*;

/// Serves `held` and, for the manifest that it has, a signature over what `names` says.
fn signed(held: Held, key: &p256::ecdsa::SigningKey, names: &str) -> Fake {
    use base64::Engine as _;
    use p256::ecdsa::signature::Signer;
    let payload = format!(r#"{{"critical":{{"image":{{"docker-manifest-digest":"{names}"}}}},"optional":null}}"#);
    let signature: p256::ecdsa::Signature = key.sign(payload.as_bytes());
    let signature = base64::engine::general_purpose::STANDARD.encode(signature.to_der());
    let (digest, tag) = (images::digest::of_bytes(payload.as_bytes()), images::digest::of_bytes(&held.manifest));
    let manifest = format!(
        r#"{{"schemaVersion":2,"layers":[{{"mediaType":"application/vnd.dev.cosign.simplesigning.v1+json","digest":"{digest}","size":{},"annotations":{{"dev.cosignproject.cosign/signature":"{signature}"}}}}]}}"#,
        payload.len()
    );
    let tag = format!("sha256-{}.sig", tag.hex());
    Fake::serve(move |asked| match asked.path.rsplit('/').next() {
        Some(last) if last == tag => Reply::new(200, manifest.clone()),
        Some(last) if last.ends_with(".sig") => Reply::new(404, ""),
        Some(last) if last == digest.as_str() => Reply::new(200, payload.clone()),
        _ => held.answer(asked),
    })
}

fn pem(key: &p256::ecdsa::SigningKey) -> String {
    use p256::pkcs8::{EncodePublicKey, LineEnding};
    key.verifying_key().to_public_key_pem(LineEnding::LF).unwrap()
}

#[test]
fn an_image_must_be_signed_by_the_given_key_and_no_other() {
    let key = |seed: u8| p256::ecdsa::SigningKey::from_slice(&[seed; 32]).unwrap();
    let held = held();
    let own = images::digest::of_bytes(&held.manifest).to_string();
    let pull = |fake: &Fake, by: &str| {
        let rig = Rig::new();
        let reference: ImageRef = format!("{}/a/b:1", fake.address).parse().unwrap();
        let options = PullOptions { verify_key: Some(by.to_owned()), ..PullOptions::default() };
        let pulled =
            rig.library.pull_image(&reference, &options, &|_| Vec::new(), &Unwatched).map(|name| name.to_string());
        assert_eq!(pulled.is_err(), rig.library.images().unwrap().is_empty(), "{pulled:?}");
        pulled.map_err(|error| chain(&error))
    };
    if has_checker() {
        pull(&signed(held.clone(), &key(1), &own), &pem(&key(1))).unwrap();
    }
    let refused = |fake: &Fake, by: &str, words: &str| {
        let said = pull(fake, by).unwrap_err();
        assert!(said.contains(words), "{said}");
    };
    refused(&signed(held.clone(), &key(2), &own), &pem(&key(1)), "none of its signatures is by the given key");
    // A signature of another image, moved here.
    let other = images::digest::of_bytes(b"other").to_string();
    refused(&signed(held.clone(), &key(1), &other), &pem(&key(1)), "none of its signatures");
    refused(&signed(held.clone(), &key(1), &own), "no key", "no P-256 public key");
    let unsigned = Fake::serve(move |asked| match asked.path.ends_with(".sig") {
        true => Reply::new(404, ""),
        false => held.answer(asked),
    });
    refused(&unsigned, &pem(&key(1)), "nobody has signed it");
}
