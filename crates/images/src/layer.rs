//! Layers on disk: decompressing an archive into a seekable file, and reading a stack of such files into a tree.
//!
//! A layer is spooled once; afterwards headers and contents are read from it by offset. Its *diff id*, the digest of
//! the decompressed bytes, is taken on the way: it identifies what an image is made of.

use crate::archive::{ArchiveError, Entries};
use crate::digest::DigestReader;
use crate::limits::{Exceeded, Limits};
use crate::positioned::ReadAt;
use crate::tree::{Tree, TreeError};
use crate::unpack::{XZ_MEMORY_BYTES, ZSTD_WINDOW_LOG_MAX};
use liblzma::bufread::XzDecoder;
use liblzma::stream::{CONCATENATED, Stream};
use model::Digest;
use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::ControlFlow;
use std::path::Path;

/// A decompressed tar archive in a file, verified to be what its diff id says.
#[derive(Debug)]
pub struct Layer {
    file: File,
    length: u64,
    diff_id: Digest,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    Plain,
    Gzip,
    Zstd,
    /// Debian's packages; no OCI layer.
    Xz,
}

#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    #[error("cannot read the layer")]
    Read(#[source] io::Error),
    #[error("cannot store the decompressed layer")]
    Store(#[source] io::Error),
    #[error("the archive is broken")]
    Archive(#[source] ArchiveError),
    #[error("the archive describes no usable file tree")]
    Tree(#[source] TreeError),
    #[error("the archive exceeds a limit")]
    Exceeded(#[from] Exceeded),
    #[error("reading the layer was cancelled")]
    Cancelled,
}

/// 256 KiB: large enough that system calls do not count.
const BUFFER_BYTES: usize = 256 << 10;
/// How many entries are read between two questions whether to go on.
const ENTRIES_PER_CHECK: usize = 1024;

impl Compression {
    /// What the first bytes of a file say; anything unknown is taken for a plain archive, whose headers have
    /// checksums.
    pub fn detect(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Compression::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Compression::Xz,
            // A skippable frame may come first (zstd specification, section 3.1.2).
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
            _ => Compression::Plain,
        }
    }
}

impl Layer {
    /// An archive that is not compressed and stays where it is. Reads it once for its diff id.
    pub fn open(path: &Path) -> Result<Self, LayerError> {
        let file = File::open(path).map_err(LayerError::Read)?;
        let (diff_id, length) = crate::digest::of_file(&file).map_err(LayerError::Read)?;
        Ok(Layer { file, length, diff_id })
    }

    /// A layer that [`Layer::spool`] wrote earlier and whose diff id the caller kept. The contents are trusted.
    pub fn from_parts(file: File, diff_id: Digest) -> Result<Self, LayerError> {
        let length = file.metadata().map_err(LayerError::Read)?.len();
        Ok(Layer { file, length, diff_id })
    }

    /// Decompresses `source` into `into`, an empty file open for reading and writing, and reads `source` to its
    /// end: a [`DigestReader`] below it then knows the digest of all compressed bytes.
    /// On error `into` holds a torn layer; whoever made it removes it.
    pub fn spool(
        source: impl Read,
        compression: Compression,
        into: File,
        limits: &Limits,
        progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<Self, LayerError> {
        let mut source = io::BufReader::with_capacity(BUFFER_BYTES, Counter { inner: source, bytes: 0 });
        let (diff_id, length) = match compression {
            Compression::Plain => pump(&mut source, |s| s.get_ref().bytes, &into, limits, progress)?,
            Compression::Gzip => {
                let mut decoder = flate2::bufread::MultiGzDecoder::new(&mut source);
                pump(&mut decoder, |d| d.get_ref().get_ref().bytes, &into, limits, progress)?
            }
            Compression::Zstd => {
                let mut decoder = zstd::Decoder::with_buffer(&mut source).map_err(LayerError::Read)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(LayerError::Read)?;
                pump(&mut decoder, |d| d.get_ref().get_ref().bytes, &into, limits, progress)?
            }
            Compression::Xz => {
                let stream = Stream::new_stream_decoder(XZ_MEMORY_BYTES, CONCATENATED);
                let stream = stream.map_err(|error| LayerError::Read(error.into()))?;
                let mut decoder = XzDecoder::new_stream(&mut source, stream);
                pump(&mut decoder, |d| d.get_ref().get_ref().bytes, &into, limits, progress)?
            }
        };
        io::copy(&mut source, &mut io::sink()).map_err(LayerError::Read)?;
        Ok(Layer { file: into, length, diff_id })
    }

    pub fn diff_id(&self) -> &Digest {
        &self.diff_id
    }

    /// Bytes of the decompressed archive.
    pub fn bytes(&self) -> u64 {
        self.length
    }

    /// The headers of the archive, in order.
    pub fn entries<'a>(&'a self, limits: &'a Limits) -> Entries<'a, &'a File> {
        Entries::new(&self.file, self.length, limits)
    }
}

impl ReadAt for Layer {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        ReadAt::read_at(&self.file, buffer, offset)
    }
}

impl Tree {
    /// Applies all entries of `layer` on top of what is there.
    pub fn apply_layer(
        &mut self,
        layer: &Layer,
        limits: &Limits,
        go_on: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<(), LayerError> {
        self.begin_layer();
        for (number, entry) in layer.entries(limits).enumerate() {
            if number.is_multiple_of(ENTRIES_PER_CHECK) && go_on().is_break() {
                return Err(LayerError::Cancelled);
            }
            let entry = entry.map_err(|error| match error {
                ArchiveError::Exceeded(exceeded) => LayerError::Exceeded(exceeded),
                error => LayerError::Archive(error),
            })?;
            self.apply(entry).map_err(|error| match error {
                TreeError::Exceeded(exceeded) => LayerError::Exceeded(exceeded),
                error => LayerError::Tree(error),
            })?;
        }
        Ok(())
    }
}

/// Copies a decompressed stream into a file, hashing it and holding it to the limits. `compressed` tells how much
/// of the source went in so far.
fn pump<R: Read>(
    from: &mut R,
    compressed: impl Fn(&R) -> u64,
    mut into: &File,
    limits: &Limits,
    progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<(Digest, u64), LayerError> {
    let mut reader = DigestReader::new(from);
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let read = match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(LayerError::Read(error)),
        };
        let written = reader.count();
        if written > limits.layer_bytes {
            return Err(Exceeded::LayerSize { limit: limits.layer_bytes }.into());
        }
        let allowed = compressed(reader.get_ref()).saturating_mul(limits.expansion_ratio);
        if written > limits.expansion_floor_bytes && written > allowed {
            return Err(Exceeded::Expansion { limit: limits.expansion_ratio }.into());
        }
        into.write_all(&buffer[..read]).map_err(LayerError::Store)?;
        if progress(written).is_break() {
            return Err(LayerError::Cancelled);
        }
    }
    reader.finish().map_err(LayerError::Read)
}

/// Counts what is read through it.
#[derive(Debug)]
struct Counter<R> {
    inner: R,
    bytes: u64,
}

impl<R: Read> Read for Counter<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.bytes += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ZEROS: &[u8] = &[0; 4 << 20];

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(bytes).expect("memory takes it");
        encoder.finish().expect("memory takes it")
    }

    fn xz(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 0);
        encoder.write_all(bytes).expect("memory takes it");
        encoder.finish().expect("memory takes it")
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        zstd::encode_all(bytes, 1).expect("memory takes it")
    }

    fn spool(packed: &[u8], limits: &Limits) -> (Result<Layer, LayerError>, u64) {
        let spool = tempfile::tempfile().expect("a file can be made");
        let into = spool.try_clone().expect("a descriptor can be doubled");
        let go_on = &mut |_| ControlFlow::Continue(());
        let layer = Layer::spool(packed, Compression::detect(packed), into, limits, go_on);
        (layer, spool.metadata().expect("it has a length").len())
    }

    #[test]
    fn a_bomb_is_told_from_a_layer_before_it_goes_off() {
        let limits = Limits { expansion_floor_bytes: 1 << 20, expansion_ratio: 200, ..Limits::default() };
        for packed in [gzip(ZEROS), zstd(ZEROS), xz(ZEROS)] {
            let (layer, written) = spool(&packed, &limits);
            let error = layer.expect_err("it expands a thousandfold");
            assert!(matches!(error, LayerError::Exceeded(Exceeded::Expansion { limit: 200 })), "{error:?}");
            assert!(written <= 2 << 20, "{written} bytes were written");
            assert!(spool(&packed, &Limits::default()).0.is_ok(), "one that is small hurts nobody");
        }
        let limits = Limits { layer_bytes: 1 << 20, ..Limits::default() };
        for packed in [gzip(ZEROS), zstd(ZEROS), ZEROS.to_vec()] {
            let error = spool(&packed, &limits).0.expect_err("it is too large");
            assert!(matches!(error, LayerError::Exceeded(Exceeded::LayerSize { .. })), "{error:?}");
        }
    }

    #[test]
    fn a_stream_that_ends_early_is_no_layer() {
        for packed in [gzip(b"whole"), zstd(b"whole"), xz(b"whole")] {
            assert!(spool(&packed, &Limits::default()).0.is_ok());
            for length in [packed.len() - 1, packed.len() / 2, 7] {
                let torn = spool(&packed[..length], &Limits::default()).0;
                assert!(matches!(torn, Err(LayerError::Read(_))), "{length} of {}: {torn:?}", packed.len());
            }
        }
    }

    #[test]
    fn streams_that_follow_each_other_are_one_layer() {
        for pack in [gzip, zstd, xz] as [fn(&[u8]) -> Vec<u8>; 3] {
            let both = [pack(b"one "), pack(b"two")].concat();
            let layer = spool(&both, &Limits::default()).0.expect("it is good");
            assert_eq!(*layer.diff_id(), crate::digest::of_bytes(b"one two"));
        }
    }
}
