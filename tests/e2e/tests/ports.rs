//! Promise: what listens in a guest is reached from this host, as soon as it is wanted and only as long.

use e2e::{World, needs};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

/// A guest that is emulated on a busy machine may take its time for anything.
const PATIENCE: Duration = Duration::from_secs(60);

fn running(world: &World, options: &[&str]) {
    let all = [&["vm", "run", "-d", "--name", "web", "--image", "tiny", "--nat", "off"], options].concat();
    world.banger(&all).ok();
}

fn in_guest(world: &World, line: &str) -> String {
    world.banger(&["vm", "exec", "web", "--", "sh", "-c", line]).ok().stdout
}

fn serve(world: &World, port: u16, word: &str) {
    let folder = format!("/srv/{word}");
    let line =
        format!("mkdir -p {folder} && echo {word} > {folder}/index.html && httpd -p 127.0.0.1:{port} -h {folder}");
    in_guest(world, &line);
}

/// The probe with these manners runs in the guest and listens.
fn probe(world: &World, manners: &str) {
    let put = [
        "vm",
        "exec",
        "-i",
        "web",
        "--",
        "sh",
        "-c",
        "[ -x /bin/probe ] || { cat > /bin/probe && chmod +x /bin/probe; }",
    ];
    world.banger_with_input(&put, &e2e::artifacts::probe()).ok();
    let port: u64 = manners.split(' ').nth(1).and_then(|port| port.parse().ok()).expect("manners name a port");
    in_guest(world, &format!("setsid probe {manners} </dev/null >/dev/null 2>&1 &"));
    let listens = |row: &Value| row["guest_port"] == port && row["process"] == "probe";
    until("the probe listens", || rows(world).iter().any(listens));
}

fn get(address: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.lines().last().unwrap_or_default().to_owned())
}

fn rows(world: &World) -> Vec<Value> {
    let rows = world.banger(&["vm", "ports", "web", "--json"]).ok().json();
    rows.as_array().expect("a listing is an array").clone()
}

fn host_address(world: &World, guest_port: u64) -> Option<String> {
    let row = rows(world).into_iter().find(|row| row["guest_port"] == guest_port)?;
    row["host_address"].as_str().map(str::to_owned)
}

#[track_caller]
fn until(what: &str, mut met: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !met() {
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_port_is_published_on_a_running_sandbox_and_withdrawn_again() {
    if !needs::qemu("a_port_is_published_on_a_running_sandbox_and_withdrawn_again") {
        return;
    }
    let world = World::tiny();
    running(&world, &[]);
    serve(&world, 8000, "hello");
    world.banger(&["vm", "port", "add", "web", "0:8000"]).ok();
    let address = host_address(&world, 8000).expect("it is published");
    let curl =
        std::process::Command::new("curl").args(["-sS", "--max-time", "60"]).arg(format!("http://{address}/")).output();
    assert_eq!(String::from_utf8_lossy(&curl.expect("curl runs").stdout), "hello\n");
    let row = rows(&world).into_iter().find(|row| row["guest_port"] == 8000).expect("it listens");
    assert_eq!(row["guest_address"], "127.0.0.1", "{row}");
    assert_eq!(row["process"], "httpd", "{row}");
    assert_eq!(row["url"], format!("http://{address}/"), "{row}");

    // Two ports at once on one number, and one that a program of this host holds: each names the holder.
    let taken = world.banger(&["vm", "port", "add", "web", &format!("{address}:9000")]);
    assert!(taken.code == 125 && taken.stderr.contains("sandbox web publishes its port 8000 there"), "{taken:?}");
    let holder = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = holder.local_addr().expect("bound").port();
    let taken = world.banger(&["vm", "port", "add", "web", &format!("{port}:8000")]);
    let own = std::process::id().to_string();
    assert!(taken.stderr.contains(&own) && taken.stderr.contains("hint:"), "{taken:?}");

    // Over a daemon that was killed it stays the same port.
    world.kill_daemon();
    world.banger(&["vm", "health", "web"]).ok();
    assert_eq!(host_address(&world, 8000).as_deref(), Some(address.as_str()));
    assert_eq!(get(&address).expect("it answers"), "hello");
    world.banger(&["vm", "port", "remove", "web", "8000"]).ok();
    assert!(TcpStream::connect(&address).is_err(), "the port outlived its withdrawal");
    assert_eq!(host_address(&world, 8000), None);
    let again = world.banger(&["vm", "port", "remove", "web", "8000"]);
    assert!(again.code == 125 && again.stderr.contains("not published"), "{again:?}");
    let verbs = world.banger(&["history", "--json"]).ok().stdout;
    assert!(verbs.contains("ensure ports"), "{verbs}");
}

#[test]
fn datagrams_reach_a_guest_and_come_back() {
    if !needs::qemu("datagrams_reach_a_guest_and_come_back") {
        return;
    }
    let world = World::tiny();
    running(&world, &["-p", "0:5353/udp"]);
    let address: SocketAddr = {
        let port = world.vm("web")["ports"][0].as_str().expect("it is published").to_owned();
        port.rsplit_once(':').expect("two ports").0.parse().expect("an address")
    };
    let ask = |socket: &UdpSocket, word: &[u8]| {
        socket.send_to(word, address).expect("sent");
        let mut answer = [0; 2048];
        socket.recv_from(&mut answer).map(|(count, _)| answer[..count].to_vec())
    };
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    socket.set_read_timeout(Some(Duration::from_secs(2))).expect("an option");
    assert!(ask(&socket, b"nobody").is_err(), "nothing listens yet");
    probe(&world, "udp-echo 5353");
    socket.set_read_timeout(Some(PATIENCE)).expect("an option");
    let other = UdpSocket::bind("127.0.0.1:0").expect("a port");
    other.set_read_timeout(Some(PATIENCE)).expect("an option");
    for word in ["one", "two", "three"] {
        assert_eq!(ask(&socket, word.as_bytes()).expect("an echo"), word.as_bytes());
        assert_eq!(ask(&other, b"other").expect("an echo"), b"other");
    }
    assert!(rows(&world).iter().any(|row| row["protocol"] == "udp" && row["host_address"] == address.to_string()));
    world.banger(&["vm", "port", "remove", "web", "5353/udp"]).ok();
    UdpSocket::bind(address).expect("the port is free at once");
}

#[test]
fn what_a_guest_listens_on_is_published_as_it_appears_and_no_longer() {
    if !needs::qemu("what_a_guest_listens_on_is_published_as_it_appears_and_no_longer") {
        return;
    }
    let world = World::tiny();
    running(&world, &["--auto-forward"]);
    // A number that this host has taken: the service is found under another one.
    let holder = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = holder.local_addr().expect("bound").port();
    serve(&world, 18_471, "first");
    serve(&world, taken, "second");
    until("the first is published", || get("127.0.0.1:18471").is_ok_and(|word| word == "first"));
    let second = || host_address(&world, taken.into()).unwrap_or_default();
    until("the second is published", || get(&second()).is_ok_and(|word| word == "second"));
    assert_ne!(second(), format!("127.0.0.1:{taken}"));
    assert!(rows(&world).iter().all(|row| row["auto"] == true), "{:?}", rows(&world));
    in_guest(&world, "kill $(pidof httpd | cut -d' ' -f2)");
    until("one is withdrawn", || rows(&world).len() == 1);
    let left = rows(&world)[0]["host_address"].as_str().map(str::to_owned).expect("it is published");
    assert!(get(&left).is_ok());
    world.banger(&["vm", "port", "auto", "web", "off"]).ok();
    until("the other one is withdrawn", || TcpStream::connect(&left).is_err());
    world.banger(&["vm", "port", "auto", "web", "on"]).ok();
    until("it is back", || host_address(&world, 18_471).is_some() || host_address(&world, taken.into()).is_some());
    world.banger(&["vm", "stop", "web"]).ok();
    until("nothing outlives the guest", || TcpStream::connect(&left).is_err());
}

#[test]
fn a_python_http_server_is_visible_with_curl_while_it_runs() {
    let test = "a_python_http_server_is_visible_with_curl_while_it_runs";
    if !needs::qemu(test) || !needs::program("mmdebstrap", test) || !needs::program("curl", test) {
        return;
    }
    let world = World::with(&e2e::foreign::debian_host());
    let machine = ["--image", e2e::foreign::DEBIAN_HOST, "--vcpu", "2", "--memory", "1G", "--net", "none"];
    world.banger(&[&["vm", "run", "-d", "--name", "web", "--auto-forward"], &machine[..]].concat()).ok();
    in_guest(&world, "mkdir /srv/site && echo hello from python > /srv/site/index.html");
    let server = "cd /srv/site && exec setsid python3 -m http.server 18473 >/dev/null 2>&1 </dev/null & echo $!";
    let pid = in_guest(&world, server);
    let curl = || {
        let curl =
            std::process::Command::new("curl").args(["-sS", "--max-time", "60", "http://127.0.0.1:18473/"]).output();
        let curl = curl.expect("curl runs");
        (curl.status.code(), String::from_utf8_lossy(&curl.stdout).into_owned())
    };
    until("it is published", || curl() == (Some(0), "hello from python\n".to_owned()));
    let row = rows(&world).into_iter().find(|row| row["guest_port"] == 18473).expect("it is listed");
    assert!(row["auto"] == true && row["process"] == "python3" && row["url"] == "http://127.0.0.1:18473/", "{row}");
    in_guest(&world, &format!("kill {}", pid.trim()));
    // 7: curl could not connect.
    until("it is gone", || curl().0 == Some(7));
}

#[test]
fn a_published_connection_ends_as_one_between_two_programs_would() {
    if !needs::qemu("a_published_connection_ends_as_one_between_two_programs_would") {
        return;
    }
    let world = World::tiny();
    running(&world, &["-p", "0:7001", "-p", "0:7002", "-p", "0:7003"]);
    let address = |guest_port| host_address(&world, guest_port).expect("it is published");
    probe(&world, "ends-first 7001 /tmp/told");
    let told = |wanted: &str| until(wanted, || in_guest(&world, "cat /tmp/told 2>/dev/null || true") == wanted);

    // The server ends first and still hears what the client says seconds later.
    let mut stream = TcpStream::connect(address(7001)).expect("connected");
    let mut heard = String::new();
    stream.read_to_string(&mut heard).expect("the server's end arrives");
    assert_eq!(heard, "hello\n");
    std::thread::sleep(Duration::from_secs(3));
    stream.write_all(b"late").expect("sent");
    stream.shutdown(std::net::Shutdown::Write).expect("ended");
    told("heard late");
    // A client that breaks off is not taken for one that has said all.
    let mut stream = TcpStream::connect(address(7001)).expect("connected");
    stream.write_all(b"half of an uplo").expect("sent");
    std::thread::sleep(Duration::from_secs(1));
    nix::sys::socket::setsockopt(&stream, nix::sys::socket::sockopt::Linger, &linger()).expect("an option");
    drop(stream);
    told("broken ConnectionReset");

    // Nobody takes the connection: it is there, it is silent, and the others are served meanwhile.
    probe(&world, "never-accept 7002");
    let stuck: Vec<TcpStream> = (0..10).map(|_| TcpStream::connect(address(7002)).expect("connected")).collect();
    probe(&world, "counts 7003");
    let flood: Vec<_> = (0..50)
        .map(|number| {
            let address = address(7003);
            std::thread::spawn(move || {
                let mut stream = TcpStream::connect(address).expect("connected");
                stream.set_read_timeout(Some(PATIENCE)).expect("an option");
                stream.write_all(&vec![7; 10_000 + number]).expect("sent");
                stream.shutdown(std::net::Shutdown::Write).expect("ended");
                let mut answer = String::new();
                stream.read_to_string(&mut answer).expect("an answer");
                assert_eq!(answer, (10_000 + number).to_string());
            })
        })
        .collect();
    flood.into_iter().for_each(|client| client.join().expect("it was served"));
    drop(stuck);

    // The machine vanishes in the middle: a reset, not an end that looks like a whole answer.
    let mut stream = TcpStream::connect(address(7003)).expect("connected");
    stream.write_all(b"x").expect("sent");
    std::thread::sleep(Duration::from_millis(500));
    world.banger(&["vm", "kill", "web"]).ok();
    stream.set_read_timeout(Some(PATIENCE)).expect("an option");
    let ended = stream.read(&mut [0; 10]);
    assert_eq!(ended.map_err(|error| error.kind()), Err(std::io::ErrorKind::ConnectionReset));
}

fn linger() -> nix::libc::linger {
    nix::libc::linger { l_onoff: 1, l_linger: 0 }
}
