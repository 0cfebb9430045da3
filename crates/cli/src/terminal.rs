//! The person's terminal: raw mode with a way back on every path, and its size.
//!
//! The settings found at the start are kept in one place for the whole process, since three parties give them back:
//! the guard, the panic hook (a release build aborts without running destructors) and `main` before it ends.

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use std::io::{self, IsTerminal};
use std::sync::{Mutex, PoisonError};
use wire::guest::WindowSize;

static FOUND: Mutex<Option<Termios>> = Mutex::new(None);

/// While it lives, keys go to the guest one by one and unseen.
pub struct RawMode(());

impl RawMode {
    pub fn enter() -> io::Result<Self> {
        let found = tcgetattr(io::stdin())?;
        let mut raw = found.clone();
        raw.make_raw();
        *FOUND.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
        tcsetattr(io::stdin(), OptionalActions::Drain, &raw)?;
        Ok(RawMode(()))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// Gives the terminal back as it was found; may be called at any time, any number of times.
pub fn restore() {
    // try_lock: a panic while the lock is held must not hang in its own hook.
    if let Ok(mut found) = FOUND.try_lock()
        && let Some(found) = found.take()
    {
        // A terminal that went away needs nothing back.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &found);
    }
}

pub fn restore_on_panic() {
    let standard = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        restore();
        standard(panic);
    }));
}

/// The size of the terminal on stdout; the classic one where it does not say.
pub fn size() -> WindowSize {
    match tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => WindowSize { rows: size.ws_row, columns: size.ws_col },
        _ => WindowSize { rows: 24, columns: 80 },
    }
}

/// Both ends are a terminal: a person sits here.
pub fn is_interactive() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// Something was put on stdin on purpose: a pipe, a file, but neither a terminal nor `/dev/null`.
pub fn stdin_is_fed() -> bool {
    if io::stdin().is_terminal() {
        return false;
    }
    match (rustix::fs::fstat(io::stdin()), rustix::fs::stat("/dev/null")) {
        (Ok(stdin), Ok(null)) => stdin.st_rdev != null.st_rdev,
        (Ok(_), Err(_)) => true,
        // Closed.
        (Err(_), _) => false,
    }
}
