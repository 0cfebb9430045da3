//! The name server as `dig` sees it, on a loopback port of its own.

// A skipped test and a measurement say so.
#![allow(clippy::print_stderr)]

use daemon::dns::{Host, NameServer, Service, Zone};
use model::port::Protocol;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn zone(serial: u32) -> Zone {
    let service =
        Service { protocol: Protocol::Tcp, guest_port: 80, bound: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)) };
    let web = Host {
        name: "web".parse().expect("a name"),
        addresses: vec!["10.77.0.2".parse().expect("an address"), "fd77::2".parse().expect("an address")],
        services: vec![service],
    };
    let many = (1..=200).map(|last| Ipv4Addr::new(10, 1, 0, last).into()).collect();
    let many = Host { name: "many".parse().expect("a name"), addresses: many, services: Vec::new() };
    Zone::new(&[web, many], serial)
}

async fn start() -> NameServer {
    NameServer::start(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await.expect("a free port")
}

fn dig_is_there() -> bool {
    let found = Command::new("dig").arg("-v").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !found {
        eprintln!("skipped: this test needs `dig`");
    }
    found
}

async fn dig(server: &NameServer, arguments: &str) -> String {
    let port = server.address().port().to_string();
    let mut command = tokio::process::Command::new("dig");
    command.args(["@127.0.0.1", "-p", &port, "+tries=1", "+time=5"]).args(arguments.split_whitespace());
    let output = command.output().await.expect("dig runs");
    String::from_utf8(output.stdout).expect("dig writes text")
}

#[tokio::test(flavor = "multi_thread")]
async fn dig_gets_every_kind_of_answer() {
    if !dig_is_there() {
        return;
    }
    let server = start().await;
    server.publish(zone(1));
    let short = [
        ("web.vm A", "10.77.0.2"),
        ("web.vm AAAA", "fd77::2"),
        ("WEB.VM A", "10.77.0.2"),
        ("-x 10.77.0.2", "web.vm."),
        ("-x fd77::2", "web.vm."),
        ("_http._tcp.web.vm SRV", "0 0 8080 published.web.vm."),
        ("web.vm A +tcp", "10.77.0.2"),
        ("web.vm A +noedns", "10.77.0.2"),
        ("web.vm MX", ""),
    ];
    for (arguments, expected) in short {
        assert_eq!(dig(&server, &format!("+short {arguments}")).await.trim(), expected, "{arguments}");
    }
    let status = [
        ("web.vm A", "status: NOERROR"),
        ("web.vm A", "flags: qr aa rd;"),
        ("other.vm A", "status: NXDOMAIN"),
        ("other.vm A", "SOA"),
        ("example.org A", "status: REFUSED"),
        ("-x 10.77.0.3", "status: REFUSED"),
        ("web.vm A +edns=1 +noednsneg", "status: BADVERS"),
        ("web.vm A +opcode=NOTIFY", "status: NOTIMP"),
        ("version.bind TXT CH", "status: REFUSED"),
        ("vm AXFR +tcp", "Transfer failed"),
        // Cut by UDP, dig asks again by TCP.
        ("many.vm A", "ANSWER: 200"),
        ("many.vm A +ignore", "flags: qr aa tc rd;"),
    ];
    for (arguments, expected) in status {
        let told = dig(&server, arguments).await;
        assert!(told.contains(expected), "{arguments}: {expected} is not in\n{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_zone_is_seen_by_the_next_question() {
    if !dig_is_there() {
        return;
    }
    let server = start().await;
    assert_eq!(dig(&server, "+short web.vm A").await.trim(), "");
    server.publish(zone(1));
    assert_eq!(dig(&server, "+short web.vm A").await.trim(), "10.77.0.2");
    server.publish(Zone::new(&[], 2));
    assert!(dig(&server, "web.vm A").await.contains("NXDOMAIN"));
}

#[tokio::test]
async fn a_taken_port_moves_the_server_elsewhere() {
    let first = start().await;
    let second = NameServer::start(first.address()).await.expect("another port is free");
    assert_ne!(first.address().port(), second.address().port());
}

/// `cargo nextest run -p daemon --release --run-ignored only --no-capture dns_speed`: shared machines are too noisy for a gate.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "a measurement"]
async fn dns_speed() {
    let server = start().await;
    server.publish(zone(1));
    let address = server.address();
    let asking = std::thread::spawn(move || {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.connect(address).expect("connected");
        socket.set_read_timeout(Some(Duration::from_secs(2))).expect("a timeout");
        let question = b"\0\x07\0\0\0\x01\0\0\0\0\0\0\x03web\x02vm\0\0\x01\0\x01";
        let (began, mut buffer, mut told) = (Instant::now(), [0; 512], 0_u32);
        while began.elapsed() < Duration::from_secs(2) {
            // 64 questions on the way: as dnsperf does it.
            for _ in 0..64 {
                socket.send(question).expect("sent");
            }
            for _ in 0..64 {
                told += u32::from(socket.recv(&mut buffer).is_ok());
            }
        }
        f64::from(told) / began.elapsed().as_secs_f64()
    });
    let rate = tokio::task::spawn_blocking(|| asking.join().expect("no panic")).await.expect("no panic");
    eprintln!("{rate:.0} answers/s");
}
