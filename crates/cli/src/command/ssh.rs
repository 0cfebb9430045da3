//! `banger vm ssh`: the person's own ssh, told the way to a sandbox.

use super::{Context, complete, ssh_config};
use crate::client::Path;
use crate::failure::{Failure, Outcome};
use crate::render;
use crate::terminal;
use clap::Args;
use clap_complete::ArgValueCandidates;
use model::UserName;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};
use wire::FaultKind;
use wire::control::Sandbox;

/// Log in to a sandbox with ssh, or run a command there.
///
/// It runs the `ssh` of this host with your own configuration, keys and agent. The guest needs no ssh server, no network \
/// and no account: the connection ends in bangerd. `banger ssh-config --install` makes plain `ssh NAME.vm` do the same.
/// `--direct` goes to a server of the guest's own: to its address, where the guest has one that this host reaches, else through
/// the agent; the key which that server shows the first time is remembered until the sandbox is deleted.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  banger vm ssh -L 8080:localhost:80 web\n  banger vm ssh web -- journalctl -f")]
pub struct SshArgs {
    /// Log in as this user instead of root
    #[arg(short = 'l', long, value_name = "USER")]
    pub user: Option<UserName>,
    /// Forward a port of this host to the sandbox, as ssh does
    #[arg(short = 'L', value_name = "FORWARD")]
    pub local: Vec<String>,
    /// Forward a port of the sandbox to this host, as ssh does
    #[arg(short = 'R', value_name = "FORWARD")]
    pub remote: Vec<String>,
    /// Forward your ssh agent
    #[arg(short = 'A')]
    pub agent: bool,
    /// Talk to the ssh server that the guest runs itself
    #[arg(long)]
    pub direct: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// The sandbox: a name, an id or the beginning of one
    #[arg(value_name = "VM", add = ArgValueCandidates::new(complete::vms))]
    pub vm: String,
    /// The command and its arguments
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}

/// The program to run, and whether somebody will sit in it. It replaces this process or is waited for: see [`run`].
pub async fn prepare(context: &Context, args: SshArgs) -> Outcome<Session> {
    let sandbox: Sandbox = context.client.get(Path::vm(&args.vm)).await?;
    let mut ssh = Command::new("ssh");
    let options = match args.direct {
        true => ssh_config::direct_options(context, &sandbox).await?,
        false => ssh_config::options(context).await?,
    };
    // Before the options, which name root: to ssh the first word counts.
    ssh.args(args.user.iter().flat_map(|user| ["-l", user.as_str()]));
    for (name, value) in options {
        ssh.arg("-o").arg(format!("{name}={value}"));
    }
    ssh.args(args.local.iter().flat_map(|forward| ["-L", forward]));
    ssh.args(args.remote.iter().flat_map(|forward| ["-R", forward]));
    ssh.args(args.agent.then_some("-A")).args(args.tty.then_some("-t"));
    ssh.arg(format!("{}.vm", sandbox.name));
    if !args.command.is_empty() {
        ssh.arg("--").args(&args.command);
    }
    let attended = args.command.is_empty() && terminal::is_interactive() && !context.output.quiet;
    Ok(Session { ssh, name: sandbox.name, attended })
}

pub struct Session {
    ssh: Command,
    name: String,
    attended: bool,
}

/// Who leaves a shell may think that the machine went with it.
pub fn run(session: Session) -> Outcome {
    let Session { mut ssh, name, attended } = session;
    if !attended {
        return Err(cannot_run(&ssh.exec()));
    }
    let status = ssh.status().map_err(|error| cannot_run(&error))?;
    render::note(&format!("{name} runs on; `banger vm stop {name}` stops it"));
    passed_on(status)
}

fn passed_on(status: ExitStatus) -> Outcome {
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(()),
        (Some(code), _) => Err(Failure::Status(u8::try_from(code).unwrap_or(u8::MAX))),
        (None, signal) => Err(Failure::Status(128 + u8::try_from(signal.unwrap_or(0)).unwrap_or(0))),
    }
}

fn cannot_run(error: &io::Error) -> Failure {
    let failure = Failure::new(FaultKind::HostUnfit, format!("cannot run `ssh`: {error}"));
    match error.kind() {
        io::ErrorKind::NotFound => failure.with_hint("install OpenSSH's client, or use `banger vm shell`"),
        _ => failure,
    }
}
