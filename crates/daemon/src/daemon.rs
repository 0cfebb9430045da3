//! The daemon's life: one per state folder and socket, from its first lock to the last call it answers.
//!
//! VMs are no part of it: they run on when it ends, however it ends, and the next one finds them again.

use crate::app::{App, HostKind, Parts};
use crate::config::defaults::{Defaults, HostSize};
use crate::config::{Config, ConfigError};
use crate::dns::GuestResolver;
use crate::host::images::Library;
use crate::host::network::bridged::Bridged;
use crate::instance::{InstanceError, Lock, Socket};
use crate::layout::{Layout, LayoutError};
use crate::publish::{Ports, follow};
use crate::{homecoming, host, names, server, watcher};
use engine::host::Host;
use engine::{Caps, Engine, Settings};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::net::UnixListener;
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};

#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    #[error(transparent)]
    Instance(#[from] InstanceError),
    #[error(transparent)]
    Layout(#[from] LayoutError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("{0}")]
    Engine(#[from] engine::Error),
    #[error("cannot {what}")]
    System { what: &'static str, source: io::Error },
}

/// What the command line and the environment say.
#[derive(Debug, Clone)]
pub struct Options {
    pub host: HostKind,
    pub layout: Layout,
    pub socket: PathBuf,
    pub config: Config,
}

/// What is under the engine.
pub struct Under {
    pub host: Host,
    /// Absent where images are imaginary.
    pub library: Option<Arc<Library>>,
    /// Absent where guests are.
    pub ports: Option<Arc<Ports>>,
    /// Absent where the network is imaginary.
    pub network: Option<Arc<Bridged>>,
    pub guest_names: Option<Arc<GuestResolver>>,
    /// Guests run instruction by instruction here.
    pub emulated: bool,
}

impl Under {
    /// A host and nothing beside it: no images, ports or network that are real.
    pub fn over(host: Host) -> Under {
        Under { host, library: None, ports: None, network: None, guest_names: None, emulated: false }
    }
}

/// A daemon that holds its locks and its socket and does not serve yet.
pub struct Daemon {
    app: Arc<App>,
    listener: UnixListener,
    socket: Socket,
    _state: Lock,
}

impl Daemon {
    /// Takes the locks, opens the store, looks at the machine. Call on the runtime that will serve.
    pub fn open(options: Options) -> Result<Daemon, DaemonError> {
        Daemon::open_on(options, |options| match options.host {
            HostKind::Sim => Ok(Under::over(host::simulated())),
            HostKind::Real => host::real(&options.layout, &options.config, Handle::current()),
        })
    }

    /// The same over seams of the caller's choosing; they are made once the locks are held.
    pub fn open_on(options: Options, host: impl FnOnce(&Options) -> io::Result<Under>) -> Result<Daemon, DaemonError> {
        options.layout.prepare()?;
        let state = Lock::take(&options.layout.daemon_lock())?;
        let mut socket = Socket::bind(&options.socket)?;
        let under = host(&options).map_err(|source| DaemonError::System { what: "prepare the host", source })?;
        let Under { host, library, ports, network, guest_names, emulated } = under;
        let Options { host: kind, layout, config, socket: _ } = options;
        let defaults = Defaults::new(&config, HostSize { emulated, ..HostSize::measure() });
        let engine = Engine::open(layout.state(), host.clone(), settings(&config, &defaults))?;
        let listener = listen(&mut socket)?;
        let path = socket.path().to_owned();
        let engine = Arc::new(engine);
        let parts =
            Parts { engine, host, kind, config, defaults, layout, socket: path, library, ports, network, guest_names };
        Ok(Daemon { app: App::new(parts), listener, socket, _state: state })
    }

    pub fn app(&self) -> &Arc<App> {
        &self.app
    }

    /// Serves until it is told to stop: by a signal, or through the API.
    pub async fn serve(self) -> Result<(), DaemonError> {
        let Daemon { app, listener, socket, _state } = self;
        let signals = tokio::spawn(stop_on_signal(app.clone())?);
        let watcher = tokio::spawn(watcher::watch(app.clone()));
        let names = tokio::spawn(names::keep(app.clone()));
        let follower = tokio::spawn(follow::keep(app.clone()));
        let homecoming = tokio::spawn(homecoming::keep(app.clone()));
        tracing::info!(version = crate::VERSION, host = app.kind.word(), socket = %app.socket.display(), "serving");
        server::serve(listener, app.clone()).await;
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        let _ = watcher.await;
        let _ = names.await;
        let _ = follower.await;
        let _ = homecoming.await;
        signals.abort();
        tracing::info!("stopped; VMs run on");
        drop(socket);
        Ok(())
    }
}

fn listen(socket: &mut Socket) -> Result<UnixListener, DaemonError> {
    let failed = |source| DaemonError::System { what: "listen", source };
    let listener = socket.take_listener().expect("nobody has taken it yet");
    listener.set_nonblocking(true).map_err(failed)?;
    UnixListener::from_std(listener).map_err(failed)
}

fn settings(config: &Config, defaults: &Defaults) -> Settings {
    let own = Settings::default();
    let caps = Caps { sandboxes: config.caps.vms, memory: config.caps.memory, disk: config.caps.disk, ..own.caps };
    let ms = |duration: std::time::Duration| duration.as_millis() as u64;
    Settings {
        caps,
        ready_timeout_ms: ms(defaults.ready_timeout.value),
        grace_ms: ms(defaults.stop_grace.value),
        synced_files: u32::try_from(config.file_sync.len()).unwrap_or(u32::MAX),
        ..own
    }
}

/// The signals are caught when this returns.
fn stop_on_signal(app: Arc<App>) -> Result<impl Future<Output = ()>, DaemonError> {
    let failed = |source| DaemonError::System { what: "listen for signals", source };
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("told to stop by a signal");
        app.stop();
    })
}
