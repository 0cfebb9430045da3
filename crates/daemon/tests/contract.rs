//! The real disk and network seams keep the engine's contract; the seams around them are simulated.

use daemon::host::disk::HostDisk;
use daemon::host::network::HostNetwork;
use daemon::layout::Layout;
use engine::host::contract::{self, Subject};
use model::egress::Outbound;
use model::{ByteSize, InitMode};
use std::fs;
use std::sync::Arc;

#[test]
fn disks_and_user_network_keep_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    let [state, runtime, cache] = ["s", "r", "c"].map(|name| folder.path().join(name));
    let layout = Layout::at(state, runtime, cache).unwrap();
    layout.prepare().unwrap();
    let image = "empty".parse().unwrap();
    fs::create_dir(layout.image(&image)).unwrap();
    fs::write(layout.image_rootfs(&image), "").unwrap();

    let mut host = engine::sim::World::new(7).host();
    host.disk = Arc::new(HostDisk::new(layout));
    host.network = Arc::new(HostNetwork::new(None));
    let subject = Subject {
        host: &host,
        image,
        kernel: "none".parse().unwrap(),
        memory: ByteSize::from_mib(64),
        init: InitMode::Agent,
        outbound: Outbound::Nat,
        ready_timeout_ms: 1000,
    };
    contract::disk(&subject);
    contract::network(&subject);
}
