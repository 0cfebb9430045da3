//! `bangerd`: does things as the owner and decides nothing.
//!
//! ```text
//! main ─► config ─► instance (lock, socket) ─► host (the seven seams) ─► engine ─► server (control API)
//!                                                   │                               │
//!                                                   └─ guest: vsock ◄──── exec ◄────┘
//! ```
//! A library with a thin `main`, so that tests serve the control API in-process on the simulated host.

pub mod app;
pub mod audit;
pub mod backup;
pub mod config;
pub mod daemon;
mod descriptor;
pub mod dns;
pub mod doctor;
pub mod exec;
#[cfg(test)]
mod golden;
pub mod guest;
pub mod guest_channel;
pub mod home;
pub mod homecoming;
pub mod host;
pub mod instance;
pub mod layout;
pub mod logging;
pub mod names;
pub mod process;
mod program;
pub mod publish;
pub mod server;
pub mod ssh;
mod tunnel;
pub mod watcher;
pub mod workspace;

pub const VERSION: &str = env!("CARGO_PKG_VERSION");
