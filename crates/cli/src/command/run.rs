//! `banger vm run`: create, run something in it, and with `--rm` leave nothing behind, whatever happens in between.
//!
//! ```text
//!  create ──► command or shell ──► (--rm) delete ──► the guest's own exit status
//!    └─ Ctrl-C ──────┴─ Ctrl-C goes to the guest ──┴─ Ctrl-C twice leaves it and says what remains
//! ```

use super::exec::{self, EnvArgs};
use super::fleet::Deed;
use super::spec::SpecArgs;
use super::{Context, create};
use crate::client::Path;
use crate::failure::{Failure, Outcome};
use crate::interrupt::{Interrupt, cancelled};
use crate::render;
use crate::render::progress::Board;
use crate::session::{self, Ended, Session};
use crate::terminal;
use clap::Args;
use hyper::Method;
use std::time::Duration;
use wire::FaultKind;
use wire::control::{CreateRequest, History, Sandbox};
use wire::guest::ExecRequest;

/// Create a sandbox, start it and run a command or a shell in it.
///
/// Without a command you get a shell. The exit status is the command's own; 125 and above tell of banger itself.
/// Without `--rm` the sandbox runs on afterwards. Ctrl-C during creation undoes what was begun; during the command it
/// goes to the command, and twice within two seconds leaves it.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  banger vm run --rm --memory 1G -- sh -c 'uname -a; id'")]
pub struct RunArgs {
    /// The command and its arguments; a shell where there are none
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
    /// Remove the sandbox when the command or shell ends
    #[arg(long)]
    pub rm: bool,
    /// Print its name and return once it runs
    #[arg(short, long, conflicts_with_all = ["rm", "command", "tty", "interactive"])]
    pub detach: bool,
    /// Pass stdin on even if it is not piped
    #[arg(short, long)]
    pub interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    pub tty: bool,
    #[command(flatten)]
    pub spec: SpecArgs,
    #[command(flatten)]
    pub env: EnvArgs,
}

pub async fn run(context: &Context, args: RunArgs) -> Outcome {
    let exec = exec::request(args.command, args.env, args.tty, args.interactive)?;
    let request = CreateRequest { ephemeral: args.rm, ..args.spec.request() };
    if request.dry_run {
        return create::show_plan(context, &request).await;
    }
    let vm = make(context, &request).await?;
    if args.detach {
        return create::show_made(context, &vm);
    }
    let ended = execute(context, &vm, &exec).await;
    let removed = if args.rm { remove(context, &vm.id, &vm.name, false).await } else { Ok(()) };
    if !args.rm && exec.tty.is_some() {
        remind(&vm.name);
    }
    // The guest's word counts; that it could not be cleared away is said all the same.
    match (ended.and_then(|ended| session::finish(&vm.name, ended)), removed) {
        (Ok(()), removed) => removed,
        (Err(failure), Ok(())) => Err(failure),
        (Err(failure), Err(also)) => {
            if let Failure::Fault(fault) = also {
                render::error::say(&fault);
            }
            Err(failure)
        }
    }
}

async fn make(context: &Context, request: &CreateRequest) -> Outcome<Sandbox> {
    let mut interrupt = Interrupt::listen()?;
    let mut operation = None;
    let creation = create::send::<Sandbox>(context, request, |id| operation = Some(id.to_owned()));
    match interrupt.or(creation).await {
        Ok(made) => Ok(made?),
        Err(_) => Err(abandon(context, request, operation).await),
    }
}

/// The closed connection has cancelled the creation; with `--rm` we make sure that nothing of it stays.
async fn abandon(context: &Context, request: &CreateRequest, operation: Option<String>) -> Failure {
    let (true, Some(operation)) = (request.ephemeral, operation) else {
        return cancelled("cancelled; bangerd undoes what was begun");
    };
    match clear(context, &operation).await {
        Ok(()) => cancelled("cancelled; nothing is left of the sandbox"),
        Err(failure) => failure,
    }
}

/// By the id that stands in the history, never by name: another sandbox may have that.
async fn clear(context: &Context, operation: &str) -> Outcome {
    let history: History = context.client.get(Path::new("/v1/history").query("limit", "100")).await?;
    match history.operations.into_iter().find(|one| one.id == operation) {
        Some(one) => remove(context, &one.vm_id, &one.vm_name, true).await,
        None => Ok(()),
    }
}

async fn execute(context: &Context, vm: &Sandbox, request: &ExecRequest) -> Outcome<Ended> {
    let mut interrupt = Interrupt::listen()?;
    match interrupt.or(Session::open(&context.client, &vm.id, request)).await {
        Ok(session) => session?.run().await,
        Err(signal) => Ok(Ended::Left(signal)),
    }
}

/// 60 seconds, counted anew: a Ctrl-C that ended the command shall not end the clearing away.
const REMOVE_WITHIN: Duration = Duration::from_secs(60);

/// Deletes it; a sandbox that is gone already is fine. `warned`: the person has pressed Ctrl-C before.
async fn remove(context: &Context, id: &str, name: &str, mut warned: bool) -> Outcome {
    let mut interrupt = Interrupt::listen()?;
    let line = Board::new(context.output.progress()).line(None);
    let deed = Deed { method: Method::DELETE, verb: "", query: vec![("force", "true")], body: (), dry_run: false };
    let work = tokio::time::timeout(REMOVE_WITHIN, deed.carry_out(context, id, &line));
    let mut work = std::pin::pin!(work);
    loop {
        match interrupt.or(&mut work).await {
            Ok(Ok(Ok(_))) => return Ok(()),
            Ok(Ok(Err(error))) if error.is_not_found() => return Ok(()),
            Ok(Ok(Err(error))) => return Err(remains(name, Failure::from(error))),
            Ok(Err(_)) => {
                let late = Failure::new(FaultKind::TimedOut, format!("cannot delete `{name}` within 60 s"));
                return Err(remains(name, late));
            }
            Err(_) if warned => {
                return Err(remains(name, cancelled(format!("left while `{name}` was being deleted; it may remain"))));
            }
            Err(_) => {
                warned = true;
                render::note(&format!("deleting `{name}`; press Ctrl-C again to leave it behind"));
            }
        }
    }
}

fn remains(name: &str, failure: Failure) -> Failure {
    failure.with_hint(format!("`banger vm delete --force {name}` removes what is left of it"))
}

fn remind(name: &str) {
    render::note(&format!(
        "`{name}` is still running: `banger vm shell {name}` gets back in, `banger vm stop {name}` stops it"
    ));
}

/// A shell for a person: a terminal where there is one.
pub fn wants_terminal(command: &[String]) -> bool {
    command.is_empty() && terminal::is_interactive()
}
