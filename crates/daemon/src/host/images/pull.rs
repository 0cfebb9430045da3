//! From blobs to an image: the documents are read and held to each other, the layers fetched and decompressed side by
//! side (one is converted while others still arrive), then written as disks. Where the blobs come from, a registry or
//! an archive on this machine, is a [`Source`].
//!
//! Memory stays small whatever a layer's size: what arrives goes to the cache, what is decompressed to a file.

use super::blobs::BlobCache;
use super::manifest::{ImageManifest, Origin, OriginLayer};
use super::registry::{Access, Cancelled, Registry, RegistryError, Served};
use super::staging::Staging;
use super::{Trouble, image, verify};
use crate::host::clock::HostClock;
use ::images::config::{self, ImageDocument, MAX_CONFIG_BYTES};
use ::images::manifest::{self, Descriptor, Document, MAX_INDEX_DEPTH, Manifest, ManifestError};
use ::images::{Compression, Layer, Limits, digest};
use engine::host::clock::Clock;
use engine::host::{Report, Unit, Watch};
use model::image_ref::OciReference;
use model::{ByteSize, Digest};
use p256::ecdsa::VerifyingKey;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Layers at once: enough to keep two cores and a line busy, few enough for a registry to like us.
const WORKERS: usize = 4;
/// Progress of a layer is told once in so many bytes.
const REPORT_BYTES: u64 = 1 << 20;

/// Where blobs come from.
pub trait Source: Sync {
    /// The blob from the cache; fetched where it is missing. `told` hears how much of it is here.
    fn fetch(
        &self,
        blob: &Descriptor,
        cache: &BlobCache,
        told: &(dyn Fn(u64) + Sync),
        cancelled: Cancelled<'_>,
    ) -> Result<File, Trouble>;
}

/// An image as its documents describe it.
pub struct Described {
    /// What the reference stood for: the manifest, or an index that lists it.
    pub resolved: Digest,
    pub manifest: Manifest,
    pub manifest_bytes: Vec<u8>,
    pub document: ImageDocument,
    /// For people: where it comes from.
    pub source: String,
    pub references: Vec<String>,
}

pub struct FromRegistry {
    registry: Registry,
    /// By whom the image must be signed.
    key: Option<VerifyingKey>,
}

impl FromRegistry {
    pub fn new(reference: &OciReference, access: &Access, key: Option<VerifyingKey>) -> FromRegistry {
        FromRegistry { registry: Registry::new(reference, access), key }
    }

    /// The image for this machine's architecture that a reference stands for.
    pub fn describe(
        &self,
        reference: &OciReference,
        cache: &BlobCache,
        watch: &dyn Watch,
    ) -> Result<Described, Trouble> {
        let cancelled: Cancelled<'_> = &|| watch.cancelled();
        let (resolved, manifest, manifest_bytes) = block_on(self.resolve(reference, cancelled))?;
        check_sizes(&manifest, cache)?;
        let config = self.fetch(&manifest.config, cache, &|_| {}, cancelled)?;
        let document = read_document(config, &manifest)?;
        let name = canonical(reference).to_string();
        Ok(Described { resolved, manifest, manifest_bytes, document, source: name.clone(), references: vec![name] })
    }

    /// What the reference stands for now; also that it is signed, where it must be.
    pub fn resolved(&self, reference: &OciReference, watch: &dyn Watch) -> Result<Digest, Trouble> {
        let cancelled: Cancelled<'_> = &|| watch.cancelled();
        let (wanted, expected) = wanted(reference);
        block_on(async {
            let served = self.registry.manifest(&wanted, cancelled).await?;
            self.accept(&served, expected.as_ref(), cancelled).await
        })
    }

    /// The digest of a document that is the wanted one, and signed where it must be.
    async fn accept(
        &self,
        served: &Served,
        expected: Option<&Digest>,
        cancelled: Cancelled<'_>,
    ) -> Result<Digest, Trouble> {
        let digest = digest::of_bytes(&served.bytes);
        if expected.is_some_and(|expected| *expected != digest) {
            return Err(self.nonsense("the manifest is not what its digest says"));
        }
        if let Some(key) = &self.key {
            verify::verify(&self.registry, &digest, key, cancelled).await?;
        }
        Ok(digest)
    }

    async fn resolve(
        &self,
        reference: &OciReference,
        cancelled: Cancelled<'_>,
    ) -> Result<(Digest, Manifest, Vec<u8>), Trouble> {
        let (first, expected) = wanted(reference);
        let mut served = self.registry.manifest(&first, cancelled).await?;
        let resolved = self.accept(&served, expected.as_ref(), cancelled).await?;
        for _ in 0..=MAX_INDEX_DEPTH {
            let Served { bytes, media_type } = served;
            match manifest::parse(&bytes, media_type.as_deref())? {
                Document::Manifest(manifest) => return Ok((resolved, manifest, bytes)),
                Document::Index(entries) => {
                    let digest = &manifest::choose(&entries, "linux", architecture())?.blob.digest;
                    served = self.registry.manifest(digest.as_str(), cancelled).await?;
                    if digest::of_bytes(&served.bytes) != *digest {
                        return Err(self.nonsense("the manifest is not what its digest says"));
                    }
                }
            }
        }
        Err(ManifestError::Ambiguous { reason: "its indexes are nested too deeply" }.into())
    }

    fn nonsense(&self, reason: &str) -> Trouble {
        RegistryError::Answer { host: self.registry.name().to_owned(), reason: reason.to_owned() }.into()
    }
}

/// Under what to ask for it, and what must come.
fn wanted(reference: &OciReference) -> (String, Option<Digest>) {
    match (&reference.digest, &reference.tag) {
        (Some(digest), _) => (digest.to_string(), Some(digest.clone())),
        (None, tag) => (tag.clone().unwrap_or_else(|| LATEST.to_owned()), None),
    }
}

impl Source for FromRegistry {
    fn fetch(
        &self,
        blob: &Descriptor,
        cache: &BlobCache,
        told: &(dyn Fn(u64) + Sync),
        cancelled: Cancelled<'_>,
    ) -> Result<File, Trouble> {
        block_on(self.registry.fetch(blob, cache, told, cancelled))
    }
}

/// Each thread that waits for a registry drives its own connections.
pub fn block_on<T, E>(work: impl Future<Output = Result<T, E>>) -> Result<T, Trouble>
where
    Trouble: From<E>,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let done = runtime.block_on(work);
    // A name that is still being looked up is waited for by nobody.
    runtime.shutdown_background();
    Ok(done?)
}

pub const LATEST: &str = "latest";

/// With the tag that is meant when none is given.
pub fn canonical(reference: &OciReference) -> OciReference {
    let mut reference = reference.clone();
    if reference.digest.is_none() {
        reference.tag.get_or_insert_with(|| LATEST.to_owned());
    }
    reference
}

/// In the words of OCI.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

pub fn read_document(mut config: File, manifest: &Manifest) -> Result<ImageDocument, Trouble> {
    let mut bytes = Vec::new();
    config.rewind()?;
    config.take(MAX_CONFIG_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    let document = config::parse(&bytes)?;
    document.check(architecture(), manifest.layers.len())?;
    Ok(document)
}

/// What is announced must be possible here, before the first byte of it is asked for.
pub fn check_sizes(manifest: &Manifest, cache: &BlobCache) -> Result<(), Trouble> {
    let limit = Limits::default().content_bytes;
    let blobs = manifest.layers.iter().map(|layer| &layer.blob);
    let total = blobs.clone().try_fold(0u64, |sum, blob| sum.checked_add(blob.bytes)).filter(|total| *total <= limit);
    let Some(total) = total else {
        let reason = format!("its layers are said to be larger than {}", ByteSize::from_bytes(limit));
        return Err(Trouble::Invalid(reason));
    };
    if manifest.config.bytes > MAX_CONFIG_BYTES as u64 {
        return Err(config::ConfigError::TooLarge.into());
    }
    let room = room(cache);
    if room.is_some_and(|room| total > room) {
        let missing =
            blobs.filter(|blob| !matches!(cache.find(&blob.digest), Ok(Some(_)))).map(|blob| blob.bytes).sum();
        let room = room.unwrap_or(u64::MAX);
        if missing > room {
            let (missing, room) = (ByteSize::from_bytes(missing), ByteSize::from_bytes(room));
            return Err(Trouble::Unfit {
                sentence: format!("its layers take {missing}, and there is room for {room}"),
                hint: Some("`banger system df` shows what could go".to_owned()),
            });
        }
    }
    Ok(())
}

/// Bytes that the cache's file system has left for us.
fn room(cache: &BlobCache) -> Option<u64> {
    let folder = cache.folder().ancestors().find(|folder| folder.is_dir())?;
    let found = rustix::fs::statvfs(folder).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

/// Fetches the layers and writes the image's files into `staging`.
pub fn make(
    described: &Described,
    source: &dyn Source,
    cache: &BlobCache,
    staging: &Staging,
    watch: &dyn Watch,
) -> Result<(), Trouble> {
    let layers = Layers::new(described, source, cache, staging, watch).fetch_all()?;
    let origin = Origin {
        resolved: Some(described.resolved.clone()),
        manifest: cache.keep(&described.manifest_bytes)?,
        config: described.manifest.config.digest.clone(),
        layers: origin_layers(described),
    };
    watch.report(Report::Stage { text: "writing the image's disks".to_owned() });
    let describe = |digest| {
        let mut manifest = ImageManifest::new(digest, &described.source, HostClock.now());
        manifest.references = described.references.clone();
        manifest.config = described.document.config.clone();
        manifest.origin = Some(origin);
        manifest
    };
    image::from_layers(&layers, staging, describe, watch)?;
    for number in 0..layers.len() {
        let _ = std::fs::remove_file(staging.file(&spool_name(number)));
    }
    Ok(())
}

fn origin_layers(described: &Described) -> Vec<OriginLayer> {
    let layers = described.manifest.layers.iter().zip(&described.document.diff_ids);
    let layer = |(layer, diff_id): (&manifest::LayerDescriptor, &Digest)| OriginLayer {
        blob: layer.blob.digest.clone(),
        bytes: layer.blob.bytes,
        diff_id: diff_id.clone(),
    };
    layers.map(layer).collect()
}

fn spool_name(number: usize) -> String {
    format!("layer-{number}.tar")
}

/// The layers of one image, on their way.
struct Layers<'a> {
    described: &'a Described,
    source: &'a dyn Source,
    cache: &'a BlobCache,
    staging: &'a Staging,
    watch: &'a dyn Watch,
    /// One failed: the others need not go on.
    failed: AtomicBool,
}

impl<'a> Layers<'a> {
    fn new(
        described: &'a Described,
        source: &'a dyn Source,
        cache: &'a BlobCache,
        staging: &'a Staging,
        watch: &'a dyn Watch,
    ) -> Layers<'a> {
        Layers { described, source, cache, staging, watch, failed: AtomicBool::new(false) }
    }

    /// The largest first, so that no long one is left for the end.
    fn fetch_all(&self) -> Result<Vec<Layer>, Trouble> {
        let descriptors = &self.described.manifest.layers;
        let mut order: Vec<usize> = (0..descriptors.len()).collect();
        order.sort_by_key(|number| std::cmp::Reverse(descriptors[*number].blob.bytes));
        let queue = Mutex::new(order.into_iter());
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
        let work = || {
            let mut made = Vec::new();
            while !self.cancelled()
                && let Some(number) = next()
            {
                let layer = self.fetch(number).inspect_err(|_| self.failed.store(true, Ordering::Relaxed))?;
                made.push((number, layer));
            }
            Ok::<_, Trouble>(made)
        };
        let outcomes: Vec<_> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..WORKERS.min(descriptors.len())).map(|_| scope.spawn(work)).collect();
            workers.into_iter().map(|worker| worker.join().expect("a worker has no reason to panic")).collect()
        });
        collect(outcomes, descriptors.len())
    }

    fn cancelled(&self) -> bool {
        self.failed.load(Ordering::Relaxed) || self.watch.cancelled()
    }

    fn fetch(&self, number: usize) -> Result<Layer, Trouble> {
        let descriptor = &self.described.manifest.layers[number];
        let name = format!("layer {}", &descriptor.blob.digest.hex()[..12]);
        let told = AtomicU64::new(0);
        let tell = |done: u64| {
            let of = descriptor.blob.bytes;
            if done == of || done >= told.load(Ordering::Relaxed) + REPORT_BYTES {
                told.store(done, Ordering::Relaxed);
                let part = Report::Part { name: name.clone(), done, total: Some(of), unit: Unit::Bytes };
                self.watch.report(part);
            }
        };
        let cancelled: Cancelled<'_> = &|| self.cancelled();
        let blob = self.source.fetch(&descriptor.blob, self.cache, &tell, cancelled)?;
        self.convert(number, blob)
    }

    /// The blob as a plain archive, held to the config's digest of it.
    fn convert(&self, number: usize, blob: File) -> Result<Layer, Trouble> {
        let diff_id = &self.described.document.diff_ids[number];
        let layer = unpack(blob, &self.staging.file(&spool_name(number)), &|| self.cancelled())?;
        match layer.diff_id() == diff_id {
            true => Ok(layer),
            false => Err(Trouble::DiffId { number: number + 1, wanted: diff_id.clone() }),
        }
    }
}

/// Decoders that hold a large window take turns: four at once would hold half a gigabyte.
static LARGE_WINDOW: Mutex<()> = Mutex::new(());
/// 8 MiB: what zstd's levels up to 19 use.
const LARGE_WINDOW_BYTES: u64 = 8 << 20;

/// From the header of a zstd frame (RFC 8878, 3.1.1.1): its window, or for a frame without one its length's length.
fn needs_much_memory(start: &[u8]) -> bool {
    match start {
        [0x28, 0xb5, 0x2f, 0xfd, descriptor, window, ..] if descriptor & 0x20 == 0 => {
            let base = 1u64 << (10 + (window >> 3));
            base + base / 8 * u64::from(window & 7) > LARGE_WINDOW_BYTES
        }
        [0x28, 0xb5, 0x2f, 0xfd, descriptor, ..] => descriptor >> 6 >= 2,
        // Something to skip comes first, and after it who knows what.
        [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => true,
        _ => false,
    }
}

/// A blob as a plain archive: where it lies, or unpacked to `spool`.
pub fn unpack(mut blob: File, spool: &Path, cancelled: Cancelled<'_>) -> Result<Layer, Trouble> {
    let mut start = [0; 6];
    blob.rewind()?;
    let read = blob.read(&mut start)?;
    blob.rewind()?;
    match Compression::detect(&start[..read]) {
        Compression::Plain => {
            let (digest, _) = digest::of_file(&blob)?;
            Ok(Layer::from_parts(blob, digest)?)
        }
        packed => {
            let much = needs_much_memory(&start[..read]);
            let _turn = much.then(|| LARGE_WINDOW.lock().unwrap_or_else(PoisonError::into_inner));
            let spool = OpenOptions::new().read(true).write(true).create_new(true).open(spool)?;
            let mut go_on = |_| if cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
            Ok(Layer::spool(blob, packed, spool, &Limits::default(), &mut go_on)?)
        }
    }
}

/// All layers in order, or the error that made the others stop.
fn collect(outcomes: Vec<Result<Vec<(usize, Layer)>, Trouble>>, count: usize) -> Result<Vec<Layer>, Trouble> {
    let mut made = Vec::new();
    let mut worst: Option<Trouble> = None;
    for outcome in outcomes {
        match outcome {
            Ok(layers) => made.extend(layers),
            Err(error) if worst.as_ref().is_none_or(Trouble::is_cancelled) => worst = Some(error),
            Err(_) => {}
        }
    }
    if let Some(error) = worst {
        return Err(error);
    }
    if made.len() < count {
        return Err(Trouble::Cancelled);
    }
    made.sort_by_key(|(number, _)| *number);
    Ok(made.into_iter().map(|(_, layer)| layer).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_window_is_seen_in_the_first_bytes_of_a_frame() {
        let pack = |log: u32| {
            let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
            encoder.window_log(log).unwrap();
            std::io::Write::write_all(&mut encoder, &[7; 1000]).unwrap();
            encoder.finish().unwrap()
        };
        assert!(!needs_much_memory(&pack(20)[..6]));
        assert!(!needs_much_memory(&pack(23)[..6]));
        assert!(needs_much_memory(&pack(24)[..6]));
        assert!(needs_much_memory(&pack(27)[..6]));
        assert!(!needs_much_memory(b"\x1f\x8b") && !needs_much_memory(b""));
    }
}
