//! Forwarding through the real OpenSSH client: `-L`, `-D`, `-R`, Unix sockets, ControlMaster, the ssh agent.

mod ssh_rig;

use ssh_rig::{DEADLINE, Rig, finish, noise, rig, skip, told, until, which};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Stdio;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::process::Child;
use tokio::task::JoinSet;

/// Answers each connection with what it got, backwards, once the peer has ended: half-closing is part of the test.
async fn mirror_port(tasks: &mut JoinSet<()>) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    tasks.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(mirror(stream));
        }
    });
    port
}

fn mirror_socket(tasks: &mut JoinSet<()>, path: &Path) {
    let listener = UnixListener::bind(path).expect("a socket");
    tasks.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(mirror(stream));
        }
    });
}

async fn mirror(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.expect("read");
    all.reverse();
    stream.write_all(&all).await.expect("written");
    stream.shutdown().await.expect("ended");
}

async fn check_mirror(mut stream: impl AsyncRead + AsyncWrite + Unpin, length: usize) {
    let sent = noise(length);
    let conversation = async {
        stream.write_all(&sent).await.expect("written");
        stream.shutdown().await.expect("ended");
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.expect("read");
        all.reverse();
        assert!(all == sent, "{} bytes came back", all.len());
    };
    tokio::time::timeout(DEADLINE, conversation).await.expect("in time");
}

async fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    listener.local_addr().expect("bound").port()
}

/// `ssh -N` with these words, once its master socket is there.
async fn session(rig: &Rig, words: &[&str]) -> Child {
    let control = rig.path("mux");
    let mut command = rig.command("ssh");
    command
        .args(["-N", "-M", "-o", "ExitOnForwardFailure=yes", "-o"])
        .arg(format!("ControlPath={}", control.display()));
    let mut child = command.args(words).arg("web.vm").stderr(Stdio::inherit()).spawn().expect("ssh");
    until("the session is up", || control.exists() || child.try_wait().expect("a child").is_some()).await;
    assert!(child.try_wait().expect("a child").is_none(), "ssh {words:?} ended");
    child
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_forward_reaches_the_guests_loopback_and_nothing_else() {
    let Some(rig) = rig().await else { return };
    let mut tasks = JoinSet::new();
    let (target, first, second) = (mirror_port(&mut tasks).await, free_port().await, free_port().await);
    let (by_name, elsewhere) = (format!("{first}:web.vm:{target}"), format!("{second}:192.0.2.1:{target}"));
    let _session = session(&rig, &["-L", &by_name, "-L", &elsewhere]).await;
    check_mirror(TcpStream::connect(("127.0.0.1", first)).await.expect("connected"), 5_000_000).await;
    let mut clients = JoinSet::new();
    for _ in 0..20 {
        clients.spawn(async move {
            check_mirror(TcpStream::connect(("127.0.0.1", first)).await.expect("connected"), 100_000).await;
        });
    }
    clients.join_all().await;
    let mut refused = TcpStream::connect(("127.0.0.1", second)).await.expect("ssh itself listens");
    assert_eq!(refused.read(&mut [0; 8]).await.expect("ended"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn unix_sockets_are_forwarded_both_ways() {
    let Some(rig) = rig().await else { return };
    let mut tasks = JoinSet::new();
    let (guest, here) = (rig.path("guest.sock"), rig.path("here.sock"));
    let (guest_end, host_end) = (rig.path("guest-end.sock"), rig.path("host-end.sock"));
    mirror_socket(&mut tasks, &guest);
    mirror_socket(&mut tasks, &host_end);
    let local = format!("{}:{}", here.display(), guest.display());
    let remote = format!("{}:{}", guest_end.display(), host_end.display());
    let _session = session(&rig, &["-L", &local, "-R", &remote]).await;
    check_mirror(UnixStream::connect(&here).await.expect("connected"), 300_000).await;
    until("the guest listens", || guest_end.exists()).await;
    check_mirror(UnixStream::connect(&guest_end).await.expect("connected"), 300_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dynamic_forward_is_a_socks_proxy_into_the_guest() {
    let Some(rig) = rig().await else { return };
    let mut tasks = JoinSet::new();
    let (target, proxy) = (mirror_port(&mut tasks).await, free_port().await);
    let _session = session(&rig, &["-D", &proxy.to_string()]).await;
    let mut stream = TcpStream::connect(("127.0.0.1", proxy)).await.expect("connected");
    // SOCKS 5 without authentication, then CONNECT to a name (RFC 1928).
    stream.write_all(&[5, 1, 0]).await.expect("written");
    let mut word = [0; 10];
    stream.read_exact(&mut word[..2]).await.expect("read");
    let name = b"localhost";
    let request = [&[5, 1, 0, 3, name.len() as u8], name.as_slice(), &target.to_be_bytes()].concat();
    stream.write_all(&request).await.expect("written");
    stream.read_exact(&mut word).await.expect("read");
    assert_eq!(word[1], 0, "{word:?}");
    check_mirror(stream, 300_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_remote_forward_listens_in_the_guest_until_the_client_goes() {
    let Some(rig) = rig().await else { return };
    let mut tasks = JoinSet::new();
    let (target, listening) = (mirror_port(&mut tasks).await, free_port().await);
    let mut child = session(&rig, &["-R", &format!("{listening}:127.0.0.1:{target}")]).await;
    until("the guest listens", || std::net::TcpStream::connect(("127.0.0.1", listening)).is_ok()).await;
    check_mirror(TcpStream::connect(("127.0.0.1", listening)).await.expect("connected"), 3_000_000).await;
    let mut clients = JoinSet::new();
    for _ in 0..20 {
        clients.spawn(async move {
            check_mirror(TcpStream::connect(("127.0.0.1", listening)).await.expect("connected"), 50_000).await;
        });
    }
    clients.join_all().await;
    child.kill().await.expect("ended");
    until("the port is free", || std::net::TcpStream::connect(("127.0.0.1", listening)).is_err()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_remote_forward_may_choose_its_port_be_cancelled_and_meet_a_taken_one() {
    let Some(rig) = rig().await else { return };
    let mut tasks = JoinSet::new();
    let target = mirror_port(&mut tasks).await;
    let _session = session(&rig, &[]).await;
    let control = format!("ControlPath={}", rig.path("mux").display());
    let forward = format!("0:127.0.0.1:{target}");
    let port = told(rig.ssh(&["-O", "forward", "-o", &control, "-R", &forward, "web.vm"]).await);
    let port: u16 = port.trim().parse().expect("a port");
    check_mirror(TcpStream::connect(("127.0.0.1", port)).await.expect("connected"), 10_000).await;
    let fixed = free_port().await;
    let forward = format!("{fixed}:127.0.0.1:{target}");
    told(rig.ssh(&["-O", "forward", "-o", &control, "-R", &forward, "web.vm"]).await);
    check_mirror(TcpStream::connect(("127.0.0.1", fixed)).await.expect("connected"), 10_000).await;
    told(rig.ssh(&["-O", "cancel", "-o", &control, "-R", &forward, "web.vm"]).await);
    until("the port is free", || std::net::TcpStream::connect(("127.0.0.1", fixed)).is_err()).await;
    let taken = format!("{target}:127.0.0.1:1");
    let refused = rig.ssh(&["-o", "ExitOnForwardFailure=yes", "-R", &taken, "web.vm", "true"]).await;
    assert_eq!(refused.status.code(), Some(255));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("remote port forwarding failed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_commands_share_one_connection() {
    let Some(rig) = rig().await else { return };
    let _session = session(&rig, &[]).await;
    let control = format!("ControlPath={}", rig.path("mux").display());
    for code in 0..20 {
        let output = rig.ssh(&["-o", &control, "web.vm", &format!("exit {code}")]).await;
        assert_eq!(output.status.code(), Some(code));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ssh_agent_is_reached_from_the_guest() {
    let Some(rig) = rig().await else { return };
    let programs = ["ssh-agent", "ssh-add", "ssh-keygen"];
    if programs.iter().any(|program| which(program).is_none()) {
        return skip("this test needs `ssh-agent`, `ssh-add` and `ssh-keygen`").unwrap_or_default();
    }
    let socket = rig.path("person.agent");
    let mut agent = tokio::process::Command::new("ssh-agent");
    agent.arg("-D").arg("-a").arg(&socket).stdout(Stdio::null()).kill_on_drop(true);
    let _agent = agent.spawn().expect("an agent");
    until("the agent listens", || socket.exists()).await;
    let run = async |program: &str, words: &[&str]| {
        let mut command = tokio::process::Command::new(program);
        command.args(words).env("SSH_AUTH_SOCK", &socket).current_dir(rig.folder.path());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        told(finish(command.kill_on_drop(true)).await)
    };
    run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-C", "a persons key", "-f", "person"]).await;
    run("ssh-add", &["-q", "person"]).await;
    let line = "ssh-add -l; echo \"$SSH_AUTH_SOCK\"; stat -c %a \"$(dirname \"$SSH_AUTH_SOCK\")\"";
    let mut command = rig.command("ssh");
    command.env("SSH_AUTH_SOCK", &socket).args(["-A", "web.vm", line]);
    let said = told(finish(&mut command).await);
    let mut lines = said.lines();
    assert!(lines.next().is_some_and(|key| key.contains("a persons key")), "{said}");
    let path = lines.next().expect("a path").to_owned();
    assert_eq!(lines.next(), Some("700"), "{said}");
    until("the socket goes with the command", || !Path::new(&path).exists()).await;
    assert_eq!(told(rig.ssh(&["web.vm", "echo \"$SSH_AUTH_SOCK\""]).await), "\n");
}
