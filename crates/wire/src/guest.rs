//! The guest API: what `bangerd` says to the agent in a guest, HTTP/1.1 over vsock, one connection per call.
//!
//! | path | what |
//! |---|---|
//! | `GET /healthz` | [`Health`] |
//! | `POST /identity` | [`Identity`] → 204; hostname, address, keys, clock and entropy, again after every restore or fork |
//! | `POST /clock` | [`Clock`] → 204 |
//! | `GET /metrics` | [`Metrics`] |
//! | `GET /ports` | [`Ports`] |
//! | `GET /ports?watch=true` | one [`Ports`] a line: what listens now, then again after each change, see below |
//! | `GET /exec` | WebSocket, see below |
//! | `GET /stream?port=N` or `?path=/run/x.sock` | `101 Switching Protocols`, then bytes, see below |
//! | `GET /stream?ticket=T` | the same with a connection that `/listen` announced |
//! | `GET /stream?udp=N` | the same with a UDP port: each frame is a datagram |
//! | `GET /listen?port=N`, `?socket=true` | `101 Switching Protocols`, then [`ListenEvent`]s, see below |
//! | `PUT /files?path=P` | body is a tar archive, unpacked below the folder `P` (made when missing) → 204, see below |
//! | `GET /files?path=P` | answers a tar archive of `P`, see below |
//! | `GET /stat?path=P` | [`FileFacts`] of what `P` leads to |
//! | `POST /service` | [`Service`] → 204; the image's own command, started unless it runs or has ended for good |
//! | `GET /service` | [`ServiceFacts`]; 404 where there is none |
//! | `GET /service/log?tail=N&follow=true` | what the command wrote, its streams mixed; with `follow` until it has ended for good |
//! | `PUT /workspace?path=P` | body is a tar archive that becomes the folder `P`, see below → [`Placed`] |
//! | `GET /workspace?path=P` | [`WorkspaceState`] |
//! | `GET /encodings` | what the archive of a `PUT /workspace` may be packed in, as a list: [`LZ4`]; 404 of an older agent: nothing |
//! | `POST /drives` | [`Drives`] → 204; the file systems take all of drives that have grown |
//! | `POST /work/scan`, `/work/read`, `/work/watch` | what was done below a folder, see [`work`] |
//! | `POST /shutdown` | [`Shutdown`] → 202, then the guest syncs and powers off |
//!
//! A failure is a [`crate::Fault`] as JSON with the fault's HTTP status. Values in a query are percent-encoded.
//!
//! **Readiness.** When the agent serves, it connects to the host (CID 2) on port [`READY_PORT`], writes one line of
//! JSON ([`Ready`]) and closes. The host never polls. An agent that was restarted says it again; `boot_id` tells whether
//! the guest is still the same. What the kernel's command line says to the agent stands in [`cmdline`].
//!
//! **Exec.** A WebSocket whose first message is a text frame with [`ExecRequest`]; then binary frames, each starting
//! with a channel byte, as in Kubernetes' remote command protocol v5. The guest ends with [`CHANNEL_STATUS`] and closes.
//! Each side reads on only when it has passed on what it read: a slow reader slows the command, nothing grows. The agent
//! pings every [`EXEC_PING_SECONDS`]; a peer that is gone ends the command: SIGHUP to its process group, after
//! [`EXEC_HANGUP_GRACE_MS`] SIGKILL. What the command left running in another process group or session lives on.
//!
//! **Stream.** The request carries `Connection: Upgrade` and `Upgrade: `[`STREAM_UPGRADE`]; after the 101 each direction
//! is a row of frames: four bytes of length, big-endian, at most [`STREAM_FRAME_LIMIT_BYTES`], then so many bytes. A frame of
//! length 0 ends its direction and leaves the other one open: not every vsock device passes a half-closed connection on.
//! A transport that ends without it broke off, and whoever is behind it gets a reset instead of a false end. Of a UDP
//! port an empty frame is an empty datagram; it ends with the transport.
//!
//! **Ports that are watched.** The kernel tells nobody when a socket begins to listen (sock_diag(7) has events for sockets
//! that are destroyed, none for new ones). So the agent reads /proc/net/tcp and /proc/net/tcp6 every [`PORTS_WATCH_MS`],
//! only while somebody watches, and looks for the processes behind only when something changed.
//!
//! **Listen.** Upgraded as a stream is. The guest listens on the TCP port (0: any free one; on loopback, or on every address
//! with `everywhere=true`), or on a Unix socket (`path=P`, else one of the agent's choosing in a folder that only `user=U`
//! enters). It writes one [`ListenEvent`] a line: first what it bound, then each connection with a ticket, which the host
//! takes up with `GET /stream?ticket=T` within [`TICKET_SECONDS`]. The socket is gone when the call ends. So no two
//! connections share a flow, and none needs the guest to reach the host.
//!
//! **Files.** The archive of `P` names its entries from the last component of `P` on (`/etc/apt` → `apt/`, `apt/sources.list`;
//! `/` → `./`), or from `name=N` on (`name=.`: what is in `P`); with `follow=true` it is of what `P` leads to. It stays on one file
//! system, keeps modes, owners, times to the nanosecond, extended attributes (PAX records `SCHILY.xattr.…`), symbolic and hard
//! links, devices and holes (GNU sparse maps), and leaves sockets out. An archive that breaks off without its end was cut short
//! by a failure; a PAX record `BANGER.fault` says by which, where it can. Unpacking refuses an entry that would leave `P`; each
//! file takes its place by a rename once it is whole; `owner=root` gives all of it to root instead of to whom the archive says.
//!
//! **Workspace.** The archive is unpacked beside `P` and put in place only when all of it has come: one that breaks off
//! leaves `P` as it was. A `P` that holds anything is refused unless `over=true` says that a workspace of ours lies there;
//! then what the host has no more goes, what the guest added stays, and what the guest changed is refused (`conflict`)
//! unless `discard=true`. The ledger of what was put there lies beside `P`, as `.NAME.banger`, under the `id=` of its shipment.
//! With `base=` the archive holds only what changed since the shipment of that id, and its first entry, [`REMOVED_LIST`], the
//! paths that went (each ended by a NUL byte); `not_found` says that another shipment lies there. With `fresh=true` the guest
//! has just booted with that shipment on its disk: only what the changes would replace is looked at. See [`ledger`]. With
//! `encoding=lz4` the archive is one LZ4 frame (LZ4 Frame Format 1.6).

mod workspace;

pub use workspace::*;

pub mod ledger;
pub mod window;
pub mod work;

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The vsock port on which the agent serves HTTP.
pub const AGENT_PORT: u32 = 5000;
/// The vsock port on the host on which a guest reports that it is ready.
pub const READY_PORT: u32 = 5001;
/// The host's context id on every vsock.
pub const HOST_CID: u32 = 2;

/// 64 KiB: the largest payload a peer puts in one exec frame; a receiver refuses more than 1 MiB.
pub const EXEC_CHUNK_BYTES: usize = 64 * 1024;
pub const EXEC_FRAME_LIMIT_BYTES: usize = 1024 * 1024;

/// 15 s between the agent's pings in an exec session: how soon a vanished peer is noticed while the command is silent.
pub const EXEC_PING_SECONDS: u64 = 15;
/// 2 s: what a command has between the hang-up of its peer and SIGKILL.
pub const EXEC_HANGUP_GRACE_MS: u64 = 2000;

/// The protocol named in `Upgrade:` of `GET /stream`.
pub const STREAM_UPGRADE: &str = "tcp";

/// 64 KiB: the largest frame of a stream; a UDP datagram is smaller.
pub const STREAM_FRAME_LIMIT_BYTES: usize = 64 * 1024;

/// 500 ms between two looks at what listens, while somebody watches: a person does not notice, a guest does not either.
pub const PORTS_WATCH_MS: u64 = 500;

/// 10 s: how long a connection that `GET /listen` announced waits for the host to take it up.
pub const TICKET_SECONDS: u64 = 10;

pub const CHANNEL_STDIN: u8 = 0;
pub const CHANNEL_STDOUT: u8 = 1;
pub const CHANNEL_STDERR: u8 = 2;
/// Guest to host, once, last: [`ExecStatus`] as JSON.
pub const CHANNEL_STATUS: u8 = 3;
/// Host to guest: [`WindowSize`] as JSON.
pub const CHANNEL_RESIZE: u8 = 4;
/// Host to guest: one byte, a Linux signal number, delivered to the command's process group.
pub const CHANNEL_SIGNAL: u8 = 5;
/// Host to guest: the payload byte names the channel that ends (0: stdin is at its end).
pub const CHANNEL_CLOSE: u8 = 255;

/// Words on the kernel's command line that tell the agent, as `/init`, what machine to make. The host writes them; the agent
/// ignores words that it does not know, so an older agent boots under a newer host.
///
/// Drives go by their order on the virtio bus, see [`cmdline::ROOT`] and [`cmdline::WORK`].
pub mod cmdline {
    /// How the root comes together. Absent: `overlay`.
    pub const ROOT: &str = "banger.root";
    /// `/dev/vda` is the image, read-only (ext4, erofs or squashfs); `/dev/vdb` the sandbox's own ext4, holding the overlay's upper layer
    /// and what is bound over /var/lib/docker and /var/lib/containerd; `/dev/vdc` the work disk.
    pub const ROOT_OVERLAY: &str = "overlay";
    /// `/dev/vda` is an ext4 that is written to directly; `/dev/vdb` the work disk.
    pub const ROOT_PLAIN: &str = "plain";
    /// The initramfs itself is the root, no drive is looked for: the smallest guest, for tests.
    pub const ROOT_INITRAMFS: &str = "initramfs";

    /// Who becomes PID 1. Absent: `auto`, systemd where the image has it, else the agent.
    pub const INIT: &str = "banger.init";
    pub const INIT_AUTO: &str = "auto";
    pub const INIT_AGENT: &str = "agent";
    pub const INIT_SYSTEMD: &str = "systemd";

    /// `1`: the work disk is attached and must come up on /root. Absent or `0`: there is none.
    pub const WORK: &str = "banger.work";

    /// How the machine is ended so that the VMM exits. Absent: `poweroff`.
    pub const POWER_OFF: &str = "banger.poweroff";
    /// RB_POWER_OFF, for a machine with ACPI (QEMU).
    pub const POWER_OFF_ACPI: &str = "poweroff";
    /// RB_AUTOBOOT: Firecracker has no ACPI power-off and exits when its guest resets (with `reboot=k`); there RB_POWER_OFF
    /// would leave a halted guest in a VMM that never exits.
    pub const POWER_OFF_REBOOT: &str = "reboot";
}

/// The agent's first word to the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    pub api_version: u32,
    pub agent_version: String,
    pub boot_id: String,
    /// Milliseconds from the kernel's start to this word, from CLOCK_BOOTTIME.
    pub uptime_ms: u64,
    pub init: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    pub api_version: u32,
    pub agent_version: String,
    pub boot_id: String,
    pub uptime_ms: u64,
    /// `agent` or `systemd`.
    pub init: String,
    /// What systemd says of itself (`running`, `degraded`, …); absent where the agent is init.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_state: Option<String>,
    /// Commands running through `exec` now.
    pub sessions: u32,
    /// Nanoseconds since the epoch by the guest's clock.
    pub clock_ns: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub hostname: String,
    /// Nanoseconds since the epoch; the guest sets its clock to it.
    #[serde(default)]
    pub clock_ns: Option<u64>,
    /// 32 random bytes in hexadecimal: fed to the kernel's generator, which is then reseeded.
    #[serde(default)]
    pub entropy: Option<String>,
    /// 32 hexadecimal digits, written to /etc/machine-id.
    #[serde(default)]
    pub machine_id: Option<String>,
    #[serde(default)]
    pub network: Option<GuestNetwork>,
    /// Lines for root's authorized_keys.
    #[serde(default)]
    pub authorized_keys: Vec<String>,
    /// The time zone's name (`Europe/Berlin`).
    #[serde(default)]
    pub timezone: Option<String>,
}

/// The guest's own link, addresses in CIDR notation. An absent gateway means no default route.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestNetwork {
    /// The link is found by its hardware address.
    pub mac: String,
    pub addresses: Vec<String>,
    #[serde(default)]
    pub gateways: Vec<String>,
    #[serde(default)]
    pub name_servers: Vec<String>,
    #[serde(default)]
    pub search: Vec<String>,
    #[serde(default)]
    pub mtu: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clock {
    pub clock_ns: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shutdown {
    /// How long services may take to stop before the guest powers off regardless.
    pub grace_ms: u64,
}

/// How large the host has made the drives. The guest waits until it sees them so.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drives {
    pub root_bytes: u64,
    pub work_bytes: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    pub load_1m: f64,
    pub cpu_busy_ms: u64,
    pub cpu_idle_ms: u64,
    pub memory_total_bytes: u64,
    pub memory_available_bytes: u64,
    pub disks: Vec<DiskUse>,
    pub network_received_bytes: u64,
    pub network_sent_bytes: u64,
    pub processes: u32,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskUse {
    pub mount: String,
    pub total_bytes: u64,
    pub used_bytes: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ports {
    pub listening: Vec<ListeningSocket>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListeningSocket {
    /// `tcp` or `udp`.
    pub protocol: String,
    pub address: String,
    pub port: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
}

/// What lies at the end of a path and of all links on the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "control", derive(utoipa::ToSchema))]
pub struct FileFacts {
    pub kind: FileKind,
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// Without links and dots.
    pub path: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "control", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    File,
    Folder,
    Other,
}

/// One line of `GET /listen`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum ListenEvent {
    /// First, once: the port or the path that is listened on.
    Bound {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        port: Option<u16>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path: Option<String>,
    },
    /// A connection waits. `peer` is its address, empty for a Unix socket.
    Accepted { ticket: String, peer: String },
    /// From a newer agent; skipped.
    #[serde(other)]
    Unknown,
}

/// The command that the image brings, or what replaced it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    #[serde(default)]
    pub entrypoint: Vec<String>,
    #[serde(default)]
    pub command: Vec<String>,
    /// Also added to the environment of what `exec` runs.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// `root` where absent; a name or number, with an optional `:group`.
    #[serde(default)]
    pub user: Option<String>,
    /// `/` where absent; made when missing.
    #[serde(default)]
    pub cwd: Option<String>,
    /// The Linux signal number that asks it to end.
    pub stop_signal: u8,
    /// False: it is kept for an `exec` with `as_image`, and not started.
    pub starts: bool,
    /// `no`, `on-failure` or `always`.
    pub restart: String,
}

/// `GET /service`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceFacts {
    pub argv: Vec<String>,
    pub phase: ServicePhase,
    /// While it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// How it ended the last time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<ExecStatus>,
    /// Starts in this boot after the first one.
    pub restarts: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServicePhase {
    /// Not started yet, or never to be by itself.
    Waiting,
    Running,
    /// It ended and is started again after a pause.
    Restarting,
    /// It ended, or was never able to start, and stays so.
    Ended,
}

impl ServicePhase {
    pub const fn word(self) -> &'static str {
        match self {
            ServicePhase::Waiting => "waiting",
            ServicePhase::Running => "running",
            ServicePhase::Restarting => "restarting",
            ServicePhase::Ended => "ended",
        }
    }
}

/// What to run. Without `argv` the user's login shell runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecRequest {
    #[serde(default)]
    pub argv: Vec<String>,
    /// Added to the login environment of the user (HOME, USER, LOGNAME, SHELL, PATH, what /etc/environment sets, and with
    /// a terminal TERM).
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// The user's home where absent.
    #[serde(default)]
    pub cwd: Option<String>,
    /// `root` where absent; a name or a number.
    #[serde(default)]
    pub user: Option<String>,
    /// Present: the command gets a terminal of this size, and stderr arrives on stdout.
    #[serde(default)]
    pub tty: Option<WindowSize>,
    /// The value of TERM inside.
    #[serde(default)]
    pub term: Option<String>,
    /// False: the command's stdin is /dev/null.
    #[serde(default)]
    pub stdin: bool,
    /// Run through the user's login shell (`sh -lc`) instead of directly: a single word is a line for that shell, several are
    /// quoted and run as they are.
    #[serde(default)]
    pub login_shell: bool,
    /// Run it as the image's own command: behind its entrypoint, as its user and in its folder unless others are named.
    /// Without `argv` the image's command follows the entrypoint.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub as_image: bool,
    /// With `login_shell`: all words are quoted, a single one too, and where the guest has `mise` the command gets its tools.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub with_tools: bool,
    /// A line for the user's shell, as sshd(8) runs one: `$SHELL -c LINE`. An agent that knows this field leaves `argv` alone,
    /// which says the same at length for older ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSize {
    pub rows: u16,
    pub columns: u16,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExecStatus {
    Exited {
        code: u8,
    },
    Signalled {
        signal: u8,
    },
    /// The command never ran: not found, not executable, no such user or folder.
    NotStarted {
        fault: crate::Fault,
    },
}
