//! The real host: the seven seams of `engine::host`, file for file. Short and dull on purpose: what to do was decided in
//! the engine.

pub mod clock;
pub mod disk;
pub mod guest;
pub mod images;
pub mod network;
pub mod repository;
pub mod vmm;

use crate::app::App;
use crate::config::Config;
use crate::daemon::Under;
use crate::layout::Layout;
use engine::host::Host;
use std::io;
use std::sync::Arc;
use tokio::runtime::Handle;
use wire::control::Check;

/// The engine's small world: no VM, no root, no network.
pub fn simulated() -> Host {
    engine::sim::World::with_clock(Arc::new(clock::HostClock)).host()
}

pub fn real(_layout: &Layout, _config: &Config, _runtime: Handle) -> io::Result<Under> {
    Err(io::Error::other("the real host is not joined yet"))
}

pub fn checks(_app: &App) -> Vec<Check> {
    Vec::new()
}
