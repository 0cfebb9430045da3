//! What the agent says to a person who reads the machine's console, panics included.

use std::fs::OpenOptions;
use std::io::Write;

/// Every line on the console starts with it; the host greps for it.
pub const PREFIX: &str = "banger-init: ";

/// Writes a line to stderr, which is the console for PID 1 and its server, the journal for a systemd service.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Writes a line that `vm logs --source agent` finds, of the boot or of the service, to stderr.
pub fn boot(line: &str) {
    say(&format!("{PREFIX}{line}"));
}

/// A panic is told on stderr and, since that may be a journal nobody reads, on /dev/console.
pub fn print_panics() {
    std::panic::set_hook(Box::new(|info| {
        let line = format!("{PREFIX}agent panicked: {info}");
        say(&line);
        if rustix::process::getuid().is_root()
            && let Ok(mut console) = OpenOptions::new().write(true).open("/dev/console")
        {
            let _ = writeln!(console, "{line}");
        }
    }));
}
