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
use crate::dns::{self, GuestResolver};
use crate::guest_channel::Vsock;
use crate::layout::Layout;
use crate::publish::Ports;
use crate::ssh::keys::Keys;
use engine::host::Host;
use engine::host::vmm::{Vmm, choose};
use model::VmmChoice;
use network::bridged::{Bridged, GuestNames, Options, host_resolvers};
use network::choice;
use network::gateways::Gateways;
use network::helper::{Helper, SOCKET, Starter};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::runtime::Handle;
use vmm::backends::Programs;
use vmm::cgroup::{DEFAULT_WEIGHT, Weights};

/// The engine's small world: no VM, no root, no network.
pub fn simulated() -> Host {
    engine::sim::World::with_clock(Arc::new(clock::HostClock)).host()
}

/// This machine. Call on the runtime that will serve: the guests' sockets live on it.
pub fn real(layout: &Layout, config: &Config, runtime: Handle) -> io::Result<Under> {
    let clock = Arc::new(clock::HostClock);
    let library = Arc::new(
        images::Library::open(layout.clone())?
            .with_access(images::registry::Access::discover())
            .with_budget(config.blob_cache_size)
            .with_catalog(images::registry::config_folder().map(|folder| folder.join("catalog.d"))),
    );
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
        weights: Weights {
            cpu: config.limits.cpu_weight.unwrap_or(DEFAULT_WEIGHT),
            io: config.limits.io_weight.unwrap_or(DEFAULT_WEIGHT),
        },
        before_boot: Arc::new(move |id| bind.expect(id)),
    })?);
    let emulated = !chosen_is_accelerated(vmm.as_ref());
    let key = Keys::open(layout.ssh()).and_then(|keys| keys.ensure_client_key()).map_err(io::Error::other)?;
    let guest = guest::HostGuest::new(layout.clone(), runtime.clone(), clock.clone(), expected, vmm.clone());
    let ports = Ports::new(runtime.clone(), Vsock::channel(layout.clone()));
    let guest_names = match config.dns_port.unwrap_or(dns::DEFAULT_PORT) {
        0 => None,
        port => Some(Arc::new(GuestResolver::new(runtime, port))),
    };
    let user = network::HostNetwork::new(Some(ports.clone())).with_gateways(Gateways::new(layout.clone()));
    let network = Arc::new(connect(layout, config, user, guest_names.clone())?);
    let host = Host {
        vmm,
        network: network.clone(),
        disk: Arc::new(disk::HostDisk::new(layout.clone())),
        images: library.clone(),
        guest: Arc::new(guest.with_authorized_keys(vec![key]).with_files(config.file_sync.clone())),
        repository: Arc::new(repository::HostRepository),
        clock,
    };
    Ok(Under { host, library: Some(library), ports: Some(ports), network: Some(network), guest_names, emulated })
}

/// The network in the mode that this host allows. `BANGER_ROOT_SOCKET` names a helper elsewhere than packages put it.
fn connect(
    layout: &Layout,
    config: &Config,
    user: network::HostNetwork,
    names: Option<Arc<GuestResolver>>,
) -> io::Result<Bridged> {
    let named = std::env::var_os("BANGER_ROOT_SOCKET").map(PathBuf::from);
    let installed = named.clone().unwrap_or_else(|| SOCKET.into());
    let own =
        rustix::process::geteuid().is_root() && named.is_none() && !Helper::new(installed.clone(), None).answers();
    let folder = layout.root_helper();
    let owner = rustix::process::geteuid().as_raw();
    let starter = own.then(|| Starter { program: choice::helper_program(), ledger: folder.clone(), owner });
    let socket = if own { folder.join("socket") } else { installed };
    let helper = Helper::new(socket, starter.clone());
    let wanted = config.network.unwrap_or_default();
    let choice = choice::choose(wanted, &choice::look(wanted, &helper, starter.as_ref()));
    tracing::info!(mode = %choice.mode, reason = choice.reason, "the network of new sandboxes");
    let names = names.map(|names| names as Arc<dyn GuestNames>);
    let options = Options { choice, range: config.network_range, names, resolvers: host_resolvers() };
    Bridged::open(helper, user, &layout.addresses(), options)
}

fn chosen_is_accelerated(vmm: &dyn Vmm) -> bool {
    let backends = vmm.backends();
    let Ok(chosen) = choose(VmmChoice::Auto, &backends) else { return true };
    backends.iter().any(|facts| facts.backend == chosen && facts.accelerated)
}
