//! systemd-resolved, through its own program: a link's name servers and domains (resolvectl(1)).

use std::io::{self, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const PLACES: [&str; 2] = ["/usr/bin/resolvectl", "/bin/resolvectl"];
/// Where it keeps its state while it runs.
const RUNS: &str = "/run/systemd/resolve";
/// It answers within milliseconds, and after 25 s when the bus is stuck (sd_bus_call(3)); nobody waits for that.
const DEADLINE: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(2);
const MAX_COMPLAINT_BYTES: u64 = 4096;

#[derive(Debug, thiserror::Error)]
pub enum ResolvedError {
    #[error("systemd-resolved does not run here")]
    Absent,
    #[error("cannot run `{program}`")]
    Run { program: &'static str, source: io::Error },
    #[error("`resolvectl` did not end within {} s", DEADLINE.as_secs())]
    TimedOut,
    #[error("`resolvectl` refused: {complaint}")]
    Refused { complaint: String },
}

pub fn tell(arguments: &[&str]) -> Result<(), ResolvedError> {
    let program = PLACES.into_iter().find(|path| Path::new(path).is_file()).ok_or(ResolvedError::Absent)?;
    if !Path::new(RUNS).is_dir() {
        return Err(ResolvedError::Absent);
    }
    let failed = |source| ResolvedError::Run { program, source };
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let deadline = Instant::now() + DEADLINE;
    let status = loop {
        match child.try_wait().map_err(failed)? {
            Some(status) => break status,
            None if Instant::now() > deadline => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(ResolvedError::TimedOut);
            }
            None => std::thread::sleep(LOOK),
        }
    };
    if status.success() {
        return Ok(());
    }
    let mut complaint = String::new();
    let _ = child.stderr.take().map(|pipe| pipe.take(MAX_COMPLAINT_BYTES).read_to_string(&mut complaint));
    let complaint = complaint.lines().next().unwrap_or("no reason given").trim().to_owned();
    Err(ResolvedError::Refused { complaint })
}
