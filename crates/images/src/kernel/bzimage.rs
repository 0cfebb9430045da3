//! The x86 bzImage: where its payload lies and what release it says it is (Documentation/arch/x86/boot.rst).

use super::{KernelError, read_release};
use crate::elf::{self, u16_at, u32_at};
use crate::unpack::Packing;

const SETUP_SECTS: usize = 0x1f1;
const BOOT_FLAG: usize = 0x1fe;
const MAGIC: usize = 0x202;
const VERSION: usize = 0x206;
const KERNEL_VERSION: usize = 0x20e;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
/// 2.08 (Linux 2.6.26): the first protocol that says where the payload is.
const LEAST_VERSION: u16 = 0x0208;
const SECTOR_BYTES: usize = 512;

/// The payload and its packing, `None` for a bare ELF file.
pub(super) fn payload(file: &[u8]) -> Result<(&[u8], Option<Packing>), KernelError> {
    let malformed = |reason| KernelError::BzImage { reason };
    if !is_bzimage(file) {
        return Err(KernelError::Unknown);
    }
    if u16_at(file, VERSION).is_none_or(|version| version < LEAST_VERSION) {
        return Err(malformed("its boot protocol is older than 2.08"));
    }
    let setup_sectors = match file[SETUP_SECTS] {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let word = |at| u32_at(file, at).map(|word| word as usize).ok_or_else(|| malformed("its header is cut off"));
    let start = (setup_sectors + 1) * SECTOR_BYTES + word(PAYLOAD_OFFSET)?;
    let end = start.saturating_add(word(PAYLOAD_LENGTH)?);
    let payload = file.get(start..end).ok_or_else(|| malformed("its payload lies outside the file"))?;
    match Packing::detect(payload) {
        Some(packing) => Ok((payload, Some(packing))),
        None if payload.starts_with(elf::MAGIC) => Ok((payload, None)),
        None => Err(KernelError::Packing { packing: name_packing(payload) }),
    }
}

/// Unpacks a payload and holds it to the size that the kernel's build appends (gzip's own trailer says the same).
pub(super) fn unpack(payload: &[u8], packing: Packing, limit: usize) -> Result<Vec<u8>, KernelError> {
    let declared = payload.last_chunk::<4>().map_or(0, |size| u32::from_le_bytes(*size) as usize);
    let unpacked = packing.unpack(payload, limit.min(declared)).map_err(KernelError::Unpack)?;
    if unpacked.len() != declared {
        return Err(KernelError::BzImage { reason: "its payload is not as long as it says" });
    }
    Ok(unpacked)
}

/// The release that the setup header points to: `6.1.0-31-cloud-amd64 (debian-…) #1 SMP …`.
pub(super) fn release(file: &[u8]) -> Option<String> {
    if !is_bzimage(file) {
        return None;
    }
    let at = usize::from(u16_at(file, KERNEL_VERSION)?);
    if at == 0 { None } else { read_release(file.get(at + SECTOR_BYTES..)?) }
}

fn is_bzimage(file: &[u8]) -> bool {
    file.get(BOOT_FLAG..BOOT_FLAG + 2) == Some(&[0x55, 0xaa]) && file.get(MAGIC..MAGIC + 4) == Some(b"HdrS")
}

/// Packings that a kernel's build knows and this crate does not.
fn name_packing(payload: &[u8]) -> &'static str {
    match payload {
        [b'B', b'Z', b'h', ..] => "bzip2",
        [0x89, b'L', b'Z', b'O', ..] => "lzo",
        [0x5d, 0, 0, ..] => "lzma",
        _ => "something unknown",
    }
}
