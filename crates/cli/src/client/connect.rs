//! Finds the daemon's socket, starts the daemon where nobody listens, and checks who answers.

use super::{ClientError, autostart};
use model::paths::Environment;
use rustix::net::sockopt;
use std::io;
use std::path::{Path, PathBuf};
use tokio::net::UnixStream;

#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
    /// The person named the socket: whoever listens there is meant.
    chosen: bool,
    start: Start,
}

/// What to do where nobody listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    WhenSilent,
    Never,
}

impl Client {
    /// Starts the daemon when it is needed.
    pub fn new() -> Self {
        let environment = Environment::read(rustix::process::getuid().as_raw(), |name| std::env::var_os(name));
        let chosen = environment.banger_socket.as_deref().is_some_and(|path| !path.is_empty());
        Client { socket: environment.control_socket(), chosen, start: Start::WhenSilent }
    }

    /// Talks to a daemon that runs already, or to none.
    pub fn only_running() -> Self {
        Client { start: Start::Never, ..Client::new() }
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    pub async fn connect(&self) -> Result<UnixStream, ClientError> {
        let stream = match (self.try_connect().await?, self.start) {
            (Some(stream), _) => stream,
            (None, Start::Never) => return Err(ClientError::NotRunning { socket: self.socket.clone() }),
            (None, Start::WhenSilent) => self.start_and_connect().await?,
        };
        self.check_peer(&stream)?;
        Ok(stream)
    }

    async fn start_and_connect(&self) -> Result<UnixStream, ClientError> {
        let word = tokio::task::spawn_blocking(autostart::start)
            .await
            .map_err(|error| ClientError::Start { reason: error.to_string() })?;
        // Whatever it said: a daemon that answers is a daemon that runs, perhaps another client's.
        match (self.try_connect().await?, word) {
            (Some(stream), _) => Ok(stream),
            (None, Err(error)) => Err(error),
            (None, Ok(())) => {
                let reason = format!("it says that it serves, but not on {}", self.socket.display());
                Err(ClientError::Start { reason })
            }
        }
    }

    /// None where nobody listens: no socket, or one that its daemon left behind.
    async fn try_connect(&self) -> Result<Option<UnixStream>, ClientError> {
        match UnixStream::connect(&self.socket).await {
            Ok(stream) => Ok(Some(stream)),
            Err(error) => match error.kind() {
                // Reset: it ended between taking us into its backlog and taking us in.
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => Ok(None),
                _ => Err(ClientError::Connect { socket: self.socket.clone(), source: error }),
            },
        }
    }

    /// The default socket may lie below `/tmp`, where anybody could have put one: only we or root may answer.
    fn check_peer(&self, stream: &UnixStream) -> Result<(), ClientError> {
        if self.chosen {
            return Ok(());
        }
        let peer = sockopt::socket_peercred(stream)
            .map_err(|error| ClientError::Connect { socket: self.socket.clone(), source: error.into() })?;
        let own = rustix::process::getuid();
        if peer.uid == own || peer.uid.is_root() {
            Ok(())
        } else {
            Err(ClientError::Stranger { socket: self.socket.clone(), uid: peer.uid.as_raw() })
        }
    }
}
