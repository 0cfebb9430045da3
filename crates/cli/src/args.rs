//! The command line as a tree of types. What each verb takes lies in `command/<verb>.rs`; here are the groups, their
//! landing pages and what all verbs share.

use crate::command::{
    audit, completion, copy, create, daemon, delete, doctor, events, exec, health, history, image, internal, kernel,
    kill, list, logs, net, pause, ping, port, ports, prune, rename, reset, restart, run, service, set, shell, show,
    ssh, ssh_config, start, stats, stop, system, version, workspace,
};
use crate::render::Output;
use clap::{Args, Parser, Subcommand};

const WORKFLOW: &str = "\
The main workflow:
  banger vm run --rm -- uname -a      boot a sandbox, run one command in it, throw it away
  banger vm run --name web            boot one to keep, and get a shell in it
  banger vm run . -- make test        ship this repository into a new one and run a command there
  banger vm exec web -- apt update    run something in it from outside
  banger ps                           see what runs
  banger vm stop web                  stop it; its disks stay
  banger vm delete web                remove it with its disks

`bangerd`, which keeps the sandboxes, starts by itself. `banger doctor` tells what this machine can do.";

/// Run disposable virtual machines with one command.
#[derive(Debug, Parser)]
#[command(name = "banger", version, propagate_version = false, max_term_width = 100, after_help = WORKFLOW)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    pub globals: Globals,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Options of every command")]
pub struct Globals {
    /// Print the answer as JSON.
    #[arg(long, global = true)]
    pub json: bool,
    /// Print nothing but the answer; a listing prints names only.
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Do not show how long work is getting on.
    #[arg(long, global = true)]
    pub no_progress: bool,
}

impl Globals {
    pub fn output(&self) -> Output {
        Output { json: self.json, quiet: self.quiet, no_progress: self.no_progress }
    }
}

// Parsed once and taken apart at once: its size costs nothing.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make, use and remove sandboxes
    #[command(subcommand, long_about = VM_PAGE, visible_alias = "vms", arg_required_else_help = true)]
    Vm(VmCommand),
    Ps(list::PsArgs),
    /// Look after the images that sandboxes boot
    #[command(subcommand, long_about = IMAGE_PAGE, visible_alias = "images", arg_required_else_help = true)]
    Image(image::ImageCommand),
    /// Look after the kernels that sandboxes boot
    #[command(subcommand, long_about = KERNEL_PAGE, visible_alias = "kernels", arg_required_else_help = true)]
    Kernel(kernel::KernelCommand),
    /// Show, start or stop bangerd
    #[command(subcommand, long_about = DAEMON_PAGE, arg_required_else_help = true)]
    Daemon(daemon::DaemonCommand),
    /// Look after what banger keeps on this host beside its sandboxes
    #[command(subcommand, arg_required_else_help = true)]
    System(system::SystemCommand),
    Doctor(doctor::DoctorArgs),
    History(history::HistoryArgs),
    Events(events::EventsArgs),
    Audit(audit::AuditArgs),
    SshConfig(ssh_config::SshConfigArgs),
    Version(version::VersionArgs),
    Completion(completion::CompletionArgs),
    /// What packagers need.
    #[command(subcommand, hide = true)]
    Internal(internal::InternalCommand),
}

const VM_PAGE: &str = "\
Make, use and remove sandboxes.

A sandbox is a virtual machine of its own: a name, a kernel, an image that it never changes, a disk for everything it \
writes. Refer to it by name, by id or by the beginning of an id that no other one shares.

Begin with `banger vm run`, which creates one, starts it and gives you a shell.";

const IMAGE_PAGE: &str = "\
Look after the images that sandboxes boot.

An image is a recipe on disk: a root file system that every sandbox made from it shares and none can change. `banger vm \
run --image NAME` fetches one where it is missing; `banger image list` shows what is here and what could be.";

const KERNEL_PAGE: &str = "\
Look after the kernels that sandboxes boot.

An image names the kernel that it wants, so there is rarely a reason to choose. `banger kernel list` shows what is here; \
`banger vm run --kernel NAME` takes another one.";

const PORT_PAGE: &str = "\
Publish ports of a running sandbox, or withdraw them.

A published port leads from this host to a service in the guest, over the agent: the guest needs no network for it, and a \
service on the guest's own loopback is reached, too. `banger vm run -p 8080:80` publishes from the start, `banger vm port \
add` later, `banger vm port auto` whatever the guest listens on.";

const DAEMON_PAGE: &str = "\
Show, start or stop bangerd.

bangerd keeps the sandboxes and starts by itself when a command needs it. Sandboxes run on while it is stopped. `banger \
daemon status` names its socket, its log file and how much it looks after.";

const WORKSPACE_PAGE: &str = "\
Bring code into a sandbox and look after it there.

A workspace is a folder of a guest that holds a repository, or any folder, of this host: its history as deep as useful, \
and its files exactly as they are, staged, edited and deleted ones included. `banger vm run PATH` makes one with a new \
sandbox; `banger vm workspace prepare` ships into one that runs, and again when the host has moved on.";

// As above.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Subcommand)]
pub enum VmCommand {
    Run(run::RunArgs),
    Create(create::CreateArgs),
    Start(start::StartArgs),
    Stop(stop::StopArgs),
    Restart(restart::RestartArgs),
    Kill(kill::KillArgs),
    #[command(visible_alias = "rm")]
    Delete(delete::DeleteArgs),
    Reset(reset::ResetArgs),
    Pause(pause::PauseArgs),
    Resume(pause::ResumeArgs),
    #[command(visible_alias = "ls")]
    List(list::ListArgs),
    Show(show::ShowArgs),
    Exec(exec::ExecArgs),
    Shell(shell::ShellArgs),
    Ssh(ssh::SshArgs),
    Cp(copy::CopyArgs),
    Logs(logs::LogsArgs),
    Health(health::HealthArgs),
    Ping(ping::PingArgs),
    Stats(stats::StatsArgs),
    /// Publish ports of a running sandbox, or withdraw them
    #[command(subcommand, long_about = PORT_PAGE, arg_required_else_help = true)]
    Port(port::PortCommand),
    Ports(ports::PortsArgs),
    /// Decide what a sandbox may reach, and see what it was refused
    #[command(subcommand, arg_required_else_help = true)]
    Net(net::NetCommand),
    Service(service::ServiceArgs),
    Set(set::SetArgs),
    Rename(rename::RenameArgs),
    /// Bring code into a sandbox and look after it there
    #[command(subcommand, long_about = WORKSPACE_PAGE, visible_alias = "ws", arg_required_else_help = true)]
    Workspace(workspace::WorkspaceCommand),
    Prune(prune::PruneArgs),
}
