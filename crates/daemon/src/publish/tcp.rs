//! Connections of one published TCP port, each carried to the guest by a stream of its own.

use crate::guest_channel::{Destination, Guest};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// 256 connections of one port at once; further ones wait in the listener's queue.
const MAX_CONNECTIONS: usize = 256;
/// 64 KiB each way and connection.
const COPY_BYTES: usize = 64 * 1024;
/// What is left to the system when it has no descriptor for a connection.
const PAUSE: Duration = Duration::from_millis(50);

/// Its connections end with it, because the set is dropped with it.
pub async fn accept(listener: TcpListener, guest: Guest, port: u16) {
    let seats = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let seat = seats.clone().acquire_owned().await.expect("nobody closes the semaphore");
        match listener.accept().await {
            Ok((stream, _)) => {
                let guest = guest.clone();
                connections.spawn(async move {
                    carry(stream, &guest, port).await;
                    drop(seat);
                });
            }
            Err(error) => {
                tracing::warn!(%error, port, "cannot accept a connection of a published port");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// What the guest refuses is reset, so that a client does not take it for an empty answer.
async fn carry(mut client: TcpStream, guest: &Guest, port: u16) {
    let _ = client.set_nodelay(true);
    match guest.stream(&Destination::Port(port)).await {
        Ok(mut stream) => {
            let copied = tokio::io::copy_bidirectional_with_sizes(&mut client, &mut stream, COPY_BYTES, COPY_BYTES);
            if let Err(error) = copied.await {
                tracing::debug!(id = %guest.id(), port, %error, "a published connection broke off");
                let _ = client.set_zero_linger();
            }
        }
        Err(error) => {
            tracing::debug!(id = %guest.id(), port, %error, "a published connection was refused");
            let _ = client.set_zero_linger();
        }
    }
}
