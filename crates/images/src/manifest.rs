//! Manifests and indexes of OCI and of Docker's schema 2, which have the same shape: what an image consists of.
//!
//! Bounded and strict where it matters: a document may not be both manifest and index (CVE-2021-41190), its own
//! media type must agree with the one it was served under, and an unknown media type is refused, not guessed.

use crate::layer::Compression;
use crate::text;
use model::Digest;
use serde::Deserialize;

/// 4 MiB: what registries accept, and Docker reads at most.
pub const MAX_MANIFEST_BYTES: usize = 4 << 20;
/// Docker stops at 127 layers.
const MAX_LAYERS: usize = 512;
/// Docker's official images have about 20, with attestations.
const MAX_INDEX_ENTRIES: usize = 512;
/// An index may list indexes; no deeper than this.
pub const MAX_INDEX_DEPTH: usize = 2;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    Manifest(Manifest),
    Index(Vec<IndexEntry>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    pub config: Descriptor,
    /// Lowest first.
    pub layers: Vec<LayerDescriptor>,
}

/// A blob: what it is called and how long it is. Both are claims until it has been read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    pub digest: Digest,
    pub bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerDescriptor {
    pub blob: Descriptor,
    pub compression: Compression,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexEntry {
    pub blob: Descriptor,
    pub platform: Option<Platform>,
    /// `org.opencontainers.image.ref.name`: in an OCI layout, the tag.
    pub name: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Platform {
    pub os: String,
    pub architecture: String,
    #[serde(default)]
    pub variant: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("the manifest is no valid JSON of its kind")]
    Json(#[source] serde_json::Error),
    #[error("the manifest is larger than {MAX_MANIFEST_BYTES} bytes")]
    TooLarge,
    #[error("the manifest lists {given} {what}, and at most {limit} are accepted")]
    TooMany { what: &'static str, given: usize, limit: usize },
    #[error("the media type {media_type} is not that of {wanted}")]
    MediaType { media_type: String, wanted: &'static str },
    #[error("the manifest is refused: {reason}")]
    Ambiguous { reason: &'static str },
    #[error("the image is not made for {wanted}; it is for {offered}")]
    Platform { wanted: String, offered: String },
}

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// What to ask a registry for.
pub const ACCEPTED_MEDIA_TYPES: &[&str] = &[OCI_INDEX, OCI_MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST];

/// Reads a manifest or an index. `served_as` is the media type that it came under, if it came under any.
pub fn parse(bytes: &[u8], served_as: Option<&str>) -> Result<Document, ManifestError> {
    if bytes.len() > MAX_MANIFEST_BYTES {
        return Err(ManifestError::TooLarge);
    }
    let raw: RawDocument = serde_json::from_slice(bytes).map_err(ManifestError::Json)?;
    match raw.kind(served_as)? {
        DocumentKind::Index => raw.index().map(Document::Index),
        DocumentKind::Manifest => raw.manifest().map(Document::Manifest),
    }
}

/// The entry of an index that fits a platform such as `linux/amd64`. Among several the one without a variant wins,
/// since a variant asks for more than every machine has.
pub fn choose<'a>(entries: &'a [IndexEntry], os: &str, architecture: &str) -> Result<&'a IndexEntry, ManifestError> {
    let fits = |entry: &&IndexEntry| match &entry.platform {
        Some(platform) => platform.os == os && platform.architecture == architecture,
        None => entries.len() == 1,
    };
    let variant = |entry: &&IndexEntry| entry.platform.as_ref().and_then(|platform| platform.variant.clone());
    entries
        .iter()
        .filter(fits)
        .min_by_key(variant)
        .ok_or_else(|| ManifestError::Platform { wanted: format!("{os}/{architecture}"), offered: offered(entries) })
}

fn offered(entries: &[IndexEntry]) -> String {
    let known = entries.iter().filter_map(|entry| entry.platform.as_ref()).filter(|platform| platform.os != "unknown");
    let names: Vec<String> =
        known.take(20).map(|platform| format!("{}/{}", platform.os, platform.architecture)).collect();
    if names.is_empty() { "none at all".into() } else { text::show(names.join(", ").as_bytes()) }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DocumentKind {
    Manifest,
    Index,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDocument {
    schema_version: Option<u32>,
    media_type: Option<String>,
    config: Option<RawDescriptor>,
    layers: Option<Vec<RawDescriptor>>,
    manifests: Option<Vec<RawDescriptor>>,
    /// Docker's schema 1.
    #[serde(rename = "fsLayers")]
    fs_layers: Option<serde::de::IgnoredAny>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDescriptor {
    #[serde(default)]
    media_type: String,
    digest: Digest,
    size: u64,
    platform: Option<Platform>,
    annotations: Option<std::collections::BTreeMap<String, String>>,
}

impl RawDocument {
    fn kind(&self, served_as: Option<&str>) -> Result<DocumentKind, ManifestError> {
        let refuse = |reason| ManifestError::Ambiguous { reason };
        if self.fs_layers.is_some() || self.schema_version == Some(1) {
            return Err(refuse("it is of Docker's schema 1, which has been out of use since 2017"));
        }
        let shape = match (&self.layers, &self.manifests) {
            (Some(_), None) => DocumentKind::Manifest,
            (None, Some(_)) if self.config.is_none() => DocumentKind::Index,
            (None, None) => return Err(refuse("it lists neither layers nor manifests")),
            _ => return Err(refuse("it could be read as a manifest and as an index")),
        };
        for media_type in self.media_type.as_deref().into_iter().chain(served_as.map(essence)) {
            let said = match media_type {
                OCI_MANIFEST | DOCKER_MANIFEST => DocumentKind::Manifest,
                OCI_INDEX | DOCKER_INDEX => DocumentKind::Index,
                // Some registries and file servers know no better.
                "application/json" | "application/octet-stream" | "" => continue,
                other => return Err(media_type_error(other, "a manifest or index")),
            };
            if said != shape {
                return Err(refuse("its media type and its content disagree"));
            }
        }
        Ok(shape)
    }

    fn index(self) -> Result<Vec<IndexEntry>, ManifestError> {
        let entries = self.manifests.unwrap_or_default();
        check_count("manifests", entries.len(), MAX_INDEX_ENTRIES)?;
        let entry = |raw: RawDescriptor| {
            let name = raw.annotations.and_then(|mut all| all.remove("org.opencontainers.image.ref.name"));
            let blob = Descriptor { digest: raw.digest, bytes: raw.size };
            IndexEntry { blob, platform: raw.platform, name }
        };
        Ok(entries.into_iter().map(entry).collect())
    }

    fn manifest(self) -> Result<Manifest, ManifestError> {
        let config = self.config.ok_or(ManifestError::Ambiguous { reason: "it has no config" })?;
        if !matches!(config.media_type.as_str(), OCI_CONFIG | DOCKER_CONFIG) {
            return Err(media_type_error(&config.media_type, "an image's config"));
        }
        let layers = self.layers.unwrap_or_default();
        check_count("layers", layers.len(), MAX_LAYERS)?;
        Ok(Manifest {
            config: Descriptor { digest: config.digest, bytes: config.size },
            layers: layers.into_iter().map(layer).collect::<Result<_, _>>()?,
        })
    }
}

fn layer(raw: RawDescriptor) -> Result<LayerDescriptor, ManifestError> {
    let compression = match raw.media_type.as_str() {
        "application/vnd.oci.image.layer.v1.tar"
        | "application/vnd.oci.image.layer.nondistributable.v1.tar"
        | "application/vnd.docker.image.rootfs.diff.tar" => Compression::Plain,
        "application/vnd.oci.image.layer.v1.tar+gzip"
        | "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
        | "application/vnd.docker.image.rootfs.diff.tar.gzip"
        | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip" => Compression::Gzip,
        "application/vnd.oci.image.layer.v1.tar+zstd"
        | "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"
        | "application/vnd.docker.image.rootfs.diff.tar.zstd" => Compression::Zstd,
        other => return Err(media_type_error(other, "a layer")),
    };
    Ok(LayerDescriptor { blob: Descriptor { digest: raw.digest, bytes: raw.size }, compression })
}

/// A media type without its parameters.
fn essence(media_type: &str) -> &str {
    media_type.split(';').next().unwrap_or_default().trim()
}

fn media_type_error(media_type: &str, wanted: &'static str) -> ManifestError {
    ManifestError::MediaType { media_type: format!("`{}`", text::show(media_type.as_bytes())), wanted }
}

fn check_count(what: &'static str, given: usize, limit: usize) -> Result<(), ManifestError> {
    if given > limit { Err(ManifestError::TooMany { what, given, limit }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn digest(digit: char) -> String {
        format!("sha256:{}", digit.to_string().repeat(64))
    }

    fn descriptor(media_type: &str, digit: char) -> String {
        format!(r#"{{"mediaType":"{media_type}","digest":"{}","size":7}}"#, digest(digit))
    }

    fn manifest(config: &str, layer: &str) -> String {
        format!(r#"{{"schemaVersion":2,"config":{},"layers":[{}]}}"#, descriptor(config, 'a'), descriptor(layer, 'b'))
    }

    fn refused(document: &str, served_as: Option<&str>, reason: &str) {
        let error = parse(document.as_bytes(), served_as).expect_err("it is bad");
        assert!(error.to_string().contains(reason), "{error}");
    }

    #[test]
    fn oci_and_docker_manifests_read_the_same() {
        for (config, layer, compression) in [
            (OCI_CONFIG, "application/vnd.oci.image.layer.v1.tar+zstd", Compression::Zstd),
            (OCI_CONFIG, "application/vnd.oci.image.layer.v1.tar", Compression::Plain),
            (DOCKER_CONFIG, "application/vnd.docker.image.rootfs.diff.tar.gzip", Compression::Gzip),
        ] {
            let Ok(Document::Manifest(read)) = parse(manifest(config, layer).as_bytes(), None) else {
                panic!("{layer} is good")
            };
            assert_eq!(read.config.digest.as_str(), digest('a'));
            assert_eq!(read.layers[0].compression, compression);
        }
    }

    #[test]
    fn what_could_be_two_things_is_refused() {
        let good = manifest(OCI_CONFIG, "application/vnd.oci.image.layer.v1.tar");
        let both = good.replace(r#""layers""#, r#""manifests":[],"layers""#);
        refused(&both, None, "as a manifest and as an index");
        refused(&good, Some(OCI_INDEX), "disagree");
        refused(&good, Some("text/html; charset=utf-8"), "text/html");
        assert!(parse(good.as_bytes(), Some("application/vnd.oci.image.manifest.v1+json; charset=utf-8")).is_ok());
        assert!(parse(good.as_bytes(), Some("application/json")).is_ok());
        refused(r#"{"schemaVersion":1,"fsLayers":[]}"#, None, "schema 1");
        refused("{}", None, "neither");
        refused("[]", None, "JSON");
    }

    #[test]
    fn unknown_media_types_and_other_digests_are_refused() {
        let layer = "application/vnd.oci.image.layer.v1.tar";
        refused(&manifest("application/vnd.cncf.helm.config.v1+json", layer), None, "an image's config");
        refused(&manifest(OCI_CONFIG, "application/vnd.in-toto+json"), None, "a layer");
        refused(&manifest(OCI_CONFIG, layer).replace("sha256:", "sha512:"), None, "JSON");
        refused(&manifest(OCI_CONFIG, layer).replace(":7}", ":-7}"), None, "JSON");
    }

    #[test]
    fn long_lists_and_long_documents_are_refused() {
        let entry = descriptor(OCI_MANIFEST, 'c');
        let index = format!(r#"{{"manifests":[{}]}}"#, vec![entry; 10_000].join(","));
        refused(&index, None, "10000 manifests");
        refused(&" ".repeat(MAX_MANIFEST_BYTES + 1), None, "larger than");
        refused(&"[".repeat(100_000), None, "JSON");
    }

    #[test]
    fn the_platform_is_chosen_and_attestations_are_not() {
        let entry = |os: &str, architecture: &str, variant: Option<&str>, digit: char| IndexEntry {
            blob: Descriptor { digest: digest(digit).parse().expect("it is one"), bytes: 1 },
            platform: Some(Platform {
                os: os.into(),
                architecture: architecture.into(),
                variant: variant.map(str::to_owned),
            }),
            name: None,
        };
        let index = [
            entry("unknown", "unknown", None, '0'),
            entry("linux", "arm64", None, '1'),
            entry("linux", "amd64", Some("v3"), '2'),
            entry("linux", "amd64", None, '3'),
        ];
        assert_eq!(choose(&index, "linux", "amd64").expect("it is there"), &index[3]);
        let error = choose(&index[..2], "linux", "amd64").expect_err("it is not there");
        assert_eq!(error.to_string(), "the image is not made for linux/amd64; it is for linux/arm64");
        let bare = [IndexEntry { platform: None, ..index[0].clone() }];
        assert!(choose(&bare, "linux", "amd64").is_ok(), "an OCI layout often names no platform");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
            let _ = parse(&bytes, None);
        }
    }
}
