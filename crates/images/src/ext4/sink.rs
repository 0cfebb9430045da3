//! Where the bytes of an image go: large positioned writes into a sparse file. Blocks of zeros are not written, so
//! they take no room on the host.

use mkext4::RegionSink;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Collects neighbouring pieces and writes them together.
#[derive(Debug)]
pub(super) struct SparseSink<'a> {
    file: &'a File,
    /// Offset of the first collected byte.
    start: u64,
    collected: Vec<u8>,
}

/// 1 MiB: inode tables and small files arrive in pieces of 4 KiB.
const COLLECT_BYTES: usize = 1 << 20;
const BLOCK_BYTES: usize = 4096;

impl<'a> SparseSink<'a> {
    /// `file` is empty; it is made `length` bytes long.
    pub(super) fn new(file: &'a File, length: u64) -> io::Result<Self> {
        file.set_len(length)?;
        Ok(SparseSink { file, start: 0, collected: Vec::with_capacity(2 * COLLECT_BYTES) })
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        let bytes = std::mem::take(&mut self.collected);
        let result = self.write_blocks(&bytes, self.start);
        self.start += bytes.len() as u64;
        self.collected = bytes;
        self.collected.clear();
        result
    }

    /// Writes the stretches of `bytes` that hold something else than zeros. `offset` is a multiple of the block
    /// size, as all offsets of an image are that start a stretch.
    fn write_blocks(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut stretch = 0..0;
        for (index, block) in bytes.chunks(BLOCK_BYTES).enumerate() {
            let at = index * BLOCK_BYTES;
            if is_zero(block) {
                self.file.write_all_at(&bytes[stretch.clone()], offset + stretch.start as u64)?;
                stretch = at + block.len()..at + block.len();
            } else {
                stretch.end = at + block.len();
            }
        }
        self.file.write_all_at(&bytes[stretch.clone()], offset + stretch.start as u64)
    }

    fn continues(&self, offset: u64) -> bool {
        offset == self.start + self.collected.len() as u64
    }
}

impl RegionSink for SparseSink<'_> {
    fn data(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if !self.continues(offset) {
            self.flush()?;
            self.start = offset;
        }
        self.collected.extend_from_slice(bytes);
        if self.collected.len() >= COLLECT_BYTES { self.flush() } else { Ok(()) }
    }

    /// The file is a hole from the start; only the rest of a block is collected, to keep its neighbours together.
    fn zeros(&mut self, offset: u64, length: u64) -> io::Result<()> {
        if self.continues(offset) && length < BLOCK_BYTES as u64 {
            self.collected.resize(self.collected.len() + length as usize, 0);
        }
        Ok(())
    }
}

fn is_zero(block: &[u8]) -> bool {
    static ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];
    block == &ZEROS[..block.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn zeros_leave_holes_and_everything_else_arrives() {
        let mut file = tempfile::tempfile().expect("a temporary file can be made");
        let mut sink = SparseSink::new(&file, 16 << 20).expect("the file can grow");
        let mut expected = vec![0u8; 16 << 20];
        for (offset, byte, length) in [(0, 1, 4096), (4096, 0, 8 << 20), (12 << 20, 2, 100), (14 << 20, 3, 4096)] {
            sink.data(offset, &vec![byte; length]).expect("the file can be written");
            expected[offset as usize..][..length].fill(byte);
        }
        sink.flush().expect("the file can be written");
        let mut read = Vec::new();
        file.read_to_end(&mut read).expect("the file can be read");
        assert!(read == expected);
        assert!(file.metadata().expect("the file has metadata").blocks() * 512 < 1 << 20);
    }
}
