//! `banger-vsock-agent`: one static binary with five lives in a guest.
//!
//! | started as | it is | module |
//! |---|---|---|
//! | `/init` in the initramfs, PID 1 | the one who makes the machine: modules, root, then PID 1 or systemd | [`init`] |
//! | `banger-vsock-agent serve` | the server that answers the host, child of PID 1 or a systemd service | [`serve`] |
//! | `banger-vsock-agent supervise FOLDER` | who keeps the image's own command running | [`service`] |
//! | `banger-vsock-agent sftp-server` | the other end of a person's `sftp` and `scp`, on standard input and output | [`sftp`] |
//! | `/shutdown`, PID 1 | the last program of a systemd guest: detaches the disks and ends the machine | [`power`] |
//!
//! It lives in a foreign world: static-pie glibc without NSS (users come from /etc/passwd, addresses are numbers), no file
//! of the image is taken for granted, and it decides nothing: the host says what to do (`wire::guest`).

mod clock;
mod console;
mod drives;
mod entropy;
mod exec;
mod files;
mod health;
mod http;
mod identity;
mod init;
mod listen;
mod machine;
mod metrics;
mod network;
mod ports;
mod power;
mod serve;
mod service;
mod sftp;
mod stream;
mod text;
mod work;
mod workspace;

use std::process::ExitCode;

const USAGE: &str = "usage: banger-vsock-agent serve [--init agent|systemd] [--listen unix:/path] | --version";

fn main() -> ExitCode {
    console::print_panics();
    let arguments: Vec<String> = std::env::args().collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let first_process = rustix::process::getpid().is_init();
    match words.as_slice() {
        [name, verb, ..] if first_process && name.ends_with("shutdown") => power::finish_after_systemd(verb),
        [_, "serve", options @ ..] => match serve::Options::parse(options) {
            Ok(options) => serve::run(&options),
            Err(unknown) => usage(&format!("unknown option {unknown}")),
        },
        [_, "sftp-server"] => sftp::run(),
        [_, "supervise", folder] => service::supervise::run(folder),
        [_, "--version"] => {
            console::say(env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        _ if first_process => init::run(),
        _ => usage("nothing to do"),
    }
}

fn usage(problem: &str) -> ExitCode {
    console::say(&format!("{problem}; {USAGE}"));
    ExitCode::from(2)
}
