//! Packets as bytes: a length, a kind, fields in network order; strings carry their length.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// 256 KiB: the longest packet taken, as in OpenSSH (SFTP_MAX_MSG_LENGTH).
pub const LIMIT_BYTES: usize = 256 * 1024;
/// 255 KiB: the most one read or write moves, which leaves room for the other fields.
pub const DATA_BYTES: usize = LIMIT_BYTES - 1024;

/// One packet without its length; absent at the end of the input.
pub fn read(input: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match input.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let length = u32::from_be_bytes(length) as usize;
    if length == 0 || length > LIMIT_BYTES {
        return Err(io::Error::other(format!("a packet of {length} bytes")));
    }
    let mut packet = vec![0; length];
    input.read_exact(&mut packet)?;
    Ok(Some(packet))
}

/// Takes fields off a packet.
pub struct Reader<'a>(&'a [u8]);

/// The packet ends before its fields do.
#[derive(Debug)]
pub struct Short;

impl<'a> Reader<'a> {
    pub fn new(packet: &'a [u8]) -> Self {
        Reader(packet)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Short> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Short)?;
        self.0 = rest;
        Ok(taken)
    }

    pub fn byte(&mut self) -> Result<u8, Short> {
        Ok(self.take(1)?[0])
    }

    pub fn u32(&mut self) -> Result<u32, Short> {
        Ok(u32::from_be_bytes(self.take(4)?.try_into().map_err(|_| Short)?))
    }

    pub fn u64(&mut self) -> Result<u64, Short> {
        Ok(u64::from_be_bytes(self.take(8)?.try_into().map_err(|_| Short)?))
    }

    pub fn string(&mut self) -> Result<&'a [u8], Short> {
        let length = self.u32()? as usize;
        self.take(length)
    }

    /// The empty path is the current folder.
    pub fn path(&mut self) -> Result<PathBuf, Short> {
        let bytes = match self.string()? {
            [] => b".",
            bytes => bytes,
        };
        Ok(PathBuf::from(OsString::from_vec(bytes.to_vec())))
    }
}

/// Builds a packet; [`Writer::finish`] puts its length in front.
pub struct Writer(Vec<u8>);

impl Writer {
    pub fn new(kind: u8) -> Self {
        Writer(vec![0, 0, 0, 0, kind])
    }

    pub fn reply(kind: u8, id: u32) -> Self {
        Writer::new(kind).u32(id)
    }

    pub fn u32(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub fn u64(mut self, value: u64) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub fn string(mut self, bytes: &[u8]) -> Self {
        self = self.u32(bytes.len() as u32);
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn append(mut self, other: &[u8]) -> Self {
        self.0.extend_from_slice(other);
        self
    }

    pub fn into_fields(mut self) -> Vec<u8> {
        self.0.split_off(5)
    }

    pub fn finish(mut self) -> Vec<u8> {
        let length = (self.0.len() - 4) as u32;
        self.0[..4].copy_from_slice(&length.to_be_bytes());
        self.0
    }
}
