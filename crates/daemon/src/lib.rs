//! `bangerd`: does things as the owner and decides nothing.
//!
//! ```text
//! main ─► config ─► instance (lock, socket) ─► host (the seven seams) ─► engine ─► server (control API)
//!                                                   │                               │
//!                                                   └─ guest: vsock ◄──── exec ◄────┘
//! ```
//! A library with a thin `main`, so that tests serve the control API in-process on the simulated host.

pub mod dns;
pub mod guest_channel;
pub mod host;
pub mod layout;
pub mod ssh;
