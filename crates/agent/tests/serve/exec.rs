//! Commands: how they start, what their streams do, how they end.

use crate::client::{Agent, DEADLINE, shell};
use std::path::Path;
use std::time::{Duration, Instant};
use wire::FaultKind;
use wire::guest::{
    CHANNEL_RESIZE, CHANNEL_SIGNAL, CHANNEL_STATUS, CHANNEL_STDOUT, ExecRequest, ExecStatus, WindowSize,
};

const MIB: usize = 1024 * 1024;

fn not_started(status: ExecStatus) -> FaultKind {
    match status {
        ExecStatus::NotStarted { fault } => fault.kind,
        other => panic!("it ran: {other:?}"),
    }
}

async fn wait_until(what: &str, mut reached: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !reached() {
        assert!(Instant::now() < end, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn streams_are_kept_apart_and_the_exit_status_arrives() {
    let agent = Agent::start().await;
    let outcome = agent.shell("echo out; echo err >&2; exit 42").await;
    assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("out\n", "err\n"));
    assert_eq!(outcome.status, ExecStatus::Exited { code: 42 });
    assert_eq!(agent.shell("kill -9 $$").await.status, ExecStatus::Signalled { signal: 9 });
}

#[tokio::test]
async fn input_reaches_the_command_and_ends() {
    let agent = Agent::start().await;
    let mut session = agent.exec(&ExecRequest { stdin: true, ..shell("wc -c") }).await;
    session.input(&vec![b'x'; 3 * MIB]).await;
    session.end_input().await;
    assert_eq!(session.finish().await.stdout.trim(), (3 * MIB).to_string());
    let without = agent.shell("wc -c").await;
    assert_eq!(without.stdout.trim(), "0", "without stdin it is /dev/null");
}

#[tokio::test]
async fn a_command_that_does_not_read_its_input_still_ends_and_hears_signals() {
    let agent = Agent::start().await;
    let mut session = agent.exec(&ExecRequest { stdin: true, ..shell("exec 0<&-; sleep 0.2; exit 3") }).await;
    session.input(&vec![b'x'; MIB / 2]).await;
    assert_eq!(session.finish().await.status, ExecStatus::Exited { code: 3 });
    let mut session = agent.exec(&ExecRequest { stdin: true, ..shell("exec sleep 600") }).await;
    session.input(&vec![b'x'; MIB / 2]).await;
    session.say(CHANNEL_SIGNAL, &[15]).await;
    assert_eq!(session.finish().await.status, ExecStatus::Signalled { signal: 15 });
}

#[tokio::test]
async fn a_signal_reaches_the_whole_process_group() {
    let agent = Agent::start().await;
    let mut session = agent.exec(&shell("sleep 600 & echo $!; wait")).await;
    let (_, line) = session.frame().await.expect("a process id");
    let sleeper = format!("/proc/{}", String::from_utf8_lossy(&line).trim());
    assert!(Path::new(&sleeper).exists());
    session.say(CHANNEL_SIGNAL, &[15]).await;
    session.finish().await;
    wait_until("the sleeper lives on", || is_gone(&sleeper)).await;
}

/// A zombie counts: who reaps orphans is the machine's affair.
fn is_gone(process: &str) -> bool {
    std::fs::read_to_string(Path::new(process).join("stat")).map_or(true, |stat| stat.contains(") Z "))
}

#[tokio::test]
async fn a_terminal_has_its_size_and_follows_it() {
    let agent = Agent::start().await;
    let tty = Some(WindowSize { rows: 24, columns: 80 });
    let line = "stty size; test -t 0 && test -t 2 && echo terminal; read x; stty size; echo $TERM";
    let mut session = agent.exec(&ExecRequest { tty, stdin: true, ..shell(line) }).await;
    session.wait_for("24 80\r\nterminal\r\n").await;
    let size = serde_json::to_vec(&WindowSize { rows: 50, columns: 132 }).expect("a size");
    session.say(CHANNEL_RESIZE, &size).await;
    session.input(b"\n").await;
    let outcome = session.finish().await;
    assert!(outcome.stdout.ends_with("50 132\r\nxterm-256color\r\n"), "{:?}", outcome.stdout);
    assert_eq!(outcome.status, ExecStatus::Exited { code: 0 });
}

#[tokio::test]
async fn control_c_on_a_terminal_interrupts() {
    let agent = Agent::start().await;
    let tty = Some(WindowSize { rows: 24, columns: 80 });
    let mut session = agent.exec(&ExecRequest { tty, stdin: true, ..shell("echo up; exec sleep 600") }).await;
    session.wait_for("up\r\n").await;
    session.input(b"\x03").await;
    assert_eq!(session.finish().await.status, ExecStatus::Signalled { signal: 2 });
}

#[tokio::test]
async fn environment_and_folder_are_as_asked() {
    let agent = Agent::start().await;
    let mut request = shell("echo $GREETING; pwd; test -n \"$HOME$PATH$USER$SHELL\" && echo login; echo ${LEAK-none}");
    request.env = [("GREETING".to_owned(), "hello".to_owned())].into();
    request.cwd = Some("/usr".to_owned());
    assert_eq!(agent.exec(&request).await.finish().await.stdout, "hello\n/usr\nlogin\nnone\n");
    if !agent.shell("echo $SHELL").await.stdout.ends_with("sh\n") {
        skip("the login shell: whoever runs this has none");
        return;
    }
    let through = ExecRequest { argv: vec!["echo \"a  b\" | cat".to_owned()], login_shell: true, ..request.clone() };
    assert!(agent.exec(&through).await.finish().await.stdout.ends_with("a  b\n"));
    let words = ["echo", "it's", "$HOME"].map(str::to_owned).to_vec();
    let exact = ExecRequest { argv: words, login_shell: true, ..request };
    assert!(agent.exec(&exact).await.finish().await.stdout.ends_with("it's $HOME\n"));
}

#[tokio::test]
async fn what_cannot_start_says_why() {
    let agent = Agent::start().await;
    let plain = agent.folder.path().join("plain");
    std::fs::write(&plain, "x").expect("a file");
    let with = |argv: &str| ExecRequest { argv: vec![argv.to_owned()], ..ExecRequest::default() };
    for (request, kind) in [
        (with("no-such-command"), FaultKind::NotFound),
        (with(&plain.to_string_lossy()), FaultKind::Refused),
        (ExecRequest { cwd: Some("/no/such".to_owned()), ..with("true") }, FaultKind::NotFound),
        (ExecRequest { user: Some("no-such-user".to_owned()), ..with("true") }, FaultKind::NotFound),
    ] {
        let outcome = agent.exec(&request).await.finish().await;
        assert_eq!(not_started(outcome.status), kind, "{request:?}");
    }
}

#[tokio::test]
async fn another_user_has_only_his_rights() {
    if !rustix::process::geteuid().is_root() {
        skip("another user: needs root");
        return;
    }
    let agent = Agent::start().await;
    let request = ExecRequest {
        user: Some("nobody".to_owned()),
        ..shell("id -u; id -G; ls /root >/dev/null 2>&1 || echo refused; echo $USER")
    };
    let outcome = agent.exec(&request).await.finish().await;
    assert_eq!(outcome.stdout, "65534\n65534\nrefused\nnobody\n", "{outcome:?}");
}

fn skip(line: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "skipped: {line}");
}

#[tokio::test]
async fn a_slow_reader_stops_the_command_and_the_agent_does_not_grow() {
    let agent = Agent::start().await;
    agent.shell("true").await;
    let before = agent.resident_bytes();
    let mut session = agent.exec(&shell("head -c 256M /dev/zero")).await;
    session.frame().await.expect("output");
    tokio::time::sleep(Duration::from_millis(500)).await;
    let stalled = agent.resident_bytes();
    assert!(stalled < before + 8 * MIB as u64, "{before} then {stalled} bytes while nobody reads");
    let mut highest = stalled;
    let mut total = 0;
    while let Some((channel, bytes)) = session.frame().await {
        match channel {
            CHANNEL_STDOUT => total += bytes.len(),
            CHANNEL_STATUS => break,
            other => panic!("a frame on channel {other}"),
        }
        if total % (16 * MIB) < bytes.len() {
            highest = highest.max(agent.resident_bytes());
        }
    }
    // The first frame was read before the count.
    assert!(total > 255 * MIB && total <= 256 * MIB, "{total}");
    assert!(highest < before + 8 * MIB as u64, "{before} then {highest} bytes");
}

#[tokio::test]
async fn the_last_words_of_a_command_are_not_lost() {
    let agent = Agent::start().await;
    for _ in 0..20 {
        let outcome = agent.shell("head -c 60000 /dev/zero | tr '\\0' x; echo; echo end >&2").await;
        assert_eq!((outcome.stdout.len(), outcome.stderr.as_str()), (60001, "end\n"));
    }
}

#[tokio::test]
async fn a_daemon_left_behind_does_not_hold_the_session() {
    let agent = Agent::start().await;
    let started = Instant::now();
    let outcome = agent.shell("sleep 300 & echo $!").await;
    assert!(started.elapsed() < Duration::from_secs(30));
    assert_eq!(outcome.status, ExecStatus::Exited { code: 0 });
    let sleeper = outcome.stdout.trim();
    assert!(Path::new("/proc").join(sleeper).exists(), "it was ended with its parent");
    let _ = std::process::Command::new("kill").arg(sleeper).status();
}

#[tokio::test]
async fn a_vanished_host_hangs_up_on_the_command() {
    let agent = Agent::start().await;
    for line in ["echo $$; exec sleep 600", "trap '' HUP TERM; echo $$; while :; do echo more; sleep 0.05; done"] {
        let mut session = agent.exec(&shell(line)).await;
        let (_, first) = session.frame().await.expect("a process id");
        let process = format!("/proc/{}", String::from_utf8_lossy(&first).lines().next().expect("a line"));
        assert!(Path::new(&process).exists());
        drop(session);
        wait_until(line, || is_gone(&process)).await;
    }
}

#[tokio::test]
async fn two_hundred_commands_run_at_once() {
    let agent = Agent::start().await;
    let mut sessions = Vec::new();
    for number in 0..200 {
        sessions.push((number, agent.exec(&ExecRequest { stdin: true, ..shell("read x; echo $x") }).await));
    }
    for (number, session) in &mut sessions {
        session.input(format!("{number}\n").as_bytes()).await;
    }
    for (number, session) in sessions {
        assert_eq!(session.finish().await.stdout, format!("{number}\n"));
    }
}
