//! `banger system …`: what banger keeps on this host beside its sandboxes.

use super::backup::{self, BackupArgs, RestoreArgs};
use super::{Context, df};
use crate::client::Path;
use crate::failure::Outcome;
use crate::render::{self, json, table};
use clap::{Args, Subcommand};
use hyper::Method;
use wire::control::{NetworkDownAnswer, NetworkDownRequest, NetworkStatus, NetworkUpRequest};

#[derive(Debug, Subcommand)]
pub enum SystemCommand {
    Df(df::DfArgs),
    /// Show, make or unmake the network that sandboxes share on this host
    #[command(subcommand, arg_required_else_help = true)]
    Network(NetworkCommand),
    Backup(BackupArgs),
    Restore(RestoreArgs),
}

#[derive(Debug, Subcommand)]
pub enum NetworkCommand {
    /// Tell which network mode new sandboxes get and why, and what was made on this host
    #[command(after_help = "Example:\n  banger system network status")]
    Status,
    /// Make the bridge before anybody needs it; mends what others changed
    #[command(after_help = "Example:\n  banger system network up --range 10.20.30.0/24")]
    Up(UpArgs),
    /// Unmake everything that was made of this host's network
    #[command(after_help = "Example:\n  banger system network down")]
    Down(DownArgs),
}

#[derive(Debug, Args)]
pub struct UpArgs {
    /// Take this private IPv4 range instead of the first free one
    #[arg(long, value_name = "CIDR")]
    pub range: Option<String>,
}

#[derive(Debug, Args)]
pub struct DownArgs {
    /// Even if sandboxes that run lose their network
    #[arg(long)]
    pub force: bool,
}

pub async fn run(context: &Context, command: SystemCommand) -> Outcome {
    let command = match command {
        SystemCommand::Df(args) => return df::run(context, args).await,
        SystemCommand::Network(command) => command,
        SystemCommand::Backup(args) => return backup::backup(context, args).await,
        SystemCommand::Restore(args) => return backup::restore(context, &args),
    };
    match command {
        NetworkCommand::Status => show(context, &context.client.get(Path::new("/v1/network")).await?),
        NetworkCommand::Up(UpArgs { range }) => {
            let request = NetworkUpRequest { range };
            show(context, &context.client.call(Method::POST, Path::new("/v1/network/up"), &request).await?)
        }
        NetworkCommand::Down(DownArgs { force }) => down(context, force).await,
    }
}

fn show(context: &Context, status: &NetworkStatus) -> Outcome {
    if context.output.json {
        return json::document(status);
    }
    let bridge = status.bridge.as_ref().zip(status.range.as_ref()).map(|(bridge, range)| format!("{bridge} {range}"));
    render::data(&table::facts(&[
        ("mode", Some(format!("{}: {}", status.mode, status.reason))),
        ("wanted", Some(status.wanted.clone())),
        ("bridge", Some(bridge.unwrap_or_else(|| "down".into()))),
        ("taps", (status.taps > 0).then(|| status.taps.to_string())),
        ("rules", status.rules.as_deref().map(rules)),
        ("forwarding", status.forwarding_ours.then(|| "turned on by banger".into())),
        ("in the way", Some(status.obstacles.join("; "))),
        ("root helper", Some(status.helper.clone().unwrap_or_else(|| "does not run".into()))),
    ]))
}

fn rules(word: &str) -> String {
    match word {
        "in_sync" => "in force".into(),
        "changed" => "changed by somebody else; `banger system network up` mends them".into(),
        _ => "none".into(),
    }
}

async fn down(context: &Context, force: bool) -> Outcome {
    let request = NetworkDownRequest { force };
    let answer: NetworkDownAnswer = context.client.call(Method::POST, Path::new("/v1/network/down"), &request).await?;
    if context.output.json {
        return json::document(&answer);
    }
    answer.kept.iter().for_each(|sentence| render::note(sentence));
    let said = if answer.changed { "the network is down\n" } else { "the network was down already\n" };
    if context.output.quiet { Ok(()) } else { render::data(said) }
}
