//! The control API: HTTP/1.1 + JSON over a Unix socket (0600 in a folder 0700), between people's tools and `bangerd`.
//!
//! | method and path | request | answer |
//! |---|---|---|
//! | `GET /v1/daemon` | – | [`DaemonStatus`] |
//! | `POST /v1/daemon/stop` | – | 202 |
//! | `GET /v1/doctor` | – | [`Doctor`] |
//! | `GET /v1/vms` | – | [`SandboxList`] |
//! | `POST /v1/vms` | [`CreateRequest`] | stream, result [`Sandbox`] |
//! | `GET /v1/vms/{ref}` | – | [`Sandbox`] |
//! | `PATCH /v1/vms/{ref}` | [`SetRequest`] | [`SetAnswer`] |
//! | `DELETE /v1/vms/{ref}` | [`DeleteRequest`] as query | stream, result [`Sandbox`] |
//! | `POST /v1/vms/{ref}/start`, `/restart`, `/reset` | [`StartRequest`] | stream, result [`Sandbox`] |
//! | `POST /v1/vms/{ref}/stop` | [`StopRequest`] | stream, result [`Sandbox`] |
//! | `POST /v1/vms/{ref}/kill` | [`KillRequest`] | stream, result [`Sandbox`] |
//! | `POST /v1/vms/{ref}/pause`, `/resume` | – | stream, result [`Sandbox`] |
//! | `GET /v1/vms/{ref}/health` | – | [`SandboxHealth`] |
//! | `GET /v1/vms/{ref}/stats` | – | [`Stats`] |
//! | `GET /v1/vms/{ref}/ports` | – | [`PortsAnswer`] |
//! | `POST /v1/vms/{ref}/ports` | [`PortsRequest`] | [`SetAnswer`] |
//! | `GET /v1/vms/{ref}/files` | [`FilesRequest`] as query | a tar archive, see [`crate::guest`] |
//! | `PUT /v1/vms/{ref}/files` | [`FilesRequest`] as query, a tar archive as body | 204 |
//! | `GET /v1/vms/{ref}/files/facts` | [`FilesRequest`] as query | [`crate::guest::FileFacts`] |
//! | `GET /v1/vms/{ref}/service` | – | [`Service`] |
//! | `GET /v1/vms/{ref}/logs` | [`LogsRequest`] as query | the log's bytes; with `follow` until the sandbox ends or the client goes |
//! | `GET /v1/vms/{ref}/exec` | WebSocket, see [`crate::guest`] | spliced through to the agent |
//! | `GET /v1/vms/{ref}/stream` | [`StreamRequest`] as query, `Upgrade: tcp` | `101 Switching Protocols`, then bytes of the port |
//! | `GET /v1/vms/{ref}/ssh` | `Upgrade: `[`SSH_UPGRADE`] | `101 Switching Protocols`, then the SSH protocol |
//! | `POST /v1/vms/{ref}/workspaces` | [`PrepareRequest`] | stream, result [`Prepared`] |
//! | `GET /v1/vms/{ref}/workspaces` | [`WorkspaceListRequest`] as query | [`WorkspaceList`] |
//! | `POST /v1/workspaces/consent` | [`ConsentRequest`] | 204 |
//! | `POST /v1/workspaces/plan` | [`PlanRequest`] | [`WorkspacePlan`] |
//! | `GET /v1/vms/{ref}/net` | – | [`NetFacts`] |
//! | `PATCH /v1/vms/{ref}/net` | [`NetChange`] | [`NetFacts`] |
//! | `GET /v1/vms/{ref}/net/log` | – | [`NetLog`] |
//! | `GET /v1/network` | – | [`NetworkStatus`] |
//! | `POST /v1/network/up` | [`NetworkUpRequest`] | [`NetworkStatus`] |
//! | `POST /v1/network/down` | [`NetworkDownRequest`] | [`NetworkDownAnswer`] |
//! | `GET /v1/vms/{ref}/work` | [`WorkRequest`] as query | the view's bytes |
//! | `POST /v1/vms/{ref}/work/look` | [`WorkRequest`] | stream, result [`WorkFacts`], after a fresh look |
//! | `POST /v1/vms/{ref}/work/pull` | [`PullRequest`] | stream, result [`Pulled`] |
//! | `GET /v1/history` | [`HistoryRequest`] as query | [`History`] |
//! | `GET /v1/events` | – | stream of [`StateChange`] |
//! | `GET /v1/audit`, `POST /v1/audit/fix` | – | [`Audit`] |
//! | `POST /v1/backup` | [`BackupRequest`] | [`Backup`] |
//! | `GET /v1/images`, `GET /v1/kernels` | – | [`ImageList`], [`KernelList`] |
//! | `POST /v1/images/{name}/pull` | [`ImagePull`] | stream, result [`ImageFacts`]; `{name}` may be a reference |
//! | `POST /v1/kernels/{name}/pull` | – | stream, result [`KernelFacts`] |
//! | `POST /v1/images/{name}/import` | [`ImageImport`] | stream, result [`ImageFacts`] |
//! | `POST /v1/kernels/{name}/build` | [`KernelBuild`] | stream, result [`KernelFacts`] |
//! | `PUT /v1/images/{name}` | [`ImageRegister`] | stream, result [`ImageFacts`] |
//! | `POST /v1/images/{name}/promote` | – | stream, result [`ImageFacts`] |
//! | `POST /v1/images/{name}/tag` | [`ImageTag`] | [`ImageFacts`] |
//! | `POST /v1/images/{name}/save`, `/bundle` | [`ImageSave`], [`ImageBundle`] | stream, result [`ImageFile`] |
//! | `POST /v1/library/load` | [`ImageLoad`] | stream, result [`ImageFacts`] |
//! | `POST /v1/library/images/prune`, `POST /v1/library/cache/prune` | [`PruneRequest`] | [`Pruned`] |
//! | `GET /v1/df` | – | [`DiskUse`] |
//! | `PUT /v1/kernels/{name}` | [`KernelImport`] | stream, result [`KernelFacts`] |
//! | `DELETE /v1/images/{name}`, `DELETE /v1/kernels/{name}` | – | 204 |
//! | `GET /v1/openapi.json` | – | the OpenAPI document |
//! | `GET /metrics` | – | Prometheus text |
//!
//! `{ref}` is a name, an id or a unique prefix of an id. A failure is a [`crate::Fault`] with its HTTP status.
//! A *stream* is `application/x-ndjson`: one [`Event`] a line, the last one a result or a fault. A client that closes
//! the connection before that cancels the work. With `dry_run` the result is a [`PlanFacts`] and nothing is done.
//!
//! **Finding and starting the daemon.** The socket lies where `model::paths` says. When nobody listens there, a client
//! starts `bangerd --ready-fd N` in a session of its own and reads N, the end of a pipe: one line `ready` once it
//! serves, or a sentence why it cannot, then the end. A daemon that finds another one serving says `ready` too and
//! exits 0, so that two clients may start one at the same time.
//!
//! Sizes are bytes, times nanoseconds since 1970-01-01 UTC (`…_at_ns`) or milliseconds (`…_ms`).

mod artifact;
mod host;
mod kernel;
mod network;
mod sandbox;
mod service;
mod upkeep;
mod work;
mod workspace;

pub use artifact::*;
pub use host::*;
pub use kernel::*;
pub use network::*;
pub use sandbox::*;
pub use service::*;
pub use upkeep::*;
pub use work::*;
pub use workspace::*;

use crate::Fault;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The protocol named in `Upgrade:` of `GET /v1/vms/{ref}/ssh`.
pub const SSH_UPGRADE: &str = "ssh";

/// One line of a stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event<T> {
    /// The operation has begun; its id stands in every log line of it.
    Began {
        operation: String,
        /// The name of the sandbox it is about, to show. Whoever must act on that very sandbox finds its id in the
        /// history under the operation: a name may belong to another one, which is what the operation then fails of.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        vm: Option<String>,
    },
    /// Work a person can follow: `building image debian-bookworm`.
    Stage {
        text: String,
    },
    /// How far the current stage is; `unit` is `bytes` or `items`.
    Progress {
        done: u64,
        total: Option<u64>,
        unit: String,
    },
    /// How far one of several parts of the current stage is, such as a layer; as [`Event::Progress`] otherwise.
    Part {
        name: String,
        done: u64,
        total: Option<u64>,
        unit: String,
    },
    /// Worth a line of its own, and no failure.
    Note {
        text: String,
    },
    Result {
        value: T,
    },
    Fault {
        fault: Fault,
    },
    /// From a newer peer; skipped.
    #[serde(other)]
    Unknown,
}

/// The exit codes of `banger`. A guest's own status is passed on as it is; ours start above the shell's.
pub mod exit {
    /// The command line makes no sense (as clap answers).
    pub const USAGE: u8 = 2;
    /// banger itself failed: anything without a code of its own.
    pub const FAILED: u8 = 125;
    /// The command exists and cannot be run in the guest (as the shell answers).
    pub const NOT_EXECUTABLE: u8 = 126;
    /// The command is not there in the guest (as the shell answers).
    pub const NOT_FOUND_IN_GUEST: u8 = 127;
    /// A signal numbered n ended the guest's command: 128 + n.
    pub const SIGNALLED: u8 = 128;
    /// Ctrl-C while banger itself worked: 128 + SIGINT.
    pub const CANCELLED: u8 = 130;
}
