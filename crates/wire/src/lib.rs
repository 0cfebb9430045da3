//! Every byte that crosses a process boundary: four conversations, one module each, and what they share.
//!
//! | module | between | carried by |
//! |---|---|---|
//! | [`control`] | `banger` (or curl, or a web page) and `bangerd` | HTTP/1.1 + JSON over a Unix socket; long work answers in NDJSON |
//! | [`guest`] | `bangerd` and the agent in a guest | HTTP/1.1 over vsock; `exec` is a WebSocket |
//! | [`privilege`] | `bangerd` and its root helper | varlink over a Unix socket, descriptors passed |
//! | [`gateway`] | `bangerd` and the gateway of a sandbox without bridge | a file and JSON lines over a Unix socket |
//!
//! A type here is a promise to an older or newer peer: fields are added, never changed; unknown fields are ignored,
//! unknown events skipped. Every message has a golden file under `tests/golden/`.

#[cfg(feature = "control")]
pub mod control;
pub mod fault;
#[cfg(feature = "gateway")]
pub mod gateway;
#[cfg(feature = "guest")]
pub mod guest;
#[cfg(feature = "privilege")]
pub mod privilege;
pub mod version;

pub use fault::{Fault, FaultKind};
