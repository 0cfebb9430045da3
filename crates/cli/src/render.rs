//! The only place that prints. Data goes to stdout, everything else to stderr; colour is decoration and only there
//! where a person looks (`NO_COLOR` and pipes switch it off).

pub mod error;
pub mod json;
pub mod plan;
pub mod progress;
pub mod table;
pub mod time;

use crate::failure::{Failure, Outcome};
use std::io::{self, IsTerminal, Write};
use wire::FaultKind;

/// How the person wants to see things.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    pub json: bool,
    pub quiet: bool,
    pub no_progress: bool,
}

impl Output {
    /// How progress is shown on stderr.
    pub fn progress(self) -> progress::Style {
        match () {
            () if self.quiet || self.no_progress => progress::Style::Silent,
            () if io::stderr().is_terminal() => progress::Style::Animated,
            () if self.json => progress::Style::Silent,
            () => progress::Style::Lines,
        }
    }
}

/// Text with its own line ends, to stdout.
pub fn data(text: &str) -> Outcome {
    bytes(text.as_bytes())
}

/// Bytes as they are, to stdout, at once.
pub fn bytes(bytes: &[u8]) -> Outcome {
    let mut stdout = anstream::stdout().lock();
    written(stdout.write_all(bytes).and_then(|()| stdout.flush()))
}

/// Bytes of a guest, unread by us: no colour filter, which would eat what it takes for escapes.
pub fn raw(bytes: &[u8]) -> Outcome {
    let mut stdout = io::stdout().lock();
    written(stdout.write_all(bytes).and_then(|()| stdout.flush()))
}

fn written(result: io::Result<()>) -> Outcome {
    match result {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure::Unread),
        Err(error) => Err(Failure::new(FaultKind::Internal, format!("cannot write to stdout: {error}"))),
    }
}

/// A line for the person, to stderr. A lost stderr is nobody's loss.
pub fn note(line: &str) {
    let mut stderr = anstream::stderr().lock();
    let _ = writeln!(stderr, "{}", plain(line));
}

/// Asks on the terminal; no is the answer of silence.
pub fn confirm(question: &str) -> bool {
    if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return false;
    }
    {
        let mut stderr = anstream::stderr().lock();
        let _ = write!(stderr, "{question} [y/N] ");
        let _ = stderr.flush();
    }
    let mut answer = String::new();
    let read = io::stdin().read_line(&mut answer);
    read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}

/// Words that came from a guest may hold escape sequences; a person's terminal shall not obey them.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && !matches!(c, '\n' | '\t') { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::plain;

    #[test]
    fn a_guest_cannot_speak_to_the_terminal() {
        assert_eq!(plain("a\x1b[2Jb\r\n\tc\u{9b}d"), "a\u{fffd}[2Jb\u{fffd}\n\tc\u{fffd}d");
    }
}
