//! A folder in a guest that runs, seen through its agent.
//!
//! Blocking on purpose: a look is a few long streams, read on a thread that may wait. Every wait for the guest has a
//! bound ([`SILENT_WITHIN`], and the end that the caller sets for the whole look).

use super::answer::Answer;
use super::recall::Listed;
use super::tree::{Each, Tree, guest};
use super::{HomeError, Result};
use crate::guest::send;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::{Request, Response};
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use wire::guest::work::{PATHS_LIMIT_BYTES, Record, encode_paths};
use wire::{Fault, FaultKind};

/// 30 s without a byte: a guest that is read from as fast as it sends is never that slow.
const SILENT_WITHIN: Duration = Duration::from_secs(30);
/// 20000 files in one request.
const PATHS_AT_ONCE: usize = 20_000;
/// 64 KiB of a refusal are enough for a sentence.
const MAX_REFUSAL_BYTES: usize = 64 * 1024;

#[derive(Clone)]
pub struct LiveTree {
    socket: PathBuf,
    path: String,
    runtime: Handle,
    end: Instant,
}

impl LiveTree {
    /// `socket` is the guest's vsock; the whole look ends at `end`. Use it on a thread that may block.
    pub fn new(socket: &Path, path: &str, runtime: Handle, end: Instant) -> LiveTree {
        LiveTree { socket: socket.to_owned(), path: path.to_owned(), runtime, end }
    }

    /// `query` is what stands behind the path.
    fn ask(&self, call: &str, query: &str, paths: &[Vec<u8>]) -> Result<Body> {
        let uri = format!("/work/{call}?path={}", percent_encode(&self.path));
        let body = encode_paths(paths.iter().map(Vec::as_slice));
        let request = Request::post(uri + query).header("host", "guest").body(Full::new(Bytes::from(body)));
        let request = request.map_err(|error| guest(&self.path, error))?;
        let answer = async {
            let response = send(&self.socket, request).await.map_err(|error| guest(&self.path, error))?;
            if response.status().is_success() { Ok(response) } else { Err(self.refusal(response).await) }
        };
        let within = SILENT_WITHIN.min(self.left()?);
        let response = self.runtime.block_on(async { tokio::time::timeout(within, answer).await });
        let response = response.map_err(|_| HomeError::Late { path: self.path.clone() })??;
        Ok(Body { body: response.into_body(), rest: Bytes::new(), runtime: self.runtime.clone(), end: self.end })
    }

    async fn refusal(&self, response: Response<Incoming>) -> HomeError {
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_REFUSAL_BYTES).collect().await;
        let fault = body.ok().and_then(|body| serde_json::from_slice::<Fault>(&body.to_bytes()).ok());
        match fault {
            Some(fault) if fault.kind == FaultKind::NotFound && fault.message.contains(self.path.as_str()) => {
                HomeError::Nothing { path: self.path.clone() }
            }
            Some(fault) => guest(&self.path, fault),
            None => guest(&self.path, format!("the agent answered with status {status}")),
        }
    }

    fn left(&self) -> Result<Duration> {
        let left = self.end.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(HomeError::Late { path: self.path.clone() }) } else { Ok(left) }
    }
}

impl Tree for LiveTree {
    fn path(&self) -> &str {
        &self.path
    }

    fn scan(&mut self, pruned: &[Vec<u8>], each: &mut dyn FnMut(Record) -> Result<()>) -> Result<()> {
        Answer::new(self.ask("scan", "", pruned)?, &self.path, self.end).scan(each)
    }

    fn read(&mut self, paths: &[Vec<u8>], each: Each) -> Result<()> {
        for numbers in requests(paths) {
            let body = self.ask("read", "", &paths[numbers.clone()])?;
            Answer::new(body, &self.path, self.end).contents(numbers, each)?;
        }
        Ok(())
    }

    fn below(&self, path: &str) -> Box<dyn Tree + '_> {
        Box::new(LiveTree { path: format!("{}/{path}", self.path), ..self.clone() })
    }
}

impl Listed for LiveTree {
    fn list(&mut self, folders: &[Vec<u8>], each: &mut dyn FnMut(Record) -> Result<()>) -> Result<()> {
        for numbers in requests(folders) {
            let body = self.ask("scan", "&flat=true", &folders[numbers])?;
            Answer::new(body, &self.path, self.end).scan(each)?;
        }
        Ok(())
    }
}

/// So many of the paths at once as one request may name.
fn requests(paths: &[Vec<u8>]) -> impl Iterator<Item = Range<usize>> {
    let mut first = 0;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |path: &&Vec<u8>| {
            bytes += path.len() + 1;
            bytes <= PATHS_LIMIT_BYTES
        };
        let left = paths.get(first..).filter(|left| !left.is_empty())?;
        let count = left.iter().take(PATHS_AT_ONCE).take_while(fits).count().max(1);
        first += count;
        Some(first - count..first)
    })
}

/// An answer's body as a thread reads it.
struct Body {
    body: Incoming,
    rest: Bytes,
    runtime: Handle,
    end: Instant,
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            // A guest that always has more ready would never meet the timeout.
            if Instant::now() >= self.end {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let within = SILENT_WITHIN.min(self.end.saturating_duration_since(Instant::now()));
            let frame = self.runtime.block_on(async { tokio::time::timeout(within, self.body.frame()).await });
            match frame.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))? {
                Some(frame) => self.rest = frame.map_err(io::Error::other)?.into_data().unwrap_or_default(),
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.rest.len());
        buffer[..count].copy_from_slice(&self.rest.split_to(count));
        Ok(count)
    }
}

/// Everything but the unreserved characters of RFC 3986 and `/`, which a query may carry.
pub fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => encoded.push(byte as char),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}
