//! Bundles: an image with its whole boot set in one file, `name-arch-<sha256>.tar.zst`, for machines that fetch nothing
//! else. The hash in the name is that of `manifest.json`, which holds the hash of every other file: the same boot set
//! has the same name, however it was compressed.
//!
//! ```text
//! manifest.json   first, so that the rest can be checked as it arrives
//! rootfs.ext4     then the files that the manifest lists, in its order, and nothing else
//! …
//! ```
//! Reading refuses whatever is not exactly this: other names, other kinds of entries, another order, other bytes.

use crate::archive::BLOCK;
use crate::config::ImageConfig;
use crate::digest::{self, DigestReader};
use crate::sparse_file;
use crate::text;
use crate::unpack::ZSTD_WINDOW_LOG_MAX;
use model::{Digest, ImageName};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::ControlFlow;
use std::path::Path;

/// What a bundle consists of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BundleManifest {
    /// Of this format.
    pub version: u32,
    pub name: ImageName,
    /// `amd64`.
    pub architecture: String,
    /// In the order in which they are stored; each part at most once, `rootfs` and `kernel` always.
    pub files: Vec<BundleFile>,
    #[serde(default)]
    pub config: ImageConfig,
    /// Additional kernel arguments.
    #[serde(default)]
    pub boot_arguments: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BundleFile {
    pub part: Part,
    pub bytes: u64,
    pub digest: Digest,
}

/// The members of a boot set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    Rootfs,
    WorkSeed,
    Kernel,
    Initrd,
    /// A tar archive of `/lib/modules/<release>`.
    Modules,
}

#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    #[error("cannot read the bundle")]
    Read(#[source] io::Error),
    #[error("cannot write {path}")]
    Write { path: String, source: io::Error },
    #[error("the bundle's manifest is no valid JSON of its kind")]
    Manifest(#[source] serde_json::Error),
    #[error("the bundle is refused: {reason}")]
    Refused { reason: String },
    #[error("the bundle's {file} is not what its manifest says")]
    Changed { file: &'static str },
    #[error("the bundle was cancelled")]
    Cancelled,
}

const VERSION: u32 = 1;
const MANIFEST: &str = "manifest.json";
/// 1 MiB: names, hashes and an image's config.
const MAX_MANIFEST_BYTES: u64 = 1 << 20;
/// 1 TiB, holes counted: all parts together.
const MAX_BUNDLE_BYTES: u64 = 1 << 40;
const ZSTD_LEVEL: i32 = 9;

impl Part {
    pub const ALL: [Part; 5] = [Part::Rootfs, Part::WorkSeed, Part::Kernel, Part::Initrd, Part::Modules];

    pub fn file_name(self) -> &'static str {
        match self {
            Part::Rootfs => "rootfs.ext4",
            Part::WorkSeed => "work-seed.ext4",
            Part::Kernel => "vmlinux",
            Part::Initrd => "initrd",
            Part::Modules => "modules.tar",
        }
    }
}

impl BundleManifest {
    /// `name-arch-<sha256>.tar.zst`.
    pub fn file_name(&self) -> String {
        let hash = digest::of_bytes(&self.to_bytes());
        format!("{}-{}-{}.tar.zst", self.name, self.architecture, hash.hex())
    }

    fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("a manifest is made of strings and numbers")
    }

    fn check(&self) -> Result<(), BundleError> {
        let refuse = |reason: String| BundleError::Refused { reason };
        if self.version != VERSION {
            return Err(refuse(format!("its format has version {}, and this program reads {VERSION}", self.version)));
        }
        let known = !self.architecture.is_empty() && self.architecture.bytes().all(|b| b.is_ascii_alphanumeric());
        if !known || self.architecture.len() > 16 {
            return Err(refuse("its architecture is no word".into()));
        }
        let parts: Vec<Part> = self.files.iter().map(|file| file.part).collect();
        if !parts.windows(2).all(|pair| pair[0] < pair[1]) {
            return Err(refuse("its files are not in order, or one comes twice".into()));
        }
        for part in [Part::Rootfs, Part::Kernel] {
            if !parts.contains(&part) {
                return Err(refuse(format!("it has no {}", part.file_name())));
            }
        }
        let total = self.files.iter().try_fold(0u64, |sum, file| sum.checked_add(file.bytes));
        if total.is_none_or(|total| total > MAX_BUNDLE_BYTES) {
            return Err(refuse(format!("its files are larger than {MAX_BUNDLE_BYTES} bytes")));
        }
        Ok(())
    }
}

/// Reads the files of a boot set, which have their [`Part::file_name`] in `folder`, for a manifest.
pub fn describe(
    folder: &Path,
    name: ImageName,
    architecture: &str,
    config: ImageConfig,
    boot_arguments: &str,
) -> Result<BundleManifest, BundleError> {
    let mut files = Vec::new();
    for part in Part::ALL {
        match File::open(folder.join(part.file_name())) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(BundleError::Read(error)),
            Ok(file) => {
                let (digest, bytes) = digest::of_file(&file).map_err(BundleError::Read)?;
                files.push(BundleFile { part, bytes, digest });
            }
        }
    }
    let (architecture, boot_arguments) = (architecture.to_owned(), boot_arguments.to_owned());
    let manifest = BundleManifest { version: VERSION, name, architecture, files, config, boot_arguments };
    manifest.check()?;
    Ok(manifest)
}

/// Writes the bundle of a boot set. The same files give the same bytes.
pub fn write(
    manifest: &BundleManifest,
    folder: &Path,
    out: impl Write,
    progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<(), BundleError> {
    manifest.check()?;
    let failed = |source| BundleError::Write { path: "the bundle".into(), source };
    let encoder = zstd::Encoder::new(out, ZSTD_LEVEL).map_err(failed)?;
    let mut archive = tar::Builder::new(encoder);
    let bytes = manifest.to_bytes();
    archive.append_data(&mut header(bytes.len() as u64), MANIFEST, &bytes[..]).map_err(failed)?;
    for file in &manifest.files {
        let name = file.part.file_name();
        let source = File::open(folder.join(name)).map_err(BundleError::Read)?;
        let mut source = Reporting { inner: DigestReader::new(source.take(file.bytes)), progress, cancelled: false };
        let appended = archive.append_data(&mut header(file.bytes), name, &mut source);
        if source.cancelled {
            return Err(BundleError::Cancelled);
        }
        appended.map_err(failed)?;
        let (digest, bytes) = source.inner.finish().map_err(BundleError::Read)?;
        if (&digest, bytes) != (&file.digest, file.bytes) {
            return Err(BundleError::Changed { file: name });
        }
    }
    archive.into_inner().and_then(zstd::Encoder::finish).and_then(|mut out| out.flush()).map_err(failed)
}

/// Unpacks a bundle into `folder`, which is empty, and answers its manifest. On error the folder holds a torn boot set;
/// whoever made it removes it. `expected` is the hash in the bundle's name, if the name is trusted.
pub fn read(
    bundle: impl Read,
    expected: Option<&Digest>,
    folder: &Path,
    progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<BundleManifest, BundleError> {
    let mut decoder = zstd::Decoder::new(bundle).map_err(BundleError::Read)?;
    decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(BundleError::Read)?;
    let mut stream = Reporting { inner: decoder, progress, cancelled: false };
    let result = read_stream(&mut stream, expected, folder);
    if stream.cancelled { Err(BundleError::Cancelled) } else { result }
}

fn read_stream(
    stream: &mut impl Read,
    expected: Option<&Digest>,
    folder: &Path,
) -> Result<BundleManifest, BundleError> {
    let size = read_header(stream, MANIFEST)?;
    if size > MAX_MANIFEST_BYTES {
        return Err(refused("its manifest is too large"));
    }
    let mut bytes = vec![0; size as usize];
    stream.read_exact(&mut bytes).map_err(BundleError::Read)?;
    skip_padding(stream, size)?;
    if expected.is_some_and(|expected| *expected != digest::of_bytes(&bytes)) {
        return Err(BundleError::Changed { file: MANIFEST });
    }
    let manifest: BundleManifest = serde_json::from_slice(&bytes).map_err(BundleError::Manifest)?;
    manifest.check()?;
    for file in &manifest.files {
        let name = file.part.file_name();
        if read_header(stream, name)? != file.bytes {
            return Err(BundleError::Changed { file: name });
        }
        let failed = |source| BundleError::Write { path: folder.join(name).display().to_string(), source };
        let out = File::options().write(true).create_new(true).open(folder.join(name)).map_err(failed)?;
        let mut contents = DigestReader::new(stream.by_ref().take(file.bytes));
        sparse_file::copy(&mut contents, &out).map_err(|error| match error {
            sparse_file::CopyError::Read(error) => BundleError::Read(error),
            sparse_file::CopyError::Write(error) => failed(error),
        })?;
        if contents.finish().map_err(BundleError::Read)? != (file.digest.clone(), file.bytes) {
            return Err(BundleError::Changed { file: name });
        }
        skip_padding(stream, file.bytes)?;
    }
    read_end(stream)?;
    Ok(manifest)
}

/// The header of the next entry, which must be this file and nothing else. Answers its size.
fn read_header(stream: &mut impl Read, name: &'static str) -> Result<u64, BundleError> {
    let mut block = [0; BLOCK as usize];
    stream.read_exact(&mut block).map_err(BundleError::Read)?;
    let found = tar::Header::from_byte_slice(&block);
    let size = found.size().map_err(BundleError::Read)?;
    let mut wanted = header(size);
    wanted.set_path(name).expect("the names of parts are short");
    wanted.set_cksum();
    if wanted.as_bytes() != &block {
        let found = text::show(&found.path_bytes());
        return Err(refused(&format!("it holds {found:?} where {name:?} should be, or not as a plain file")));
    }
    Ok(size)
}

fn skip_padding(stream: &mut impl Read, size: u64) -> Result<(), BundleError> {
    let mut padding = [0; BLOCK as usize];
    let padding = &mut padding[..(size.next_multiple_of(BLOCK) - size) as usize];
    stream.read_exact(padding).map_err(BundleError::Read)?;
    if padding.iter().any(|&byte| byte != 0) { Err(refused("it hides bytes between its files")) } else { Ok(()) }
}

fn read_end(stream: &mut impl Read) -> Result<(), BundleError> {
    let mut end = [1; 2 * BLOCK as usize];
    stream.read_exact(&mut end).map_err(BundleError::Read)?;
    if end.iter().any(|&byte| byte != 0) || stream.read(&mut [0]).map_err(BundleError::Read)? > 0 {
        return Err(refused("it holds more than its manifest lists"));
    }
    Ok(())
}

fn refused(reason: &str) -> BundleError {
    BundleError::Refused { reason: reason.to_owned() }
}

/// The header of every entry but for its name: fixed owner, mode and time.
fn header(size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

/// Reports how much was read through it and fails when told to stop.
struct Reporting<'p, R> {
    inner: R,
    progress: &'p mut dyn FnMut(u64) -> ControlFlow<()>,
    cancelled: bool,
}

impl<R: Read> Read for Reporting<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        if (self.progress)(read as u64).is_break() {
            self.cancelled = true;
            return Err(io::Error::other("cancelled"));
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests;
