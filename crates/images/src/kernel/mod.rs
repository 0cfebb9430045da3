//! Kernels: whatever a person brings, a bzImage or an ELF `vmlinux`, becomes an ELF `vmlinux` that has been looked at.
//!
//! Firecracker takes ELF only (it refuses a bzImage with "Invalid Elf magic number"); QEMU's `microvm` starts an ELF
//! through its PVH note. So the ELF is what is kept, and [`KernelFacts`] tells who can boot it.

pub mod bundle;
mod bzimage;
pub mod wanted;

use crate::elf::{self, Elf};
use crate::unpack::{Packing, UnpackError};
use model::Backend;
use std::borrow::Cow;

/// 1 GiB: a kernel with debug information, unpacked.
const MAX_VMLINUX_BYTES: usize = 1 << 30;

/// An ELF kernel and what is known about it.
#[derive(Debug)]
pub struct Vmlinux<'a> {
    pub bytes: Cow<'a, [u8]>,
    pub facts: KernelFacts,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelFacts {
    pub origin: Origin,
    /// As `uname -r` will say it: `6.1.0-31-cloud-amd64`.
    pub release: Option<String>,
    /// It can be entered the way QEMU's `microvm` does it.
    pub has_pvh_note: bool,
}

/// What the kernel was brought as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    Vmlinux,
    /// A bzImage, by the packing of its payload; `None`: it was not compressed.
    BzImage(Option<Packing>),
}

#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    #[error("the file is neither an ELF `vmlinux` nor an x86 bzImage")]
    Unknown,
    #[error("the bzImage is malformed: {reason}")]
    BzImage { reason: &'static str },
    #[error("the payload of the bzImage is packed with {packing}, which cannot be unpacked here")]
    Packing { packing: &'static str },
    #[error("cannot unpack the payload of the bzImage")]
    Unpack(#[source] UnpackError),
    #[error("cannot unpack the file")]
    Packed(#[source] UnpackError),
    #[error("the kernel cannot be booted: {reason}")]
    Unbootable { reason: &'static str },
}

impl KernelFacts {
    /// The VMMs that can boot it.
    pub fn backends(&self) -> Vec<Backend> {
        let can = |backend: &Backend| match backend {
            Backend::Firecracker | Backend::Sim => true,
            Backend::Qemu => self.has_pvh_note,
        };
        Backend::ALL.iter().copied().filter(can).collect()
    }
}

/// Reads a kernel file of either format; a `vmlinux` may be packed as a whole (`vmlinux.zst`).
pub fn unpack(file: &[u8]) -> Result<Vmlinux<'_>, KernelError> {
    unpack_within(file, MAX_VMLINUX_BYTES)
}

/// The same for a kernel of at most so many bytes.
pub fn unpack_within(file: &[u8], limit: usize) -> Result<Vmlinux<'_>, KernelError> {
    let (bytes, origin) = if file.starts_with(elf::MAGIC) {
        (Cow::Borrowed(file), Origin::Vmlinux)
    } else if let Some(packing) = Packing::detect(file) {
        (Cow::Owned(packing.unpack(file, limit).map_err(KernelError::Packed)?), Origin::Vmlinux)
    } else {
        let (payload, packing) = bzimage::payload(file)?;
        let bytes = match packing {
            None => Cow::Borrowed(payload),
            Some(packing) => Cow::Owned(bzimage::unpack(payload, packing, limit)?),
        };
        (bytes, Origin::BzImage(packing))
    };
    let has_pvh_note = check(&bytes)?;
    let release = bzimage::release(file).or_else(|| find_release(&bytes));
    Ok(Vmlinux { facts: KernelFacts { origin, release, has_pvh_note }, bytes })
}

/// `XEN_ELFNOTE_PHYS32_ENTRY` (xen/interface/elfnote.h): where PVH enters.
const PVH_NOTE: (&[u8], u32) = (b"Xen", 18);

/// Holds the ELF to what a VMM's loader will need; answers whether it has a PVH note.
fn check(bytes: &[u8]) -> Result<bool, KernelError> {
    let unbootable = |reason| KernelError::Unbootable { reason };
    let elf = Elf::parse(bytes).ok_or_else(|| unbootable("it is no 64-bit ELF file"))?;
    if elf.machine() != elf::EM_X86_64 {
        return Err(unbootable("it is not for x86-64"));
    }
    if !matches!(elf.kind(), elf::ET_EXEC | elf::ET_DYN) {
        return Err(unbootable("it is an ELF file, but no executable"));
    }
    let segments = elf.segments().ok_or_else(|| unbootable("its segments lie outside the file"))?;
    let holds_entry = |segment: &elf::Segment| {
        let within = |start: u64| elf.entry().checked_sub(start).is_some_and(|at| at < segment.memory_bytes);
        segment.kind == elf::PT_LOAD && (within(segment.physical_address) || within(segment.virtual_address))
    };
    if !segments.iter().any(holds_entry) {
        return Err(unbootable("no segment holds its entry point"));
    }
    let mut notes = segments.iter().filter(|segment| segment.kind == elf::PT_NOTE);
    Ok(notes.any(|segment| {
        let contents = elf.contents(*segment).unwrap_or_default();
        elf::notes(contents).any(|(name, kind, entry)| (name, kind) == PVH_NOTE && !entry.is_empty())
    }))
}

const BANNER: &[u8] = b"Linux version ";
/// 64 bytes with the final NUL: `__NEW_UTS_LEN`.
const MAX_RELEASE_BYTES: usize = 64;

/// The release in the kernel's banner (`Linux version 6.1.0 (…`). The same words stand elsewhere as a format
/// string, so a digit must follow.
fn find_release(bytes: &[u8]) -> Option<String> {
    let mut rest = bytes;
    while let Some(at) = find(rest, BANNER) {
        rest = &rest[at + BANNER.len()..];
        if let Some(release) = read_release(rest) {
            return Some(release);
        }
    }
    None
}

/// A release at the start of `bytes`, up to a blank or NUL.
fn read_release(bytes: &[u8]) -> Option<String> {
    let bytes = &bytes[..bytes.len().min(MAX_RELEASE_BYTES)];
    let end = bytes.iter().position(|byte| matches!(byte, b' ' | 0))?;
    let valid = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'+' | b'~');
    let release = &bytes[..end];
    let good = release.first().is_some_and(u8::is_ascii_digit) && release.iter().all(valid);
    good.then(|| String::from_utf8_lossy(release).into_owned())
}

/// First occurrence of `needle`, skipping from one candidate for its first byte to the next.
fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        at += haystack.get(at..)?.iter().position(|byte| *byte == needle[0])?;
        if haystack[at..].starts_with(needle) {
            return Some(at);
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests;
