//! Debian packages without dpkg: an `ar` archive whose member `data.tar.*` holds the files (deb(5)). The package's
//! origin is apt's to verify; here it is an archive like any other.

use crate::layer::{Compression, Layer, LayerError};
use crate::limits::Limits;
use crate::pax::decimal;
use crate::positioned::{Range, ReadAt};
use crate::stack::Stack;
use crate::text;
use std::fs::File;
use std::io;
use std::ops::ControlFlow;

#[derive(Debug, thiserror::Error)]
pub enum DebError {
    #[error("cannot read the package")]
    Read(#[source] io::Error),
    #[error("the file is no Debian package: {reason}")]
    Malformed { reason: &'static str },
    #[error("the package is packed as {member}, which cannot be read here")]
    Packing { member: String },
    #[error("cannot read the package's files")]
    Data(#[source] LayerError),
}

const AR_MAGIC: &[u8] = b"!<arch>\n";
const AR_HEADER_BYTES: usize = 60;
/// `debian-binary`, `control.tar`, `data.tar`, and a few that deb(5) allows between them.
const MAX_MEMBERS: usize = 16;

/// Spools the package's files into `spool`, an empty file open for reading and writing, and reads their tree.
pub fn open(
    package: &File,
    spool: File,
    limits: &Limits,
    progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<Stack, DebError> {
    let (compression, offset, length) = find_data(package)?;
    let data = Range::new(package, offset, length);
    let layer = Layer::spool(data, compression, spool, limits, progress).map_err(DebError::Data)?;
    Stack::new(vec![layer], limits).map_err(DebError::Data)
}

/// Compression, offset and length of the member with the files.
fn find_data(package: impl ReadAt) -> Result<(Compression, u64, u64), DebError> {
    let malformed = |reason| DebError::Malformed { reason };
    let mut magic = [0; AR_MAGIC.len()];
    read(&package, &mut magic, 0)?;
    if magic != AR_MAGIC {
        return Err(malformed("it is no `ar` archive"));
    }
    let mut offset = AR_MAGIC.len() as u64;
    for _ in 0..MAX_MEMBERS {
        let mut header = [0; AR_HEADER_BYTES];
        read(&package, &mut header, offset)?;
        if !header.ends_with(b"`\n") {
            return Err(malformed("a member's header does not end as it should"));
        }
        let size: u64 = decimal(header[48..58].trim_ascii()).ok_or_else(|| malformed("a size is no number"))?;
        let name = header[..16].trim_ascii_end();
        let name = name.strip_suffix(b"/").unwrap_or(name);
        let start = offset + AR_HEADER_BYTES as u64;
        if let Some(extension) = name.strip_prefix(b"data.tar") {
            let compression = compression(extension);
            let compression = compression.ok_or_else(|| DebError::Packing { member: text::show(name) })?;
            return Ok((compression, start, size));
        }
        let end = start.checked_add(size).and_then(|end| end.checked_next_multiple_of(2));
        offset = end.ok_or_else(|| malformed("a size is too large"))?;
    }
    Err(malformed("it has no member `data.tar`"))
}

fn compression(extension: &[u8]) -> Option<Compression> {
    match extension {
        b"" => Some(Compression::Plain),
        b".gz" => Some(Compression::Gzip),
        b".xz" => Some(Compression::Xz),
        b".zst" => Some(Compression::Zstd),
        _ => None,
    }
}

fn read(package: &impl ReadAt, buffer: &mut [u8], offset: u64) -> Result<(), DebError> {
    package.read_exact_at(buffer, offset).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => DebError::Malformed { reason: "it ends before its files begin" },
        _ => DebError::Read(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Archive;
    use std::io::{Seek, Write};

    fn member(name: &str, contents: &[u8]) -> Vec<u8> {
        let mut member =
            format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, 100644, contents.len()).into_bytes();
        member.extend(contents);
        member.resize(member.len().next_multiple_of(2), b'\n');
        member
    }

    fn package(members: &[Vec<u8>]) -> File {
        let mut file = tempfile::tempfile().expect("a temporary file can be made");
        file.write_all(&[AR_MAGIC, &members.concat()].concat()).expect("it can be written");
        file.rewind().expect("it can be read again");
        file
    }

    fn open_package(package: &File) -> Result<Stack, DebError> {
        let spool = tempfile::tempfile().expect("a temporary file can be made");
        open(package, spool, &Limits::default(), &mut |_| ControlFlow::Continue(()))
    }

    #[test]
    fn files_of_a_package_can_be_read() {
        let data = Archive::default().file("./boot/vmlinuz-1", "kernel").symlink("boot/vmlinuz", "vmlinuz-1").bytes();
        let data = zstd::encode_all(&data[..], 0).expect("memory takes it");
        let members = [member("debian-binary", b"2.0"), member("control.tar.xz", b""), member("data.tar.zst/", &data)];
        let stack = open_package(&package(&members)).expect("the package is good");
        assert_eq!(stack.read("/boot/vmlinuz", 100).expect("it is there"), b"kernel");
        assert!(stack.read("/boot/vmlinuz", 5).is_err());
        assert!(stack.read("/boot/none", 5).is_err());
        assert!(stack.read("/boot", 5).is_err());
    }

    #[test]
    fn what_is_no_package_is_refused() {
        let refused = |members: &[Vec<u8>], reason: &str| {
            let error = open_package(&package(members)).expect_err("it is bad");
            assert!(error.to_string().contains(reason), "{error}");
        };
        refused(&[], "ends before");
        refused(&[member("debian-binary", b"2.0"), member("data.tar.lzma", b"")], "data.tar.lzma");
        refused(&[vec![b'x'; 60]], "header");
        refused(&vec![member("control", b""); 20], "no member");
        refused(&[member("data.tar.xz", b"no xz")], "cannot read");
        let not_ar = tempfile::tempfile().expect("a temporary file can be made");
        assert!(matches!(open_package(&not_ar), Err(DebError::Malformed { .. })));
    }
}
