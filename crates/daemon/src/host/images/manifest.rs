//! What stands beside an image's or a kernel's files, as `manifest.json`. Fields are added, never changed; an entry
//! whose manifest cannot be read is not listed.

use super::image::pretty_name;
use ::images::config::ImageConfig;
use engine::host::images::Systemd;
use model::{Backend, Digest, Distribution, ImageName, KernelName};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::io::{self, Write};
use std::path::Path;

/// The shape that this code writes.
const FORMAT: u32 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageManifest {
    pub format: u32,
    pub digest: Digest,
    pub source: String,
    pub created_at_ns: u64,
    pub has_systemd: bool,
    /// The kernel it brings or prefers.
    #[serde(default)]
    pub kernel: Option<KernelName>,
    /// `PRETTY_NAME` of its os-release.
    #[serde(default)]
    pub system: Option<String>,
    /// By its os-release; absent where nobody looked.
    #[serde(default)]
    pub distribution: Option<Distribution>,
    /// The image it was made from, if it was.
    #[serde(default)]
    pub parent: Option<ImageName>,
    /// Of the work-seed when it was made.
    #[serde(default)]
    pub work_seed: Option<Fingerprint>,
    /// False: its files are links to its owner's.
    #[serde(default = "yes")]
    pub managed: bool,
    /// Its kernel came with it and goes with it.
    #[serde(default)]
    pub owns_kernel: bool,
    /// The references that stand for it, with tag or digest: `docker.io/library/alpine:3.20`.
    #[serde(default)]
    pub references: Vec<String>,
    /// What the image says about itself: its command, user, ports, labels, …
    #[serde(default)]
    pub config: ImageConfig,
    /// Where it came from layer by layer, if it did.
    #[serde(default)]
    pub origin: Option<Origin>,
}

/// What a file was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    pub digest: Digest,
    pub bytes: u64,
    pub modified_ns: i64,
}

/// The documents and layers that an image was made of, all of them blobs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// What the reference stood for: the manifest, or an index that lists it.
    #[serde(default)]
    pub resolved: Option<Digest>,
    pub manifest: Digest,
    pub config: Digest,
    /// Lowest first.
    pub layers: Vec<OriginLayer>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OriginLayer {
    pub blob: Digest,
    pub bytes: u64,
    pub diff_id: Digest,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelManifest {
    pub format: u32,
    pub version: String,
    pub digest: Digest,
    pub source: String,
    pub created_at_ns: u64,
    #[serde(default)]
    pub boot_args: Vec<String>,
    /// Who can boot it.
    #[serde(default)]
    pub backends: Vec<Backend>,
    /// Files in `modules/`, in load order.
    #[serde(default)]
    pub modules: Vec<String>,
}

fn yes() -> bool {
    true
}

impl ImageManifest {
    pub fn new(digest: Digest, source: &str, created_at_ns: u64) -> ImageManifest {
        let source = source.to_owned();
        ImageManifest {
            format: FORMAT,
            digest,
            source,
            created_at_ns,
            has_systemd: false,
            kernel: None,
            system: None,
            distribution: None,
            parent: None,
            work_seed: None,
            managed: true,
            owns_kernel: false,
            references: Vec::new(),
            config: ImageConfig::default(),
            origin: None,
        }
    }

    pub fn read(path: &Path) -> Option<ImageManifest> {
        read(path).filter(|manifest: &ImageManifest| manifest.format == FORMAT)
    }

    /// Notes what the image's os-release says; nothing says that it is nothing known.
    pub fn take_os_release(&mut self, text: Option<&str>) {
        self.system = text.and_then(pretty_name);
        self.distribution = Some(Distribution::of_os_release(text.unwrap_or_default()));
    }

    pub fn systemd(&self) -> Systemd {
        match self.distribution {
            _ if self.has_systemd => Systemd::Present,
            Some(known) if !known.packages_systemd() => Systemd::Unavailable { system: self.system.clone() },
            Some(_) | None => Systemd::Installable,
        }
    }
}

impl KernelManifest {
    pub const FORMAT: u32 = FORMAT;

    pub fn read(path: &Path) -> Option<KernelManifest> {
        read(path).filter(|manifest: &KernelManifest| manifest.format == FORMAT)
    }
}

/// 1 MiB: a manifest has some hundred bytes.
const MAX_BYTES: u64 = 1024 * 1024;
const USUAL_BYTES: usize = 4096;

fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    use std::io::Read;
    // Most fit at once; a list reads hundreds.
    let mut text = Vec::with_capacity(USUAL_BYTES);
    std::fs::File::open(path).ok()?.take(MAX_BYTES).read_to_end(&mut text).ok()?;
    match serde_json::from_slice(&text) {
        Ok(manifest) => Some(manifest),
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "cannot read a manifest");
            None
        }
    }
}

pub fn write<T: Serialize>(path: &Path, manifest: &T) -> io::Result<()> {
    let mut file = std::fs::File::create_new(path)?;
    serde_json::to_writer_pretty(&mut file, manifest)?;
    file.write_all(b"\n")
}
