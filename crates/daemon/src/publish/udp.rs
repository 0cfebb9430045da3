//! Datagrams of one published UDP port. Each peer has a stream of its own into the guest, so that the service sees one
//! socket per peer and an answer finds its way back; it ends after [`SILENCE`].
//!
//! What cannot be passed on in time is lost, as UDP loses it: [`QUEUED`] datagrams wait per peer, [`MAX_PEERS`] peers are
//! remembered, and while nothing in the guest listens every datagram is dropped.

use crate::guest_channel::Guest;
use crate::guest_channel::frames::{read_datagram, write_datagram};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::io::split;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

const MAX_PEERS: usize = 256;
const QUEUED: usize = 64;
/// 2 min: what RFC 4787, 4.3 asks of whoever keeps a mapping of UDP peers.
const SILENCE: Duration = Duration::from_secs(120);
/// 64 KiB: no datagram is larger.
const DATAGRAM_BYTES: usize = 64 * 1024;
const PAUSE: Duration = Duration::from_millis(50);

/// Its peers' streams end with it, because the set is dropped with it; they hold the socket only while they send, so that its
/// port is free as soon as this ends.
pub async fn serve(socket: UdpSocket, guest: Guest, port: u16) {
    let socket = Arc::new(socket);
    let mut peers: HashMap<SocketAddr, mpsc::Sender<Vec<u8>>> = HashMap::new();
    let mut sessions = JoinSet::new();
    let mut datagram = vec![0; DATAGRAM_BYTES];
    loop {
        tokio::select! {
            received = socket.recv_from(&mut datagram) => match received {
                Ok((count, peer)) => {
                    let sender = peers.get(&peer).filter(|sender| !sender.is_closed()).cloned().or_else(|| {
                        (peers.len() < MAX_PEERS).then(|| {
                            let (sender, receiver) = mpsc::channel(QUEUED);
                            sessions.spawn(converse(guest.clone(), port, Arc::downgrade(&socket), peer, receiver));
                            peers.insert(peer, sender.clone());
                            sender
                        })
                    });
                    if let Some(sender) = sender {
                        let _ = sender.try_send(datagram[..count].to_vec());
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, port, "cannot receive a datagram of a published port");
                    tokio::time::sleep(PAUSE).await;
                }
            },
            Some(ended) = sessions.join_next() => {
                if let Ok(peer) = ended && peers.get(&peer).is_some_and(mpsc::Sender::is_closed) {
                    peers.remove(&peer);
                }
            }
        }
    }
}

/// Answers whose session it was.
async fn converse(
    guest: Guest,
    port: u16,
    socket: Weak<UdpSocket>,
    peer: SocketAddr,
    mut datagrams: mpsc::Receiver<Vec<u8>>,
) -> SocketAddr {
    if let Err(error) = pass(&guest, port, &socket, peer, &mut datagrams).await {
        tracing::debug!(id = %guest.id(), port, %error, "datagrams of a published port end");
    }
    peer
}

async fn pass(
    guest: &Guest,
    port: u16,
    socket: &Weak<UdpSocket>,
    peer: SocketAddr,
    datagrams: &mut mpsc::Receiver<Vec<u8>>,
) -> io::Result<()> {
    let stream = guest.datagrams(port).await.map_err(io::Error::other)?;
    let (mut from_guest, mut to_guest) = split(stream);
    let heard = std::sync::Mutex::new(Instant::now());
    let hear = || *heard.lock().expect("no holder panics") = Instant::now();
    let inward = async {
        while let Some(datagram) = datagrams.recv().await {
            hear();
            write_datagram(&mut to_guest, &datagram).await?;
        }
        Ok(())
    };
    let outward = async {
        let mut datagram = vec![0; DATAGRAM_BYTES];
        loop {
            let count = read_datagram(&mut from_guest, &mut datagram).await?;
            hear();
            let Some(socket) = socket.upgrade() else { return Ok(()) };
            socket.send_to(&datagram[..count], peer).await?;
        }
    };
    let silence = async {
        loop {
            let last = *heard.lock().expect("no holder panics");
            if last.elapsed() >= SILENCE {
                return;
            }
            tokio::time::sleep_until(last + SILENCE).await;
        }
    };
    tokio::select! {
        ended = inward => ended,
        ended = outward => ended,
        () = silence => Ok(()),
    }
}
