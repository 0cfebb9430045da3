use super::*;
use crate::testing::{Archive, layer};
use std::collections::BTreeMap;

/// Files of a layout by path.
#[derive(Default)]
struct Files(BTreeMap<String, Vec<u8>>);

impl Files {
    fn blob(&mut self, media_type: &str, bytes: Vec<u8>) -> String {
        let digest = digest::of_bytes(&bytes);
        let descriptor = format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{}"#, bytes.len());
        self.0.insert(blob_path(&digest), bytes);
        descriptor
    }

    fn folder(&self) -> (tempfile::TempDir, Place) {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        for (path, bytes) in &self.0 {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().expect("it is below the folder")).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        let place = Place::Folder(folder.path().to_owned());
        (folder, place)
    }

    fn archive(&self) -> Place {
        let mut archive = Archive::default();
        for (path, bytes) in &self.0 {
            archive = archive.entry(tar::EntryType::Regular, path, "", bytes);
        }
        Place::Archive(Stack::new(vec![archive.layer()], &Limits::default()).expect("the archive is good"))
    }
}

fn contents() -> Vec<u8> {
    Archive::default().file("etc/hostname", "here").bytes()
}

fn config() -> Vec<u8> {
    let diff_id = digest::of_bytes(&contents());
    let rootfs = format!(r#""rootfs":{{"type":"layers","diff_ids":["{diff_id}"]}}"#);
    format!(r#"{{"architecture":"amd64","os":"linux","config":{{"Cmd":["sh"]}},{rootfs}}}"#).into_bytes()
}

fn oci() -> Files {
    let mut files = Files::default();
    let config = files.blob("application/vnd.oci.image.config.v1+json", config());
    let packed = zstd::encode_all(&contents()[..], 0).unwrap();
    let layer = files.blob("application/vnd.oci.image.layer.v1.tar+zstd", packed);
    let manifest = format!(r#"{{"schemaVersion":2,"config":{config}}},"layers":[{layer}}}]}}"#);
    let manifest = files.blob("application/vnd.oci.image.manifest.v1+json", manifest.into_bytes());
    let entry = |name: &str| format!(r#"{manifest},"annotations":{{"org.opencontainers.image.ref.name":"{name}"}}}}"#);
    let index = format!(r#"{{"schemaVersion":2,"manifests":[{},{}]}}"#, entry("1.0"), entry("other"));
    files.0.insert("index.json".into(), index.into_bytes());
    files
}

fn docker() -> Files {
    let mut files = Files::default();
    files.0.insert("abc.json".into(), config());
    files.0.insert("def/layer.tar".into(), contents());
    let manifest = r#"[{"Config":"abc.json","RepoTags":["tools:latest"],"Layers":["def/layer.tar"]}]"#;
    files.0.insert("manifest.json".into(), manifest.into());
    files
}

fn spool(place: &Place, image: &LocalImage) -> Result<Layer, LayoutError> {
    let file = tempfile::tempfile().expect("a temporary file can be made");
    place.spool(&image.layers[0], file, &Limits::default(), &mut |_| ControlFlow::Continue(()))
}

#[test]
fn an_oci_layout_is_read_from_folder_and_archive() {
    let (_folder, folder) = oci().folder();
    for place in [folder, oci().archive()] {
        let image = place.find(Some("1.0"), "amd64").expect("it is there");
        assert_eq!(image.document.config.cmd, ["sh"]);
        let spooled = spool(&place, &image).expect("the layer is good");
        assert_eq!(spooled.diff_id(), layer(&contents()).diff_id());
        let error = place.find(Some("2.0"), "amd64").expect_err("it is not there");
        assert_eq!(error.to_string(), "there is no image `2.0` in it; it holds 1.0, other");
        assert!(matches!(place.find(None, "amd64"), Err(LayoutError::NoSuchImage { .. })), "there are two");
        assert!(place.find(Some("1.0"), "arm64").is_err());
    }
}

#[test]
fn an_archive_of_docker_save_is_read() {
    let place = docker().archive();
    for tag in [None, Some("tools"), Some("tools:latest"), Some("latest")] {
        let image = place.find(tag, "amd64").expect("it is there");
        spool(&place, &image).expect("the layer is good");
    }
    assert!(place.find(Some("tool"), "amd64").is_err());
}

#[test]
fn blobs_that_are_not_what_their_digest_says_are_refused() {
    for (path, bytes) in oci().0 {
        if path == "index.json" {
            continue;
        }
        let mut files = oci();
        let mut changed = bytes.clone();
        let last = changed.len() - 1;
        changed[last] ^= 1;
        files.0.insert(path.clone(), changed);
        let place = files.archive();
        let result = place.find(Some("1.0"), "amd64").and_then(|image| spool(&place, &image));
        assert!(result.is_err(), "{path}");
    }
    let mut files = docker();
    files.0.insert("def/layer.tar".into(), Archive::default().file("etc/hostname", "else").bytes());
    let place = files.archive();
    let image = place.find(None, "amd64").expect("the config is good");
    assert!(matches!(spool(&place, &image), Err(LayoutError::Digest { .. })));
}

#[test]
fn a_layout_names_nothing_outside_itself() {
    let mut files = docker();
    let manifest = r#"[{"Config":"../../../../etc/hostname","RepoTags":null,"Layers":["/etc/passwd"]}]"#;
    files.0.insert("manifest.json".into(), manifest.into());
    let (_folder, folder) = files.folder();
    assert!(folder.find(None, "amd64").is_err());
    assert!(files.archive().find(None, "amd64").is_err());
    let empty = Files::default();
    assert!(matches!(empty.folder().1.find(None, "amd64"), Err(LayoutError::Unknown { .. })));
}
