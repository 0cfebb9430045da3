//! The few fields of a 64-bit little-endian ELF file that kernels and modules are judged by. Every offset in it is
//! taken for a lie until it has been checked.

/// The file, and what its header says about it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Elf<'a> {
    bytes: &'a [u8],
}

pub(crate) const MAGIC: &[u8] = b"\x7fELF";
pub(crate) const EM_X86_64: u16 = 62;
pub(crate) const ET_REL: u16 = 1;
pub(crate) const ET_EXEC: u16 = 2;
pub(crate) const ET_DYN: u16 = 3;
pub(crate) const PT_LOAD: u32 = 1;
pub(crate) const PT_NOTE: u32 = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) kind: u32,
    pub(crate) offset: u64,
    pub(crate) virtual_address: u64,
    pub(crate) physical_address: u64,
    pub(crate) file_bytes: u64,
    pub(crate) memory_bytes: u64,
}

impl<'a> Elf<'a> {
    /// `None` unless it is a 64-bit little-endian ELF file with a whole header.
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let is_elf64 = bytes.len() >= 64 && bytes.starts_with(MAGIC) && bytes[4] == 2 && bytes[5] == 1;
        is_elf64.then_some(Elf { bytes })
    }

    pub(crate) fn kind(&self) -> u16 {
        u16_at(self.bytes, 16).unwrap_or_default()
    }

    pub(crate) fn machine(&self) -> u16 {
        u16_at(self.bytes, 18).unwrap_or_default()
    }

    pub(crate) fn entry(&self) -> u64 {
        u64_at(self.bytes, 24).unwrap_or_default()
    }

    /// The program headers; `None` if they or what they point to lie outside the file.
    pub(crate) fn segments(&self) -> Option<Vec<Segment>> {
        let (offset, size, count) = (u64_at(self.bytes, 32)?, u16_at(self.bytes, 54)?, u16_at(self.bytes, 56)?);
        let table = table(self.bytes, offset, size, count, 56)?;
        table.map(|header| self.segment(header)).collect()
    }

    fn segment(&self, header: &[u8]) -> Option<Segment> {
        let segment = Segment {
            kind: u32_at(header, 0)?,
            offset: u64_at(header, 8)?,
            virtual_address: u64_at(header, 16)?,
            physical_address: u64_at(header, 24)?,
            file_bytes: u64_at(header, 32)?,
            memory_bytes: u64_at(header, 40)?,
        };
        self.slice(segment.offset, segment.file_bytes)?;
        Some(segment)
    }

    pub(crate) fn contents(&self, segment: Segment) -> Option<&'a [u8]> {
        self.slice(segment.offset, segment.file_bytes)
    }

    /// The contents of the section of that name.
    pub(crate) fn section(&self, name: &str) -> Option<&'a [u8]> {
        let (offset, size, count) = (u64_at(self.bytes, 40)?, u16_at(self.bytes, 58)?, u16_at(self.bytes, 60)?);
        let headers: Vec<_> = table(self.bytes, offset, size, count, 64)?.collect();
        let place = |header: &[u8]| self.slice(u64_at(header, 24)?, u64_at(header, 32)?);
        let names = place(headers.get(usize::from(u16_at(self.bytes, 62)?))?)?;
        let wanted = headers.iter().find(|header| {
            let start = u32_at(header, 0).map_or(usize::MAX, |at| at as usize);
            names.get(start..).and_then(|rest| rest.split(|&b| b == 0).next()) == Some(name.as_bytes())
        })?;
        place(wanted)
    }

    fn slice(&self, offset: u64, length: u64) -> Option<&'a [u8]> {
        let start = usize::try_from(offset).ok()?;
        let end = start.checked_add(usize::try_from(length).ok()?)?;
        self.bytes.get(start..end)
    }
}

/// Notes (name, type, contents) of a note segment, 4-byte aligned; ends where they stop making sense.
pub(crate) fn notes(mut rest: &[u8]) -> impl Iterator<Item = (&[u8], u32, &[u8])> {
    std::iter::from_fn(move || {
        let (name_bytes, length) = (u32_at(rest, 0)? as usize, u32_at(rest, 4)? as usize);
        let kind = u32_at(rest, 8)?;
        let name = rest.get(12..12usize.checked_add(name_bytes)?)?;
        let start = 12 + name_bytes.checked_next_multiple_of(4)?;
        let contents = rest.get(start..start.checked_add(length)?)?;
        rest = rest.get(start + length.checked_next_multiple_of(4)?..).unwrap_or_default();
        Some((name.strip_suffix(b"\0").unwrap_or(name), kind, contents))
    })
}

fn table(bytes: &[u8], offset: u64, size: u16, count: u16, least: u16) -> Option<std::slice::ChunksExact<'_, u8>> {
    if size < least {
        return None;
    }
    let start = usize::try_from(offset).ok()?;
    let end = start.checked_add(usize::from(size) * usize::from(count))?;
    Some(bytes.get(start..end)?.chunks_exact(usize::from(size)))
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_read_until_they_lie() {
        let mut bytes = Vec::new();
        for word in [4u32, 4, 18] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(b"Xen\0\x01\x02\x03\x04");
        bytes.extend([0xff; 12]);
        let read: Vec<_> = notes(&bytes).collect();
        assert_eq!(read, [(&b"Xen"[..], 18, &[1u8, 2, 3, 4][..])]);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(mut bytes: Vec<u8>) {
            let _ = notes(&bytes).count();
            bytes.splice(0..bytes.len().min(6), *b"\x7fELF\x02\x01");
            if let Some(elf) = Elf::parse(&bytes) {
                let _ = elf.segments();
                let _ = elf.section(".modinfo");
            }
        }
    }
}
