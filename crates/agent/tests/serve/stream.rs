//! Bytes to a server in the guest.

use crate::client::{Agent, DEADLINE};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket, UnixListener};

/// Sends, ends its own direction, and reads the rest: the server answers only after the end.
async fn talk(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> String {
    let words = async {
        frame(&mut stream, b"hello").await;
        frame(&mut stream, b"").await;
        let mut answer = Vec::new();
        while let Some(part) = read_frame(&mut stream).await.filter(|part| !part.is_empty()) {
            answer.extend(part);
        }
        String::from_utf8(answer).expect("text")
    };
    tokio::time::timeout(DEADLINE, words).await.expect("in time")
}

async fn frame(stream: &mut (impl AsyncWrite + Unpin), payload: &[u8]) {
    stream.write_u32(payload.len() as u32).await.expect("sent");
    stream.write_all(payload).await.expect("sent");
}

/// Absent: the stream broke off.
async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> Option<Vec<u8>> {
    let mut payload = vec![0; stream.read_u32().await.ok()? as usize];
    stream.read_exact(&mut payload).await.ok()?;
    Some(payload)
}

async fn answer_after_the_end(mut peer: impl AsyncRead + AsyncWrite + Unpin) {
    let mut heard = String::new();
    peer.read_to_string(&mut heard).await.expect("read");
    peer.write_all(format!("{heard} back").as_bytes()).await.expect("sent");
    peer.shutdown().await.expect("closed");
}

#[tokio::test]
async fn a_port_on_the_loopback_is_reached_and_each_direction_ends_by_itself() {
    let agent = Agent::start().await;
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let Ok(listener) = TcpListener::bind(address).await else { continue };
        let port = listener.local_addr().expect("address").port();
        let server =
            tokio::spawn(async move { answer_after_the_end(listener.accept().await.expect("a peer").0).await });
        let stream = agent.stream(&format!("port={port}")).await.expect("a stream");
        assert_eq!(talk(stream).await, "hello back", "{address}");
        server.await.expect("the server ends");
    }
}

#[tokio::test]
async fn a_unix_socket_is_reached() {
    let agent = Agent::start().await;
    let path = agent.folder.path().join("server.sock");
    let listener = UnixListener::bind(&path).expect("listen");
    let server = tokio::spawn(async move { answer_after_the_end(listener.accept().await.expect("a peer").0).await });
    let stream = agent.stream(&format!("path={}", path.display())).await.expect("a stream");
    assert_eq!(talk(stream).await, "hello back");
    server.await.expect("the server ends");
}

#[tokio::test]
async fn where_nobody_listens_there_is_no_stream() {
    let agent = Agent::start().await;
    let free = TcpListener::bind("127.0.0.1:0").await.expect("listen").local_addr().expect("address").port();
    assert_eq!(agent.stream(&format!("port={free}")).await.err().map(|status| status.as_u16()), Some(404));
    assert_eq!(agent.stream("port=70000").await.err().map(|status| status.as_u16()), Some(400));
    assert_eq!(agent.stream("").await.err().map(|status| status.as_u16()), Some(400));
}

#[tokio::test]
async fn a_silent_client_keeps_its_direction_after_the_servers_end() {
    let agent = Agent::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
    let port = listener.local_addr().expect("address").port();
    let server = tokio::spawn(async move {
        let (mut peer, _) = listener.accept().await.expect("a peer");
        peer.write_all(b"done").await.expect("sent");
        peer.shutdown().await.expect("half-closed");
        let mut heard = String::new();
        peer.read_to_string(&mut heard).await.expect("read");
        heard
    });
    let mut stream = agent.stream(&format!("port={port}")).await.expect("a stream");
    assert_eq!(read_frame(&mut stream).await.as_deref(), Some(b"done".as_slice()));
    assert_eq!(read_frame(&mut stream).await.as_deref(), Some(b"".as_slice()));
    tokio::time::sleep(Duration::from_secs(2)).await;
    frame(&mut stream, b"late").await;
    frame(&mut stream, b"").await;
    assert_eq!(server.await.expect("the server ends"), "late");
}

#[tokio::test]
async fn a_client_that_breaks_off_is_no_end_for_the_server() {
    let agent = Agent::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
    let port = listener.local_addr().expect("address").port();
    let mut stream = agent.stream(&format!("port={port}")).await.expect("a stream");
    let (mut peer, _) = listener.accept().await.expect("a peer");
    frame(&mut stream, b"half of an uplo").await;
    drop(stream);
    let mut heard = Vec::new();
    let ended = tokio::time::timeout(DEADLINE, peer.read_to_end(&mut heard)).await.expect("in time");
    assert_eq!(ended.map_err(|error| error.kind()), Err(std::io::ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn datagrams_keep_their_bounds() {
    let agent = Agent::start().await;
    for address in ["127.0.0.1:0", "[::1]:0", "[::]:0"] {
        let Ok(echo) = UdpSocket::bind(address).await else { continue };
        let port = echo.local_addr().expect("address").port();
        let server = tokio::spawn(async move {
            let mut datagram = vec![0; 65_536];
            for _ in 0..3 {
                let (count, peer) = echo.recv_from(&mut datagram).await.expect("a datagram");
                echo.send_to(&datagram[..count], peer).await.expect("sent");
            }
        });
        let mut stream = agent.stream(&format!("udp={port}")).await.expect("a stream");
        for payload in [b"one".to_vec(), Vec::new(), vec![7; 60_000]] {
            frame(&mut stream, &payload).await;
            let echoed = tokio::time::timeout(DEADLINE, read_frame(&mut stream)).await.expect("in time");
            assert_eq!(echoed, Some(payload), "{address}");
        }
        server.await.expect("the server ends");
    }
    let free = UdpSocket::bind("127.0.0.1:0").await.expect("bound").local_addr().expect("address").port();
    assert_eq!(agent.stream(&format!("udp={free}")).await.err().map(|status| status.as_u16()), Some(404));
}
