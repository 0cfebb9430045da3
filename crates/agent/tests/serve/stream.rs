//! Bytes to a server in the guest.

use crate::client::{Agent, DEADLINE};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};

/// Sends, ends its own direction, and reads the rest: the server answers only after the end.
async fn talk(mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin) -> String {
    let words = async {
        stream.write_all(b"hello").await.expect("sent");
        stream.shutdown().await.expect("half-closed");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer");
        answer
    };
    tokio::time::timeout(DEADLINE, words).await.expect("in time")
}

async fn answer_after_the_end(mut peer: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin) {
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
