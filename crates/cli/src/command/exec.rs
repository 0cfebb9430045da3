//! `banger vm exec`: a command in a sandbox that runs.

use super::Context;
use super::complete;
use super::run::wants_terminal;
use super::values;
use super::workspace;
use crate::failure::{Failure, Outcome};
use crate::interrupt::or_cancel;
use crate::render;
use crate::session::{self, Session};
use crate::terminal;
use clap::Args;
use clap_complete::ArgValueCandidates;
use model::UserName;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use wire::FaultKind;
use wire::control::{PrepareRequest, Sandbox, WorkspaceFacts};
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
    /// Ship what the host has new first, if that loses nothing of the guest's
    #[arg(long)]
    pub auto_prepare: bool,
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
    let work = or_cancel(workspace_of(context, &args.vm, args.guest_path, &request)).await?;
    if let Some(work) = &work {
        or_cancel(meet(context, &args.vm, &work.guest_path, args.auto_prepare)).await?;
    }
    let request = match work {
        Some(work) => in_workspace(request, &work),
        None => request,
    };
    in_guest(context, &args.vm, &request).await
}

/// Where a command runs: the folder that was named, else the first workspace for a root who names no folder at all.
/// Another user has no business in root's home.
pub async fn workspace_of(
    context: &Context,
    vm: &str,
    folder: Option<String>,
    request: &ExecRequest,
) -> Outcome<Option<WorkspaceFacts>> {
    let is_root = request.user.as_deref().is_none_or(|user| matches!(user, "root" | "0"));
    if folder.is_none() && (request.cwd.is_some() || !is_root) {
        return Ok(None);
    }
    let vm: Sandbox = context.client.get(crate::client::Path::vm(vm)).await?;
    let mut known = vm.workspaces.into_iter();
    Ok(match folder {
        None => known.next(),
        Some(folder) => {
            let found = known.find(|work| work.guest_path == folder);
            found.or_else(|| Some(WorkspaceFacts { guest_path: folder, ..WorkspaceFacts::default() }))
        }
    })
}

/// The host may have moved on since its code was shipped: says so, or ships it again.
async fn meet(context: &Context, vm: &str, folder: &str, auto_prepare: bool) -> Outcome {
    let list = workspace::ask(context, vm, false).await?;
    let Some(status) = list.workspaces.iter().find(|status| status.workspace.guest_path == folder) else {
        return Ok(());
    };
    match status.host.as_str() {
        "commits" | "edits" if auto_prepare => {
            let again =
                PrepareRequest { guest_path: Some(folder.to_owned()), again: true, ..PrepareRequest::default() };
            workspace::send(context, vm, &again).await?;
        }
        "commits" | "edits" if !context.output.quiet => {
            let word = workspace::host_word(status);
            render::note(&format!("{folder} is not what the host has now ({word}); `--auto-prepare` ships it first"));
        }
        _ => {}
    }
    Ok(())
}

/// In a folder, as a person who logged in there would run it.
pub fn in_workspace(mut request: ExecRequest, work: &WorkspaceFacts) -> ExecRequest {
    let folder = &work.guest_path;
    request.cwd.get_or_insert_with(|| folder.clone());
    for (name, value) in &work.env {
        request.env.entry(name.clone()).or_insert_with(|| value.clone());
    }
    // A shipped `mise.toml` is as trusted as the command that is about to run beside it.
    request.env.entry("MISE_TRUSTED_CONFIG_PATHS".to_owned()).or_insert_with(|| folder.clone());
    if !request.argv.is_empty() {
        request.login_shell = true;
        request.with_tools = true;
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
        ..ExecRequest::default()
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
