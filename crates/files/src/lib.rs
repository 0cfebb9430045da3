//! Trees of files as tar streams: out of a folder ([`pack`]) and into one ([`unpack`]), on both sides of a guest's border.
//!
//! ```text
//! pack ──► write ─► headers, PAX records, sparse maps      read ──► unpack ──► below: no way out of the folder
//! ```
//! A stream keeps modes, owners, times to the nanosecond, extended attributes, symbolic and hard links, FIFOs, devices and
//! holes. Own reading and writing around the `tar` crate's headers, because that crate refuses binary attributes, reads names
//! of any length into memory and cannot set what it does not know.
//!
//! **What an archive may do** is bounded by its folder: an entry that would leave it, by its name or through a link, is an
//! error ([`below`]). An archive that comes from the other side of the border ([`Trust::Foreign`]) makes no devices, nothing
//! setuid, and no attribute that the kernel believes.
//!
//! **A file is whole or it is not there.** Contents go to a file beside the destination, which a rename then replaces; one
//! that was begun is removed when the work ends in the middle.
//!
//! **An archive is whole or it says so.** It ends with an empty block; when packing fails, a record tells why, and there is
//! no end.

mod below;
mod pack;
mod pax;
mod read;
mod unpack;
mod write;

pub use pack::{Links, PackOptions, Packer, Progress, measure, pack};
pub use read::{Archive, Entry, Kind};
pub use unpack::{Owner, Trust, UnpackOptions, Unpacked, unpack};
pub use write::{Facts, Writer};

/// 1 MiB: the longest record header, and the longest name; PATH_MAX is 4 KiB, an attribute's value at most 64 KiB (xattr(7)).
const HEADER_LIMIT_BYTES: u64 = 1024 * 1024;
/// The record in which a packer says why it stops.
const FAULT: &str = "BANGER.fault";
/// How tar names extended attributes.
const XATTR: &[u8] = b"SCHILY.xattr.";
