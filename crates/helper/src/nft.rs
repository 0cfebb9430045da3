//! Runs `nft`: the one program that root starts. By absolute path, with an empty environment, its script on standard
//! input, one transaction a run, and a deadline.

use serde_json::Value;
use std::io::{self, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// Where distributions put it; no search path decides what root runs.
const PLACES: [&str; 4] = ["/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft", "/usr/local/sbin/nft"];
/// A transaction over the largest policy takes about a second on a slow machine.
const DEADLINE: Duration = Duration::from_secs(15);
/// What it says on failure is shown to people: 4 KiB are plenty.
const MAX_COMPLAINT_BYTES: usize = 4096;

#[derive(Debug, thiserror::Error)]
pub enum NftError {
    #[error("`nft` is not installed")]
    Missing,
    #[error("cannot run `{program}`")]
    Run { program: &'static str, source: io::Error },
    #[error("`nft` refused: {complaint}")]
    Refused { complaint: String },
    #[error("`nft` did not finish within {} seconds", DEADLINE.as_secs())]
    TimedOut,
    #[error("`nft` ended by signal {signal}")]
    Killed { signal: i32 },
    #[error("cannot read what `nft` listed")]
    Listing { source: serde_json::Error },
}

/// Commits a script as one transaction.
pub fn commit(script: &str) -> Result<(), NftError> {
    run(&["-f", "-"], script).map(drop)
}

/// The content of a table without handles, counters and what the kernel itself adds; `None` if there is no such table.
pub fn listing(family: &str, table: &str) -> Result<Option<Value>, NftError> {
    match list(&["list", "table", family, table]) {
        Ok(entries) => Ok(Some(canonical(entries))),
        Err(NftError::Refused { complaint }) if complaint.contains("No such file or directory") => Ok(None),
        Err(error) => Err(error),
    }
}

/// The entries that `nft -j` prints for a command, without its own greeting.
pub fn list(command: &[&str]) -> Result<Vec<Value>, NftError> {
    print(&["-j", "-n", "-s"], command)
}

/// As [`list`], with counters and times left.
pub fn list_counted(command: &[&str]) -> Result<Vec<Value>, NftError> {
    print(&["-j", "-n"], command)
}

fn print(flags: &[&str], command: &[&str]) -> Result<Vec<Value>, NftError> {
    let output = run(&[flags, command].concat(), "")?;
    let mut whole: Value = serde_json::from_slice(&output).map_err(|source| NftError::Listing { source })?;
    let entries = whole.get_mut("nftables").map(Value::take).unwrap_or_default();
    match entries {
        Value::Array(entries) => Ok(entries.into_iter().filter(|entry| entry.get("metainfo").is_none()).collect()),
        _ => Ok(Vec::new()),
    }
}

/// Handles count up with each change and sets keep no order; neither says anything about the rules. The sets of
/// refused connections fill by themselves.
fn canonical(entries: Vec<Value>) -> Value {
    let kept = entries.into_iter().map(|mut entry| {
        for object in entry.as_object_mut().into_iter().flat_map(|kinds| kinds.values_mut()) {
            strip(object);
        }
        entry
    });
    Value::Array(kept.collect())
}

fn strip(object: &mut Value) {
    let Some(fields) = object.as_object_mut() else { return };
    fields.remove("handle");
    let refused = fields.get("name").and_then(Value::as_str).is_some_and(|name| name.starts_with("refused"));
    if refused {
        fields.remove("elem");
    }
    if let Some(Value::Array(elements)) = fields.get_mut("elem") {
        elements.sort_by_key(Value::to_string);
    }
}

fn run(arguments: &[&str], script: &str) -> Result<Vec<u8>, NftError> {
    let program = PLACES.into_iter().find(|path| Path::new(path).is_file()).ok_or(NftError::Missing)?;
    let failed = |source| NftError::Run { program, source };
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let (complaint, output) = (drain(child.stderr.take()), drain(child.stdout.take()));
    // A child that ends before it read everything says why on its standard error.
    let _ = child.stdin.take().expect("standard input is piped").write_all(script.as_bytes());
    let output = match output.recv_timeout(DEADLINE) {
        Ok(output) => output,
        Err(_) => return Err(end(child)),
    };
    let status = child.wait().map_err(failed)?;
    match (status.success(), status.signal()) {
        (true, _) => Ok(output),
        (false, Some(signal)) => Err(NftError::Killed { signal }),
        (false, None) => Err(NftError::Refused { complaint: sentence(&complaint.recv().unwrap_or_default()) }),
    }
}

/// Reads a pipe to its end beside the others, so that no full pipe stops the child.
fn drain(pipe: Option<impl Read + Send + 'static>) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    let mut pipe = pipe.expect("the pipe was asked for");
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        let _ = sender.send(bytes);
    });
    receiver
}

fn end(mut child: Child) -> NftError {
    let _ = child.kill();
    let _ = child.wait();
    NftError::TimedOut
}

/// The first complaint; the lines after it repeat the script.
fn sentence(complaint: &[u8]) -> String {
    let text = String::from_utf8_lossy(&complaint[..complaint.len().min(MAX_COMPLAINT_BYTES)]).into_owned();
    text.lines()
        .find(|line| line.contains("rror"))
        .or(text.lines().next())
        .unwrap_or("no reason given")
        .trim()
        .to_owned()
}
