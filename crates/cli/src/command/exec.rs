//! `banger vm exec`: a command in a sandbox that runs.

use super::Context;
use super::complete;
use super::run::wants_terminal;
use super::values;
use super::workspace;
use crate::client::Path;
use crate::failure::{Failure, Outcome};
use crate::interrupt::or_cancel;
use crate::render;
use crate::session::{self, Session};
use crate::terminal;
use clap::Args;
use clap_complete::ArgValueCandidates;
use model::UserName;
use std::collections::BTreeMap;
use std::path::PathBuf;
use wire::FaultKind;
use wire::control::{FIRST_WORKSPACE, PrepareRequest, WorkspaceFacts, WorkspaceStatus};
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
    let Some(folder) = workspace_of(args.guest_path, &request) else {
        return in_guest(context, &args.vm, &request).await;
    };
    if args.auto_prepare {
        or_cancel(bring_up_to_date(context, &args.vm, &folder)).await?;
    }
    // What was just shipped needs no second look.
    let look = if args.auto_prepare || context.output.quiet { Look::Away } else { Look::AtHost };
    in_folder(context, &args.vm, folder, look, request).await
}

/// A workspace by its folder, or whichever the sandbox has first.
pub enum Folder {
    First,
    Named(String),
}

/// Does anybody want to know what the host did since its code was shipped?
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Look {
    AtHost,
    Away,
}

impl Folder {
    fn word(&self) -> &str {
        match self {
            Folder::First => FIRST_WORKSPACE,
            Folder::Named(folder) => folder,
        }
    }

    fn is(&self, work: &WorkspaceFacts) -> bool {
        match self {
            Folder::First => true,
            Folder::Named(folder) => work.guest_path == *folder,
        }
    }
}

/// Where a command runs: the folder that was named, else the first workspace for a root who names no folder at all.
/// Another user has no business in root's home.
pub fn workspace_of(folder: Option<String>, request: &ExecRequest) -> Option<Folder> {
    let is_root = request.user.as_deref().is_none_or(|user| matches!(user, "root" | "0"));
    match folder {
        Some(folder) => Some(Folder::Named(folder)),
        None if request.cwd.is_some() || !is_root => None,
        None => Some(Folder::First),
    }
}

/// One call: the daemon opens the way to the guest and tells of the workspace with the same word.
pub async fn in_folder(context: &Context, vm: &str, folder: Folder, look: Look, request: ExecRequest) -> Outcome {
    let host = if look == Look::AtHost { "true" } else { "false" };
    let path = Path::vm(vm).then("exec").query("workspace", folder.word()).query("host", host);
    let opened = async { Ok(context.client.exec(path).await?) };
    let (socket, known) = or_cancel(opened).await?;
    if let Some(note) = known.as_ref().filter(|_| look == Look::AtHost).and_then(|status| drift(vm, status)) {
        render::note(&note);
    }
    let work = known.map(|status| status.workspace).or(match folder {
        Folder::Named(guest_path) => Some(WorkspaceFacts { guest_path, ..WorkspaceFacts::default() }),
        Folder::First => None,
    });
    let request = match work {
        Some(work) => in_workspace(request, &work),
        None => request,
    };
    let session = or_cancel(Session::begin(socket, vm, &request)).await?;
    session::finish(vm, session.run().await?)
}

/// What the host has that the guest has not, and the other way round.
fn drift(vm: &str, status: &WorkspaceStatus) -> Option<String> {
    let folder = &status.workspace.guest_path;
    let host = is_behind(status).then(|| workspace::host_word(status));
    let guest = status.workspace.work.as_ref().and_then(workspace::moved);
    match (host, guest) {
        (None, None) => None,
        (Some(host), None) => {
            Some(format!("{folder} is not what the host has now ({host}); `--auto-prepare` ships it first"))
        }
        (None, Some(guest)) => Some(format!("{folder} has work of the guest ({guest})")),
        (Some(host), Some(guest)) => Some(format!(
            "{folder} has work of the guest ({guest}) and is not what the host has now ({host}); \
             `banger vm workspace pull {vm}` brings the work home"
        )),
    }
}

/// Ships the code of this host again where it has moved on.
async fn bring_up_to_date(context: &Context, vm: &str, folder: &Folder) -> Outcome {
    let list = workspace::ask(context, vm, false).await?;
    let found = list.workspaces.iter().find(|status| folder.is(&status.workspace));
    if let Some(status) = found.filter(|status| is_behind(status)) {
        let guest_path = Some(status.workspace.guest_path.clone());
        let again = PrepareRequest { guest_path, again: true, ..PrepareRequest::default() };
        workspace::send(context, vm, &again).await?;
    }
    Ok(())
}

fn is_behind(status: &WorkspaceStatus) -> bool {
    matches!(status.host.as_str(), "commits" | "edits")
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

fn unreadable(file: &std::path::Path, error: &std::io::Error) -> Failure {
    Failure::new(FaultKind::Invalid, format!("cannot read the variables in `{}`: {error}", file.display()))
}

fn bad_line(file: &std::path::Path, line: usize) -> Failure {
    Failure::new(FaultKind::Invalid, format!("cannot read line {line} of `{}`: it is not NAME=VALUE", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::control::WorkFacts;

    #[test]
    fn a_file_of_variables_is_read_line_by_line() {
        let read = file_variables("# comment\n\nA=1\nB=\"two words\"\nC=\n");
        let expected = [("A", "1"), ("B", "\"two words\""), ("C", "")];
        assert_eq!(read, Ok(expected.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()));
        assert_eq!(file_variables("A=1\nnonsense\n"), Err(2));
    }

    #[test]
    fn who_moved_on_is_told_before_a_command_runs() {
        let told = |host: &str, changed_files: u64| {
            let work = Some(WorkFacts { moved: changed_files > 0, changed_files, ..WorkFacts::default() });
            let workspace = WorkspaceFacts { guest_path: "/root/repo".into(), work, ..WorkspaceFacts::default() };
            let status = WorkspaceStatus { workspace, host: host.into(), ..WorkspaceStatus::default() };
            drift("web", &status).unwrap_or_default()
        };
        assert_eq!(told("same", 0), "");
        assert!(told("edits", 0).contains("host has now (edited); `--auto-prepare`"));
        assert_eq!(told("same", 1), "/root/repo has work of the guest (+1 file)");
        let both = told("edits", 2);
        assert!(both.contains("(+2 files)") && both.contains("(edited)") && both.contains("pull web"), "{both}");
    }
}
