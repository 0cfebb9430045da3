//! Images that lie on this machine: an OCI layout, as a folder or as a tar archive, and the tar archive of
//! `docker save`. Says which image is in it and hands out its layers, verified; nothing is unpacked.

use crate::config::{self, ConfigError, ImageDocument, MAX_CONFIG_BYTES};
use crate::digest::{self, DigestReader};
use crate::layer::{Compression, Layer, LayerError};
use crate::limits::Limits;
use crate::manifest::{self, Document, IndexEntry, MAX_INDEX_DEPTH, MAX_MANIFEST_BYTES, ManifestError};
use crate::stack::{Stack, StackError};
use crate::text;
use model::Digest;
use serde::Deserialize;
use std::fs::File;
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// Where the files of a layout are.
#[derive(Debug)]
pub enum Place {
    Folder(PathBuf),
    /// A tar archive, spooled.
    Archive(Stack),
}

/// One image of a layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalImage {
    pub document: ImageDocument,
    /// Lowest first, one for each diff id of the document.
    pub layers: Vec<LocalLayer>,
    /// The config as it lies there.
    pub config: Vec<u8>,
    /// The manifest as it lies there. `docker save` writes none of its own.
    pub manifest: Option<Vec<u8>>,
    /// What it is called there, if it is: a tag, or a whole reference.
    pub name: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalLayer {
    /// Path in the layout.
    path: String,
    /// Digest and length of the stored blob. The layers of `docker save` have only their diff id.
    blob: Option<(Digest, u64)>,
    diff_id: Digest,
}

impl LocalLayer {
    /// Digest and length of the stored blob, where the layout says them.
    pub fn blob(&self) -> Option<&(Digest, u64)> {
        self.blob.as_ref()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    #[error("{place} is neither an OCI layout nor an archive of `docker save`")]
    Unknown { place: String },
    #[error("cannot read {path}")]
    Read { path: String, source: io::Error },
    #[error("cannot read from the archive")]
    Archive(#[from] StackError),
    #[error("cannot use the image's manifest")]
    Manifest(#[from] ManifestError),
    #[error("cannot use the image's config")]
    Config(#[from] ConfigError),
    #[error("there is no image {wanted} in it; it holds {offered}")]
    NoSuchImage { wanted: String, offered: String },
    #[error("{path} is not what its digest says")]
    Digest { path: String },
    #[error("cannot read the layer {path}")]
    Layer { path: String, source: LayerError },
}

/// A file that `docker save` writes, or a layout's index.
const MAX_INDEX_BYTES: u64 = MAX_MANIFEST_BYTES as u64;

impl Place {
    /// The image called `tag`, or the only one, made for `architecture`.
    pub fn find(&self, tag: Option<&str>, architecture: &str) -> Result<LocalImage, LayoutError> {
        let image = if self.holds("index.json") {
            self.find_oci(tag, architecture)?
        } else if self.holds("manifest.json") {
            self.find_docker(tag)?
        } else {
            return Err(LayoutError::Unknown { place: self.name() });
        };
        image.document.check(architecture, image.layers.len())?;
        Ok(image)
    }

    /// Decompresses a layer into `into`, an empty file open for reading and writing, and verifies both its digests.
    pub fn spool(
        &self,
        layer: &LocalLayer,
        into: File,
        limits: &Limits,
        progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<Layer, LayoutError> {
        let wrong = || LayoutError::Digest { path: text::show(layer.path.as_bytes()) };
        let mut source = self.stream(&layer.path)?;
        let failed = |source| LayoutError::Read { path: layer.path.clone(), source };
        let mut start = [0; 6];
        let read = source.read(&mut start).map_err(failed)?;
        let compression = Compression::detect(&start[..read]);
        let mut blob = DigestReader::new(io::Cursor::new(start[..read].to_vec()).chain(source));
        let spooled = Layer::spool(&mut blob, compression, into, limits, progress)
            .map_err(|source| LayoutError::Layer { path: text::show(layer.path.as_bytes()), source })?;
        let stored = blob.finish().map_err(failed)?;
        if layer.blob.as_ref().is_some_and(|blob| *blob != stored) || *spooled.diff_id() != layer.diff_id {
            return Err(wrong());
        }
        Ok(spooled)
    }

    /// The stored bytes of a layer, not verified.
    pub fn open_layer(&self, layer: &LocalLayer) -> Result<Box<dyn Read + '_>, LayoutError> {
        self.stream(&layer.path)
    }

    fn find_oci(&self, tag: Option<&str>, architecture: &str) -> Result<LocalImage, LayoutError> {
        let bytes = self.read("index.json", MAX_INDEX_BYTES)?;
        let Document::Index(entries) = manifest::parse(&bytes, None)? else {
            return Err(LayoutError::Unknown { place: self.name() });
        };
        let mut entry = choose_by_name(&entries, tag, architecture)?.clone();
        let name = entry.name.clone();
        for _ in 0..=MAX_INDEX_DEPTH {
            let bytes = self.read_blob(&entry.blob.digest, MAX_MANIFEST_BYTES as u64)?;
            match manifest::parse(&bytes, None)? {
                Document::Index(entries) => entry = manifest::choose(&entries, "linux", architecture)?.clone(),
                Document::Manifest(manifest) => return self.describe(manifest, bytes, name),
            }
        }
        Err(ManifestError::Ambiguous { reason: "its indexes are nested too deeply" }.into())
    }

    fn describe(
        &self,
        manifest: manifest::Manifest,
        bytes: Vec<u8>,
        name: Option<String>,
    ) -> Result<LocalImage, LayoutError> {
        let config = self.read_blob(&manifest.config.digest, MAX_CONFIG_BYTES as u64)?;
        let document = config::parse(&config)?;
        let layer = |(layer, diff_id): (manifest::LayerDescriptor, &Digest)| LocalLayer {
            path: blob_path(&layer.blob.digest),
            blob: Some((layer.blob.digest, layer.blob.bytes)),
            diff_id: diff_id.clone(),
        };
        check_layers(manifest.layers.len(), &document)?;
        let layers = manifest.layers.into_iter().zip(&document.diff_ids).map(layer).collect();
        Ok(LocalImage { document, layers, config, manifest: Some(bytes), name })
    }

    fn find_docker(&self, tag: Option<&str>) -> Result<LocalImage, LayoutError> {
        let bytes = self.read("manifest.json", MAX_INDEX_BYTES)?;
        let images: Vec<DockerImage> = serde_json::from_slice(&bytes).map_err(ManifestError::Json)?;
        let named = |image: &&DockerImage| tag.is_none_or(|tag| image.tags().any(|offered| is_called(offered, tag)));
        let mut fitting = images.iter().filter(named);
        let (Some(image), None) = (fitting.next(), fitting.next()) else {
            return Err(no_such_image(tag, images.iter().flat_map(DockerImage::tags)));
        };
        let config = self.read(&image.config, MAX_CONFIG_BYTES as u64)?;
        let document = config::parse(&config)?;
        check_layers(image.layers.len(), &document)?;
        let layer = |(path, diff_id): (&String, &Digest)| LocalLayer {
            path: path.clone(),
            blob: None,
            diff_id: diff_id.clone(),
        };
        let layers = image.layers.iter().zip(&document.diff_ids).map(layer).collect();
        let named = |offered: &&str| tag.is_none_or(|tag| is_called(offered, tag));
        let name = image.tags().find(named).map(str::to_owned);
        Ok(LocalImage { document, layers, config, manifest: None, name })
    }

    fn read_blob(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, LayoutError> {
        let path = blob_path(digest);
        let bytes = self.read(&path, limit)?;
        if digest::of_bytes(&bytes) == *digest { Ok(bytes) } else { Err(LayoutError::Digest { path }) }
    }

    fn holds(&self, path: &str) -> bool {
        match self {
            Place::Folder(folder) => folder.join(path).is_file(),
            Place::Archive(stack) => stack.tree().lookup(path).is_some(),
        }
    }

    fn read(&self, path: &str, limit: u64) -> Result<Vec<u8>, LayoutError> {
        match self {
            Place::Archive(stack) => Ok(stack.read(path, limit)?),
            Place::Folder(_) => {
                let mut bytes = Vec::new();
                let read = self.stream(path)?.take(limit + 1).read_to_end(&mut bytes);
                read.map_err(|source| LayoutError::Read { path: text::show(path.as_bytes()), source })?;
                if bytes.len() as u64 > limit {
                    return Err(StackError::TooLarge { path: text::show(path.as_bytes()), limit }.into());
                }
                Ok(bytes)
            }
        }
    }

    /// In an archive any path stays inside it. Of a folder only files are read that this code names, or that are named
    /// by digests: a manifest of `docker save` does not come in folders.
    fn stream(&self, path: &str) -> Result<Box<dyn Read + '_>, LayoutError> {
        let missing = || StackError::Missing { path: text::show(path.as_bytes()) };
        match self {
            Place::Archive(stack) => Ok(Box::new(stack.stream(path).ok_or_else(missing)?)),
            Place::Folder(folder) => {
                if Path::new(path).components().any(|part| !matches!(part, std::path::Component::Normal(_))) {
                    return Err(missing().into());
                }
                let file = File::open(folder.join(path));
                let file = file.map_err(|source| LayoutError::Read { path: text::show(path.as_bytes()), source })?;
                Ok(Box::new(file))
            }
        }
    }

    fn name(&self) -> String {
        match self {
            Place::Folder(folder) => folder.display().to_string(),
            Place::Archive(_) => "the archive".into(),
        }
    }
}

/// One image in the `manifest.json` of `docker save`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

impl DockerImage {
    fn tags(&self) -> impl Iterator<Item = &str> {
        self.repo_tags.iter().flatten().map(String::as_str)
    }
}

/// The entry with that name, or the only one that fits the architecture.
fn choose_by_name<'a>(
    entries: &'a [IndexEntry],
    tag: Option<&str>,
    architecture: &str,
) -> Result<&'a IndexEntry, LayoutError> {
    let names = || entries.iter().filter_map(|entry| entry.name.as_deref());
    let Some(tag) = tag else {
        return match entries {
            [only] => Ok(only),
            // The same image for several platforms, or several images: only the first can be decided here.
            _ if names().next().is_none() => Ok(manifest::choose(entries, "linux", architecture)?),
            _ => Err(no_such_image(None, names())),
        };
    };
    let named = |entry: &&IndexEntry| entry.name.as_deref().is_some_and(|name| is_called(name, tag));
    let fitting: Vec<IndexEntry> = entries.iter().filter(named).cloned().collect();
    match fitting.as_slice() {
        [] => Err(no_such_image(Some(tag), names())),
        [only] => Ok(entries.iter().find(|entry| *entry == only).expect("it comes from there")),
        several => {
            let chosen = manifest::choose(several, "linux", architecture)?;
            Ok(entries.iter().find(|entry| *entry == chosen).expect("it comes from there"))
        }
    }
}

/// `host/a/b:1` is called `host/a/b:1`, `b:1` and `1`, and as `latest` also `b`.
fn is_called(offered: &str, wanted: &str) -> bool {
    let last = offered.rsplit('/').next().unwrap_or(offered);
    let tag = last.rsplit(':').next().unwrap_or(last);
    [offered, last, tag].contains(&wanted) || last.strip_suffix(":latest") == Some(wanted)
}

fn no_such_image<'a>(tag: Option<&str>, offered: impl Iterator<Item = &'a str>) -> LayoutError {
    let offered: Vec<&str> = offered.take(20).collect();
    let offered = if offered.is_empty() { "images without names".into() } else { offered.join(", ") };
    let wanted =
        tag.map_or("without a name that is the only one".into(), |tag| format!("`{}`", text::show(tag.as_bytes())));
    LayoutError::NoSuchImage { wanted, offered: text::show(offered.as_bytes()) }
}

fn check_layers(layers: usize, document: &ImageDocument) -> Result<(), ConfigError> {
    let diff_ids = document.diff_ids.len();
    if layers == diff_ids { Ok(()) } else { Err(ConfigError::Layers { layers, diff_ids }) }
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

#[cfg(test)]
mod tests;
