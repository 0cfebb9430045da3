//! A program of the host that works for us: it has a process group of its own, so that it can be ended with all its
//! children when nobody wants its work any more, and what it says is kept, within bounds.

use super::Trouble;
use engine::host::Watch;
use rustix::process::{Pid, Signal, kill_process_group};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// How often it is asked whether the work is still wanted; every line and the end wake at once.
const LOOK: Duration = Duration::from_millis(100);
/// 10 s for a program to clean up after itself once it was asked to end.
const CLEAN_UP_WITHIN: Duration = Duration::from_secs(10);
/// The last lines of stderr that an error repeats.
const KEPT_LINES: usize = 6;
/// 4 KiB a line, 1 MiB of stdout.
const MAX_LINE_BYTES: u64 = 4096;
const MAX_OUTPUT_BYTES: u64 = 1024 * 1024;

/// Runs it to its end; every line of stderr goes to `heard`. Answers stdout.
pub fn run(
    program: &'static str,
    command: &mut Command,
    watch: &dyn Watch,
    heard: &mut dyn FnMut(&str),
) -> Result<String, Trouble> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .env("LC_ALL", "C.UTF-8");
    let mut child = command.spawn().map_err(|error| not_started(program, error))?;
    let output = read_output(&mut child);
    let lines = read_lines(&mut child);
    let mut last = Vec::new();
    let status = loop {
        if watch.cancelled() {
            end(&mut child);
            return Err(Trouble::Cancelled);
        }
        match lines.recv_timeout(LOOK) {
            Ok(line) => {
                heard(&line);
                last.push(line);
                if last.len() > KEPT_LINES {
                    last.remove(0);
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => std::thread::sleep(Duration::from_millis(5)),
        }
        if let Some(status) = child.try_wait()? {
            break status;
        }
    };
    last.extend(lines.try_iter());
    if status.success() {
        return Ok(output.join().unwrap_or_default());
    }
    let from = last.len().saturating_sub(KEPT_LINES);
    Err(Trouble::Program { program, said: if last.is_empty() { status.to_string() } else { last[from..].join("; ") } })
}

fn not_started(program: &'static str, error: std::io::Error) -> Trouble {
    match error.kind() {
        std::io::ErrorKind::NotFound => Trouble::Unfit {
            sentence: format!("`{program}` is not installed"),
            hint: Some(format!("install it with your package manager: `apt install {program}`")),
        },
        _ => error.into(),
    }
}

fn read_lines(child: &mut Child) -> Receiver<String> {
    let (sender, receiver) = channel();
    let stderr = child.stderr.take().expect("stderr was asked for");
    std::thread::spawn(move || {
        let mut reader = BufReader::new(stderr);
        loop {
            let mut line = Vec::new();
            match (&mut reader).take(MAX_LINE_BYTES).read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) => {
                    let line = String::from_utf8_lossy(&line).trim().to_owned();
                    if !line.is_empty() && sender.send(line).is_err() {
                        return;
                    }
                }
            }
        }
    });
    receiver
}

fn read_output(child: &mut Child) -> std::thread::JoinHandle<String> {
    let mut stdout = child.stdout.take().expect("stdout was asked for");
    std::thread::spawn(move || {
        let mut text = Vec::new();
        let _ = (&mut stdout).take(MAX_OUTPUT_BYTES).read_to_end(&mut text);
        let _ = std::io::copy(&mut stdout, &mut std::io::sink());
        String::from_utf8_lossy(&text).into_owned()
    })
}

/// Asks the whole group to end, waits, and then insists.
fn end(child: &mut Child) {
    let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) else { return };
    let _ = kill_process_group(group, Signal::TERM);
    let deadline = Instant::now() + CLEAN_UP_WITHIN;
    while Instant::now() < deadline {
        if matches!(child.try_wait(), Ok(Some(_))) {
            break;
        }
        std::thread::sleep(LOOK);
    }
    // The child has not been reaped unless it ended, and then its children are what is left of the group.
    let _ = kill_process_group(group, Signal::KILL);
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::host::{Report, Unwatched};

    struct Gone;
    impl Watch for Gone {
        fn report(&self, _: Report) {}
        fn cancelled(&self) -> bool {
            true
        }
    }

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn what_a_program_says_is_heard_and_kept() {
        let mut heard = Vec::new();
        let said = run("sh", &mut shell("echo one >&2; echo out; echo two >&2"), &Unwatched, &mut |line| {
            heard.push(line.to_owned())
        });
        assert_eq!(said.unwrap(), "out\n");
        let error = run("sh", &mut shell("echo why >&2; exit 3"), &Unwatched, &mut |_| {}).unwrap_err();
        assert_eq!(error.to_string(), "sh failed: why");
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = run("mmdebstrap", &mut Command::new("/nonexistent/program"), &Unwatched, &mut |_| {}).unwrap_err();
        assert_eq!(error.to_string(), "`mmdebstrap` is not installed");
    }

    #[test]
    fn a_program_that_nobody_wants_ends_with_its_children() {
        let folder = tempfile::tempdir().unwrap();
        let alive = folder.path().join("alive");
        let script = format!("(sleep 60; touch {0}) & wait", alive.display());
        let began = Instant::now();
        let error = run("sh", &mut shell(&script), &Gone, &mut |_| {}).unwrap_err();
        assert!(matches!(error, Trouble::Cancelled));
        assert!(began.elapsed() < Duration::from_secs(30), "it must not wait for the sleep");
    }
}
