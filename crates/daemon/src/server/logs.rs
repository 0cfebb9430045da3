//! `GET /v1/vms/{ref}/logs`: a sandbox's console, or what its VMM said, from the file; with `follow` until the sandbox
//! is off and all is read, or the client goes. New lines are announced by inotify(7); nothing polls.

use super::fault::Refusal;
use super::input::{Named, Query};
use crate::app::{App, HostKind};
use crate::host::vmm::console::times;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use engine::{Sandbox, StateChange};
use rustix::fs::inotify;
use std::convert::Infallible;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::fs::File;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncSeekExt, SeekFrom};
use tokio::sync::{broadcast, mpsc};
use wire::control::LogsRequest;
use wire::{Fault, FaultKind};

const AGENT: &str = "agent";
/// With this each of the agent's lines begins (`agent/src/console.rs`), after what a journal puts before it.
const AGENT_PREFIX: &[u8] = b"banger-init: ";
/// 16 KiB: longer than any line of the agent's.
const MAX_LINE_BYTES: usize = 16 * 1024;
const CHUNK_BYTES: usize = 64 * 1024;
/// 4 MiB: how far back `tail` looks for its lines.
const MAX_TAIL_BYTES: u64 = 4 * 1024 * 1024;
/// What a simulated console holds at most.
const SIM_TAIL_BYTES: usize = 64 * 1024;
/// 1 s: a file that inotify lost sight of (replaced, truncated) is looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Reads a sandbox's log, or follows it
#[utoipa::path(get, path = "/v1/vms/{ref}/logs", tag = "vms", params(("ref" = String, Path), LogsRequest),
    responses((status = 200, description = "The log's bytes", content_type = "text/plain", body = String), (status = "default", body = Fault)))]
pub async fn logs(
    State(app): State<Arc<App>>,
    reference: Named,
    Query(request): Query<LogsRequest>,
) -> Result<Response, Refusal> {
    let events = app.events();
    let sandbox = app.engine.resolve(&reference.0)?;
    if request.source.as_deref() == Some("service") {
        return Ok(text(super::service::log(&app, &sandbox, &request).await?));
    }
    let path = file_of(&app, &sandbox, request.source.as_deref())?;
    if app.kind == HostKind::Sim {
        return Ok(text(Body::from(simulated(&app, &sandbox, request.tail).await?)));
    }
    let file = match File::open(&path).await {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(text(Body::empty())),
        Err(error) => return Err(unreadable(&path, &error)),
    };
    let start = start(&path, &request).await.map_err(|error| unreadable(&path, &error))?;
    let (sender, receiver) = mpsc::channel(4);
    let ends = request.follow.then(|| End { app, sandbox, events });
    let only = (request.source.as_deref() == Some(AGENT)).then(AgentLines::default);
    tokio::spawn(async move {
        if let Err(error) = send(file, path, start, ends, Lines { sender, only }).await {
            tracing::warn!(%error, "a log could not be read to its end");
        }
    });
    let chunks = futures_util::stream::unfold(receiver, |mut receiver| async move {
        let chunk: Bytes = receiver.recv().await?;
        Some((Ok::<_, Infallible>(chunk), receiver))
    });
    Ok(text(Body::from_stream(chunks)))
}

fn text(body: Body) -> Response {
    ([(CONTENT_TYPE, "text/plain; charset=utf-8")], body).into_response()
}

fn file_of(app: &App, sandbox: &Sandbox, source: Option<&str>) -> Result<PathBuf, Refusal> {
    match source.unwrap_or("console") {
        // The agent is the guest's init or one of its services: either way its lines are on the console.
        "console" | AGENT => Ok(app.layout.console_log(&sandbox.id)),
        "vmm" => Ok(app.layout.vmm_log(&sandbox.id)),
        "bootstrap" => Ok(app.layout.bootstrap_log(&sandbox.id)),
        other => {
            let other: String = other.chars().take(40).collect();
            Err(Refusal::invalid(format!(
                "`{other}` is no log: it is one of `console`, `vmm`, `agent`, `service`, `bootstrap`"
            )))
        }
    }
}

fn unreadable(path: &Path, error: &io::Error) -> Refusal {
    let fault = Fault::new(FaultKind::Internal, format!("cannot read the log {}", path.display()));
    Refusal(fault.with_cause(error.to_string()))
}

async fn simulated(app: &Arc<App>, sandbox: &Sandbox, tail: Option<u64>) -> Result<String, Refusal> {
    let id = sandbox.id.clone();
    let console = app.ask(move |app| Ok(app.host.vmm.console_tail(&id, SIM_TAIL_BYTES))).await?;
    let start = tail.map_or(0, |lines| nth_line_from_end(console.as_bytes(), lines));
    Ok(console[start..].to_owned())
}

/// Where the wanted part begins: the later of what `tail` and `since_ns` ask for.
async fn start(path: &Path, request: &LogsRequest) -> io::Result<u64> {
    let tail = match request.tail {
        None => 0,
        Some(lines) => tail_start(path, lines, request.source.as_deref() == Some(AGENT)).await?,
    };
    let since = request.since_ns.map_or(0, |since| times::start_of(path, since / 1_000_000));
    Ok(tail.max(since))
}

/// Where the last `lines` lines begin.
async fn tail_start(path: &Path, lines: u64, of_agent: bool) -> io::Result<u64> {
    let mut file = File::open(path).await?;
    let length = file.metadata().await?.len();
    let from = length.saturating_sub(MAX_TAIL_BYTES);
    file.seek(SeekFrom::Start(from)).await?;
    let mut end = Vec::new();
    file.take(MAX_TAIL_BYTES).read_to_end(&mut end).await?;
    let start = if of_agent { nth_agent_line_from_end(&end, lines) } else { nth_line_from_end(&end, lines) };
    Ok(from + start as u64)
}

fn nth_agent_line_from_end(text: &[u8], lines: u64) -> usize {
    let mut start = text.len();
    let mut left = lines;
    for line in text.split_inclusive(|byte| *byte == b'\n').rev() {
        if left == 0 {
            return start;
        }
        start -= line.len();
        left -= u64::from(is_agents(line));
    }
    start
}

fn is_agents(line: &[u8]) -> bool {
    line.windows(AGENT_PREFIX.len()).any(|window| window == AGENT_PREFIX)
}

fn nth_line_from_end(text: &[u8], lines: u64) -> usize {
    let body = text.strip_suffix(b"\n").unwrap_or(text);
    if lines == 0 {
        return text.len();
    }
    let breaks = body.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
    breaks.map(|(at, _)| at + 1).nth((lines - 1) as usize).unwrap_or(0)
}

/// To whom a log is sent, and which lines of it.
struct Lines {
    sender: mpsc::Sender<Bytes>,
    only: Option<AgentLines>,
}

impl Lines {
    /// False when nobody reads any more.
    async fn send(&mut self, chunk: Vec<u8>) -> bool {
        let chunk = match &mut self.only {
            None => chunk,
            Some(only) => only.filter(&chunk),
        };
        chunk.is_empty() || self.sender.send(chunk.into()).await.is_ok()
    }
}

/// Lets whole lines through that the agent wrote.
#[derive(Default)]
struct AgentLines {
    begun: Vec<u8>,
}

impl AgentLines {
    fn filter(&mut self, chunk: &[u8]) -> Vec<u8> {
        let mut kept = Vec::new();
        for part in chunk.split_inclusive(|byte| *byte == b'\n') {
            // A line without end is cut: the agent's own are short.
            let room = MAX_LINE_BYTES.saturating_sub(self.begun.len());
            self.begun.extend_from_slice(&part[..part.len().min(room)]);
            if part.ends_with(b"\n") {
                if is_agents(&self.begun) {
                    kept.append(&mut self.begun);
                }
                self.begun.clear();
            }
        }
        kept
    }
}

/// When a followed log is over: its sandbox is off.
struct End {
    app: Arc<App>,
    sandbox: Arc<Sandbox>,
    events: broadcast::Receiver<StateChange>,
}

impl End {
    fn is_off(&self) -> bool {
        self.app.engine.get(&self.sandbox.id).map_or(true, |record| !record.state.may_have_vmm())
    }
}

async fn send(
    mut file: File,
    path: PathBuf,
    mut position: u64,
    mut follow: Option<End>,
    mut lines: Lines,
) -> io::Result<()> {
    let watch = match follow {
        Some(_) => Some(watch(&path)?),
        None => None,
    };
    file.seek(SeekFrom::Start(position)).await?;
    loop {
        // Asked before reading: what was written until then is sent, whatever happens meanwhile.
        let over = follow.as_ref().is_none_or(End::is_off);
        loop {
            let mut chunk = Vec::with_capacity(CHUNK_BYTES);
            let count = (&mut file).take(CHUNK_BYTES as u64).read_to_end(&mut chunk).await?;
            if count == 0 {
                break;
            }
            position += count as u64;
            if !lines.send(chunk).await {
                return Ok(());
            }
        }
        let (Some(end), Some(watch), false) = (&mut follow, &watch, over) else {
            return Ok(());
        };
        await_more(end, watch, &lines.sender).await?;
        if lines.sender.is_closed() || end.app.is_stopping() {
            return Ok(());
        }
        if file.metadata().await?.len() < position {
            position = 0;
            file.seek(SeekFrom::Start(0)).await?;
        }
    }
}

fn watch(path: &Path) -> io::Result<AsyncFd<OwnedFd>> {
    let watch = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)?;
    inotify::add_watch(&watch, path, inotify::WatchFlags::MODIFY)?;
    crate::descriptor::readable(watch)
}

/// Returns when the file may have grown, a sandbox changed its state, the client went or the daemon stops.
async fn await_more(end: &mut End, watch: &AsyncFd<OwnedFd>, sender: &mpsc::Sender<Bytes>) -> io::Result<()> {
    tokio::select! {
        ready = watch.readable() => {
            let mut ready = ready?;
            // The events say no more than that there are some.
            let mut events = [0; 4096];
            while rustix::io::read(watch.get_ref(), &mut events).is_ok_and(|count| count > 0) {}
            ready.clear_ready();
        }
        _ = end.events.recv() => {}
        () = sender.closed() => {}
        () = end.app.stopped() => {}
        () = tokio::time::sleep(LOOK_AGAIN) => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{AgentLines, nth_agent_line_from_end, nth_line_from_end};

    #[test]
    fn the_agents_lines_are_told_from_all_others_however_they_arrive() {
        let log = b"Linux\r\nbanger-init: hello\r\nlogin: \n[ 5.1] agent[3]: banger-init: again\nbanger-init: no end";
        for size in [1, 2, 7, 1000] {
            let mut only = AgentLines::default();
            let kept: Vec<u8> = log.chunks(size).flat_map(|chunk| only.filter(chunk)).collect();
            let kept = String::from_utf8(kept).expect("text");
            assert_eq!(kept, "banger-init: hello\r\n[ 5.1] agent[3]: banger-init: again\n", "{size}");
        }
    }

    #[test]
    fn the_agents_last_lines_are_counted_among_its_own() {
        let log = b"banger-init: a\nx\nbanger-init: b\ny\nz\n";
        let found = |lines| nth_agent_line_from_end(log, lines);
        assert_eq!([0, 1, 2, 9].map(found), [log.len(), 17, 0, 0]);
    }

    #[test]
    fn the_last_lines_are_found() {
        for (text, lines, expected) in [
            ("a\nb\nc\n", 1, "c\n"),
            ("a\nb\nc\n", 2, "b\nc\n"),
            ("a\nb\nc", 1, "c"),
            ("a\n", 5, "a\n"),
            ("a\n", 0, ""),
            ("", 3, ""),
        ] {
            assert_eq!(&text[nth_line_from_end(text.as_bytes(), lines)..], expected, "{text:?}, {lines}");
        }
    }
}
