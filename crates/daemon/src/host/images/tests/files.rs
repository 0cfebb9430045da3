//! The library over files: layouts and archives in and out, bundles, files of somebody else, other names, the cache.

use super::super::bundle::hash_in_name;
use super::super::registry::fake::Held;
use super::super::*;
use super::{Rig, has_checker, name};
use engine::host::Unwatched;
use std::fs;
use std::os::unix::fs::MetadataExt;

fn named(text: &str) -> PullOptions {
    PullOptions { name: Some(name(text)), ..PullOptions::default() }
}

/// An OCI layout as a folder, with the tag `1`.
fn layout(rig: &Rig, held: &Held) -> PathBuf {
    let folder = rig.folder.path().join("layout");
    fs::create_dir_all(folder.join("blobs/sha256")).unwrap();
    let digest = ::images::digest::of_bytes(&held.manifest);
    let all = held.blobs.iter().map(|(digest, bytes)| (digest.clone(), bytes));
    for (digest, bytes) in all.chain([(digest.to_string(), &held.manifest)]) {
        fs::write(folder.join("blobs/sha256").join(digest.trim_start_matches("sha256:")), bytes).unwrap();
    }
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{digest}","size":{},"annotations":{{"org.opencontainers.image.ref.name":"1"}}}}]}}"#,
        held.manifest.len()
    );
    fs::write(folder.join("index.json"), index).unwrap();
    folder
}

fn held() -> Held {
    Held::image(&[
        &[("etc/os-release", b"PRETTY_NAME=\"Tiny 1\"\n"), ("bin/a", b"first")],
        &[("bin/a", b"second")],
        &[("srv/c", b"c")],
    ])
}

#[test]
fn a_layout_is_loaded_saved_and_loaded_again_as_the_same_image() {
    if !has_checker() {
        return;
    }
    let rig = Rig::new();
    let folder = layout(&rig, &held());
    let loaded = rig.library.load(&folder, Some("1"), &PullOptions::default(), &Unwatched).unwrap();
    assert_eq!(loaded.as_str(), "layout-1");
    let saved = rig.folder.path().join("saved.tar");
    let bytes = rig.library.save_image(&loaded, &saved, &Unwatched).unwrap();
    assert_eq!(bytes, fs::metadata(&saved).unwrap().len());
    let again = rig.library.load(&saved, None, &named("again"), &Unwatched).unwrap();
    let images = rig.library.described(&"debian-cloud".parse().unwrap()).unwrap();
    assert_eq!(images.iter().map(|(facts, _)| facts.name.as_str()).collect::<Vec<_>>(), ["again", "layout-1"]);
    assert_eq!(images[0].0.digest, images[1].0.digest);
    assert_eq!(images[0].1.config.cmd, ["sh"]);
    let _ = again;

    // Without its blobs an image cannot be saved, and that is said; nothing half-written stays.
    rig.library.prune_cache(Sweep::All, false).unwrap();
    let error = rig.library.save_image(&loaded, &rig.folder.path().join("x.tar"), &Unwatched).unwrap_err();
    assert_eq!(error.kind, HostErrorKind::Unfit);
    assert!(!rig.folder.path().join("x.tar").exists() && !rig.folder.path().join("x.tar.partial").exists());
}

#[test]
fn what_docker_saved_is_loaded_by_its_own_name() {
    if !has_checker() {
        return;
    }
    let rig = Rig::new();
    let held = held();
    let path = rig.folder.path().join("docker.tar");
    let mut archive = tar::Builder::new(fs::File::create(&path).unwrap());
    let mut put = |name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, name, bytes).unwrap();
    };
    let layers: Vec<_> = (0..held.layers.len()).map(|number| format!("\"{number}/layer.tar\"")).collect();
    for (number, digest) in held.layers.iter().enumerate() {
        put(&format!("{number}/layer.tar"), &held.blobs[digest]);
    }
    put("config.json", &held.blobs[&held.config]);
    let manifest =
        format!(r#"[{{"Config":"config.json","RepoTags":["r.example/a/tiny:2"],"Layers":[{}]}}]"#, layers.join(","));
    put("manifest.json", manifest.as_bytes());
    archive.into_inner().unwrap();
    let loaded = rig.library.load(&path, None, &PullOptions::default(), &Unwatched).unwrap();
    assert_eq!(loaded.as_str(), "tiny-2");
    assert_eq!(rig.library.find(&"r.example/a/tiny:2".parse().unwrap()).unwrap(), Some(loaded));
    let error = rig.library.load(&path, Some("3"), &PullOptions::default(), &Unwatched).unwrap_err();
    assert_eq!(error.kind, HostErrorKind::Invalid);
    for nothing in ["/nonexistent", "/dev"] {
        assert!(rig.library.load(Path::new(nothing), None, &PullOptions::default(), &Unwatched).is_err());
    }
    assert!(rig.left().iter().all(|name| !name.starts_with('.')), "{:?}", rig.left());
}

#[test]
fn a_layer_that_was_changed_on_the_disk_is_not_loaded() {
    let rig = Rig::new();
    let held = held();
    let folder = layout(&rig, &held);
    let blob = folder.join("blobs/sha256").join(held.layers[1].trim_start_matches("sha256:"));
    let mut bytes = fs::read(&blob).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&blob, bytes).unwrap();
    let error = rig.library.load(&folder, None, &PullOptions::default(), &Unwatched).unwrap_err();
    assert_eq!(error.kind, HostErrorKind::Invalid);
    assert!(rig.left().is_empty());
}

#[test]
fn another_name_shares_the_files_and_deleting_one_frees_nothing() {
    if !has_checker() {
        return;
    }
    let rig = Rig::new();
    rig.import("one", &rig.archive("a.tar")).unwrap();
    assert!(rig.library.images().unwrap()[0].allocated.bytes() > 0);
    rig.library.tag_image(&name("one"), &name("two")).unwrap();
    let images = rig.library.images().unwrap();
    assert!(images.iter().all(|facts| facts.allocated.bytes() == 0), "the other name keeps the files");
    let inode = |image: &str| fs::metadata(rig.library.layout.image_rootfs(&name(image))).unwrap().ino();
    assert_eq!(inode("one"), inode("two"));
    assert_eq!(rig.library.tag_image(&name("one"), &name("two")).unwrap_err().kind, HostErrorKind::Busy);
    assert_eq!(rig.library.tag_image(&name("x"), &name("y")).unwrap_err().kind, HostErrorKind::NotFound);
    let _change = rig.library.remove_image(&name("one")).unwrap();
    assert!(rig.library.images().unwrap()[0].allocated.bytes() > 0);
}

#[test]
fn the_cache_loses_what_no_image_was_made_of_and_keeps_to_its_budget() {
    if !has_checker() {
        return;
    }
    let rig = Rig::new();
    let folder = layout(&rig, &held());
    let loaded = rig.library.load(&folder, None, &named("kept"), &Unwatched).unwrap();
    rig.library.blobs.keep(&[7; 10_000]).unwrap();
    let would = rig.library.prune_cache(Sweep::Unused, true).unwrap();
    assert_eq!(would.len(), 1);
    assert_eq!(rig.library.cache_facts().unwrap().unused, would[0].allocated);
    assert_eq!(rig.library.prune_cache(Sweep::Unused, false).unwrap(), would);
    assert!(rig.library.prune_cache(Sweep::Unused, false).unwrap().is_empty());
    let all = rig.library.cache_facts().unwrap();
    assert_eq!(all.unused.bytes(), 0);

    // Of an unused blob and the image's own the unused one goes first, though it is the younger one.
    let unused = rig.library.blobs.keep(&[8; 10_000]).unwrap();
    let tight = Library { budget: all.allocated, ..rig.library };
    tight.keep_within_budget();
    assert!(tight.blobs.find(&unused).unwrap().is_none());
    assert_eq!(tight.cache_facts().unwrap(), all);
    let none = tight.with_budget(Some(ByteSize::from_bytes(0)));
    none.keep_within_budget();
    assert_eq!(none.cache_facts().unwrap().count, 0);
    assert!(none.layout.image_rootfs(&loaded).is_file(), "the image itself stays");
}

#[test]
fn a_registered_image_is_its_owners_file_until_it_is_promoted() {
    if !has_checker() {
        return;
    }
    let rig = Rig::new();
    rig.import("one", &rig.archive("a.tar")).unwrap();
    let own = rig.folder.path().join("mine.ext4");
    fs::copy(rig.library.layout.image_rootfs(&name("one")), &own).unwrap();
    let wanted = Registration { rootfs: own.clone(), work_seed: None, kernel: OwnKernel::Default };
    rig.library.register_image(&name("mine"), &wanted, &Unwatched).unwrap();
    let (_, details) = rig.library.described(&"debian-cloud".parse().unwrap()).unwrap().remove(0);
    assert!(!details.managed);
    assert_eq!(details.system.as_deref(), Some("Tiny 1"), "debugfs of e2fsprogs reads it");
    let _change = rig.library.remove_image(&name("mine")).unwrap();
    assert!(own.is_file(), "the owner's file is not ours to delete");

    rig.library.register_image(&name("mine"), &wanted, &Unwatched).unwrap();
    assert!(rig.library.promote_image(&name("mine")).unwrap());
    assert!(!rig.library.promote_image(&name("mine")).unwrap(), "it is ours already");
    fs::remove_file(&own).unwrap();
    let kept = fs::read(rig.library.layout.image_rootfs(&name("mine"))).unwrap();
    assert!(kept == fs::read(rig.library.layout.image_rootfs(&name("one"))).unwrap());
    fs::write(&own, [0; 4096]).unwrap();
    assert_eq!(rig.library.register_image(&name("x"), &wanted, &Unwatched).unwrap_err().kind, HostErrorKind::Invalid);
    assert!(rig.left().iter().all(|name| !name.starts_with('.')), "{:?}", rig.left());
}

#[test]
fn a_work_seed_that_was_damaged_is_made_anew_from_the_layers_and_else_is_empty() {
    if !has_checker() {
        return;
    }
    let rig = Rig::new();
    let held = Held::image(&[&[("root/.profile", b"umask 022\n"), ("bin/a", b"a")]]);
    let loaded = rig.library.load(&layout(&rig, &held), None, &named("a"), &Unwatched).unwrap();
    let seed = rig.library.layout.image_work_seed(&loaded);
    let good = fs::read(&seed).unwrap();
    let ensure = || rig.library.ensure_image(&loaded, &Unwatched).unwrap();
    assert_eq!(ensure(), Change::Unchanged);
    for damage in
        [&|| fs::write(&seed, vec![0; 4096]).unwrap() as (), &|| fs::remove_file(&seed).unwrap()] as [&dyn Fn(); 2]
    {
        damage();
        assert_eq!(ensure(), Change::Changed);
        assert!(fs::read(&seed).unwrap() == good);
        assert_eq!(ensure(), Change::Unchanged);
    }
    // A copy of another time is the same seed.
    fs::write(&seed, &good).unwrap();
    assert_eq!(ensure(), Change::Unchanged);

    rig.library.prune_cache(Sweep::All, false).unwrap();
    fs::remove_file(&seed).unwrap();
    assert_eq!(ensure(), Change::Changed);
    assert!(super::super::image::check(&seed).is_ok() && fs::metadata(&seed).unwrap().len() == good.len() as u64);
    assert!(rig.left().iter().all(|name| !name.starts_with('.')), "{:?}", rig.left());
}

#[test]
fn a_bundle_brings_image_and_kernel_to_another_machine() {
    if !has_checker() {
        return;
    }
    let rig = Rig::new();
    let (kernel, path) = rig.bundle("quiet");
    assert!(hash_in_name(&path).is_some(), "{path:?}");
    assert_eq!(rig.library.bundle_image(&name("tools"), &kernel, rig.folder.path(), &Unwatched).unwrap(), path);

    let other = Rig::new();
    let loaded = other.library.load(&path, None, &PullOptions::default(), &Unwatched).unwrap();
    assert_eq!(loaded.as_str(), "tools");
    let (facts, details) = other.library.described(&"debian-cloud".parse().unwrap()).unwrap().remove(0);
    assert_eq!(facts.kernel.as_ref().map(KernelName::as_str), Some("tools"));
    assert!(details.files.iter().any(|(part, path)| *part == "kernel" && path.is_file()), "{details:?}");
    assert_eq!(other.library.kernels().unwrap()[0].digest, rig.library.kernels().unwrap()[0].digest);
    for file in ["rootfs.ext4", "work-seed.ext4"] {
        let bytes = |rig: &Rig| fs::read(rig.library.layout.image(&name("tools")).join(file)).unwrap();
        assert!(bytes(&rig) == bytes(&other), "{file}");
    }
    // The kernel that came with it goes with it.
    let _change = other.library.remove_image(&loaded).unwrap();
    assert!(other.library.kernels().unwrap().is_empty());

    let mut torn = fs::read(&path).unwrap();
    torn.truncate(torn.len() / 2);
    let torn_path = other.folder.path().join(path.file_name().unwrap());
    fs::write(&torn_path, torn).unwrap();
    let error = other.library.load(&torn_path, None, &PullOptions::default(), &Unwatched).unwrap_err();
    assert_eq!(error.kind, HostErrorKind::Invalid);
    assert!(other.left().is_empty() && other.library.kernels().unwrap().is_empty());
}
