//! What the promises stand on: a world of one's own (state, sockets, daemon) around the real binaries, images and
//! kernels made once and shared, and the needs of a test said aloud.
//!
//! A test starts with its need (`if !needs::qemu("name") { return; }`): a missing one is a line and a skip, or a
//! failure when `REQUIRE_NEEDS` names it.

pub mod artifacts;
pub mod foreign;
pub mod needs;
pub mod netns;
pub mod program;
pub mod registry;
pub mod repository;
pub mod terminal;
pub mod world;

pub use program::Ran;
pub use repository::Repository;
pub use world::World;
