//! The real host: the seven seams of `engine::host`, file for file. Short and dull on purpose: what to do was decided in
//! the engine.

pub mod clock;
pub mod disk;
pub mod guest;
pub mod images;
pub mod network;
pub mod repository;
pub mod vmm;

use crate::config::Config;
use crate::daemon::Under;
use crate::guest_channel::Vsock;
use crate::layout::Layout;
use crate::publish::Ports;
use crate::ssh::keys::Keys;
use engine::host::Host;
use engine::host::vmm::{Vmm, choose};
use model::VmmChoice;
use std::io;
use std::sync::Arc;
use tokio::runtime::Handle;
use vmm::backends::Programs;

/// The engine's small world: no VM, no root, no network.
pub fn simulated() -> Host {
    engine::sim::World::with_clock(Arc::new(clock::HostClock)).host()
}

/// This machine. Call on the runtime that will serve: the guests' sockets live on it.
pub fn real(layout: &Layout, config: &Config, runtime: Handle) -> io::Result<Under> {
    let clock = Arc::new(clock::HostClock);
    let library = Arc::new(images::Library::open(layout.clone())?.with_access(images::registry::Access::discover()));
    let expected = guest::Expected::new(layout.clone());
    let programs = Programs {
        firecracker: config.firecracker_bin.clone(),
        qemu: config.qemu_bin.clone(),
        vsock_device: config.vsock_device_bin.clone(),
    };
    let bind = expected.clone();
    let vmm = Arc::new(vmm::HostVmm::new(vmm::Settings {
        layout: layout.clone(),
        programs,
        kernels: library.clone(),
        before_boot: Arc::new(move |id| bind.expect(id)),
    })?);
    let emulated = !chosen_is_accelerated(vmm.as_ref());
    let key = Keys::open(layout.ssh()).and_then(|keys| keys.ensure_client_key()).map_err(io::Error::other)?;
    let guest = guest::HostGuest::new(layout.clone(), runtime.clone(), clock.clone(), expected, vmm.clone());
    let ports = Ports::new(runtime, Vsock::channel(layout.clone()));
    let host = Host {
        vmm,
        network: Arc::new(network::HostNetwork::new(Some(ports.clone()))),
        disk: Arc::new(disk::HostDisk::new(layout.clone())),
        images: library.clone(),
        guest: Arc::new(guest.with_authorized_keys(vec![key]).with_files(config.file_sync.clone())),
        repository: Arc::new(repository::HostRepository),
        clock,
    };
    Ok(Under { host, library: Some(library), ports: Some(ports), emulated })
}

fn chosen_is_accelerated(vmm: &dyn Vmm) -> bool {
    let backends = vmm.backends();
    let Ok(chosen) = choose(VmmChoice::Auto, &backends) else { return true };
    backends.iter().any(|facts| facts.backend == chosen && facts.accelerated)
}
