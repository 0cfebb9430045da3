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
use wire::control::exit;

fn main() -> ExitCode {
    clap_complete::CompleteEnv::with_factory(Cli::command).complete();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(said) => return misread(&said),
    };
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

/// Help that was asked for, or a line that makes no sense: the 2 that clap would end with could be a guest's own.
fn misread(said: &clap::Error) -> ExitCode {
    // Nobody reads it: nothing is left to say.
    let _ = said.print();
    ExitCode::from(if said.use_stderr() { exit::FAILED } else { 0 })
}
