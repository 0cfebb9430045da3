//! Decompresses a bounded piece of memory: kernel payloads, kernel modules, members of packages.

use flate2::bufread::GzDecoder;
use liblzma::bufread::XzDecoder;
use liblzma::stream::Stream;
use std::io::{self, Read};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    Gzip,
    Xz,
    Zstd,
    /// LZ4 frame format.
    Lz4,
    /// LZ4 as `lz4 -l` writes it and the kernel's build uses it: no checksums, no end mark.
    Lz4Legacy,
}

#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    #[error("the {packing:?} data is broken")]
    Broken { packing: Packing, source: io::Error },
    #[error("it unpacks to more than {limit} bytes")]
    TooLarge { limit: usize },
}

/// An xz decoder asks for what its archive says, up to its dictionary; 128 MiB serve `xz -9`, whose is 64 MiB.
pub(crate) const XZ_MEMORY_BYTES: u64 = 128 << 20;
/// 128 MiB, the window that `zstd --long=27` makes and decoders accept without being asked; more is memory that an
/// archive would choose for us.
pub(crate) const ZSTD_WINDOW_LOG_MAX: u32 = 27;
const LZ4_LEGACY_MAGIC: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];
/// 8 MiB: what a block of the legacy format holds before compression.
const LZ4_LEGACY_BLOCK_BYTES: usize = 8 << 20;

impl Packing {
    pub fn detect(start: &[u8]) -> Option<Self> {
        match start {
            [0x1f, 0x8b, ..] => Some(Packing::Gzip),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Packing::Xz),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Packing::Zstd),
            [0x04, 0x22, 0x4d, 0x18, ..] => Some(Packing::Lz4),
            _ if start.starts_with(&LZ4_LEGACY_MAGIC) => Some(Packing::Lz4Legacy),
            _ => None,
        }
    }

    /// Unpacks the stream that `packed` begins with; what follows it is ignored.
    pub fn unpack(self, packed: &[u8], limit: usize) -> Result<Vec<u8>, UnpackError> {
        let broken = |source| UnpackError::Broken { packing: self, source };
        let reader: Box<dyn Read + '_> = match self {
            Packing::Gzip => Box::new(GzDecoder::new(packed)),
            Packing::Xz => {
                let stream = Stream::new_stream_decoder(XZ_MEMORY_BYTES, 0).map_err(|e| broken(e.into()))?;
                Box::new(XzDecoder::new_stream(packed, stream))
            }
            Packing::Zstd => {
                let mut decoder = zstd::Decoder::with_buffer(packed).map_err(broken)?.single_frame();
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(broken)?;
                Box::new(decoder)
            }
            Packing::Lz4 => Box::new(lz4_flex::frame::FrameDecoder::new(packed)),
            Packing::Lz4Legacy => return unpack_lz4_legacy(packed, limit),
        };
        let mut unpacked = Vec::new();
        reader.take(limit as u64 + 1).read_to_end(&mut unpacked).map_err(broken)?;
        if unpacked.len() > limit { Err(UnpackError::TooLarge { limit }) } else { Ok(unpacked) }
    }
}

/// Magic, then blocks of `compressed length u32, data`. Only a block that is not full can be the last, but a full one
/// may be too: there is no end mark, so fewer than 5 bytes, or a length beyond the data, end it as well.
fn unpack_lz4_legacy(packed: &[u8], limit: usize) -> Result<Vec<u8>, UnpackError> {
    let mut rest = &packed[LZ4_LEGACY_MAGIC.len()..];
    let mut unpacked = Vec::new();
    let mut block = vec![0; LZ4_LEGACY_BLOCK_BYTES];
    while let Some((length, data)) = rest.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        if length == 0 || length > data.len() {
            break;
        }
        let (data, next) = data.split_at(length);
        let written = lz4_flex::block::decompress_into(data, &mut block).map_err(|error| UnpackError::Broken {
            packing: Packing::Lz4Legacy,
            source: io::Error::new(io::ErrorKind::InvalidData, error),
        })?;
        if unpacked.len() + written > limit {
            return Err(UnpackError::TooLarge { limit });
        }
        unpacked.extend_from_slice(&block[..written]);
        rest = next;
        if written < block.len() {
            break;
        }
    }
    Ok(unpacked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn pack(packing: Packing, bytes: &[u8]) -> Vec<u8> {
        let done = "memory takes it";
        match packing {
            Packing::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(bytes).expect(done);
                encoder.finish().expect(done)
            }
            Packing::Xz => {
                let mut packed = Vec::new();
                liblzma::bufread::XzEncoder::new(bytes, 0).read_to_end(&mut packed).expect(done);
                packed
            }
            Packing::Zstd => zstd::encode_all(bytes, 0).expect(done),
            Packing::Lz4 => {
                let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
                encoder.write_all(bytes).expect(done);
                encoder.finish().expect(done)
            }
            Packing::Lz4Legacy => {
                let mut packed = LZ4_LEGACY_MAGIC.to_vec();
                for block in bytes.chunks(LZ4_LEGACY_BLOCK_BYTES) {
                    let data = lz4_flex::block::compress(block);
                    packed.extend((data.len() as u32).to_le_bytes());
                    packed.extend(data);
                }
                packed
            }
        }
    }

    const ALL: [Packing; 5] = [Packing::Gzip, Packing::Xz, Packing::Zstd, Packing::Lz4, Packing::Lz4Legacy];

    #[test]
    fn every_packing_is_recognised_unpacked_and_bounded() {
        for packing in ALL {
            // More than one block of the legacy format; the others have nothing to show beyond a little.
            let length = if packing == Packing::Lz4Legacy { LZ4_LEGACY_BLOCK_BYTES as u32 + 100 } else { 100_000 };
            let bytes: Vec<u8> = (0..length).map(|i| (i >> 9) as u8).collect();
            let mut packed = pack(packing, &bytes);
            // The kernel's build appends the unpacked size.
            packed.extend((bytes.len() as u32).to_le_bytes());
            assert_eq!(Packing::detect(&packed), Some(packing));
            assert!(packing.unpack(&packed, bytes.len()).expect("it is whole") == bytes, "{packing:?}");
            let error = packing.unpack(&packed, bytes.len() - 1).expect_err("it is too large");
            assert!(matches!(error, UnpackError::TooLarge { .. }), "{packing:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_unpacked_without_panic(bytes: Vec<u8>, which in 0usize..5) {
            let magic = &pack(ALL[which], b"")[..4];
            let _ = ALL[which].unpack(&[magic, &bytes].concat(), 1 << 20);
        }
    }
}
