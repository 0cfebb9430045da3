//! The library over catalogs: the owner's files, bundles of images and kernels that they name, keys that they demand.

use super::super::bundle::hash_in_name;
use super::super::registry::fake::{Fake, Reply};
use super::super::*;
use super::{Rig, has_checker, name, vmlinux};
use engine::host::Unwatched;
use std::fs;

#[test]
fn the_owners_catalog_is_read_anew_and_a_wrong_file_is_left_out() {
    let rig = Rig::new();
    let folder = rig.folder.path().join("catalog.d");
    fs::create_dir(&folder).unwrap();
    let library = rig.library.with_catalog(Some(folder.clone()));
    let source = |name: &str| library.catalog_images().into_iter().find(|(n, _)| n.as_str() == name).map(|(_, s)| s);
    assert_eq!(source("alpine").as_deref(), Some("docker.io/library/alpine:latest"));
    assert!(source("debian-bookworm").is_some() && source("mine").is_none());
    let own = "[[image]]\nname='mine'\nkind='oci'\nreference='r.example/a/mine:1'\nkernel='special'\n";
    fs::write(folder.join("b.toml"), own).unwrap();
    fs::write(folder.join("a.toml"), "[[image]]\nname='alpine'\nkind='oci'\nreference='r.example/alpine:3'").unwrap();
    fs::write(folder.join("c.toml"), "[[image]]\nname='broken'\n").unwrap();
    fs::write(folder.join("d.txt"), own.replace("mine", "text")).unwrap();
    assert_eq!(source("mine").as_deref(), Some("r.example/a/mine:1"));
    assert_eq!(source("alpine").as_deref(), Some("r.example/alpine:3"));
    assert!(source("broken").is_none() && source("text").is_none());
    assert_eq!(library.catalog_kernel(&name("mine")).as_ref().map(KernelName::as_str), Some("special"));
    // A name of the catalog stands for nothing else.
    let of = |text: &str| library.name_of(&model::image_ref::OciReference::parse(text).unwrap()).unwrap();
    assert_eq!(of("r.example/alpine:latest").as_str().len(), "alpine-".len() + 8);
    assert_eq!(of("r.example/a/mine:latest").as_str().len(), "mine-".len() + 8);
}

#[test]
fn a_catalogs_bundle_is_fetched_from_a_file_or_a_server_and_is_what_its_hash_says() {
    if !has_checker() {
        return;
    }
    let rig = Rig::new();
    let (_, path) = rig.bundle("");
    let hash = hash_in_name(&path).unwrap();
    let bytes = fs::read(&path).unwrap();
    // A server that breaks off halfway the first time.
    let fake = Fake::serve(move |asked| {
        match asked.headers.get("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok())
        {
            None => Reply { cut_after: Some(bytes.len() / 2), ..Reply::new(200, bytes.clone()) },
            Some(from) => {
                let from: usize = from;
                let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
                Reply::new(206, &bytes[from..]).header("Content-Range", range)
            }
        }
    });
    let folder = rig.folder.path().join("catalog.d");
    fs::create_dir(&folder).unwrap();
    let other = Rig::new();
    let library = other.library.with_catalog(Some(folder.clone()));
    let entry = |name: &str, url: &str, sha256: &str| {
        format!("[[image]]\nname='{name}'\nkind='bundle'\nurl='{url}'\nsha256='{sha256}'\n")
    };
    let wrong = "0".repeat(64);
    let text = [
        entry("here", &format!("file://{}", path.display()), hash.hex()),
        entry("there", &format!("http://{}/x.tar.zst", fake.address), hash.hex()),
        entry("wrong", &format!("file://{}", path.display()), &wrong),
        entry("gone", "file:///nonexistent", hash.hex()),
    ];
    fs::write(folder.join("a.toml"), text.concat()).unwrap();
    for good in ["here", "there"] {
        assert_eq!(library.ensure_image(&name(good), &Unwatched).unwrap(), Change::Changed);
    }
    assert_eq!(library.ensure_image(&name("wrong"), &Unwatched).unwrap_err().kind, HostErrorKind::Invalid);
    assert!(library.ensure_image(&name("gone"), &Unwatched).is_err());
    let images = library.images().unwrap();
    assert_eq!(images.iter().map(|facts| facts.name.as_str()).collect::<Vec<_>>(), ["here", "there"]);
    assert_eq!(images[0].digest, images[1].digest);
}

/// Signs as `cosign sign-blob` does; tells the key in PEM.
fn sign(file: &Path, seed: u8) -> String {
    use base64::Engine as _;
    use p256::ecdsa::signature::Signer;
    use p256::pkcs8::{EncodePublicKey, LineEnding};
    let key = p256::ecdsa::SigningKey::from_slice(&[seed; 32]).unwrap();
    let signature: p256::ecdsa::Signature = key.sign(&fs::read(file).unwrap());
    let text = base64::engine::general_purpose::STANDARD.encode(signature.to_der());
    fs::write(format!("{}.sig", file.display()), format!("{text}\n")).unwrap();
    key.verifying_key().to_public_key_pem(LineEnding::LF).unwrap()
}

fn words(error: &HostError) -> String {
    let mut said = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(source) = cause {
        said.push_str(&format!(": {source}"));
        cause = source.source();
    }
    said
}

#[test]
fn a_bundle_whose_entry_names_a_key_must_be_signed_by_it() {
    if !has_checker() {
        return;
    }
    let rig = Rig::new();
    let (_, path) = rig.bundle("");
    let hash = hash_in_name(&path).unwrap();
    let copy = rig.folder.path().join("copy");
    fs::copy(&path, &copy).unwrap();
    let (own, foreign) = (sign(&path, 1), sign(&copy, 2));
    let entry = |name: &str, key: &str| {
        let (url, hash) = (format!("file://{}", path.display()), hash.hex());
        format!("[[image]]\nname='{name}'\nkind='bundle'\nurl='{url}'\nsha256='{hash}'\nverify-key='''{key}'''\n")
    };
    let folder = rig.folder.path().join("catalog.d");
    fs::create_dir(&folder).unwrap();
    let text = [entry("good", &own), entry("foreign", &foreign), entry("none", "x")].concat();
    fs::write(folder.join("a.toml"), text).unwrap();
    let other = Rig::new();
    let library = other.library.with_catalog(Some(folder));
    let refused = |image: &str, reason: &str| {
        let error = library.ensure_image(&name(image), &Unwatched).unwrap_err();
        assert!(words(&error).contains(reason) && error.kind == HostErrorKind::Invalid, "{}", words(&error));
    };
    refused("foreign", "none of its signatures is by the given key");
    refused("none", "no P-256 public key");
    assert_eq!(library.ensure_image(&name("good"), &Unwatched).unwrap(), Change::Changed);
    let _change = library.remove_image(&name("good")).unwrap();
    let signature = PathBuf::from(format!("{}.sig", path.display()));
    fs::write(&signature, [0xff, 0xfe]).unwrap();
    refused("good", "is no text");
    fs::remove_file(&signature).unwrap();
    refused("good", "nobody has signed it");
    assert!(library.images().unwrap().is_empty());
}

/// A kernel with a module and a configuration as `scripts/publish-kernel` packs it; and its hash.
fn kernel_bundle(folder: &Path) -> (PathBuf, String) {
    let vmlinux = vmlinux();
    let digest = ::images::digest::of_bytes(&vmlinux);
    let manifest = format!(
        r#"{{"format":1,"version":"x","digest":"{digest}","source":"x","created_at_ns":1,"boot_args":["quiet"],"modules":["a.ko"]}}"#
    );
    let mut archive = tar::Builder::new(zstd::Encoder::new(Vec::new(), 1).unwrap());
    let files: [(&str, &[u8]); 4] = [
        ("vmlinux", &vmlinux),
        ("manifest.json", manifest.as_bytes()),
        ("config", b"CONFIG_X=y\n"),
        ("modules/a.ko", b"a"),
    ];
    for (name, contents) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(contents.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, contents).unwrap();
    }
    let bytes = archive.into_inner().unwrap().finish().unwrap();
    let hash = ::images::digest::of_bytes(&bytes).hex().to_owned();
    let path = folder.join(format!("tuned-x86_64-{hash}.tar.zst"));
    fs::write(&path, bytes).unwrap();
    (path, hash)
}

/// Entries for one bundle, by where it is and what is said of it.
fn kernel_catalog(path: &Path, hash: &str, server: std::net::SocketAddr) -> String {
    let (file, served) = (format!("file://{}", path.display()), format!("http://{server}/k.tar.zst"));
    let (hash, key) = (format!("sha256='{hash}'"), sign(path, 1));
    let signed = format!("{hash}\nverify-key='''{key}'''");
    let entry =
        |name: &str, url: &str, more: &str| format!("[[kernel]]\nname='{name}'\nkind='bundle'\nurl='{url}'\n{more}\n");
    [
        entry("here", &file, &hash),
        entry("there", &served, &hash),
        entry("signed", &file, &signed),
        entry("unsigned", &served, &signed),
        entry("wrong", &file, &format!("sha256='{}'", "0".repeat(64))),
        entry("gone", "file:///nonexistent", &hash),
        entry("missing", &format!("http://{server}/x"), &hash),
        "[[kernel]]\nname='old'\nkind='debian-package'\npackage='linux-image-amd64'\nsuite='bullseye'\n".to_owned(),
    ]
    .concat()
}

#[test]
fn a_kernel_of_the_catalog_is_listed_and_fetched_and_is_what_its_hash_says() {
    let rig = Rig::new();
    let (path, hash) = kernel_bundle(rig.folder.path());
    let bytes = fs::read(&path).unwrap();
    let fake = Fake::serve(move |asked| match asked.path.as_str() {
        "/k.tar.zst" => Reply::new(200, bytes.clone()),
        _ => Reply::new(404, ""),
    });
    let folder = rig.folder.path().join("catalog.d");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("a.toml"), kernel_catalog(&path, &hash, fake.address)).unwrap();
    let library = rig.library.with_catalog(Some(folder));
    let listed = library.catalog_kernels();
    for (name, source) in [
        ("there", format!("http://{}/k.tar.zst", fake.address).as_str()),
        ("old", "debian package linux-image-amd64 (bullseye)"),
        ("debian-cloud", "debian package linux-image-cloud-amd64 (bookworm)"),
        ("generic", "built from debian package linux-source (bookworm)"),
    ] {
        assert!(listed.contains(&(name.parse().unwrap(), source.to_owned())), "{name}: {listed:?}");
    }

    let obtain = |kernel: &str| library.obtain_kernel(&kernel.parse().unwrap(), &Unwatched);
    for good in ["here", "there", "signed"] {
        assert_eq!(obtain(good).unwrap(), Change::Changed);
        assert_eq!(obtain(good).unwrap(), Change::Unchanged);
    }
    for (bad, kind, reason) in [
        ("wrong", HostErrorKind::Invalid, "is not what its hash says"),
        ("unsigned", HostErrorKind::Invalid, "nobody has signed it"),
        ("gone", HostErrorKind::NotFound, "there is no file /nonexistent"),
        ("missing", HostErrorKind::NotFound, "/x"),
        ("unheard-of", HostErrorKind::NotFound, "neither here nor in the catalog"),
    ] {
        let error = obtain(bad).unwrap_err();
        assert!(error.kind == kind && words(&error).contains(reason), "{bad}: {}", words(&error));
    }
    let kernels = library.kernels().unwrap();
    assert_eq!(kernels.iter().map(|facts| facts.name.as_str()).collect::<Vec<_>>(), ["here", "signed", "there"]);
    assert!(kernels.iter().all(|facts| facts.boot_args == ["quiet"] && facts.modules == 1), "{kernels:?}");
    let names = |folder: PathBuf| {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    let files = names(library.layout.kernel(&"there".parse().unwrap()));
    assert_eq!(files, ["config", "manifest.json", "modules", "vmlinux"], "nothing else stays of the bundle");
    assert_eq!(names(library.layout.kernels()), ["here", "signed", "there"], "nothing half-made stays");
}
