//! `banger kernel`.

use super::{Context, complete};
use crate::client::Path;
use crate::failure::Outcome;
use crate::render::progress::Board;
use crate::render::{self, json, table};
use clap::{Args, Subcommand};
use clap_complete::ArgValueCandidates;
use hyper::Method;
use wire::control::{KernelFacts, KernelList};

#[derive(Debug, Subcommand)]
pub enum KernelCommand {
    /// List kernels, those that are here and those that could be
    #[command(visible_alias = "ls", after_help = "Example:\n  banger kernel list")]
    List,
    /// Fetch a kernel
    #[command(after_help = "Example:\n  banger kernel pull debian-cloud")]
    Pull(NamedArgs),
    /// Delete kernels that no image uses
    #[command(visible_alias = "rm", after_help = "Example:\n  banger kernel delete old-one")]
    Delete(ManyArgs),
}

#[derive(Debug, Args)]
pub struct NamedArgs {
    /// The kernel
    #[arg(value_name = "KERNEL", add = ArgValueCandidates::new(complete::kernels))]
    pub kernel: String,
}

#[derive(Debug, Args)]
pub struct ManyArgs {
    /// The kernels
    #[arg(value_name = "KERNEL", required = true, add = ArgValueCandidates::new(complete::kernels))]
    pub kernels: Vec<String>,
}

pub async fn run(context: &Context, command: KernelCommand) -> Outcome {
    match command {
        KernelCommand::List => list(context).await,
        KernelCommand::Pull(args) => pull(context, &args.kernel).await,
        KernelCommand::Delete(args) => super::fleet::delete_artifacts(context, "/v1/kernels", args.kernels).await,
    }
}

async fn list(context: &Context) -> Outcome {
    let list: KernelList = context.client.get(Path::new("/v1/kernels")).await?;
    let names = || list.kernels.iter().map(|kernel| format!("{}\n", kernel.name)).collect::<String>();
    match () {
        () if context.output.json => json::document(&list.kernels),
        () if context.output.quiet => render::data(&names()),
        () => table::kernels(&list.kernels),
    }
}

async fn pull(context: &Context, name: &str) -> Outcome {
    let line = Board::new(context.output.progress()).line(None);
    let path = Path::new("/v1/kernels").then(name).then("pull");
    let kernel: KernelFacts = context.client.work(Method::POST, path, &(), |event| line.event(event)).await?;
    drop(line);
    if context.output.json { json::document(&kernel) } else { render::data(&format!("{}\n", kernel.name)) }
}
