//! What an archive may ask of us. Each limit has its own answer in [`Exceeded`], so that a person learns which one
//! an image ran into. The defaults fit any image we have seen, by a wide margin.

use model::ByteSize;
use model::size::{GIB, MIB, TIB};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Entries of all layers together. About 200 bytes of memory each.
    pub entries: u64,
    /// Bytes of a path, resolved and without the leading slash. 4095 is what Linux takes (`PATH_MAX` with its NUL).
    pub path_bytes: usize,
    /// Bytes of one decompressed layer.
    pub layer_bytes: u64,
    /// How many times its compressed size a layer may grow. Only asked beyond [`Limits::expansion_floor_bytes`].
    pub expansion_ratio: u64,
    /// A small layer of zeros compresses a thousandfold and hurts nobody: the ratio counts from here on.
    pub expansion_floor_bytes: u64,
    /// Bytes of all file contents together, holes not counted.
    pub content_bytes: u64,
    /// Bytes of one file, holes counted. ext4 with 4 KiB blocks ends at 16 TiB.
    pub file_bytes: u64,
    /// Bytes of one PAX header or long name: what Go's `archive/tar`, hence Docker, accepts too.
    pub header_bytes: u64,
    /// Pieces of one sparse file.
    pub sparse_pieces: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            entries: 4_000_000,
            path_bytes: 4095,
            layer_bytes: 256 * GIB,
            expansion_ratio: 200,
            expansion_floor_bytes: GIB,
            content_bytes: 512 * GIB,
            file_bytes: 16 * TIB - MIB,
            header_bytes: MIB,
            sparse_pieces: 100_000,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Exceeded {
    #[error("there are more than {limit} entries")]
    Entries { limit: u64 },
    #[error("the path {path} is longer than {limit} bytes")]
    Path { path: String, limit: usize },
    #[error("a layer is larger than {}", ByteSize::from_bytes(*limit))]
    LayerSize { limit: u64 },
    #[error("a layer expands to more than {limit} times its compressed size")]
    Expansion { limit: u64 },
    #[error("the files hold more than {}", ByteSize::from_bytes(*limit))]
    Content { limit: u64 },
    #[error("the file {path} is larger than {}", ByteSize::from_bytes(*limit))]
    File { path: String, limit: u64 },
    #[error("a header is longer than {}", ByteSize::from_bytes(*limit))]
    Header { limit: u64 },
    #[error("the file {path} has more than {limit} sparse pieces")]
    SparsePieces { path: String, limit: usize },
}
