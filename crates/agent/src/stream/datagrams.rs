//! Datagrams to and from a UDP port of the guest, one a frame. The kernel tells by an error when nobody listens there any
//! more (udp(7)); the stream then ends, and whoever wants another one asks again.

use super::{HEAD_BYTES, read_frame};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, split};
use tokio::net::UdpSocket;
use wire::guest::STREAM_FRAME_LIMIT_BYTES;

/// A socket that speaks with this port alone. Nobody refuses a datagram in time, so the guest's table is asked first.
pub async fn connect(port: u16) -> io::Result<UdpSocket> {
    let listening = crate::ports::addresses("udp", port);
    let four = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let six = IpAddr::V6(Ipv6Addr::LOCALHOST);
    let target = match listening.as_slice() {
        [] => return Err(io::ErrorKind::ConnectionRefused.into()),
        all if all.iter().any(|address| *address == four || address.is_unspecified()) => four,
        all if all.contains(&six) => six,
        [first, ..] => *first,
    };
    let own = if target.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    let socket = UdpSocket::bind(SocketAddr::from((own, 0))).await?;
    socket.connect(SocketAddr::from((target, port))).await?;
    Ok(socket)
}

/// Until either side fails.
pub async fn carry(host: impl AsyncRead + AsyncWrite, guest: &UdpSocket) {
    let (from_host, to_host) = split(host);
    let _ = tokio::try_join!(outward(guest, to_host), inward(from_host, guest));
}

async fn outward(guest: &UdpSocket, mut host: impl AsyncWrite + Unpin) -> io::Result<()> {
    let mut frame = vec![0; HEAD_BYTES + STREAM_FRAME_LIMIT_BYTES];
    loop {
        let count = guest.recv(&mut frame[HEAD_BYTES..]).await?;
        frame[..HEAD_BYTES].copy_from_slice(&(count as u32).to_be_bytes());
        host.write_all(&frame[..HEAD_BYTES + count]).await?;
    }
}

async fn inward(mut host: impl AsyncRead + Unpin, guest: &UdpSocket) -> io::Result<()> {
    let mut frame = vec![0; STREAM_FRAME_LIMIT_BYTES];
    loop {
        let count = read_frame(&mut host, &mut frame).await?;
        guest.send(&frame[..count]).await?;
    }
}
