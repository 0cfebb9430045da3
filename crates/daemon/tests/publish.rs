//! Published ports, each connection carried to a service by a real agent on this machine.

mod ssh_rig;

use daemon::host::network::Publisher;
use daemon::publish::Ports;
use engine::host::HostErrorKind;
use model::SandboxId;
use model::port::PortForward;
use ssh_rig::{DEADLINE, noise, until};
use std::net::{IpAddr, Ipv4Addr};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

fn forward(host_port: u16, guest_port: u16) -> PortForward {
    format!("{host_port}:{guest_port}").parse().expect("a port")
}

/// Answers with its name and what it was told, once the client has ended.
async fn service(name: &'static str) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut all = name.as_bytes().to_vec();
                stream.read_to_end(&mut all).await.expect("read");
                stream.write_all(&all).await.expect("written");
            });
        }
    });
    port
}

async fn ask(port: u16, words: &[u8]) -> std::io::Result<Vec<u8>> {
    let conversation = async {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        stream.write_all(words).await?;
        stream.shutdown().await?;
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await?;
        Ok(all)
    };
    tokio::time::timeout(DEADLINE, conversation).await.expect("in time")
}

async fn publish(ports: &std::sync::Arc<Ports>, wanted: Vec<PortForward>) -> engine::host::Result<Vec<PortForward>> {
    let ports = ports.clone();
    let publishing = tokio::task::spawn_blocking(move || ports.publish(&SandboxId::from_bits(7), &wanted));
    publishing.await.expect("no panic")
}

#[tokio::test(flavor = "multi_thread")]
async fn exactly_the_wanted_ports_lead_into_the_guest() {
    let Some(rig) = ssh_rig::rig().await else { return };
    let ports = Ports::new(tokio::runtime::Handle::current(), rig.channel());
    let (first, second) = (service("first ").await, service("second ").await);
    let bound = publish(&ports, vec![forward(0, first), forward(0, second)]).await.expect("published");
    assert!(bound.iter().all(|port| port.host_port != 0 && port.host_address == IpAddr::V4(Ipv4Addr::LOCALHOST)));
    assert_eq!(ask(bound[0].host_port, b"hello").await.expect("an answer"), b"first hello");
    assert_eq!(ask(bound[1].host_port, b"hello").await.expect("an answer"), b"second hello");
    let long = noise(5_000_000);
    assert_eq!(ask(bound[0].host_port, &long).await.expect("an answer").len(), long.len() + 6);

    // The same again changes nothing; fewer withdraw the others; none is a withdrawal.
    assert_eq!(publish(&ports, vec![forward(0, first), forward(0, second)]).await.expect("published"), bound);
    assert_eq!(publish(&ports, vec![forward(0, second)]).await.expect("published"), bound[1..]);
    until("the port is free", || std::net::TcpListener::bind(("127.0.0.1", bound[0].host_port)).is_ok()).await;
    ports.withdraw(&SandboxId::from_bits(7));
    until("the port is free", || std::net::TcpListener::bind(("127.0.0.1", bound[1].host_port)).is_ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_without_a_service_is_refused_and_not_empty() {
    let Some(rig) = ssh_rig::rig().await else { return };
    let ports = Ports::new(tokio::runtime::Handle::current(), rig.channel());
    let gone = {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        listener.local_addr().expect("bound").port()
    };
    let bound = publish(&ports, vec![forward(0, gone)]).await.expect("published");
    assert!(ask(bound[0].host_port, b"hello").await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_names_its_holder_and_changes_nothing() {
    let Some(rig) = ssh_rig::rig().await else { return };
    let ports = Ports::new(tokio::runtime::Handle::current(), rig.channel());
    let service = service("here ").await;
    let bound = publish(&ports, vec![forward(0, service)]).await.expect("published");
    let holder = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let taken = holder.local_addr().expect("bound").port();
    let refused = publish(&ports, vec![forward(0, service), forward(0, 1), forward(taken, service)]).await;
    let error = refused.expect_err("it is taken");
    assert_eq!(error.kind, HostErrorKind::Busy);
    assert_eq!(error.to_string(), format!("cannot publish port {service} on 127.0.0.1:{taken}"));
    let cause = error.source.expect("a cause").to_string();
    assert!(cause.ends_with("listens there"), "{cause}");
    assert_eq!(ask(bound[0].host_port, b"still").await.expect("an answer"), b"here still");
    drop(holder);
    assert!(publish(&ports, vec![forward(taken, service)]).await.is_ok());
}
