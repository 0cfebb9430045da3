//! A copy of a sparse file that costs what the file holds, or nothing where blocks can be shared.

use rustix::fs::{SeekFrom, copy_file_range, ioctl_ficlone, seek};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::path::Path;

/// 64 MiB a call: long enough to be fast, short enough to fail soon on a full disk.
const CHUNK_BYTES: u64 = 64 * 1024 * 1024;

/// `to` becomes a copy of `from` with the same holes; it must not exist yet.
pub fn clone_sparse(from: &Path, to: &Path) -> io::Result<()> {
    let source = File::open(from)?;
    let target = File::options().read(true).write(true).create_new(true).open(to)?;
    // ext4, tmpfs and two different file systems cannot share blocks: then the pieces are copied.
    if ioctl_ficlone(&target, &source).is_ok() {
        return Ok(());
    }
    let length = source.metadata()?.len();
    target.set_len(length)?;
    let mut at = 0;
    while let Some((start, end)) = next_piece(&source, at, length)? {
        copy_piece(&source, &target, start, end)?;
        at = end;
    }
    Ok(())
}

/// The next stretch of data from `at` on.
fn next_piece(source: &File, at: u64, length: u64) -> io::Result<Option<(u64, u64)>> {
    if at >= length {
        return Ok(None);
    }
    match seek(source, SeekFrom::Data(at)) {
        Ok(start) => Ok(Some((start, seek(source, SeekFrom::Hole(start))?.min(length)))),
        // Nothing but a hole to the end.
        Err(Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn copy_piece(source: &File, target: &File, mut start: u64, end: u64) -> io::Result<()> {
    while start < end {
        let (mut from, mut to) = (start, start);
        let count = (end - start).min(CHUNK_BYTES);
        let copied = match copy_file_range(source, Some(&mut from), target, Some(&mut to), count as usize) {
            Ok(copied) => copied as u64,
            // Two file systems, or one that cannot: through memory then.
            Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => {
                copy_by_hand(source, target, start, count)?
            }
            Err(error) => return Err(error.into()),
        };
        if copied == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        start += copied;
    }
    Ok(())
}

fn copy_by_hand(source: &File, target: &File, at: u64, count: u64) -> io::Result<u64> {
    use std::os::unix::fs::FileExt;
    let mut buffer = vec![0; count.min(1024 * 1024) as usize];
    let count = source.read_at(&mut buffer, at)?;
    target.write_all_at(&buffer[..count], at)?;
    Ok(count as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{FileExt, MetadataExt};

    #[test]
    fn a_copy_has_the_same_bytes_and_the_same_holes() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        let file = File::create(&from).unwrap();
        file.set_len(64 << 20).unwrap();
        for at in [0, 5 << 20, (64 << 20) - 100] {
            file.write_all_at(&[7; 100], at).unwrap();
        }
        clone_sparse(&from, &to).unwrap();
        assert!(fs::read(&from).unwrap() == fs::read(&to).unwrap());
        assert!(fs::metadata(&to).unwrap().blocks() * 512 < 1 << 20, "the copy is sparse");
        assert!(clone_sparse(&from, &to).is_err(), "nothing is overwritten");

        let empty = folder.path().join("empty");
        File::create(&from).unwrap();
        clone_sparse(&from, &empty).unwrap();
        assert_eq!(fs::metadata(&empty).unwrap().len(), 0);
    }

    #[test]
    fn another_file_system_is_reached_through_memory() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        fs::write(&from, vec![9; 3 << 20]).unwrap();
        let (source, target) = (File::open(&from).unwrap(), File::create(&to).unwrap());
        let mut at = 0;
        while at < 3 << 20 {
            at += copy_by_hand(&source, &target, at, (3 << 20) - at).unwrap();
        }
        assert!(fs::read(&from).unwrap() == fs::read(&to).unwrap());
    }
}
