//! The real host: the seven seams of `engine::host`, file for file.

pub mod disk;
pub mod network;
pub mod vmm;
