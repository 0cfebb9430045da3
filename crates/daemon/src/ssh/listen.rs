//! Sockets in the guest that lead back to the client: `-R`, and the client's ssh-agent.

use super::forward;
use super::session::Arrivals;
use crate::guest_channel::{Destination, Guest, GuestError, ListenAt, Listening};
use russh::server::Handle;
use tokio::task::{AbortHandle, JoinSet};

/// 64 connections of one forwarded socket that may be opening at once.
const MAX_OPENING: usize = 64;

/// Where a connection on the guest's socket goes at the client.
#[derive(Debug, Clone)]
pub enum BackTo {
    Port { address: String, port: u32 },
    Socket { path: String },
    Agent,
}

/// A socket in the guest; gone when this is dropped.
pub struct Forwarded {
    task: AbortHandle,
    path: String,
}

impl Drop for Forwarded {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Forwarded {
    pub fn path(&self) -> &str {
        &self.path
    }
}

/// What a listening socket needs of its session.
#[derive(Clone)]
pub struct Client {
    pub guest: Guest,
    pub handle: Handle,
    pub arrivals: Arrivals,
}

/// Binds in the guest and hands each connection to the client. Answers the port as bound.
pub async fn forward(client: Client, at: ListenAt, to: BackTo) -> Result<(Forwarded, u16), GuestError> {
    let listening = client.guest.listen(&at).await?;
    let port = listening.port().unwrap_or_default();
    let path = listening.path().map(|path| path.display().to_string()).unwrap_or_default();
    let to = match to {
        // The client finds its forward by the address it asked for and the port that it was told.
        BackTo::Port { address, .. } => BackTo::Port { address, port: port.into() },
        other => other,
    };
    let task = tokio::spawn(accept(client, listening, to)).abort_handle();
    Ok((Forwarded { task, path }, port))
}

/// The client's ssh-agent, at a socket that only `user` reaches. Without it the command runs all the same.
pub async fn forward_agent(client: &Client, user: Option<&str>) -> Option<Forwarded> {
    let at = ListenAt::Socket { path: None, user: user.map(str::to_owned) };
    match forward(client.clone(), at, BackTo::Agent).await {
        Ok((forwarded, _)) => Some(forwarded),
        Err(error) => {
            tracing::warn!(id = %client.guest.id(), %error, "the ssh agent is not forwarded");
            None
        }
    }
}

/// Its connections end with it, because the set is dropped with it.
async fn accept(client: Client, mut listening: Listening, to: BackTo) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listening.accept(), if connections.len() < MAX_OPENING => match accepted {
                Ok(Some((ticket, peer))) => {
                    connections.spawn(connect(client.clone(), ticket, peer, to.clone()));
                }
                Ok(None) => return,
                Err(error) => return tracing::debug!(%error, "a forwarded socket ended"),
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connect(client: Client, ticket: Destination, peer: String, to: BackTo) {
    let peer: Option<std::net::SocketAddr> = peer.parse().ok();
    let (from, from_port) =
        peer.map_or(("127.0.0.1".to_owned(), 0), |peer| (peer.ip().to_string(), peer.port().into()));
    let handle = &client.handle;
    let opened = match &to {
        BackTo::Port { address, port } => handle.channel_open_forwarded_tcpip(address, *port, from, from_port).await,
        BackTo::Socket { path } => handle.channel_open_forwarded_streamlocal(path).await,
        BackTo::Agent => handle.channel_open_agent().await,
    };
    let Ok(channel) = opened else { return };
    let (_, writer) = channel.split();
    let Some(outlet) = client.arrivals.claim(writer.id()).await else { return };
    match client.guest.stream(&ticket).await {
        Ok(stream) => forward::pass(stream, &writer, outlet).await,
        Err(error) => {
            tracing::debug!(id = %client.guest.id(), %error, "a forwarded connection went before it was taken");
            let _ = writer.close().await;
        }
    }
}
