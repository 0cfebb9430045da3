//! The control socket: one line of JSON in, one out, one connection each. Who may connect is the folder's matter: it is
//! the owner's alone.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;
use wire::gateway::{Answer, Ask, MAX_MESSAGE_BYTES};

/// `bangerd` writes its line at once; nobody else connects, and the guest's packets wait meanwhile.
const PATIENCE: Duration = Duration::from_millis(500);

pub struct Control(UnixListener);

impl Control {
    pub fn bind(path: &Path) -> io::Result<Control> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        Ok(Control(listener))
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Answers one question, if somebody asks. A conversation that breaks is the asker's loss.
    pub fn serve(&self, answer: impl FnOnce(Ask) -> Answer) {
        let Ok((stream, _)) = self.0.accept() else { return };
        let converse = || -> io::Result<()> {
            stream.set_nonblocking(false)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            let mut line = String::new();
            BufReader::new((&stream).take(MAX_MESSAGE_BYTES)).read_line(&mut line)?;
            let answer = match serde_json::from_str(&line) {
                Ok(ask) => answer(ask),
                Err(error) => Answer::Failed(format!("that is no question: {error}")),
            };
            let mut said = serde_json::to_vec(&answer)?;
            said.push(b'\n');
            (&stream).write_all(&said)
        };
        let _ = converse();
    }
}
