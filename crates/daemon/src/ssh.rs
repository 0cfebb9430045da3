//! Owns the SSH server: it ends on this side of the vsock and maps an SSH client's wishes to the guest's agent, so that
//! `ssh`, `scp`, `sftp`, `rsync`, forwarding and editors work in a guest with no sshd, no network and no set-up.
//!
//! ```text
//!  ssh ─► ProxyCommand `banger internal ssh-proxy` ─► control socket (peer credentials) ─► serve ─► russh ─► Session
//!                                                                                                      │ one task per channel
//!    session: pty, env, exec, shell, sftp ─► command ─► agent /exec            keys: client key, host keys, known_hosts
//!    direct-tcpip, direct-streamlocal ─────► forward ─► agent /stream
//!    tcpip-forward, agent forwarding ──────► listen ──► agent /listen, one /stream per connection
//! ```
//! Only this folder knows russh, which breaks its API about monthly.
//!
//! **Who may come in.** The stream comes from the control socket, which has proven by peer credentials that the owner
//! asks. SSH's own authentication adds nothing to that: `none` and every key are accepted. The host key still matters: it
//! tells the client, by our known_hosts file, that this is the sandbox it knows.
//!
//! **Bounds.** [`MAX_CHANNELS`] channels per connection; a channel that is not read holds back its own client
//! ([`inbox`]); whatever a client leaves behind when it vanishes ends with its `Session`, which owns every task.

mod command;
pub mod door;
mod forward;
mod inbox;
pub mod keys;
mod listen;
mod session;
mod signal;

use crate::guest_channel::Guest;
use russh::keys::PrivateKey;
use russh::server::{Config, run_stream};
use russh::{MethodKind, MethodSet, SshId};
use session::Session;
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

/// 256: what one connection may hold open at once, sessions and forwarded connections together.
pub const MAX_CHANNELS: usize = 256;
/// 30 s until a client has said which protocol it speaks.
const GREETING_TIMEOUT: Duration = Duration::from_secs(30);
/// 32 KiB: what OpenSSH offers as well.
const PACKET_BYTES: u32 = 32 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum SshError {
    #[error("the ssh session broke")]
    Protocol(#[from] russh::Error),
    #[error("the ssh client did not introduce itself within {} s", GREETING_TIMEOUT.as_secs())]
    Silent,
}

/// What a connection is about.
#[derive(Clone)]
pub struct Target {
    pub guest: Guest,
    /// The sandbox's name: a forward to it means the guest's loopback.
    pub name: String,
    pub host_key: HostKey,
}

/// The key by which a sandbox is known to ssh clients.
#[derive(Clone)]
pub struct HostKey(PrivateKey);

/// Serves one client until it goes.
pub async fn serve<S>(stream: S, target: Target) -> Result<(), SshError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let config = Arc::new(config(&target.host_key));
    let opening = run_stream(config, stream, Session::new(target));
    let running = tokio::time::timeout(GREETING_TIMEOUT, opening).await.map_err(|_| SshError::Silent)??;
    running.await
}

fn config(host_key: &HostKey) -> Config {
    Config {
        server_id: SshId::Standard(Cow::Borrowed("SSH-2.0-banger")),
        methods: MethodSet::from([MethodKind::None, MethodKind::PublicKey].as_slice()),
        // Nothing can be guessed here, so nothing has to be slowed down.
        auth_rejection_time: Duration::ZERO,
        keys: vec![host_key.0.clone()],
        window_size: inbox::WINDOW_BYTES,
        maximum_packet_size: PACKET_BYTES,
        // The end of the stream tells that a client went; a session may be silent for days.
        inactivity_timeout: None,
        ..Config::default()
    }
}
