//! The guest seam: the agent over vsock. What is said on the wire is in `wire::guest`, how it gets there in
//! [`crate::guest`]; here it becomes the engine's words.
//!
//! A guest reports that it is ready by connecting to a socket in its run folder. [`HostGuest::expect`] binds that
//! socket before the VMM starts, so that the word cannot be missed; [`Guest::await_ready`] then waits for the word, the
//! end of the VMM, the deadline or the loss of interest, whichever comes first. The guest is not trusted: a line has a
//! length, a connection a deadline, and a wrong word is as good as none.

mod sync;

use super::clock::random_bytes;
use crate::config::file_sync::FileSync;
use crate::guest::{self, GuestError};
use crate::layout::Layout;
use engine::host::clock::Clock;
use engine::host::disk::Disks;
use engine::host::guest::{Guest, GuestHealth, GuestIdentity, Readiness};
use engine::host::vmm::Vmm;
use engine::host::{HostError, HostErrorKind, Report, Result, Watch};
use model::SandboxId;
use model::service::Service;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::UnixStream;
use tokio::runtime::Handle;
use wire::guest::{Drives, GuestNetwork, Health, Identity, Metrics, READY_PORT, Ready, Shutdown};

/// 4 KiB: the word is some 200 bytes long.
const MAX_READY_BYTES: u64 = 4096;
/// 2 s for a guest that connected to say its word.
const WORD_WITHIN: Duration = Duration::from_secs(2);
/// 40 s: a link, its addresses and routes are dozens of system calls, and where KVM is itself emulated each takes long.
const IDENTITY_WITHIN: Duration = Duration::from_secs(40);
/// 2 min for a guest's ext4 to take more room: 0.3 s for 32 GiB where QEMU translates, 2 GiB in 5 s under an emulated KVM.
const GROW_WITHIN: Duration = Duration::from_secs(120);
/// How often a wait asks whether anybody still wants its result; the guest's word wakes it at once.
const LOOK: Duration = Duration::from_millis(50);
/// How long one look at the VMM's end lasts; it returns at once when the VMM ends.
const EXIT_LOOK_MS: u64 = 500;

pub struct HostGuest {
    layout: Layout,
    runtime: Handle,
    clock: Arc<dyn Clock>,
    expected: Arc<Expected>,
    vmm: Arc<dyn Vmm>,
    authorized_keys: Vec<String>,
    files: Vec<FileSync>,
}

/// Sockets bound for guests that have not said their word yet.
pub struct Expected {
    layout: Layout,
    listeners: Mutex<HashMap<SandboxId, UnixListener>>,
}

impl Expected {
    pub fn new(layout: Layout) -> Arc<Expected> {
        Arc::new(Expected { layout, listeners: Mutex::default() })
    }

    /// Binds the socket on which `id` will report; its run folder exists, its VMM does not.
    pub fn expect(&self, id: &SandboxId) -> io::Result<()> {
        let path = self.layout.vsock_listener(id, READY_PORT);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        listener.set_nonblocking(true)?;
        self.lock().insert(id.clone(), listener);
        Ok(())
    }

    fn take(&self, id: &SandboxId) -> Option<UnixListener> {
        self.lock().remove(id)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<SandboxId, UnixListener>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a wait for a guest ended without its word.
enum Ended {
    Gone,
    TimedOut,
    Cancelled,
}

impl HostGuest {
    pub fn new(
        layout: Layout,
        runtime: Handle,
        clock: Arc<dyn Clock>,
        expected: Arc<Expected>,
        vmm: Arc<dyn Vmm>,
    ) -> HostGuest {
        HostGuest { layout, runtime, clock, expected, vmm, authorized_keys: Vec::new(), files: Vec::new() }
    }

    /// Lines for root's authorized_keys, for guests that run an sshd of their own.
    pub fn with_authorized_keys(mut self, lines: Vec<String>) -> Self {
        self.authorized_keys = lines;
        self
    }

    /// What every guest gets at its start.
    pub fn with_files(mut self, files: Vec<FileSync>) -> Self {
        self.files = files;
        self
    }

    fn error(&self, id: &SandboxId, attempt: &str, error: GuestError) -> HostError {
        let kind = match &error {
            GuestError::NoSocket { .. } | GuestError::NotListening | GuestError::Broken { .. } => {
                HostErrorKind::GuestGone
            }
            GuestError::Silent { .. } => HostErrorKind::TimedOut,
            GuestError::Refused { .. } => HostErrorKind::Broken,
        };
        HostError::new(kind, format!("cannot {attempt} {id}")).with_source(error)
    }

    /// The socket bound before the boot; after a restart of the daemon a new one, and then the guest may have spoken
    /// already, so it is asked first.
    async fn word(&self, id: &SandboxId) -> io::Result<Ready> {
        let listener = match self.expected.take(id) {
            Some(listener) => listener,
            None => {
                self.expected.expect(id)?;
                if let Ok(health) = guest::get::<Health>(&self.layout.vsock(id), "/healthz").await {
                    return Ok(ready_of(health));
                }
                self.expected.take(id).ok_or(io::ErrorKind::NotFound)?
            }
        };
        let listener = tokio::net::UnixListener::from_std(listener)?;
        loop {
            let (stream, _) = listener.accept().await?;
            match tokio::time::timeout(WORD_WITHIN, read_word(stream)).await {
                Ok(Some(ready)) => return Ok(ready),
                Ok(None) | Err(_) => tracing::warn!(vm = %id, "a guest said something that is no word of an agent"),
            }
        }
    }

    /// Returns when the VMM has ended; each look is short so that the thread ends with the wait.
    async fn exit(&self, id: &SandboxId) {
        let over = Arc::new(AtomicBool::new(false));
        let _end_of_wait = SetOnDrop(over.clone());
        let (vmm, id) = (self.vmm.clone(), id.clone());
        let look = move || {
            while !over.load(Ordering::SeqCst) {
                match vmm.await_exit(&id, EXIT_LOOK_MS) {
                    Ok(Some(_)) => return,
                    Ok(None) => {}
                    Err(error) => {
                        tracing::warn!(%error, vm = %id, "cannot watch a VMM; its end will be noticed late");
                        return std::thread::sleep(Duration::from_secs(1));
                    }
                }
            }
        };
        let _ = tokio::task::spawn_blocking(look).await;
    }
}

struct SetOnDrop(Arc<AtomicBool>);

impl Drop for SetOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

async fn unwanted(watch: &dyn Watch) {
    while !watch.cancelled() {
        tokio::time::sleep(LOOK).await;
    }
}

async fn read_word(stream: UnixStream) -> Option<Ready> {
    let mut line = Vec::new();
    BufReader::new(stream.take(MAX_READY_BYTES)).read_until(b'\n', &mut line).await.ok()?;
    serde_json::from_slice(&line).ok()
}

fn ready_of(health: Health) -> Ready {
    Ready {
        api_version: health.api_version,
        agent_version: health.agent_version,
        boot_id: health.boot_id,
        uptime_ms: health.uptime_ms,
        init: health.init,
    }
}

impl Guest for HostGuest {
    fn await_ready(&self, id: &SandboxId, timeout_ms: u64, watch: &dyn Watch) -> Result<Readiness> {
        let word = self.runtime.block_on(async {
            tokio::select! {
                word = self.word(id) => Ok(word),
                () = self.exit(id) => Err(Ended::Gone),
                () = tokio::time::sleep(Duration::from_millis(timeout_ms)) => Err(Ended::TimedOut),
                () = unwanted(watch) => Err(Ended::Cancelled),
            }
        });
        match word {
            Ok(Ok(ready)) => readiness(id, ready),
            Ok(Err(error)) => {
                Err(HostError::new(HostErrorKind::Broken, format!("cannot listen for the guest of {id}"))
                    .with_source(error))
            }
            Err(Ended::Gone) => Err(HostError::new(
                HostErrorKind::GuestGone,
                format!("the machine of {id} ended before its guest was ready"),
            )),
            Err(Ended::TimedOut) => {
                let attempt = format!("the guest of {id} was not ready within {} s", timeout_ms.div_ceil(1000));
                Err(HostError::new(HostErrorKind::TimedOut, attempt))
            }
            Err(Ended::Cancelled) => {
                Err(HostError::new(HostErrorKind::Cancelled, format!("nobody waits for the guest of {id} any more")))
            }
        }
    }

    fn identify(&self, id: &SandboxId, identity: &GuestIdentity) -> Result<()> {
        let said = Identity {
            hostname: identity.name.to_string(),
            clock_ns: Some(self.clock.now()),
            entropy: Some(hex(&random_bytes::<32>())),
            machine_id: Some(machine_id(id)),
            network: network(&identity.attachment),
            authorized_keys: self.authorized_keys.clone(),
            timezone: host_timezone(),
        };
        let path = self.layout.vsock(id);
        let answer = guest::post_within(&path, "/identity", &said, IDENTITY_WITHIN);
        let answer = self.runtime.block_on(answer);
        answer.map_err(|error| self.error(id, "give an identity to the guest of", error))
    }

    fn ensure_service(&self, id: &SandboxId, service: &Service) -> Result<()> {
        let said = wire::guest::Service {
            entrypoint: service.entrypoint.clone(),
            command: service.command.clone(),
            env: service.env.clone(),
            user: service.user.clone(),
            cwd: service.working_folder.clone(),
            stop_signal: service.stop_signal.number(),
            starts: service.starts,
            restart: service.restart.word().to_owned(),
        };
        let path = self.layout.vsock(id);
        let answer = self.runtime.block_on(async { guest::post(&path, "/service", &said).await });
        answer.map_err(|error| self.error(id, "give its service to the guest of", error))
    }

    fn sync_files(&self, id: &SandboxId, watch: &dyn Watch) -> Result<()> {
        let socket = self.layout.vsock(id);
        let ended = self.runtime.block_on(async {
            tokio::select! {
                ended = sync::sync(&socket, &self.files) => Ok(ended),
                () = self.exit(id) => Err(HostErrorKind::GuestGone),
                () = unwanted(watch) => Err(HostErrorKind::Cancelled),
            }
        });
        let attempt = || format!("cannot copy the files of `[[file_sync]]` into the guest of {id}");
        match ended {
            Ok(Ok(notes)) => {
                notes.into_iter().for_each(|text| watch.report(Report::Note { text }));
                Ok(())
            }
            Ok(Err(error)) => Err(HostError::new(HostErrorKind::Broken, attempt())
                .with_source(error)
                .with_hint("mend that entry of the configuration, or take it out")),
            Err(kind) => Err(HostError::new(kind, attempt())),
        }
    }

    fn ensure_file_systems(&self, wanted: &Disks) -> Result<()> {
        let path = self.layout.vsock(&wanted.id);
        let drives = Drives { root_bytes: wanted.root_size.bytes(), work_bytes: wanted.work_size.bytes() };
        let answer = self.runtime.block_on(guest::post_within(&path, "/drives", &drives, GROW_WITHIN));
        let cannot = |error| self.error(&wanted.id, "grow the file systems of", error);
        answer.map_err(|error| {
            cannot(error).with_hint("the same `banger vm set` goes on with it, and so does the next start")
        })
    }

    fn request_shutdown(&self, id: &SandboxId, grace_ms: u64) -> Result<()> {
        let path = self.layout.vsock(id);
        let shutdown = Shutdown { grace_ms };
        let answer = self.runtime.block_on(async { guest::post(&path, "/shutdown", &shutdown).await });
        answer.map_err(|error| self.error(id, "ask for a shutdown of", error))
    }

    fn health(&self, id: &SandboxId) -> Result<GuestHealth> {
        let path = self.layout.vsock(id);
        let (health, metrics) = self.runtime.block_on(async {
            let health = guest::get::<Health>(&path, "/healthz").await;
            let metrics = guest::get::<Metrics>(&path, "/metrics").await.unwrap_or_default();
            (health, metrics)
        });
        let health = health.map_err(|error| self.error(id, "ask for the health of", error))?;
        Ok(GuestHealth {
            boot_id: health.boot_id,
            agent_version: health.agent_version,
            uptime_ms: health.uptime_ms,
            init: health.init,
            system_state: health.system_state,
            sessions: health.sessions,
            load_percent: (metrics.load_1m.clamp(0.0, 10_000.0) * 100.0) as u32,
        })
    }
}

fn readiness(id: &SandboxId, ready: Ready) -> Result<Readiness> {
    if ready.api_version != wire::version::GUEST {
        let attempt = format!(
            "the agent in {id} speaks version {} of the guest API, this bangerd speaks {}",
            ready.api_version,
            wire::version::GUEST
        );
        return Err(
            HostError::new(HostErrorKind::Unfit, attempt).with_hint("install banger's programs from one release")
        );
    }
    Ok(Readiness {
        boot_id: ready.boot_id,
        agent_version: ready.agent_version,
        guest_uptime_ms: ready.uptime_ms,
        init: ready.init,
    })
}

fn network(attachment: &engine::host::network::Attachment) -> Option<GuestNetwork> {
    let text = |addresses: &[std::net::IpAddr]| addresses.iter().map(ToString::to_string).collect();
    Some(GuestNetwork {
        mac: attachment.mac.clone()?,
        addresses: attachment.addresses.clone(),
        gateways: text(&attachment.gateways),
        name_servers: text(&attachment.name_servers),
        search: attachment.search.clone(),
        mtu: attachment.mtu,
    })
}

/// 32 hexadecimal digits (machine-id(5)), the same for a sandbox's whole life, and no other's.
fn machine_id(id: &SandboxId) -> String {
    let mut hash = Sha256::new();
    hash.update(b"banger machine-id ");
    hash.update(id.as_str());
    hex(&hash.finalize()[..16])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The host's zone by name, as /etc/localtime points to it.
fn host_timezone() -> Option<String> {
    let target = fs::read_link("/etc/localtime").ok()?;
    let (_, zone) = target.to_str()?.split_once("zoneinfo/")?;
    Some(zone.to_owned())
}
