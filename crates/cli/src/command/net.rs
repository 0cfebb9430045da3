//! `banger vm net …`: what one sandbox may reach, and what it was refused.

use super::{Context, complete};
use crate::client::Path;
use crate::failure::Outcome;
use crate::render::{self, json, table, time};
use clap::{Args, Subcommand};
use clap_complete::ArgValueCandidates;
use hyper::Method;
use wire::control::{NetChange, NetFacts, NetLog, RefusedConnection};

/// What a sandbox may reach, as `run`, `create` and `set` take it.
#[derive(Debug, Clone, Args)]
pub struct NetArgs {
    /// Let it reach the world through this host, or nothing beyond its link
    #[arg(long, value_name = "on|off", value_parser = ["on", "off"], hide_possible_values = true)]
    pub nat: Option<String>,
    /// Give it no network device at all (`none`); `nat` and `off` say the same as --nat
    #[arg(long, value_name = "none|nat|off", value_parser = ["none", "nat", "off"], hide_possible_values = true, conflicts_with = "nat")]
    pub net: Option<String>,
    /// Open a private network to it, such as 10.1.0.0/16
    #[arg(long, value_name = "CIDR")]
    pub allow_net: Vec<String>,
}

impl NetArgs {
    /// The wire's word.
    pub fn outbound(&self) -> Option<String> {
        let nat = self.nat.as_deref().map(|nat| if nat == "on" { "nat".to_owned() } else { "off".to_owned() });
        nat.or_else(|| self.net.clone())
    }
}

#[derive(Debug, Subcommand)]
pub enum NetCommand {
    /// Let a sandbox reach private networks and other sandboxes, at once
    #[command(after_help = "Example:\n  banger vm net allow web 10.1.0.0/16 db")]
    Allow(ChangeArgs),
    /// Withdraw what was allowed, at once; open connections end
    #[command(after_help = "Example:\n  banger vm net deny web db")]
    Deny(ChangeArgs),
    /// Show how a sandbox is connected and what it may reach
    #[command(after_help = "Example:\n  banger vm net show web")]
    Show(OneArgs),
    /// List connections that were refused to a sandbox during the last hour
    #[command(after_help = "Example:\n  banger vm net log web")]
    Log(OneArgs),
}

#[derive(Debug, Args)]
pub struct OneArgs {
    /// The sandbox: a name, an id or the beginning of one
    #[arg(value_name = "VM", add = ArgValueCandidates::new(complete::vms))]
    pub vm: String,
}

#[derive(Debug, Args)]
pub struct ChangeArgs {
    /// The sandbox that reaches out
    #[arg(value_name = "VM", add = ArgValueCandidates::new(complete::vms))]
    pub vm: String,
    /// What it reaches: networks (CIDR), addresses, other sandboxes
    #[arg(value_name = "TARGET", required = true, add = ArgValueCandidates::new(complete::vms))]
    pub targets: Vec<String>,
}

pub async fn run(context: &Context, command: NetCommand) -> Outcome {
    match command {
        NetCommand::Allow(ChangeArgs { vm, targets }) => {
            change(context, &vm, NetChange { allow: targets, deny: Vec::new() }).await
        }
        NetCommand::Deny(ChangeArgs { vm, targets }) => {
            change(context, &vm, NetChange { allow: Vec::new(), deny: targets }).await
        }
        NetCommand::Show(args) => show(context, &context.client.get(Path::vm(&args.vm).then("net")).await?),
        NetCommand::Log(args) => log(context, &context.client.get(Path::vm(&args.vm).then("net").then("log")).await?),
    }
}

async fn change(context: &Context, vm: &str, change: NetChange) -> Outcome {
    let facts: NetFacts = context.client.call(Method::PATCH, Path::vm(vm).then("net"), &change).await?;
    if context.output.quiet { Ok(()) } else { show(context, &facts) }
}

fn show(context: &Context, net: &NetFacts) -> Outcome {
    if context.output.json {
        return json::document(net);
    }
    render::data(&table::facts(&[
        ("name", Some(net.name.clone())),
        ("mode", Some(net.mode.clone().unwrap_or_else(|| "not connected: it does not run".into()))),
        ("device", net.device.clone()),
        ("hardware address", net.mac.clone()),
        ("addresses", Some(net.addresses.join(" "))),
        ("gateways", Some(net.gateways.join(" "))),
        ("name servers", Some(net.name_servers.join(" "))),
        ("outbound", Some(net.outbound.clone())),
        ("allowed networks", Some(net.allow_networks.join(" "))),
        ("allowed sandboxes", Some(net.allow_vms.join(" "))),
    ]))
}

fn log(context: &Context, log: &NetLog) -> Outcome {
    if context.output.json {
        return json::document(&log.entries);
    }
    let row = |entry: &RefusedConnection| {
        let port = if entry.port == 0 { String::new() } else { format!(":{}", entry.port) };
        let bracketed = entry.destination.contains(':') && !port.is_empty();
        let host = if bracketed { format!("[{}]", entry.destination) } else { entry.destination.clone() };
        vec![
            format!("{} ago", time::span_s(entry.last_s)),
            entry.protocol.clone(),
            format!("{host}{port}"),
            entry.packets.to_string(),
        ]
    };
    table::show(&["LAST", "PROTOCOL", "DESTINATION", "PACKETS"], log.entries.iter().map(row).collect())
}
