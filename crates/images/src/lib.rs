//! Untrusted bytes become disks: tar layers, kernels, Debian packages and bundles are read here, and ext4 images,
//! initramfs archives and `vmlinux` files come out. No network, no async, no processes: whoever calls fetches the
//! bytes and owns the threads.
//!
//! This crate is the border to hostile archives. Three rules hold everywhere in it:
//! 1. every count, length and ratio that an archive chooses has a named limit ([`limits`]);
//! 2. no path of an archive ever reaches the host's file system: archives become trees in memory ([`tree`]), and
//!    contents are read from the archive by offset;
//! 3. the same input gives the same bytes.
//!
//! ```text
//! layer.tar.{gz,zst} ─► layer::spool ─► archive ─► tree ◄─ whiteout
//!                                                   └─► ext4 ─► rootfs.ext4, work-seed.ext4
//! vmlinuz ─► kernel ─► vmlinux     *.deb ─► deb ─► modules ─► initramfs
//! manifest, config: what a registry serves     layout: images on this machine     bundle, catalog: our own
//! ```

pub mod acl;
pub mod archive;
pub mod bundle;
pub mod catalog;
pub mod config;
pub mod deb;
pub mod digest;
pub mod ext4;
#[doc(hidden)]
pub mod fuzzing;
pub mod initramfs;
pub mod kernel;
pub mod layer;
pub mod layout;
pub mod limits;
pub mod manifest;
pub mod modules;
pub mod positioned;
pub mod sparse;
pub mod stack;
pub mod tree;
pub mod unpack;
pub mod whiteout;

#[cfg(test)]
mod differential;
mod elf;
mod pax;
mod sparse_file;
#[cfg(test)]
mod testing;
mod text;
mod xattr;

pub use digest::DigestReader;
pub use layer::{Compression, Layer, LayerError};
pub use limits::{Exceeded, Limits};
pub use tree::{Tree, TreeError};
