//! SHA-256 on the way: whoever reads through a [`DigestReader`] knows afterwards what the bytes were.

use model::Digest;
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{self, Read};

/// Hashes and counts everything that is read through it.
#[derive(Debug)]
pub struct DigestReader<R> {
    inner: R,
    hasher: Sha256,
    bytes: u64,
}

impl<R: Read> DigestReader<R> {
    pub fn new(inner: R) -> Self {
        DigestReader { inner, hasher: Sha256::new(), bytes: 0 }
    }

    pub fn count(&self) -> u64 {
        self.bytes
    }

    pub fn get_ref(&self) -> &R {
        &self.inner
    }

    /// Reads what is left, so that the digest covers the whole source, and answers digest and length.
    /// A decompressor stops at the end of its stream and would leave trailing bytes unhashed.
    pub fn finish(mut self) -> io::Result<(Digest, u64)> {
        let mut rest = vec![0; 64 << 10];
        while self.read(&mut rest)? > 0 {}
        Ok((Digest::from_sha256(self.hasher.finalize().into()), self.bytes))
    }
}

impl<R: Read> Read for DigestReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        self.bytes += read as u64;
        Ok(read)
    }
}

/// Digest of a slice, for small things.
pub fn of_bytes(bytes: &[u8]) -> Digest {
    Digest::from_sha256(Sha256::digest(bytes).into())
}

/// Digest and length of a file from its current position.
pub fn of_file(file: &File) -> io::Result<(Digest, u64)> {
    DigestReader::new(io::BufReader::with_capacity(1 << 20, file)).finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_covers_what_nobody_read() {
        let mut reader = DigestReader::new(&b"hello world"[..]);
        reader.read_exact(&mut [0; 5]).expect("five bytes are there");
        assert_eq!(reader.count(), 5);
        let (digest, bytes) = reader.finish().expect("a slice can be read");
        assert_eq!(bytes, 11);
        assert_eq!(digest.hex(), "b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9");
        assert_eq!(digest, of_bytes(b"hello world"));
    }
}
