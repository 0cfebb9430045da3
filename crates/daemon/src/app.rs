//! What every call to the daemon shares: the engine, the host under it, the owner's configuration, and the word that
//! the daemon is to stop.

use crate::config::Config;
use crate::config::defaults::Defaults;
use crate::dns::GuestResolver;
use crate::host::network::bridged::Bridged;
use crate::layout::Layout;
use engine::StateChange;
use engine::host::Host;
use model::SandboxName;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use tokio::sync::{Notify, Semaphore, broadcast, watch};

/// Operations of the engine at once; further ones wait. Boots are bounded by memory long before.
pub const MAX_LONG_WORK: usize = 200;
/// State changes kept for a slow reader of `/v1/events`.
const EVENTS_KEPT: usize = 1024;

/// What is under the seams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum HostKind {
    /// This machine.
    Real,
    /// The engine's own small world in memory: no VM, no root, no network.
    Sim,
}

impl HostKind {
    pub const fn word(self) -> &'static str {
        match self {
            HostKind::Real => "real",
            HostKind::Sim => "sim",
        }
    }
}

pub struct App {
    pub engine: Arc<engine::Engine>,
    pub host: Host,
    pub kind: HostKind,
    pub config: Config,
    pub defaults: Defaults,
    pub layout: Layout,
    pub socket: PathBuf,
    pub log_file: PathBuf,
    pub started_at: u64,
    pub library: Option<Arc<crate::host::images::Library>>,
    pub network: Option<Arc<Bridged>>,
    pub guest_names: Option<Arc<GuestResolver>>,
    pub long_work: Semaphore,
    /// Who works on whose workspaces.
    pub workspaces: crate::workspace::locks::Locks,
    /// Whether a work disk is being prepared for later sandboxes.
    pub template_making: crate::workspace::template::Making,
    /// Published ports; absent where guests are imaginary.
    pub ports: Option<Arc<crate::publish::Ports>>,
    /// Somebody changed which ports shall be published by themselves.
    pub ports_changed: Notify,
    /// What is known of the work in guests.
    pub homes: crate::homecoming::Homes,
    /// Where the name server answers, once it does.
    pub dns: OnceLock<SocketAddr>,
    /// Of whom the name server tells; a new word makes it told anew.
    names: Mutex<BTreeSet<SandboxName>>,
    tell_anew: Notify,
    stopping: watch::Sender<bool>,
    events: broadcast::Sender<StateChange>,
}

/// What [`App::new`] is made of.
pub struct Parts {
    pub engine: Arc<engine::Engine>,
    pub host: Host,
    pub kind: HostKind,
    pub config: Config,
    pub defaults: Defaults,
    pub layout: Layout,
    pub socket: PathBuf,
    pub library: Option<Arc<crate::host::images::Library>>,
    pub ports: Option<Arc<crate::publish::Ports>>,
    pub network: Option<Arc<Bridged>>,
    pub guest_names: Option<Arc<GuestResolver>>,
}

impl App {
    pub fn new(parts: Parts) -> Arc<App> {
        let Parts { engine, host, kind, config, defaults, layout, socket, library, ports, network, guest_names } =
            parts;
        let started_at = host.clock.now();
        let log_file = log_file(&layout);
        let app = Arc::new(App {
            engine,
            host,
            kind,
            config,
            defaults,
            layout,
            socket,
            log_file,
            started_at,
            library,
            ports,
            ports_changed: Notify::new(),
            network,
            guest_names,
            long_work: Semaphore::new(MAX_LONG_WORK),
            workspaces: crate::workspace::locks::Locks::default(),
            template_making: crate::workspace::template::Making::default(),
            homes: crate::homecoming::Homes::default(),
            dns: OnceLock::new(),
            names: Mutex::default(),
            tell_anew: Notify::new(),
            stopping: watch::Sender::new(false),
            events: broadcast::Sender::new(EVENTS_KEPT),
        });
        crate::workspace::deliver::clear_scratch(&app);
        forward_events(&app);
        if let Some(ports) = &app.ports {
            let engine = Arc::downgrade(&app.engine);
            let name = move |id: &model::SandboxId| Some(engine.upgrade()?.get(id).ok()?.name().to_string());
            ports.name_by(Box::new(name));
        }
        app
    }

    /// Tells everything that serves to end; VMs run on.
    pub fn stop(&self) {
        self.stopping.send_replace(true);
    }

    pub fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// Returns once the daemon is to stop.
    pub async fn stopped(&self) {
        // The sender lives as long as `self`, so the only end of this wait is the word.
        let _ = self.stopping.subscribe().wait_for(|stopping| *stopping).await;
    }

    pub fn told_names(&self) -> BTreeSet<SandboxName> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn note_told_names(&self, names: impl Iterator<Item = SandboxName>) {
        *self.names.lock().unwrap_or_else(PoisonError::into_inner) = names.collect();
    }

    /// Has the names of all sandboxes told again.
    pub fn tell_names_anew(&self) {
        self.tell_anew.notify_one();
    }

    pub async fn names_wanted_anew(&self) {
        self.tell_anew.notified().await;
    }

    /// State changes from now on.
    pub fn events(&self) -> broadcast::Receiver<StateChange> {
        self.events.subscribe()
    }
}

pub fn log_file(layout: &Layout) -> PathBuf {
    layout.state().join("bangerd.log")
}

/// One thread carries the engine's blocking subscription over to everybody who listens here. It ends with the engine,
/// which holds the sending side.
fn forward_events(app: &Arc<App>) {
    let mut changes = app.engine.subscribe();
    let app: Weak<App> = Arc::downgrade(app);
    let forward = move || loop {
        while let Ok(change) = changes.recv() {
            let Some(app) = app.upgrade() else { return };
            tracing::info!(
                vm = %change.name,
                id = %change.id,
                from = change.from.map(|state| state.word()),
                to = change.to.map(|state| state.word()),
                operation = change.operation.as_ref().map(|id| id.as_str()),
                "state"
            );
            let _ = app.events.send(change);
        }
        // The engine let go of a subscriber that lagged, or is gone itself.
        let Some(app) = app.upgrade() else { return };
        changes = app.engine.subscribe();
    };
    std::thread::Builder::new().name("events".into()).spawn(forward).expect("the system has room for one more thread");
}
