//! One SSH connection: russh's callbacks, each of which only looks up, queues or starts a task. A callback that waits
//! stops the whole connection, so only binding a forwarded port does, for which the protocol wants an answer in order.

use super::command::{self, Running, What, Wishes};
use super::forward;
use super::inbox::{self, Inbound, Inbox, Outlet};
use super::listen::{self, BackTo, Client, Forwarded};
use super::{MAX_CHANNELS, SshError, Target, signal};
use crate::guest_channel::{Destination, ListenAt};
use model::UserName;
use russh::server::{Auth, ChannelOpenHandle, Handler, Msg, VerifiedPublicKey};
use russh::{Channel, ChannelId, ChannelOpenFailure, ChannelWriteHalf, Pty, Sig};
use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use wire::guest::WindowSize;

/// 32 forwarded sockets in the guest per connection.
const MAX_FORWARDS: usize = 32;
/// 1 s for russh to run the callback that announces a channel which it has already confirmed.
const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(1);

pub struct Session {
    target: Target,
    user: String,
    channels: HashMap<ChannelId, Entry>,
    forwards: HashMap<String, Forwarded>,
    arrivals: Arrivals,
}

/// A channel; dropping it ends its task.
struct Entry {
    inbox: Inbox,
    wishes: Wishes,
    /// Until the command starts.
    idle: Option<(ChannelWriteHalf<Msg>, Outlet)>,
    task: Option<AbortHandle>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Channels that we opened: the callback leaves the outlet here, the task that opened the channel claims it.
#[derive(Clone, Default)]
pub struct Arrivals(Arc<(Mutex<HashMap<ChannelId, Outlet>>, Notify)>);

impl Arrivals {
    fn announce(&self, id: ChannelId, outlet: Outlet) {
        self.0.0.lock().expect("no holder panics").insert(id, outlet);
        self.0.1.notify_waiters();
    }

    pub async fn claim(&self, id: ChannelId) -> Option<Outlet> {
        let claimed = async {
            loop {
                let announced = self.0.1.notified();
                tokio::pin!(announced);
                announced.as_mut().enable();
                if let Some(outlet) = self.0.0.lock().expect("no holder panics").remove(&id) {
                    return outlet;
                }
                announced.await;
            }
        };
        tokio::time::timeout(ARRIVAL_TIMEOUT, claimed).await.ok()
    }
}

type Wire<'a> = &'a mut russh::server::Session;

impl Session {
    pub fn new(target: Target) -> Self {
        let (channels, forwards) = (HashMap::new(), HashMap::new());
        Session { target, user: String::new(), channels, forwards, arrivals: Arrivals::default() }
    }

    fn client(&self, session: Wire) -> Client {
        Client { guest: self.target.guest.clone(), handle: session.handle(), arrivals: self.arrivals.clone() }
    }

    /// A name that no guest can have is refused here, so that the client says so at once.
    fn admit(&mut self, user: &str) -> Auth {
        match user.parse::<UserName>() {
            Ok(user) => {
                self.user = user.to_string();
                Auth::Accept
            }
            Err(_) => Auth::reject(),
        }
    }

    /// An entry for a channel whose outlet the caller passes on; absent when there are too many.
    fn enter(&mut self, id: ChannelId) -> Option<Outlet> {
        if self.channels.len() >= MAX_CHANNELS {
            // A refused forward ends without a word from the client.
            self.channels.retain(|_, entry| !entry.inbox.is_abandoned());
        }
        if self.channels.len() >= MAX_CHANNELS {
            return None;
        }
        let (inbox, outlet) = inbox::pair();
        self.channels.insert(id, Entry { inbox, wishes: Wishes::default(), idle: None, task: None });
        Some(outlet)
    }

    fn put(&self, id: ChannelId, inbound: Inbound) {
        if let Some(entry) = self.channels.get(&id) {
            entry.inbox.put(inbound);
        }
    }

    fn start(&mut self, id: ChannelId, what: What, session: Wire) -> Result<(), SshError> {
        let client = self.client(session);
        let Some(entry) = self.channels.get_mut(&id) else { return Ok(()) };
        // RFC 4254, 6.5: only one of these requests can succeed per channel.
        let Some((writer, outlet)) = entry.idle.take() else { return Ok(session.channel_failure(id)?) };
        let request = entry.wishes.request(&self.user, what);
        let running = Running { client, writer, outlet };
        let task = tokio::spawn(command::run(running, request, entry.wishes.agent_forwarding));
        entry.task = Some(task.abort_handle());
        Ok(session.channel_success(id)?)
    }

    async fn open(&mut self, channel: Channel<Msg>, to: Option<Destination>, reply: ChannelOpenHandle) {
        let Some(to) = to else { return reply.reject(ChannelOpenFailure::AdministrativelyProhibited).await };
        let id = channel.id();
        let Some(outlet) = self.enter(id) else { return reply.reject(ChannelOpenFailure::ResourceShortage).await };
        let (_, writer) = channel.split();
        let connecting = forward::connect(self.target.guest.clone(), to, reply, writer, outlet);
        let task = tokio::spawn(connecting).abort_handle();
        if let Some(entry) = self.channels.get_mut(&id) {
            entry.task = Some(task);
        }
    }

    async fn listen(&mut self, key: String, at: ListenAt, to: BackTo, session: Wire<'_>) -> Option<u16> {
        if self.forwards.len() >= MAX_FORWARDS || self.forwards.contains_key(&key) {
            return None;
        }
        match listen::forward(self.client(session), at, to).await {
            Ok((forwarded, port)) => {
                self.forwards.insert(key, forwarded);
                Some(port)
            }
            Err(error) => {
                tracing::debug!(id = %self.target.guest.id(), %error, "a remote forward was refused");
                None
            }
        }
    }
}

fn port_key(address: &str, port: u32) -> String {
    format!("{address}:{port}")
}

fn window(columns: u32, rows: u32) -> WindowSize {
    let bounded = |cells: u32| u16::try_from(cells).unwrap_or(u16::MAX);
    WindowSize { rows: bounded(rows), columns: bounded(columns) }
}

impl Handler for Session {
    type Error = SshError;

    async fn auth_none(&mut self, user: &str) -> Result<Auth, SshError> {
        Ok(self.admit(user))
    }

    async fn auth_publickey(&mut self, user: &str, _: VerifiedPublicKey<'_>) -> Result<Auth, SshError> {
        Ok(self.admit(user))
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: Wire<'_>,
    ) -> Result<(), SshError> {
        let id = channel.id();
        let Some(outlet) = self.enter(id) else {
            reply.reject(ChannelOpenFailure::ResourceShortage).await;
            return Ok(());
        };
        // The half that reads is dropped: data comes by the callback, see `inbox`.
        let (_, writer) = channel.split();
        if let Some(entry) = self.channels.get_mut(&id) {
            entry.idle = Some((writer, outlet));
        }
        reply.accept().await;
        Ok(())
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        host: &str,
        port: u32,
        _: &str,
        _: u32,
        reply: ChannelOpenHandle,
        _: Wire<'_>,
    ) -> Result<(), SshError> {
        let port = u16::try_from(port).ok().filter(|port| *port > 0);
        let to = port.filter(|_| forward::is_guest(host, &self.target.name)).map(Destination::Port);
        self.open(channel, to, reply).await;
        Ok(())
    }

    async fn channel_open_direct_streamlocal(
        &mut self,
        channel: Channel<Msg>,
        path: &str,
        reply: ChannelOpenHandle,
        _: Wire<'_>,
    ) -> Result<(), SshError> {
        self.open(channel, Some(Destination::Socket(path.to_owned())), reply).await;
        Ok(())
    }

    async fn channel_open_confirmation(
        &mut self,
        id: ChannelId,
        _: u32,
        _: u32,
        session: Wire<'_>,
    ) -> Result<(), SshError> {
        match self.enter(id) {
            Some(outlet) => self.arrivals.announce(id, outlet),
            None => session.close(id)?,
        }
        Ok(())
    }

    async fn data(&mut self, id: ChannelId, data: &[u8], _: Wire<'_>) -> Result<(), SshError> {
        if let Some(entry) = self.channels.get(&id) {
            entry.inbox.put(Inbound::Data(bytes::Bytes::copy_from_slice(data)));
            entry.inbox.breathe().await;
        }
        Ok(())
    }

    fn adjust_window(&mut self, id: ChannelId, _: u32) -> u32 {
        let own = self.channels.get(&id).map_or(0, |entry| entry.inbox.queued_bytes());
        let most = self.channels.values().map(|entry| entry.inbox.queued_bytes()).max();
        inbox::dial(own, most.unwrap_or(0))
    }

    async fn channel_eof(&mut self, id: ChannelId, _: Wire<'_>) -> Result<(), SshError> {
        self.put(id, Inbound::Eof);
        Ok(())
    }

    async fn channel_close(&mut self, id: ChannelId, _: Wire<'_>) -> Result<(), SshError> {
        self.channels.remove(&id);
        Ok(())
    }

    async fn pty_request(
        &mut self,
        id: ChannelId,
        term: &str,
        columns: u32,
        rows: u32,
        _: u32,
        _: u32,
        _: &[(Pty, u32)],
        session: Wire<'_>,
    ) -> Result<(), SshError> {
        if let Some(entry) = self.channels.get_mut(&id) {
            entry.wishes.terminal(term, window(columns, rows));
        }
        Ok(session.channel_success(id)?)
    }

    async fn env_request(&mut self, id: ChannelId, name: &str, value: &str, session: Wire<'_>) -> Result<(), SshError> {
        let taken = self.channels.get_mut(&id).is_some_and(|entry| entry.wishes.set(name, value));
        match taken {
            true => Ok(session.channel_success(id)?),
            false => Ok(session.channel_failure(id)?),
        }
    }

    async fn shell_request(&mut self, id: ChannelId, session: Wire<'_>) -> Result<(), SshError> {
        self.start(id, What::Shell, session)
    }

    async fn exec_request(&mut self, id: ChannelId, line: &[u8], session: Wire<'_>) -> Result<(), SshError> {
        match std::str::from_utf8(line) {
            Ok(line) => self.start(id, What::Line(line.to_owned()), session),
            Err(_) => Ok(session.channel_failure(id)?),
        }
    }

    async fn subsystem_request(&mut self, id: ChannelId, name: &str, session: Wire<'_>) -> Result<(), SshError> {
        match name {
            "sftp" => self.start(id, What::Sftp, session),
            _ => Ok(session.channel_failure(id)?),
        }
    }

    async fn window_change_request(
        &mut self,
        id: ChannelId,
        columns: u32,
        rows: u32,
        _: u32,
        _: u32,
        _: Wire<'_>,
    ) -> Result<(), SshError> {
        self.put(id, Inbound::Resize(window(columns, rows)));
        Ok(())
    }

    async fn agent_request(&mut self, id: ChannelId, _: Wire<'_>) -> Result<bool, SshError> {
        let entry = self.channels.get_mut(&id);
        Ok(entry.is_some_and(|entry| {
            entry.wishes.agent_forwarding = true;
            true
        }))
    }

    async fn signal(&mut self, id: ChannelId, signal: Sig, _: Wire<'_>) -> Result<(), SshError> {
        if let Some(number) = signal::number(&signal) {
            self.put(id, Inbound::Signal(number));
        }
        Ok(())
    }

    async fn tcpip_forward(&mut self, address: &str, port: &mut u32, session: Wire<'_>) -> Result<bool, SshError> {
        let Ok(wanted) = u16::try_from(*port) else { return Ok(false) };
        // RFC 4254, 7.1: an empty address and `0.0.0.0` mean all of them. `-R` without an address says `localhost`.
        let everywhere = matches!(address, "" | "*" | "0.0.0.0" | "::");
        let at = ListenAt::Port { port: wanted, everywhere };
        let to = BackTo::Port { address: address.to_owned(), port: *port };
        let opening = port_key(address, *port);
        let Some(bound) = self.listen(opening.clone(), at, to, session).await else { return Ok(false) };
        // Where the port was left to us, the client will name the one it was told.
        if let Some(forwarded) = self.forwards.remove(&opening) {
            self.forwards.insert(port_key(address, bound.into()), forwarded);
        }
        *port = bound.into();
        Ok(true)
    }

    async fn cancel_tcpip_forward(&mut self, address: &str, port: u32, _: Wire<'_>) -> Result<bool, SshError> {
        Ok(self.forwards.remove(&port_key(address, port)).is_some())
    }

    async fn streamlocal_forward(&mut self, path: &str, session: Wire<'_>) -> Result<bool, SshError> {
        let at = ListenAt::Socket { path: Some(path.to_owned()), user: Some(self.user.clone()) };
        let to = BackTo::Socket { path: path.to_owned() };
        Ok(self.listen(path.to_owned(), at, to, session).await.is_some())
    }

    fn cancel_streamlocal_forward(
        &mut self,
        path: &str,
        _: Wire<'_>,
    ) -> impl Future<Output = Result<bool, SshError>> + Send {
        let removed = self.forwards.remove(path).is_some();
        async move { Ok(removed) }
    }
}
