//! Another program: by its absolute path, with an empty environment, nothing on its standard input, and a deadline.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// They answer within milliseconds, and after 25 s when the bus is stuck (sd_bus_call(3)); nobody waits for that.
const DEADLINE: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(2);
const MAX_COMPLAINT_BYTES: u64 = 4096;

#[derive(Debug, thiserror::Error)]
pub enum ExternalError {
    #[error("cannot run `{}`", program.display())]
    Run { program: PathBuf, source: io::Error },
    #[error("`{}` did not end within {} s", program.display(), DEADLINE.as_secs())]
    TimedOut { program: PathBuf },
    #[error("`{}` refused: {complaint}", program.display())]
    Refused { program: PathBuf, complaint: String },
}

/// Where it is below `root`, of the places that distributions have for it.
pub fn find(root: &Path, name: &str) -> Option<PathBuf> {
    ["usr/bin", "bin"].iter().map(|folder| root.join(folder).join(name)).find(|path| path.is_file())
}

pub fn run(program: &Path, arguments: &[&str]) -> Result<(), ExternalError> {
    let failed = |source| ExternalError::Run { program: program.to_owned(), source };
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
                return Err(ExternalError::TimedOut { program: program.to_owned() });
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
    Err(ExternalError::Refused { program: program.to_owned(), complaint })
}
