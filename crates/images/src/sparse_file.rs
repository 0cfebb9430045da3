//! Copies a stream into a file and leaves holes where it holds zeros.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

#[derive(Debug)]
pub(crate) enum CopyError {
    Read(io::Error),
    Write(io::Error),
}

/// 64 KiB at a time: a hole is found when all of it is zero, which is fine enough for disk images.
const CHUNK_BYTES: usize = 64 << 10;

static ZEROS: [u8; CHUNK_BYTES] = [0; CHUNK_BYTES];

/// Copies all of `from` into the empty file `to`; answers the length.
pub(crate) fn copy(from: &mut impl Read, to: &File) -> Result<u64, CopyError> {
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut offset = 0;
    loop {
        let filled = fill(from, &mut chunk).map_err(CopyError::Read)?;
        if filled == 0 {
            to.set_len(offset).map_err(CopyError::Write)?;
            return Ok(offset);
        }
        if chunk[..filled] != ZEROS[..filled] {
            to.write_all_at(&chunk[..filled], offset).map_err(CopyError::Write)?;
        }
        offset += filled as u64;
    }
}

fn fill(from: &mut impl Read, chunk: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < chunk.len() {
        match from.read(&mut chunk[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
