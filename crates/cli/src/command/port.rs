//! `banger vm port`: which ports of a guest this host publishes, on a sandbox that runs as on one that does not.

use super::set::text;
use super::{Context, complete, ports};
use crate::client::Path;
use crate::failure::Outcome;
use crate::render::{self, json};
use clap::{Args, Subcommand};
use clap_complete::ArgValueCandidates;
use hyper::Method;
use model::port::{PortForward, PortSelector};
use wire::control::{PortsRequest, SetAnswer};

#[derive(Debug, Subcommand)]
pub enum PortCommand {
    Add(AddArgs),
    #[command(visible_alias = "rm")]
    Remove(RemoveArgs),
    #[command(visible_alias = "ls")]
    List(ports::PortsArgs),
    Auto(AutoArgs),
}

/// Publish ports of a sandbox on this host.
///
/// At once where it runs, and again at each start. `8080:80` leads from port 8080 of this host's loopback to port 80 of the
/// guest, also where a service listens on the guest's own loopback only; `80` is the same number on both sides, `0:80` any
/// free port here, `0.0.0.0:8080:80` every address of this host, `5353:53/udp` UDP.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  banger vm port add web 8080:80 5353:53/udp")]
pub struct AddArgs {
    #[command(flatten)]
    pub vm: Vm,
    /// The ports
    #[arg(value_name = "[[ADDRESS:]HOST:]GUEST[/udp]", required = true)]
    pub ports: Vec<PortForward>,
}

/// Withdraw published ports.
///
/// A number is the guest's port, else this host's. Connections over it end.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  banger vm port remove web 80 53/udp")]
pub struct RemoveArgs {
    #[command(flatten)]
    pub vm: Vm,
    /// The ports: `80`, `53/udp`, `8080:80`
    #[arg(value_name = "PORT", required = true)]
    pub ports: Vec<PortSelector>,
}

/// Publish what the guest listens on by itself, or stop to.
///
/// While it is on, every TCP port on which something in the guest begins to listen is published on this host's loopback, under
/// the same number where it is free and above 1023, and withdrawn when the service ends. `banger vm ports` shows them.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  banger vm port auto web on")]
pub struct AutoArgs {
    #[command(flatten)]
    pub vm: Vm,
    /// on or off
    #[arg(value_name = "on|off", value_parser = ["on", "off"], hide_possible_values = true)]
    pub wanted: String,
}

#[derive(Debug, Args)]
pub struct Vm {
    /// The sandbox: a name, an id or the beginning of one
    #[arg(value_name = "VM", add = ArgValueCandidates::new(complete::vms))]
    pub vm: String,
}

pub async fn run(context: &Context, command: PortCommand) -> Outcome {
    match command {
        PortCommand::Add(args) => {
            let add = args.ports.iter().map(PortForward::to_string).collect();
            change(context, &args.vm.vm, PortsRequest { add, ..PortsRequest::default() }).await
        }
        PortCommand::Remove(args) => {
            let remove = args.ports.iter().map(PortSelector::to_string).collect();
            change(context, &args.vm.vm, PortsRequest { remove, ..PortsRequest::default() }).await
        }
        PortCommand::List(args) => ports::run(context, args).await,
        PortCommand::Auto(args) => {
            let auto_forward = Some(args.wanted == "on");
            change(context, &args.vm.vm, PortsRequest { auto_forward, ..PortsRequest::default() }).await
        }
    }
}

async fn change(context: &Context, vm: &str, request: PortsRequest) -> Outcome {
    let answer: SetAnswer = context.client.call(Method::POST, Path::vm(vm).then("ports"), &request).await?;
    match context.output {
        output if output.json => json::document(&answer),
        output if output.quiet => Ok(()),
        _ if request.add.is_empty() => render::data(&format!("{}\n", text(&answer))),
        _ => render::data(&answer.vm.ports.iter().map(|port| format!("{port}\n")).collect::<String>()),
    }
}
