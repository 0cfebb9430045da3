//! `banger vm run`: create, run something in it, and with `--rm` leave nothing behind, whatever happens in between.
//!
//! ```text
//!  (PATH: what would travel? refused here) ──► create ──► (PATH: ship it) ──► command or shell ──► …
//!  create ──► command, shell or the image's service ──► (--rm) delete ──► the guest's own exit status
//!    └─ Ctrl-C ──────┴─ Ctrl-C goes to the guest ──┴─ Ctrl-C twice leaves it and says what remains
//! ```

mod wish;

use self::wish::{Use, WishArgs};
use super::exec::{self, EnvArgs};
use super::fleet::Deed;
use super::spec::SpecArgs;
use super::workspace::{self, ShipArgs};
use super::{Context, attach, create};
use crate::client::Path;
use crate::failure::{Failure, Outcome};
use crate::interrupt::{Interrupt, cancelled, or_cancel};
use crate::render;
use crate::render::progress::Board;
use crate::session::{self, Ended, Session};
use crate::terminal;
use clap::Args;
use clap::builder::PossibleValuesParser;
use hyper::Method;
use model::RestartPolicy;
use model::workspace::WorkspaceMode;
use std::path::PathBuf;
use std::time::Duration;
use wire::FaultKind;
use wire::control::{
    CreateRequest, History, PlanRequest, PrepareRequest, Sandbox, ServiceRequest, WorkspaceFacts, WorkspacePlan,
};
use wire::guest::ExecRequest;

/// Create a sandbox, start it and run a command or a shell in it.
///
/// With PATH, the git repository it lies in (or any other folder) is shipped to /root/repo first, as it is on this host
/// right now, and the command or shell runs there.
///
/// Without a command the image's own runs as a service and you see what it writes; an image that brings none gives you a
/// shell. A command replaces the image's, behind its entrypoint and as its user, as Docker does it. The exit status is the
/// command's own; 125 and above tell of banger itself.
/// Without `--rm` the sandbox runs on afterwards. Ctrl-C during creation undoes what was begun; during the command it
/// goes to the command, and twice within two seconds leaves it.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  banger vm run --rm --memory 1G -- sh -c 'uname -a; id'\n  banger vm run --rm ./shop -- make test"
)]
pub struct RunArgs {
    /// A folder of this host to work on
    #[arg(value_name = "PATH", value_hint = clap::ValueHint::DirPath)]
    pub path: Option<PathBuf>,
    /// The command and its arguments; a shell where there are none
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
    /// Remove the sandbox when the command or shell ends
    #[arg(long)]
    pub rm: bool,
    /// Print its name and return once it runs; a command runs as its service
    #[arg(short, long, conflicts_with_all = ["rm", "tty", "interactive"])]
    pub detach: bool,
    /// Pass stdin on even if it is not piped
    #[arg(short, long)]
    pub interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Replace the image's entrypoint; an empty one is none
    #[arg(long, value_name = "PROGRAM")]
    pub entrypoint: Option<String>,
    /// Choose when the image's command is started again: on-failure unless told otherwise
    #[arg(long, value_name = "WHEN", value_parser = PossibleValuesParser::new(RestartPolicy::ALL.iter().map(|w| w.word())))]
    pub service_restart: Option<String>,
    #[command(flatten)]
    pub spec: SpecArgs,
    /// Ship all history
    #[arg(long, conflicts_with = "depth", help_heading = "What travels")]
    pub full: bool,
    #[command(flatten)]
    pub ship: ShipArgs,
    #[command(flatten)]
    pub wish: WishArgs,
    #[command(flatten)]
    pub env: EnvArgs,
}

pub async fn run(context: &Context, args: RunArgs) -> Outcome {
    let usage = match (args.detach, args.command.is_empty()) {
        (true, _) => Use::Detached,
        (false, true) => Use::Shell,
        (false, false) => Use::Command,
    };
    let attached = args.tty || args.interactive || !args.command.is_empty();
    let service = service(&args, attached)?;
    let exec = exec::request(args.command, args.env, args.tty, args.interactive)?;
    let exec = ExecRequest { as_image: attached, ..exec };
    let mut request = CreateRequest { ephemeral: args.rm, service: Some(service), ..args.spec.request() };
    let shipment = shipment(args.path.as_deref(), args.ship, args.full)?;
    let mut work = match shipment {
        Some(shipment) => Some(look(context, &request, shipment, args.wish.ignore_config).await?),
        None => None,
    };
    if request.dry_run {
        return dry_run(context, &request, work.as_ref().map(|(_, plan)| plan)).await;
    }
    if let Some((shipment, plan)) = &mut work {
        or_cancel(args.wish.settle(context, plan, usage, &mut request, shipment)).await?;
    }
    request.workspace = work.as_ref().map(|(shipment, _)| shipment.clone());
    let vm = make(context, &request).await?;
    let shipped = match &work {
        Some((shipment, _)) => ship(context, &vm, shipment).await.map(Some),
        None => Ok(None),
    };
    let work = match shipped {
        Ok(work) => work,
        Err(failure) => return Err(give_up(context, &vm, args.rm, failure).await),
    };
    if args.detach {
        return create::show_made(context, &vm);
    }
    let follows = !attached && work.is_none() && !vm.service.is_empty();
    let exec = match work {
        // Work that was shipped is worked on, whatever the image would run by itself.
        Some(work) => exec::in_workspace(ExecRequest { as_image: false, ..exec }, &work),
        None => exec,
    };
    let ended = if follows { attach::run(context, &vm).await } else { execute(context, &vm, &exec).await };
    let removed = if args.rm { remove(context, &vm.id, &vm.name, false).await } else { Ok(()) };
    if !args.rm && (exec.tty.is_some() || follows) {
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

fn shipment(path: Option<&std::path::Path>, args: ShipArgs, full: bool) -> Outcome<Option<PrepareRequest>> {
    let mode = full.then(|| WorkspaceMode::Full.word().to_owned());
    let given = full || args.branch.is_some() || args.include_untracked || args.depth.is_some() || args.readonly;
    match path {
        Some(path) => args.request(path, mode).map(Some),
        None if given || args.guest_path.is_some() => {
            let failure =
                Failure::new(FaultKind::Invalid, "these options say what travels, and there is no PATH to ship");
            Err(failure.with_hint("`banger vm run .` ships the repository you are in"))
        }
        None => Ok(None),
    }
}

/// Everything that can be refused is refused before there is a machine.
async fn look(
    context: &Context,
    create: &CreateRequest,
    prepare: PrepareRequest,
    ignore_config: bool,
) -> Outcome<(PrepareRequest, WorkspacePlan)> {
    let request =
        PlanRequest { prepare: prepare.clone(), disk_bytes: create.disk_bytes, list: create.dry_run, ignore_config };
    let plan = or_cancel(workspace::plan(context, request)).await?;
    if !plan.git && !create.dry_run && !context.output.quiet {
        render::note(&workspace::summary(&plan));
    }
    Ok((prepare, plan))
}

async fn dry_run(context: &Context, request: &CreateRequest, work: Option<&WorkspacePlan>) -> Outcome {
    let Some(work) = work else { return create::show_plan(context, request).await };
    if context.output.json {
        return render::json::document(work);
    }
    plan_notes(work);
    render::data(&workspace::listing(work))
}

fn plan_notes(plan: &WorkspacePlan) {
    render::note(&workspace::summary(plan));
    plan.notes.iter().for_each(|note| render::note(note));
    wish::tell(plan);
}

/// Answers with the folder it lies in.
async fn ship(context: &Context, vm: &Sandbox, request: &PrepareRequest) -> Outcome<WorkspaceFacts> {
    let mut interrupt = Interrupt::listen()?;
    match interrupt.or(workspace::send(context, &vm.id, request)).await {
        Ok(prepared) => Ok(prepared?.workspace),
        Err(_) => Err(cancelled("cancelled while the workspace was shipped")),
    }
}

/// The work did not arrive: a sandbox that was to vanish does, one to keep stays and can be tried again.
async fn give_up(context: &Context, vm: &Sandbox, rm: bool, failure: Failure) -> Failure {
    if !rm {
        let name = &vm.name;
        render::note(&format!(
            "`{name}` runs without its workspace: `banger vm workspace prepare {name} PATH` tries again"
        ));
        return failure;
    }
    match remove(context, &vm.id, &vm.name, true).await {
        Ok(()) => failure,
        Err(also) => {
            if let Failure::Fault(fault) = also {
                render::error::say(&fault);
            }
            failure
        }
    }
}

/// What runs attached is no service; what runs as one gets the variables, the user and the folder that were named.
fn service(args: &RunArgs, attached: bool) -> Outcome<ServiceRequest> {
    let entrypoint =
        args.entrypoint.as_ref().map(|program| if program.is_empty() { vec![] } else { vec![program.clone()] });
    let restart = args.service_restart.clone();
    if attached && !args.detach {
        return Ok(ServiceRequest { entrypoint, restart, off: true, ..ServiceRequest::default() });
    }
    Ok(ServiceRequest {
        entrypoint,
        command: (!args.command.is_empty()).then(|| args.command.clone()),
        env: exec::variables(&args.env)?,
        user: args.env.user.clone().map(String::from),
        cwd: args.env.cwd.clone(),
        off: false,
        restart,
    })
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
    // What the daemon will not do on purpose has its own way out.
    if matches!(&failure, Failure::Fault(fault) if fault.kind == FaultKind::Refused && fault.hint.is_some()) {
        return failure;
    }
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
