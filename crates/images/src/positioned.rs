//! Bytes that are read by offset: a file, or a slice in tests and fuzz targets. Nothing here has a cursor, so one
//! layer can be read by several readers.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

/// A source of known length whose bytes are read by offset.
pub trait ReadAt {
    /// Like `pread(2)`: may read less than asked, and nothing past the end.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    fn read_exact_at(&self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buffer.is_empty() {
            match self.read_at(buffer, offset)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => {
                    buffer = &mut buffer[read..];
                    offset += read as u64;
                }
            }
        }
        Ok(())
    }
}

impl ReadAt for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        loop {
            match FileExt::read_at(self, buffer, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }
}

impl ReadAt for [u8] {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|at| self.get(at..)).unwrap_or_default();
        let read = rest.len().min(buffer.len());
        buffer[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }
}

impl<S: ReadAt + ?Sized> ReadAt for &S {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        (**self).read_at(buffer, offset)
    }
}

/// Reads `remaining` bytes from `offset` on as a stream.
#[derive(Debug)]
pub struct Range<S> {
    source: S,
    offset: u64,
    remaining: u64,
}

impl<S: ReadAt> Range<S> {
    pub fn new(source: S, offset: u64, remaining: u64) -> Self {
        Range { source, offset, remaining }
    }
}

impl<S: ReadAt> Read for Range<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer.len().min(usize::try_from(self.remaining).unwrap_or(usize::MAX));
        let read = self.source.read_at(&mut buffer[..wanted], self.offset)?;
        self.offset += read as u64;
        self.remaining -= read as u64;
        Ok(read)
    }
}

/// A window over a source, so that a run of small headers costs one system call.
#[derive(Debug)]
pub(crate) struct Window<S> {
    source: S,
    start: u64,
    bytes: Vec<u8>,
}

/// 64 KiB: 128 tar headers.
const WINDOW_BYTES: usize = 64 << 10;

impl<S: ReadAt> Window<S> {
    pub(crate) fn new(source: S) -> Self {
        Window { source, start: 0, bytes: Vec::new() }
    }

    /// Fills `buffer` from `offset`; answers how much of it there is before the end of the source.
    pub(crate) fn read(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if buffer.len() > WINDOW_BYTES {
            return read_all(&self.source, buffer, offset);
        }
        let end = offset + buffer.len() as u64;
        if offset < self.start || end > self.start + self.bytes.len() as u64 {
            self.bytes.resize(WINDOW_BYTES, 0);
            let read = read_all(&self.source, &mut self.bytes, offset)?;
            self.bytes.truncate(read);
            self.start = offset;
        }
        self.bytes.as_slice().read_at(buffer, offset - self.start)
    }
}

fn read_all(source: &impl ReadAt, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read_at(&mut buffer[filled..], offset + filled as u64)? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_shows_what_the_source_holds() {
        let source: Vec<u8> = (0..200_000u32).map(|i| (i % 251) as u8).collect();
        let mut window = Window::new(source.as_slice());
        for (offset, len) in [(0, 512), (65_300, 512), (100, 512), (199_900, 512), (0, 100_000), (300_000, 10)] {
            let mut buffer = vec![0; len];
            let read = window.read(&mut buffer, offset as u64).expect("a slice can be read");
            let expected = source.get(offset..).unwrap_or_default();
            let expected = &expected[..expected.len().min(len)];
            assert_eq!(&buffer[..read], expected, "{offset}+{len}");
        }
    }

    #[test]
    fn a_range_ends_where_it_should() {
        let mut read = Vec::new();
        Range::new(&b"0123456789"[..], 3, 4).read_to_end(&mut read).expect("a slice can be read");
        assert_eq!(read, b"3456");
    }
}
