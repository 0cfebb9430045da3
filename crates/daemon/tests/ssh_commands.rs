//! Commands through the real OpenSSH client: status, streams, terminals, flow, and clients that vanish.

mod ssh_rig;

use ssh_rig::{DEADLINE, finish, noise, rig, skip, told, until, which};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test(flavor = "multi_thread")]
async fn a_command_has_its_streams_and_its_status() {
    let Some(rig) = rig().await else { return };
    let output = rig.ssh(&["web.vm", "echo out; echo err >&2; exit 7"]).await;
    assert_eq!(output.status.code(), Some(7));
    assert_eq!((output.stdout.as_slice(), output.stderr.as_slice()), (b"out\n".as_slice(), b"err\n".as_slice()));
    assert_eq!(told(rig.ssh(&["web.vm", "printf '%s|' \"a b\" '$HOME' \\\\"]).await), "a b|$HOME|\\|");
    assert_eq!(rig.ssh(&["web.vm", "no-such-command"]).await.status.code(), Some(127));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_is_told_as_openssh_tells_it() {
    let Some(rig) = rig().await else { return };
    let mut command = rig.command("ssh");
    let output = finish(command.args(["-v", "web.vm", "kill -TERM $$"])).await;
    assert_eq!(output.status.code(), Some(255));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("exit-signal"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn standard_input_ends_where_the_client_ends_it() {
    let Some(rig) = rig().await else { return };
    let mut child = rig.command("ssh").args(["web.vm", "cat; echo end"]).stdin(Stdio::piped()).spawn().expect("ssh");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(b"hello\n").await.expect("written");
    drop(stdin);
    let output = tokio::time::timeout(DEADLINE, child.wait_with_output()).await.expect("in time").expect("ended");
    assert_eq!(told(output), "hello\nend\n");
}

/// With queues of a fixed length in between this waits for itself, see `daemon::ssh::inbox`.
#[tokio::test(flavor = "multi_thread")]
async fn bytes_flow_both_ways_at_once_without_a_standstill() {
    let Some(rig) = rig().await else { return };
    let sent = noise(48 * 1024 * 1024);
    let mut child = rig.command("ssh").args(["web.vm", "cat"]).stdin(Stdio::piped()).spawn().expect("ssh");
    let (mut stdin, mut stdout) = (child.stdin.take().expect("a pipe"), child.stdout.take().expect("a pipe"));
    let expected = sent.clone();
    let writing = tokio::spawn(async move { stdin.write_all(&sent).await });
    // A reader that begins late: the way back is full, so the way in has to wait.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut received = Vec::new();
    tokio::time::timeout(DEADLINE, stdout.read_to_end(&mut received)).await.expect("no standstill").expect("read");
    writing.await.expect("no panic").expect("written");
    assert!(received == expected, "{} bytes of {}", received.len(), expected.len());
    assert!(child.wait().await.expect("ended").success());
}

/// The server's memory, while a command does not read what its client would love to send.
#[tokio::test(flavor = "multi_thread")]
async fn a_channel_that_is_not_read_holds_little() {
    let Some(rig) = rig().await else { return };
    let resident = || {
        let status = std::fs::read_to_string("/proc/self/status").expect("procfs");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a line");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") / 1024
    };
    let socket = rig.path("mux");
    let control = format!("ControlPath={}", socket.display());
    let mut stuck = rig.command("ssh");
    stuck.args(["-M", "-o", &control, "web.vm", "sleep 30"]);
    let mut stuck = stuck.stdin(Stdio::from(std::fs::File::open("/dev/zero").expect("zeros"))).spawn().expect("ssh");
    until("the master listens", || socket.exists()).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = resident();
    // Its neighbour on the same connection is served, and with more than a window.
    let neighbour = rig.ssh(&["-o", &control, "web.vm", "head -c 20000000 /dev/zero | wc -c"]).await;
    assert_eq!(told(neighbour).trim(), "20000000");
    tokio::time::sleep(Duration::from_secs(3)).await;
    let after = resident();
    // Queued without bound, it would be 16 MiB a second.
    assert!(after < before + 24, "{before} MiB resident first, then {after}");
    stuck.kill().await.expect("ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_has_a_size_that_follows() {
    let Some(rig) = rig().await else { return };
    let Some(_) = which("python3").or_else(|| skip("a terminal for the client needs python3")) else { return };
    // A terminal of 30×90 around ssh; the size changes once the first one was seen.
    let script = r#"
import fcntl, os, pty, struct, sys, termios
def size(fd, rows, columns): fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
pid, fd = pty.fork()
if pid == 0:
    size(0, 30, 90)
    os.execvp(sys.argv[1], sys.argv[1:])
seen, resized = b"", False
while True:
    try: data = os.read(fd, 4096)
    except OSError: break
    if not data: break
    seen += data
    if not resized and b"30 90" in seen:
        resized = True
        size(fd, 41, 101)
os.write(1, seen)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"#;
    let config = rig.config();
    let mut python = tokio::process::Command::new("python3");
    python.args(["-c", script, "ssh", "-F"]).arg(config).args(["-tt", "web.vm"]);
    python.arg("tty >/dev/null && trap 'stty size; exit 3' WINCH; stty size; while :; do sleep 0.1; done");
    python.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let output = finish(&mut python).await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("30 90") && text.contains("41 101"), "{text}");
    assert_eq!(output.status.code(), Some(3), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_vanishes_leaves_nothing_running() {
    let Some(rig) = rig().await else { return };
    let mark = rig.path("pid");
    let line = format!("echo $$ > {0}.new && mv {0}.new {0}; exec sleep 1000", mark.display());
    let mut child = rig.command("ssh").args(["web.vm", &line]).spawn().expect("ssh");
    until("the command runs", || mark.exists()).await;
    let pid = std::fs::read_to_string(&mark).expect("a pid").trim().to_owned();
    child.kill().await.expect("ssh is gone");
    let process = std::path::PathBuf::from(format!("/proc/{pid}/exe"));
    until("the command is gone", || std::fs::read_link(&process).is_err()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_channels_share_a_connection() {
    let Some(rig) = rig().await else { return };
    let socket = rig.path("mux");
    let control = format!("ControlPath={}", socket.display());
    let mut master = rig.command("ssh").args(["-M", "-N", "-o", &control, "web.vm"]).spawn().expect("ssh");
    until("the master listens", || socket.exists()).await;
    // All of them hold their channel until the last one has come.
    let gate = rig.path("gate");
    let line = format!("echo in >> {0}.list; while [ ! -e {0} ]; do sleep 0.3; done; echo out", gate.display());
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let mut command = rig.command("ssh");
        command.args(["-o", &control, "web.vm", &line]);
        clients.spawn(async move { told(finish(&mut command).await) });
    }
    let list = rig.path("gate.list");
    until("all are in", || std::fs::read_to_string(&list).is_ok_and(|text| text.lines().count() == 200)).await;
    std::fs::write(&gate, "").expect("open");
    let done = clients.join_all().await;
    assert!(done.len() == 200 && done.iter().all(|text| text == "out\n"));
    master.kill().await.expect("ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_key_that_changed_is_refused_by_the_client() {
    let Some(rig) = rig().await else { return };
    let known = rig.path("ssh/known_hosts");
    let text = std::fs::read_to_string(&known).expect("known hosts");
    let other = text.replace("web.vm", "other.vm");
    std::fs::write(&known, other).expect("written");
    let output = rig.ssh(&["web.vm", "true"]).await;
    assert_eq!(output.status.code(), Some(255));
    assert!(String::from_utf8_lossy(&output.stderr).contains("Host key verification failed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn environment_that_the_client_sends_arrives() {
    let Some(rig) = rig().await else { return };
    let output = rig.ssh(&["-o", "SetEnv=COLOUR=blue", "web.vm", "echo $COLOUR"]).await;
    assert_eq!(told(output), "blue\n");
}
