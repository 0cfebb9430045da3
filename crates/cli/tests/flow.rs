//! A command's streams under pressure: whoever is slow slows the other side down, and our memory stays flat.

mod support;

use rustix::net::{RecvFlags, recv};
use rustix::process::Signal;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use support::fake::{Fake, answer_json, signal};
use tokio_tungstenite::tungstenite::{Message, WebSocket, accept};
use wire::control::Sandbox;
use wire::guest::{CHANNEL_STDOUT, EXEC_CHUNK_BYTES};

/// 48 MiB: several times what the program needs at all, and a fraction of what flows by.
const FLAT_KIB: u64 = 48 * 1024;

/// Opens the conversation and takes the request. Before it, `exec` asks in which folder the sandbox's work lies.
fn guest(stream: UnixStream) -> Option<WebSocket<UnixStream>> {
    let mut start = [0; 64];
    let (count, _) = recv(&stream, &mut start, RecvFlags::PEEK).expect("a request can be looked at");
    if !start[..count].starts_with(b"GET /v1/vms/web/exec") {
        let sandbox = Sandbox { id: "web".to_owned(), name: "web".to_owned(), ..Sandbox::default() };
        answer_json(stream, &serde_json::to_string(&sandbox).expect("a sandbox is JSON"));
        return None;
    }
    let mut socket = accept(stream).expect("the handshake is one");
    assert!(matches!(socket.read(), Ok(Message::Text(_))), "the first word is the request");
    Some(socket)
}

/// Waits until a counter stands still: the pressure has arrived.
fn settled(count: &AtomicU64) -> u64 {
    let mut last = 0;
    for _ in 0..100 {
        std::thread::sleep(Duration::from_millis(300));
        let now = count.load(Ordering::Relaxed);
        if now == last && now > 0 {
            return now;
        }
        last = now;
    }
    panic!("it never stood still: {last} bytes");
}

/// The most memory that the process ever had.
fn peak_kib(child: &Child) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the kernel tells");
    line.trim().trim_end_matches(" kB").parse().expect("it is a number")
}

#[test]
fn a_flood_on_stdout_waits_for_its_reader() {
    let sent = Arc::new(AtomicU64::new(0));
    let count = sent.clone();
    let fake = Fake::with(move |stream, _| {
        let Some(mut socket) = guest(stream) else { return };
        let mut frame = vec![b'y'; EXEC_CHUNK_BYTES];
        frame[0] = CHANNEL_STDOUT;
        while socket.send(Message::binary(frame.clone())).is_ok() {
            count.fetch_add(frame.len() as u64, Ordering::Relaxed);
        }
    });
    let mut child = fake.banger(&["vm", "exec", "web", "yes"]).spawn().expect("it can be run");
    let held = settled(&sent);
    assert!(held < 8 << 20, "{held} bytes are on their way to somebody who does not read");
    let mut stdout = child.stdout.take().expect("it is piped");
    let mut taken = 0;
    let mut chunk = vec![0; 1 << 20];
    while taken < 256 << 20 {
        taken += stdout.read(&mut chunk).expect("it goes on");
    }
    assert!(peak_kib(&child) < FLAT_KIB, "{} KiB", peak_kib(&child));
    drop(stdout);
    assert_eq!(child.wait().expect("it ends").code(), Some(141), "as SIGPIPE would have ended it");
}

#[test]
fn a_guest_that_does_not_read_slows_our_stdin_down() {
    let fake = Fake::with(|stream, _| {
        let _socket = guest(stream);
        std::thread::sleep(Duration::from_secs(60));
    });
    let mut child = fake.banger(&["vm", "exec", "web", "sleep"]).stdin(Stdio::piped()).spawn().expect("it can be run");
    let mut stdin = child.stdin.take().expect("it is piped");
    let fed = Arc::new(AtomicU64::new(0));
    let count = fed.clone();
    std::thread::spawn(move || {
        let chunk = vec![0; EXEC_CHUNK_BYTES];
        while stdin.write_all(&chunk).is_ok() {
            count.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        }
    });
    let held = settled(&fed);
    assert!(held < 8 << 20, "{held} bytes were taken for somebody who does not read");
    assert!(peak_kib(&child) < FLAT_KIB, "{} KiB", peak_kib(&child));
    // The way out of a command that hears nothing: twice within two seconds.
    let left = (0..100).find_map(|_| {
        signal(&child, Signal::INT);
        std::thread::sleep(Duration::from_millis(200));
        child.try_wait().expect("it can be asked")
    });
    assert_eq!(left.and_then(|status| status.code()), Some(130));
}
