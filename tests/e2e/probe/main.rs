//! What a guest runs for a test: servers with manners that no ordinary program has. Static, so that any image takes it.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

fn main() {
    let words: Vec<String> = std::env::args().collect();
    let port: u16 = words[2].parse().expect("a port");
    match words[1].as_str() {
        // Every datagram comes back.
        "udp-echo" => {
            let socket = UdpSocket::bind(("127.0.0.1", port)).expect("a port");
            let mut datagram = vec![0; 65_536];
            loop {
                let (count, peer) = socket.recv_from(&mut datagram).expect("a datagram");
                let _ = socket.send_to(&datagram[..count], peer);
            }
        }
        // Listens, and never takes a connection.
        "never-accept" => {
            let _listener = TcpListener::bind(("127.0.0.1", port)).expect("a port");
            std::thread::sleep(Duration::from_secs(3600));
        }
        // Ends its own direction at once; whatever is said then, however late, it tells in the file.
        "ends-first" => {
            let listener = TcpListener::bind(("127.0.0.1", port)).expect("a port");
            for stream in listener.incoming() {
                let mut stream = stream.expect("a peer");
                stream.write_all(b"hello\n").expect("sent");
                stream.shutdown(Shutdown::Write).expect("half-closed");
                let mut heard = String::new();
                let told = match stream.read_to_string(&mut heard) {
                    Ok(_) => format!("heard {heard}"),
                    Err(error) => format!("broken {:?}", error.kind()),
                };
                std::fs::write(&words[3], told).expect("a file");
            }
        }
        // One page for everybody.
        "http" => {
            let listener = TcpListener::bind(("127.0.0.1", port)).expect("a port");
            for stream in listener.incoming() {
                let mut stream = stream.expect("a peer");
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 6\r\n\r\nhello\n");
            }
        }
        // A client: what it hears goes to the file.
        "reads" => {
            let mut heard = Vec::new();
            let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("a server");
            stream.read_to_end(&mut heard).expect("heard");
            std::fs::write(&words[3], heard).expect("a file");
        }
        "listens" => drop(TcpStream::connect(("127.0.0.1", port)).expect("a server")),
        // Answers how much was said, once that has ended.
        "counts" => {
            let listener = TcpListener::bind(("127.0.0.1", port)).expect("a port");
            for stream in listener.incoming() {
                std::thread::spawn(move || {
                    let mut stream = stream.expect("a peer");
                    let mut heard = Vec::new();
                    if stream.read_to_end(&mut heard).is_ok() {
                        let _ = stream.write_all(heard.len().to_string().as_bytes());
                    }
                });
            }
        }
        other => panic!("no such manners: {other}"),
    }
}
