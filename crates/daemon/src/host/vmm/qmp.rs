//! QEMU's control protocol: one line of JSON a command, one line an answer, events in between.
//!
//! QEMU serves one client at a time, so a connection is made for a deed and closed after it. Bounded: a line is at most
//! 64 KiB, a command ends at its deadline.

use serde_json::{Value, json};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// 64 KiB: the answers to what is asked here take some hundred bytes.
const MAX_LINE_BYTES: usize = 64 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    #[error("cannot reach QEMU's control socket")]
    Connect(#[source] io::Error),
    #[error("cannot ask QEMU for `{command}`")]
    Exchange { command: String, source: io::Error },
    #[error("QEMU's answer to `{command}` is no QMP")]
    Malformed { command: String },
    #[error("QEMU refused `{command}`: {reason}")]
    Refused { command: String, reason: String },
}

#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    ahead: Vec<u8>,
    patience: Duration,
}

impl Client {
    /// Connects and shakes hands. The socket may already listen before QEMU serves it; then this waits.
    pub fn connect(socket: &Path, patience: Duration) -> Result<Client, QmpError> {
        let stream = UnixStream::connect(socket).map_err(QmpError::Connect)?;
        Client::greet(stream, patience)
    }

    pub fn greet(stream: UnixStream, patience: Duration) -> Result<Client, QmpError> {
        let mut client = Client { stream, ahead: Vec::new(), patience };
        let greeting = client.read_line("greeting", Instant::now() + patience)?;
        match greeting.get("QMP") {
            Some(_) => client.execute("qmp_capabilities", json!({})).map(|_| client),
            None => Err(QmpError::Malformed { command: "greeting".into() }),
        }
    }

    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, QmpError> {
        let deadline = Instant::now() + self.patience;
        let failed = |source| QmpError::Exchange { command: command.to_owned(), source };
        let line = json!({"execute": command, "arguments": arguments}).to_string() + "\n";
        self.stream.set_write_timeout(Some(self.patience)).map_err(failed)?;
        self.stream.write_all(line.as_bytes()).map_err(failed)?;
        loop {
            let mut answer = self.read_line(command, deadline)?;
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
            if let Some(error) = answer.get("error") {
                let reason = error.get("desc").and_then(Value::as_str).unwrap_or("no reason given");
                let reason = reason.chars().take(1000).collect();
                return Err(QmpError::Refused { command: command.to_owned(), reason });
            }
            // An event: nobody here waits for any.
            if answer.get("event").is_none() {
                return Err(QmpError::Malformed { command: command.to_owned() });
            }
        }
    }

    fn read_line(&mut self, command: &str, deadline: Instant) -> Result<Value, QmpError> {
        let failed = |source| QmpError::Exchange { command: command.to_owned(), source };
        let malformed = || QmpError::Malformed { command: command.to_owned() };
        loop {
            if let Some(end) = self.ahead.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.ahead.drain(..=end).collect();
                return serde_json::from_slice(&line).map_err(|_| malformed());
            }
            if self.ahead.len() > MAX_LINE_BYTES {
                return Err(malformed());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(failed(io::ErrorKind::TimedOut.into()));
            }
            self.stream.set_read_timeout(Some(left)).map_err(failed)?;
            let mut buffer = [0; 4096];
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(failed(io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => self.ahead.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(failed(io::ErrorKind::TimedOut.into()));
                }
                Err(error) => return Err(failed(error)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GREETING: &str =
        r#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}}, "capabilities": []}}"#;

    /// Says the greeting, then one of `answers` to each line that arrives.
    fn converse(greeting: &str, answers: &[&str], patience: Duration) -> Result<Value, QmpError> {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let script: Vec<String> = answers.iter().map(|answer| format!("{answer}\n")).collect();
        let greeting = format!("{greeting}\n");
        let server = std::thread::spawn(move || {
            let mut theirs = theirs;
            let mut byte = [0];
            drop(theirs.write_all(greeting.as_bytes()));
            for answer in script {
                while theirs.read(&mut byte).is_ok_and(|count| count == 1) && byte[0] != b'\n' {}
                drop(theirs.write_all(answer.as_bytes()));
            }
            while theirs.read(&mut byte).is_ok_and(|count| count == 1) {}
        });
        let result = Client::greet(ours, patience).and_then(|mut client| client.execute("query-status", json!({})));
        server.join().unwrap();
        result
    }

    #[test]
    fn events_are_passed_over_and_the_answer_comes_back() {
        let answers = [r#"{"return": {}}"#, "{\"event\": \"STOP\"}\n{\"return\": {\"status\": \"paused\"}}"];
        let answer = converse(GREETING, &answers, Duration::from_secs(10)).unwrap();
        assert_eq!(answer["status"], "paused");
    }

    #[test]
    fn refusals_and_nonsense_end_in_a_sentence() {
        let check = |greeting: &str, answers: &[&str], expected: &str| {
            let error = converse(greeting, answers, Duration::from_secs(10)).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        let refusal = r#"{"error": {"class": "CommandNotFound", "desc": "The command x has not been found"}}"#;
        check(GREETING, &[r#"{"return": {}}"#, refusal], "refused `query-status`: The command x");
        check("{}", &[], "no QMP");
        check("SSH-2.0", &[], "no QMP");
        check(GREETING, &["{}"], "no QMP");
        check(&"x".repeat(2 * MAX_LINE_BYTES), &[], "no QMP");
    }

    #[test]
    fn silence_ends_at_the_deadline() {
        let error = converse(GREETING, &[r#"{"return": {}}"#], Duration::from_millis(50)).unwrap_err();
        let QmpError::Exchange { source, .. } = error else { panic!("{error}") };
        assert_eq!(source.kind(), io::ErrorKind::TimedOut);
    }
}
