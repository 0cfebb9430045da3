//! One module per verb: what it takes from the command line, what it asks the daemon, how it shows the answer.

mod attach;
pub mod audit;
pub mod backup;
pub mod complete;
pub mod completion;
pub mod copy;
pub mod create;
pub mod daemon;
pub mod delete;
pub mod df;
pub mod doctor;
pub mod events;
pub mod exec;
mod fleet;
pub mod health;
pub mod history;
pub mod image;
pub mod internal;
pub mod kernel;
pub mod kill;
pub mod library;
pub mod list;
pub mod logs;
pub mod net;
pub mod pause;
pub mod ping;
pub mod port;
pub mod ports;
pub mod prune;
pub mod rename;
pub mod reset;
pub mod restart;
pub mod run;
pub mod service;
pub mod set;
pub mod shell;
pub mod show;
mod spec;
pub mod ssh;
pub mod ssh_config;
pub mod ssh_proxy;
pub mod start;
pub mod stats;
pub mod stop;
pub mod system;
mod values;
pub mod version;
pub mod workspace;

use self::internal::InternalCommand;
use crate::args::{Cli, Command, VmCommand};
use crate::client::Client;
use crate::failure::{Failure, Outcome};
use crate::interrupt::or_cancel;
use crate::render::Output;
use std::future::Future;
use wire::FaultKind;

/// What every verb works with.
#[derive(Debug, Clone)]
pub struct Context {
    pub client: Client,
    pub output: Output,
}

/// One line per verb. Verbs that need neither daemon nor runtime do without; `or_cancel` stands where Ctrl-C needs no
/// more than a word.
pub fn dispatch(cli: Cli) -> Outcome {
    let context = Context { client: Client::new(), output: cli.globals.output() };
    let c = &context;
    match cli.command {
        Command::Vm(command) => vm(c, command),
        Command::Ps(args) => block_on(or_cancel(list::ps(c, args))),
        Command::Image(command) => block_on(or_cancel(image::run(c, command))),
        Command::Kernel(command) => block_on(or_cancel(kernel::run(c, command))),
        Command::Daemon(command) => block_on(or_cancel(daemon::run(c, command))),
        Command::Doctor(args) => block_on(or_cancel(doctor::run(c, args))),
        Command::History(args) => block_on(or_cancel(history::run(c, args))),
        Command::Events(args) => block_on(events::run(c, args)),
        Command::System(command) => block_on(or_cancel(system::run(c, command))),
        Command::Audit(args) => block_on(or_cancel(audit::run(c, args))),
        Command::Version(args) => version::run(c, args),
        Command::Completion(args) => completion::run(args),
        Command::SshConfig(args) => block_on(or_cancel(ssh_config::run(c, args))),
        Command::Internal(InternalCommand::SshProxy { host, direct }) => {
            ssh_proxy::join(wait_for(ssh_proxy::connect(c, &host, direct))?)
        }
        Command::Internal(command) => internal::run(command),
    }
}

fn vm(c: &Context, command: VmCommand) -> Outcome {
    match command {
        VmCommand::Run(args) => block_on(run::run(c, args)),
        VmCommand::Create(args) => block_on(create::run(c, args)),
        VmCommand::Start(args) => block_on(or_cancel(start::run(c, args))),
        VmCommand::Stop(args) => block_on(or_cancel(stop::run(c, args))),
        VmCommand::Restart(args) => block_on(or_cancel(restart::run(c, args))),
        VmCommand::Kill(args) => block_on(or_cancel(kill::run(c, args))),
        VmCommand::Delete(args) => block_on(or_cancel(delete::run(c, args))),
        VmCommand::Reset(args) => block_on(or_cancel(reset::run(c, args))),
        VmCommand::Pause(args) => block_on(or_cancel(pause::pause(c, args))),
        VmCommand::Resume(args) => block_on(or_cancel(pause::resume(c, args))),
        VmCommand::List(args) => block_on(or_cancel(list::run(c, args))),
        VmCommand::Show(args) => block_on(or_cancel(show::run(c, args))),
        VmCommand::Exec(args) => block_on(exec::run(c, args)),
        VmCommand::Shell(args) => block_on(shell::run(c, args)),
        VmCommand::Ssh(args) => ssh::run(wait_for(or_cancel(ssh::prepare(c, args)))?),
        VmCommand::Logs(args) => block_on(logs::run(c, args)),
        VmCommand::Health(args) => block_on(or_cancel(health::run(c, args))),
        VmCommand::Ping(args) => block_on(or_cancel(ping::run(c, args))),
        VmCommand::Stats(args) => block_on(stats::run(c, args)),
        VmCommand::Cp(args) => block_on(copy::run(c, args)),
        VmCommand::Port(command) => block_on(or_cancel(port::run(c, command))),
        VmCommand::Net(command) => block_on(or_cancel(net::run(c, command))),
        VmCommand::Ports(args) => block_on(or_cancel(ports::run(c, args))),
        VmCommand::Service(args) => block_on(or_cancel(service::run(c, args))),
        VmCommand::Set(args) => block_on(or_cancel(set::run(c, args))),
        VmCommand::Rename(args) => block_on(or_cancel(rename::run(c, args))),
        VmCommand::Workspace(command) => block_on(workspace::run(c, command)),
        VmCommand::Prune(args) => block_on(or_cancel(prune::run(c, args))),
    }
}

/// One thread for everything: the work is elsewhere, and a runtime of one thread starts at once.
fn block_on(work: impl Future<Output = Outcome>) -> Outcome {
    wait_for(work)
}

fn wait_for<T>(work: impl Future<Output = Outcome<T>>) -> Outcome<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(FaultKind::Internal, format!("cannot start: {error}")))?;
    let outcome = runtime.block_on(work);
    // Not waited for: a blocking thread may sit in a read that nobody needs any more.
    runtime.shutdown_background();
    outcome
}
