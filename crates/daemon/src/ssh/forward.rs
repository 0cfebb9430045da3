//! One forwarded connection: bytes between an SSH channel and a socket in the guest, each direction ending by itself.

use super::inbox::{Inbound, Outlet};
use crate::guest_channel::{Destination, Guest, GuestStream};
use bytes::BytesMut;
use russh::server::{ChannelOpenHandle, Msg};
use russh::{ChannelOpenFailure, ChannelWriteHalf};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};

/// 32 KiB at a time: one packet.
const CHUNK_BYTES: usize = 32 * 1024;

/// Where a client may forward to: the guest's own loopback, by any of its names.
pub fn is_guest(host: &str, name: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    matches!(host.as_str(), "localhost" | "::1" | "0.0.0.0" | "::" | "")
        || host.parse::<std::net::Ipv4Addr>().is_ok_and(|address| address.is_loopback())
        || host == name
        || host.strip_suffix(".vm") == Some(name)
}

/// Connects, answers the client's request for the channel, passes bytes until both sides are done.
pub async fn connect(
    guest: Guest,
    to: Destination,
    reply: ChannelOpenHandle,
    writer: ChannelWriteHalf<Msg>,
    outlet: Outlet,
) {
    match guest.stream(&to).await {
        Ok(stream) => {
            reply.accept().await;
            pass(stream, &writer, outlet).await;
        }
        Err(error) => {
            tracing::debug!(id = %guest.id(), ?to, %error, "a forward was refused");
            reply.reject(ChannelOpenFailure::ConnectFailed).await;
        }
    }
}

/// Each direction ends by itself; the client's close ends both.
pub async fn pass(stream: GuestStream, writer: &ChannelWriteHalf<Msg>, outlet: Outlet) {
    let (guest_reader, guest_writer) = tokio::io::split(stream);
    let _ = tokio::try_join!(to_client(guest_reader, writer), to_guest(outlet, guest_writer));
    let _ = writer.close().await;
}

/// Why a direction ends both.
struct Closed;

async fn to_client(mut guest: ReadHalf<GuestStream>, writer: &ChannelWriteHalf<Msg>) -> Result<(), Closed> {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(CHUNK_BYTES);
        match guest.read_buf(&mut buffer).await {
            // A reset looks like an end to the client: SSH has no other word for it.
            Ok(0) | Err(_) => return writer.eof().await.map_err(|_| Closed),
            Ok(_) => writer.data_bytes(buffer.split().freeze()).await.map_err(|_| Closed)?,
        }
    }
}

/// What the guest takes no more is thrown away, so that the client's end is still seen.
async fn to_guest(mut outlet: Outlet, mut guest: WriteHalf<GuestStream>) -> Result<(), Closed> {
    let mut takes_more = true;
    loop {
        match outlet.next().await {
            Some(Inbound::Data(data)) => takes_more = takes_more && guest.write_all(&data).await.is_ok(),
            Some(Inbound::Eof) => {
                let _ = guest.shutdown().await;
                return Ok(());
            }
            Some(Inbound::Resize(_) | Inbound::Signal(_)) => {}
            None => return Err(Closed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::is_guest;

    #[test]
    fn a_forward_goes_to_the_guest_itself_by_any_of_its_names() {
        for own in ["localhost", "LOCALHOST", "127.0.0.1", "127.0.1.1", "::1", "web", "web.vm", "web.vm.", "0.0.0.0"] {
            assert!(is_guest(own, "web"), "{own}");
        }
        for other in ["example.org", "10.0.0.1", "webx", "web.vmx", "vm", "other.vm", "::2"] {
            assert!(!is_guest(other, "web"), "{other}");
        }
    }
}
