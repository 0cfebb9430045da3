//! `banger`: what a person sees. Parses the command line, talks to `bangerd` over its control socket, and shows the
//! answer.
//!
//! ```text
//! main ─► args ─► command/<verb> ─► client  (HTTP over the socket; starts the daemon)
//!                      │        └─► session (a command in a guest, over a WebSocket)
//!                      └─► render  (the only place that prints)
//! ```
//! It decides nothing about sandboxes. Exit codes: `wire::control::exit`; a guest's own status goes through verbatim.

mod args;
mod client;
mod command;
mod failure;
mod interrupt;
mod render;
mod session;
mod terminal;

use args::Cli;
use clap::{CommandFactory, Parser};
use failure::Failure;
use std::process::ExitCode;

fn main() -> ExitCode {
    clap_complete::CompleteEnv::with_factory(Cli::command).complete();
    let cli = Cli::parse();
    let output = cli.globals.output();
    terminal::restore_on_panic();
    let outcome = command::dispatch(cli);
    terminal::restore();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if let Failure::Fault(fault) = &failure {
                render::error::show(output, fault);
            }
            ExitCode::from(failure.exit_code())
        }
    }
}
