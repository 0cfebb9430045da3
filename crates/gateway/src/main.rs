//! `banger-gateway`: reads its command line, takes the link that it was given, serves until that ends.

use gateway::gateway::{Gateway, Settings};
use gateway::link::Kind;
use gateway::tap;
use std::io::Write;
use std::os::fd::{BorrowedFd, RawFd};
use std::path::PathBuf;
use std::process::ExitCode;

const USAGE: &str = "\
banger-gateway: the network of one sandbox, without privilege; bangerd starts it

usage: banger-gateway (--link NUMBER | --until NUMBER) --policy FILE --control SOCKET --mac ADDRESS
       banger-gateway --try-tap

  --link NUMBER    the guest's wire is this descriptor, a stream socket
  --until NUMBER   it is a tap in a namespace of its own; end when this descriptor, a pipe, does
  --try-tap        tell whether the second one is possible here";

fn main() -> ExitCode {
    let given: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match given.first().map(String::as_str) {
        Some("--try-tap") => tap::open().map(drop).map_err(no_tap),
        _ => parse(&given).map_err(|complaint| format!("{complaint}\n\n{USAGE}")).and_then(run),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(complaint) => {
            // Nobody is left to tell when even this fails.
            let _ = writeln!(std::io::stderr(), "error: {complaint}");
            ExitCode::FAILURE
        }
    }
}

enum Wire {
    Link(RawFd),
    TapUntil(RawFd),
}

fn run((wire, settings): (Wire, Settings)) -> Result<(), String> {
    let taken = |fd| adopt(fd).map_err(|error| format!("cannot take descriptor {fd}: {error}"));
    let (link, kind, until) = match wire {
        Wire::Link(fd) => (taken(fd)?, Kind::Stream, None),
        Wire::TapUntil(fd) => {
            let until = taken(fd)?;
            (tap::open().map_err(no_tap)?, Kind::Packets, Some(until))
        }
    };
    let gateway = Gateway::new(link, kind, until, &settings).map_err(|error| format!("cannot begin: {error}"))?;
    gateway.serve().map_err(|error| format!("cannot go on: {error}"))
}

fn no_tap(error: std::io::Error) -> String {
    format!("cannot make a tap in a namespace of its own: {error}")
}

fn parse(given: &[String]) -> Result<(Wire, Settings), String> {
    let value = |flag: &str| {
        let at = given.iter().position(|word| word == flag)?;
        given.get(at + 1)
    };
    let wanted = |flag: &str| value(flag).ok_or(format!("`{flag}` is missing or wants a value"));
    let number = |text: &String| text.parse().map_err(|_| format!("`{text}` is no descriptor"));
    let wire = match (value("--link"), value("--until")) {
        (Some(link), None) => Wire::Link(number(link)?),
        (None, Some(until)) => Wire::TapUntil(number(until)?),
        _ => return Err("one of `--link` and `--until` is wanted".to_owned()),
    };
    let mac = gateway::frame::parse_mac(wanted("--mac")?).ok_or("`--mac` wants a hardware address")?;
    let policy = PathBuf::from(wanted("--policy")?);
    let control = PathBuf::from(wanted("--control")?);
    Ok((wire, Settings { policy, control, mac }))
}

/// The parent opened it for us and named it on the command line. A copy is ours; the original is closed by nobody and
/// ends with the process.
#[allow(unsafe_code)]
fn adopt(link: RawFd) -> std::io::Result<std::os::fd::OwnedFd> {
    if link < 3 {
        return Err(std::io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: the number is only borrowed for the length of `dup`, which answers EBADF for one that is not open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(link) };
    Ok(rustix::io::fcntl_dupfd_cloexec(borrowed, 3)?)
}
