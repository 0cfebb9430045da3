//! `banger completion`: the script; what it completes comes from the program itself, each time.

use crate::failure::{Failure, Outcome};
use crate::render;
use clap::{Args, ValueEnum};
use clap_complete::env::{Bash, EnvCompleter, Fish, Zsh};
use wire::FaultKind;

/// Print the script that completes commands in a shell.
///
/// It completes names of sandboxes, images and kernels, too, as long as bangerd runs.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  banger completion bash > ~/.local/share/bash-completion/completions/banger")]
pub struct CompletionArgs {
    /// The shell
    pub shell: Shell,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// The variable that makes `banger` answer a shell instead of a person.
const VARIABLE: &str = "COMPLETE";

pub fn run(args: CompletionArgs) -> Outcome {
    let shell: &dyn EnvCompleter = match args.shell {
        Shell::Bash => &Bash,
        Shell::Zsh => &Zsh,
        Shell::Fish => &Fish,
    };
    let mut script = Vec::new();
    shell
        .write_registration(VARIABLE, "banger", "banger", "banger", &mut script)
        .map_err(|error| Failure::new(FaultKind::Internal, format!("cannot write the script: {error}")))?;
    render::raw(&script)
}
