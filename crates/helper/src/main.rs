//! `bangerd-root`: reads its command line, takes the socket, says that it is ready, serves.

use helper::args::{Arguments, USAGE};
use helper::failure::{Attempt, Failure, Result};
use helper::ops::Root;
use helper::{passed, serve};
use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;
use wire::FaultKind;

fn main() -> ExitCode {
    let given: Vec<OsString> = std::env::args_os().skip(1).collect();
    match given.first().and_then(|first| first.to_str()) {
        Some("--help" | "-h") => return say(&mut std::io::stdout(), USAGE, ExitCode::SUCCESS),
        Some("--version") => return say(&mut std::io::stdout(), env!("CARGO_PKG_VERSION"), ExitCode::SUCCESS),
        _ => {}
    }
    let arguments = match Arguments::parse(given) {
        Ok(arguments) => arguments,
        Err(error) => return say(&mut std::io::stderr(), &format!("error: {error}\n\n{USAGE}"), ExitCode::from(2)),
    };
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            say(&mut std::io::stderr(), &format!("error: {}", serve::sentence(&failure)), ExitCode::FAILURE)
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Failure::new(FaultKind::Refused, "bangerd-root has nothing to do without root"));
    }
    // Whatever it makes is root's alone unless said otherwise.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o066));
    let root = Root::open(&arguments.ledger, arguments.owner)?;
    let listener = match passed::listener().attempt(|| "cannot take the socket that systemd passed")? {
        Some(listener) => listener,
        None => serve::bind(&arguments.socket, arguments.owner)?,
    };
    if let Some(descriptor) = arguments.ready_fd {
        passed::announce(descriptor).attempt(|| format!("cannot write to descriptor {descriptor}"))?;
    }
    passed::notify();
    serve::serve(&listener, root, arguments.idle_exit)
}

fn say(to: &mut dyn Write, text: &str, code: ExitCode) -> ExitCode {
    // Nobody is left to tell when even this fails.
    let _ = writeln!(to, "{text}");
    code
}
