//! What the engine's tests share: a world, an engine on it, and a spec.
#![allow(dead_code)]

use engine::sim::World;
use engine::{Engine, Settings, Store};
use model::{ByteSize, InitMode, RestartPolicy, SandboxSpec, Vcpus, VmmChoice};
use std::collections::BTreeMap;
use std::sync::Arc;

pub fn spec(name: &str) -> SandboxSpec {
    SandboxSpec {
        name: name.parse().expect("a test's names are valid"),
        image: "debian-bookworm".parse().expect("valid"),
        kernel: "debian-cloud".parse().expect("valid"),
        vmm: VmmChoice::Auto,
        vcpus: Vcpus::ONE,
        memory: ByteSize::from_mib(256),
        disk_size: ByteSize::from_gib(4),
        root_size: ByteSize::from_gib(4),
        init: InitMode::Auto,
        egress: Default::default(),
        ports: Vec::new(),
        labels: BTreeMap::new(),
        restart: RestartPolicy::No,
        auto_forward: false,
        stop_when_idle_s: None,
        ephemeral: false,
        service: Default::default(),
        work_template: None,
    }
}

pub fn world() -> (Arc<World>, Store, Arc<Engine>) {
    world_with(Settings::default())
}

pub fn world_with(settings: Settings) -> (Arc<World>, Store, Arc<Engine>) {
    let world = World::new(7);
    let store = Store::in_memory().expect("a store in memory opens");
    let engine = Engine::over(store.clone(), world.host(), settings).expect("an engine opens");
    (world, store, Arc::new(engine))
}
