//! `banger vm exec`: a command in a sandbox that runs.

use super::Context;
use super::complete;
use super::run::wants_terminal;
use super::values;
use crate::failure::{Failure, Outcome};
use crate::interrupt::or_cancel;
use crate::session::{self, Session};
use crate::terminal;
use clap::Args;
use clap_complete::ArgValueCandidates;
use model::UserName;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use wire::FaultKind;
use wire::control::Sandbox;
use wire::guest::ExecRequest;

/// Run a command in a running sandbox.
///
/// What is piped into banger is the command's stdin; stdout and stderr stay apart, unless the command has a terminal.
/// The exit status is the command's own; 125 and above tell of banger itself. With a terminal, Enter `~.` leaves a
/// guest that no longer answers. In a sandbox with a workspace the command runs in it, through a login shell and with the
/// tools of `mise` where the guest has it; otherwise as it stands, in the user's home.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  banger vm exec -it web -- htop")]
pub struct ExecArgs {
    /// Pass stdin on even if it is not piped
    #[arg(short, long)]
    pub interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// The sandbox: a name, an id or the beginning of one
    #[arg(value_name = "VM", add = ArgValueCandidates::new(complete::vms))]
    pub vm: String,
    /// The command and its arguments
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
    /// Run it in this workspace, or any other folder of the guest, through a login shell
    #[arg(long, value_name = "FOLDER", conflicts_with = "cwd")]
    pub guest_path: Option<String>,
    #[command(flatten)]
    pub env: EnvArgs,
}

/// Where and as whom a command runs.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "How the command runs")]
pub struct EnvArgs {
    /// Run it as this user instead of root
    #[arg(long, value_name = "USER")]
    pub user: Option<UserName>,
    /// Run it in this folder of the guest
    #[arg(long, visible_alias = "workdir", value_name = "FOLDER")]
    pub cwd: Option<String>,
    /// Set a variable; without `=VALUE` it gets the value it has here
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// Set the variables that stand in a file, one NAME=VALUE a line
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<PathBuf>,
}

pub async fn run(context: &Context, args: ExecArgs) -> Outcome {
    let request = request(args.command, args.env, args.tty, args.interactive)?;
    let folder = match args.guest_path {
        Some(folder) => Some(folder),
        None => or_cancel(workspace_of(context, &args.vm, &request)).await?,
    };
    let request = match folder {
        Some(folder) => in_workspace(request, &folder),
        None => request,
    };
    in_guest(context, &args.vm, &request).await
}

/// Where a command of root's runs that names no folder: the first workspace. Another user has no business in root's home.
pub async fn workspace_of(context: &Context, vm: &str, request: &ExecRequest) -> Outcome<Option<String>> {
    let is_root = request.user.as_deref().is_none_or(|user| matches!(user, "root" | "0"));
    if request.cwd.is_some() || !is_root {
        return Ok(None);
    }
    let vm: Sandbox = context.client.get(crate::client::Path::vm(vm)).await?;
    Ok(vm.workspaces.into_iter().next().map(|work| work.guest_path))
}

/// In a folder, as a person who logged in there would run it.
pub fn in_workspace(mut request: ExecRequest, folder: &str) -> ExecRequest {
    request.cwd.get_or_insert_with(|| folder.to_owned());
    // A shipped `mise.toml` is as trusted as the command that is about to run beside it.
    request.env.entry("MISE_TRUSTED_CONFIG_PATHS".to_owned()).or_insert_with(|| folder.to_owned());
    if !request.argv.is_empty() {
        let words: Vec<_> = request.argv.iter().map(|word| format!("'{}'", word.replace('\'', r"'\''"))).collect();
        let words = words.join(" ");
        request.argv =
            vec![format!("if command -v mise >/dev/null 2>&1; then exec mise exec -- {words}; fi; exec {words}")];
        request.login_shell = true;
    }
    request
}

pub async fn in_guest(context: &Context, vm: &str, request: &ExecRequest) -> Outcome {
    let session = or_cancel(Session::open(&context.client, vm, request)).await?;
    session::finish(vm, session.run().await?)
}

/// An empty command is the user's login shell.
pub fn request(command: Vec<String>, env: EnvArgs, tty: bool, interactive: bool) -> Outcome<ExecRequest> {
    let tty = tty || wants_terminal(&command);
    let stdin = interactive || terminal::stdin_is_fed() || (tty && terminal::is_interactive()) || command.is_empty();
    Ok(ExecRequest {
        argv: command,
        env: variables(&env)?,
        cwd: env.cwd,
        user: env.user.map(String::from),
        tty: tty.then(terminal::size),
        term: tty.then(|| std::env::var("TERM").ok()).flatten(),
        stdin,
        login_shell: false,
        as_image: false,
    })
}

/// Files first, in order, then `--env`: the later word wins.
pub fn variables(args: &EnvArgs) -> Outcome<BTreeMap<String, String>> {
    let mut variables = BTreeMap::new();
    for file in &args.env_file {
        let text = std::fs::read_to_string(file).map_err(|error| unreadable(file, &error))?;
        variables.extend(file_variables(&text).map_err(|line| bad_line(file, line))?);
    }
    for given in &args.env {
        let pair = given.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
        // A variable that is not set here is not set there.
        let pair = pair.or_else(|| std::env::var(given).ok().map(|value| (given.clone(), value)));
        variables.extend(pair);
    }
    Ok(variables)
}

/// Empty lines and lines that begin with `#` say nothing; a value is taken as it stands, quotes included. The error
/// is the number of the line that is neither.
fn file_variables(text: &str) -> Result<Vec<(String, String)>, usize> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
    let read = |(index, line): (usize, &str)| match values::pair(line) {
        Ok(pair) => Ok((pair.key, pair.value)),
        Err(_) => Err(index + 1),
    };
    lines.map(read).collect()
}

fn unreadable(file: &Path, error: &std::io::Error) -> Failure {
    Failure::new(FaultKind::Invalid, format!("cannot read the variables in `{}`: {error}", file.display()))
}

fn bad_line(file: &Path, line: usize) -> Failure {
    Failure::new(FaultKind::Invalid, format!("cannot read line {line} of `{}`: it is not NAME=VALUE", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_variables_is_read_line_by_line() {
        let read = file_variables("# comment\n\nA=1\nB=\"two words\"\nC=\n");
        let expected = [("A", "1"), ("B", "\"two words\""), ("C", "")];
        assert_eq!(read, Ok(expected.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()));
        assert_eq!(file_variables("A=1\nnonsense\n"), Err(2));
    }
}
