//! Images from and to files of this machine: an OCI layout (folder or tar), the tar of `docker save`. Loading goes the way
//! of a pull, through the cache; saving writes what the cache still has, as an OCI layout that `docker load` reads, too.

use super::blobs::{BlobCache, Claim};
use super::manifest::ImageManifest;
use super::pull::{Described, Source, architecture, canonical, check_sizes};
use super::registry::Cancelled;
use super::staging::Staging;
use super::{Library, PullOptions, Trouble, pull, refuse_existing};
use ::images::layout::{LocalImage, LocalLayer, Place};
use ::images::manifest::{self, Descriptor, Document};
use ::images::stack::Stack;
use ::images::{Compression, DigestReader, Layer, Limits};
use engine::host::{Report, Result, Watch};
use model::image_ref::{ImageRef, OciReference};
use model::{Digest, ImageName};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

const SPOOL: &str = "archive.tar";
/// 256 KiB.
const BUFFER_BYTES: usize = 256 << 10;
/// How often it is asked whether somebody else has finished a blob.
const LOOK: Duration = Duration::from_millis(100);
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";

impl Library {
    /// Makes an image of one that lies in a file or folder.
    pub fn load_image(
        &self,
        path: &Path,
        tag: Option<&str>,
        options: &PullOptions,
        watch: &dyn Watch,
    ) -> Result<ImageName> {
        let attempt = format!("cannot load an image from {}", path.display());
        watch.report(Report::Stage { text: format!("reading {}", path.display()) });
        let told = |error: Trouble| error.told(&attempt, &self.layout);
        let staging = Staging::begin(&self.layout.images()).map_err(told)?;
        let place = open(path, &staging, watch).map_err(told)?;
        let image = place.find(tag, architecture()).map_err(|error| told(error.into()))?;
        let reference = image.name.as_deref().and_then(reference_in);
        let name = match (&options.name, &reference) {
            (Some(name), _) => name.clone(),
            (None, Some(reference)) => self.name_of(reference)?,
            (None, None) => name_of_file(path, image.name.as_deref()).map_err(told)?,
        };
        refuse_existing(&self.layout.image(&name), &attempt)?;
        let work = || {
            let source = FromPlace::new(&place, &image)?;
            let described = source.describe(&image, reference.as_ref(), path)?;
            check_sizes(&described.manifest, &self.blobs)?;
            self.blobs.keep(&image.config)?;
            pull::make(&described, &source, &self.blobs, &staging, watch)?;
            let _ = std::fs::remove_file(staging.file(SPOOL));
            staging.commit(&self.layout.image(&name))
        };
        work().map_err(told)?;
        self.keep_within_budget();
        Ok(name)
    }

    /// Writes an image as a tar archive; tells how long it became.
    pub fn save_image(&self, name: &ImageName, to: &Path, watch: &dyn Watch) -> Result<u64> {
        let attempt = format!("cannot save image {name}");
        watch.report(Report::Stage { text: format!("writing {}", to.display()) });
        let work = || {
            let manifest = ImageManifest::read(&self.layout.image_manifest(name))
                .ok_or_else(|| Trouble::NotFound(format!("there is no image `{name}`")))?;
            let partial = to.with_added_extension("partial");
            let written = write_archive(&manifest, name, &self.blobs, &partial, watch);
            written.and_then(|bytes| std::fs::rename(&partial, to).map(|()| bytes).map_err(Trouble::from)).inspect_err(
                |_| {
                    // The error that is on its way says why.
                    drop(std::fs::remove_file(&partial));
                },
            )
        };
        work().map_err(|error| if watch.cancelled() { Trouble::Cancelled } else { error }.told(&attempt, &self.layout))
    }
}

/// A folder is read where it lies; an archive is unpacked into the staging folder first.
fn open(path: &Path, staging: &Staging, watch: &dyn Watch) -> std::result::Result<Place, Trouble> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => Trouble::NotFound(format!("there is no file {}", path.display())),
        _ => Trouble::File { what: "cannot read", path: path.to_owned(), source },
    };
    if std::fs::metadata(path).map_err(failed)?.is_dir() {
        return Ok(Place::Folder(path.to_owned()));
    }
    let mut file = File::open(path).map_err(failed)?;
    let mut start = Vec::new();
    (&mut file).take(8).read_to_end(&mut start).map_err(failed)?;
    file.rewind().map_err(failed)?;
    let layer = match Compression::detect(&start) {
        Compression::Plain => Layer::open(path)?,
        packed => {
            let spool = OpenOptions::new().read(true).write(true).create_new(true).open(staging.file(SPOOL))?;
            let mut wanted = |_| if watch.cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
            Layer::spool(file, packed, spool, &Limits::default(), &mut wanted)?
        }
    };
    Ok(Place::Archive(Stack::new(vec![layer], &Limits::default())?))
}

/// `host/a:1` and `a:1` stand for an image; a bare tag does not.
fn reference_in(name: &str) -> Option<OciReference> {
    match name.parse() {
        Ok(ImageRef::Oci(reference)) => Some(canonical(&reference)),
        _ => None,
    }
}

/// `tools.tar` with the tag `1` is `tools-1`.
fn name_of_file(path: &Path, tag: Option<&str>) -> std::result::Result<ImageName, Trouble> {
    let stem = path.file_name().unwrap_or_default().to_string_lossy();
    let stem = stem.split(".tar").next().unwrap_or_default();
    let name = match tag {
        Some(tag) if tag != pull::LATEST => format!("{stem}-{tag}"),
        _ => stem.to_owned(),
    };
    name.parse().map_err(|_| Trouble::Unfit {
        sentence: format!("`{name}` cannot be an image's name"),
        hint: Some("`--name NAME` gives it one".to_owned()),
    })
}

/// The layers of an image in a place, by digest.
struct FromPlace<'a> {
    place: &'a Place,
    layers: Vec<(Descriptor, &'a LocalLayer)>,
}

impl<'a> FromPlace<'a> {
    fn new(place: &'a Place, image: &'a LocalImage) -> std::result::Result<FromPlace<'a>, Trouble> {
        let described = |layer: &'a LocalLayer| {
            let (digest, bytes) = match layer.blob() {
                Some(known) => known.clone(),
                None => DigestReader::new(place.open_layer(layer)?).finish()?,
            };
            Ok::<_, Trouble>((Descriptor { digest, bytes }, layer))
        };
        Ok(FromPlace { place, layers: image.layers.iter().map(described).collect::<std::result::Result<_, _>>()? })
    }

    fn describe(
        &self,
        image: &LocalImage,
        reference: Option<&OciReference>,
        path: &Path,
    ) -> std::result::Result<Described, Trouble> {
        let manifest_bytes = match &image.manifest {
            Some(bytes) => bytes.clone(),
            None => self.manifest_of(image)?,
        };
        let Document::Manifest(manifest) = manifest::parse(&manifest_bytes, None)? else {
            return Err(Trouble::NotFound("there is an index where a manifest should be".to_owned()));
        };
        Ok(Described {
            resolved: ::images::digest::of_bytes(&manifest_bytes),
            manifest,
            manifest_bytes,
            document: image.document.clone(),
            source: format!("loaded from {}", path.display()),
            references: reference.iter().map(ToString::to_string).collect(),
        })
    }

    /// `docker save` writes none.
    fn manifest_of(&self, image: &LocalImage) -> std::result::Result<Vec<u8>, Trouble> {
        let mut layers = Vec::new();
        for (blob, layer) in &self.layers {
            let mut start = [0; 6];
            let read = self.place.open_layer(layer)?.read(&mut start)?;
            let suffix = match Compression::detect(&start[..read]) {
                Compression::Gzip => "+gzip",
                Compression::Zstd => "+zstd",
                Compression::Plain | Compression::Xz => "",
            };
            layers.push(descriptor(&format!("{LAYER_TYPE}{suffix}"), &blob.digest, blob.bytes));
        }
        let config = ::images::digest::of_bytes(&image.config);
        let document = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": descriptor(CONFIG_TYPE, &config, image.config.len() as u64),
            "layers": layers,
        });
        Ok(document.to_string().into_bytes())
    }
}

fn descriptor(media_type: &str, digest: &Digest, bytes: u64) -> serde_json::Value {
    serde_json::json!({ "mediaType": media_type, "digest": digest, "size": bytes })
}

impl Source for FromPlace<'_> {
    fn fetch(
        &self,
        blob: &Descriptor,
        cache: &BlobCache,
        told: &(dyn Fn(u64) + Sync),
        cancelled: Cancelled<'_>,
    ) -> std::result::Result<File, Trouble> {
        let partial = loop {
            match cache.claim(&blob.digest)? {
                Claim::Whole(file) => return Ok(file),
                Claim::Ours(partial) => break partial,
                Claim::Taken if cancelled() => return Err(Trouble::Cancelled),
                Claim::Taken => std::thread::sleep(LOOK),
            }
        };
        let known = self.layers.iter().find(|(known, _)| known.digest == blob.digest);
        let (_, layer) = known.ok_or_else(|| Trouble::NotFound(format!("there is no blob {}", blob.digest)))?;
        partial.file.set_len(0)?;
        let mut reader = DigestReader::new(self.place.open_layer(layer)?.take(blob.bytes + 1));
        let copied = copy(&mut reader, &mut &partial.file, told, cancelled);
        let found = copied.and_then(|()| Ok(reader.finish()?));
        match found {
            Ok(found) if found == (blob.digest.clone(), blob.bytes) => Ok(partial.commit()?),
            Ok(_) => {
                partial.discard()?;
                Err(Trouble::Invalid(format!("the blob {} is not what its digest says", blob.digest)))
            }
            Err(error) => {
                partial.discard()?;
                Err(error)
            }
        }
    }
}

fn copy(
    from: &mut impl Read,
    to: &mut impl Write,
    told: &(dyn Fn(u64) + Sync),
    cancelled: Cancelled<'_>,
) -> std::result::Result<(), Trouble> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut bytes = 0;
    loop {
        let read = from.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..read])?;
        bytes += read as u64;
        told(bytes);
        if cancelled() {
            return Err(Trouble::Cancelled);
        }
    }
}

fn write_archive(
    image: &ImageManifest,
    name: &ImageName,
    cache: &BlobCache,
    to: &Path,
    watch: &dyn Watch,
) -> std::result::Result<u64, Trouble> {
    let gone = |what: &str| Trouble::Unfit {
        sentence: format!("{what} is not kept on this machine any more"),
        hint: Some("`banger image bundle` writes any image; a pull brings its layers back".to_owned()),
    };
    let origin = image.origin.as_ref().ok_or_else(|| gone("what it was made of"))?;
    let layers = origin.layers.iter().map(|layer| &layer.blob);
    let digests: Vec<&Digest> = [&origin.manifest, &origin.config].into_iter().chain(layers).collect();
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(to)?;
    let mut archive = tar::Builder::new(io::BufWriter::with_capacity(BUFFER_BYTES, file));
    append(&mut archive, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    append_folder(&mut archive, "blobs/")?;
    append_folder(&mut archive, "blobs/sha256/")?;
    let mut length = 0;
    let mut written = std::collections::BTreeSet::new();
    for digest in digests.into_iter().filter(|digest| written.insert((*digest).clone())) {
        let blob = cache.find(digest)?.ok_or_else(|| gone(&format!("its blob {digest}")))?;
        let size = blob.metadata()?.len();
        if digest == &origin.manifest {
            length = size;
        }
        archive.append_data(&mut header(size), format!("blobs/sha256/{}", digest.hex()), Wanted { blob, watch })?;
    }
    let called = image.references.first().cloned().unwrap_or_else(|| format!("{name}:latest"));
    append(&mut archive, "index.json", &index(&origin.manifest, length, &called))?;
    append(&mut archive, "manifest.json", &dockers(origin, &called))?;
    let file = archive.into_inner()?.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.sync_all()?;
    Ok(file.metadata()?.len())
}

fn index(manifest: &Digest, bytes: u64, called: &str) -> Vec<u8> {
    let mut entry = descriptor(MANIFEST_TYPE, manifest, bytes);
    entry["annotations"] = serde_json::json!({ "org.opencontainers.image.ref.name": called });
    serde_json::json!({ "schemaVersion": 2, "manifests": [entry] }).to_string().into_bytes()
}

/// What `docker load` looks for.
fn dockers(origin: &super::manifest::Origin, called: &str) -> Vec<u8> {
    let path = |digest: &Digest| format!("blobs/sha256/{}", digest.hex());
    let layers: Vec<_> = origin.layers.iter().map(|layer| path(&layer.blob)).collect();
    serde_json::json!([{ "Config": path(&origin.config), "RepoTags": [called], "Layers": layers }])
        .to_string()
        .into_bytes()
}

fn header(size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(0o644);
    header
}

/// Whoever unpacks it without root makes what is not listed as root's, and fails (containers/image, as Skopeo and Podman).
fn append_folder(archive: &mut tar::Builder<impl Write>, name: &str) -> io::Result<()> {
    let mut header = header(0);
    header.set_entry_type(tar::EntryType::Directory);
    header.set_mode(0o755);
    archive.append_data(&mut header, name, io::empty())
}

fn append(archive: &mut tar::Builder<impl Write>, name: &str, bytes: &[u8]) -> io::Result<()> {
    archive.append_data(&mut header(bytes.len() as u64), name, bytes)
}

/// Reading ends once nobody wants it.
struct Wanted<'a> {
    blob: File,
    watch: &'a dyn Watch,
}

impl Read for Wanted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.watch.cancelled() {
            true => Err(io::Error::other("nobody wants it any more")),
            false => self.blob.read(buffer),
        }
    }
}
