//! A program that a test has started, heard out to its end: within a deadline, and with what it said where it keeps none.
//!
//! A program has ended when its process has and nobody holds its output open any more. One that does neither in time fails the
//! test by its name, with a picture of all processes that may have to do with it: what each waits for in the kernel.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// A first boot on a busy machine without hardware virtualization takes up to 40 s; nothing may take longer than this.
pub const DEADLINE: Duration = Duration::from_secs(150);
/// A program that was told to end.
const FAREWELL: Duration = Duration::from_secs(30);
/// What may have to do with a program that stands still.
const OURS: &[&str] = &["banger", "ssh", "rsync", "git", "qemu", "vhost-device-vsock", "sftp", "scp"];

/// What a program said and how it ended.
#[derive(Debug, Clone)]
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {}", self.stdout))
    }
}

/// Collects what a child says until it ends; one that never ends fails the test.
#[track_caller]
pub fn finish(child: Child, what: &str) -> Ran {
    let (status, stdout, stderr) = hear_out(child, what);
    Ran {
        code: exit_code(status),
        stdout: String::from_utf8_lossy(&stdout).into_owned(),
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
    }
}

/// Runs it with this on its stdin; answers its stdout byte for byte. It must end well.
#[track_caller]
pub fn feed(mut command: Command, input: Vec<u8>, what: &str) -> Vec<u8> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    let mut stdin = child.stdin.take().expect("stdin is piped");
    // Nobody waits for this one: it ends with the program at the latest, and a program that never reads is named below.
    let (sender, written) = channel();
    std::thread::spawn(move || {
        let outcome = stdin.write_all(&input);
        drop(stdin);
        let _ = sender.send(outcome);
    });
    let (status, stdout, stderr) = hear_out(child, what);
    assert!(status.success(), "`{what}` ended with {status}: {}", String::from_utf8_lossy(&stderr));
    written.recv_timeout(FAREWELL).expect("a program that ended reads no more").expect("it took all of its input");
    stdout
}

/// Waits for one that was told to end.
#[track_caller]
pub fn await_end(child: &mut Child, what: &str) -> ExitStatus {
    match end_of(child, Instant::now() + FAREWELL) {
        Some(status) => status,
        None => stands_still(child, what, FAREWELL, &[], &[]),
    }
}

pub fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).expect("a pid fits"))
}

#[track_caller]
fn hear_out(mut child: Child, what: &str) -> (ExitStatus, Vec<u8>, Vec<u8>) {
    let end = Instant::now() + DEADLINE;
    // Who reads its input to the end would never come to it.
    drop(child.stdin.take());
    let stdout = child.stdout.take().map(hear);
    let stderr = child.stderr.take().map(hear);
    let (stdout, whole) = stdout.map_or((Vec::new(), true), |pieces| collect(&pieces, end));
    let (stderr, whole) = stderr.map_or((Vec::new(), whole), |pieces| {
        let (stderr, ended) = collect(&pieces, end);
        (stderr, whole && ended)
    });
    match end_of(&mut child, if whole { end } else { Instant::now() }) {
        Some(status) if whole => (status, stdout, stderr),
        Some(status) => {
            let what = format!("{what}, which ended with {status} while somebody holds its output open,");
            stands_still(&mut child, &what, DEADLINE, &stdout, &stderr)
        }
        None => stands_still(&mut child, what, DEADLINE, &stdout, &stderr),
    }
}

/// Reads to the end on a thread of its own.
fn hear(mut pipe: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, pieces) = channel();
    std::thread::spawn(move || {
        let mut piece = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = pipe.read(&mut piece) {
            if sender.send(piece[..count].to_vec()).is_err() {
                return;
            }
        }
    });
    pieces
}

/// All that was said until the end, and whether that came in time.
fn collect(pieces: &Receiver<Vec<u8>>, end: Instant) -> (Vec<u8>, bool) {
    let mut said = Vec::new();
    loop {
        match pieces.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(piece) => said.extend(piece),
            Err(RecvTimeoutError::Disconnected) => return (said, true),
            Err(RecvTimeoutError::Timeout) => return (said, false),
        }
    }
}

fn end_of(child: &mut Child, end: Instant) -> Option<ExitStatus> {
    loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            return Some(status);
        }
        if Instant::now() > end {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[track_caller]
fn stands_still(child: &mut Child, what: &str, within: Duration, stdout: &[u8], stderr: &[u8]) -> ! {
    let picture = picture();
    let _ = kill(pid_of(child), Signal::SIGKILL);
    let (stdout_bytes, stdout) = (stdout.len(), String::from_utf8_lossy(&stdout[..stdout.len().min(4096)]));
    let stderr = String::from_utf8_lossy(stderr);
    panic!(
        "`{what}` did not end within {within:?}; {stdout_bytes} bytes of stdout:\n{stdout}\nstderr:\n{stderr}\n{picture}"
    );
}

/// The processes that may have to do with it: number, parent, state, what it waits for, command line.
fn picture() -> String {
    let mut told = String::from("processes:\n");
    for entry in std::fs::read_dir("/proc").expect("processes can be listed").flatten() {
        let read = |name: &str| std::fs::read_to_string(entry.path().join(name)).unwrap_or_default();
        let line = read("cmdline").replace('\0', " ");
        if !OURS.iter().any(|word| line.contains(word)) {
            continue;
        }
        let stat = read("stat");
        let words: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        let (state, parent) = (words.first().unwrap_or(&"?"), words.get(1).unwrap_or(&"?"));
        let pid = entry.file_name();
        let line: String = line.chars().take(160).collect();
        let (wchan, call) = (read("wchan"), read("syscall"));
        let _ = writeln!(told, "{} of {parent} {state} {wchan} [{}] {line}", pid.to_string_lossy(), call.trim());
    }
    told
}

/// As a shell counts: 128 and the signal's number for a killed process.
fn exit_code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}
