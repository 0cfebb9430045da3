//! A daemon that does what a test wants and no real one would: hangs in the middle, floods, never reads.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;
use tempfile::TempDir;

/// 20 seconds for anything that should happen at once, on a machine that has other things to do.
pub const SOON: Duration = Duration::from_secs(20);

pub struct Fake {
    folder: TempDir,
    /// `METHOD /path` of each request, as it comes.
    pub requests: Receiver<String>,
}

impl Fake {
    /// Each connection gets a thread and carries one request.
    pub fn new(answer: impl Fn(&str, UnixStream) + Clone + Send + 'static) -> Self {
        Fake::with(move |stream, requests| {
            let Some(request) = read_request(&stream) else { return };
            // The test may have seen enough.
            let _ = requests.send(request.clone());
            answer(&request, stream);
        })
    }

    /// The connection as it is.
    pub fn with(serve: impl Fn(UnixStream, &Sender<String>) + Clone + Send + 'static) -> Self {
        let folder = tempfile::Builder::new().prefix("banger").tempdir_in("/tmp").expect("a folder can be made");
        let listener = UnixListener::bind(folder.path().join("s")).expect("a socket can be bound");
        let (sender, requests) = channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, serve, sender) = (stream.expect("it can be accepted"), serve.clone(), sender.clone());
                std::thread::spawn(move || serve(stream, &sender));
            }
        });
        Fake { folder, requests }
    }

    pub fn banger(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_banger"));
        command.env("BANGER_SOCKET", self.socket()).env_remove("RUST_BACKTRACE").args(words);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("s")
    }

    /// Waits until a request begins so; others before it are passed over.
    pub fn wait_for(&self, wanted: &str) -> String {
        loop {
            let request = self.requests.recv_timeout(SOON).unwrap_or_else(|_| panic!("{wanted} never came"));
            if request.starts_with(wanted) {
                return request;
            }
        }
    }
}

fn read_request(stream: &UnixStream) -> Option<String> {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first).ok().filter(|count| *count > 0)?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(first.rsplit_once(' ')?.0.to_owned())
}

pub fn answer_json(mut stream: UnixStream, json: &str) {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", json.len());
    stream.write_all((head + json).as_bytes()).expect("the client listens");
}

/// The lines of a stream; what stays open is up to the caller.
pub fn answer_stream(stream: &mut UnixStream, lines: &[&str]) {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\nconnection: close\r\n\r\n";
    stream.write_all((head.to_owned() + &lines.join("\n") + "\n").as_bytes()).expect("the client listens");
}

/// Returns when the client has closed its end.
pub fn wait_for_goodbye(mut stream: UnixStream) {
    let mut rest = Vec::new();
    // A reset is a goodbye, too.
    let _ = stream.read_to_end(&mut rest);
}

pub fn signal(child: &Child, signal: rustix::process::Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_child(child), signal).expect("it runs");
}
