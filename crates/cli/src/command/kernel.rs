//! `banger kernel`.

use super::values::absolute;
use super::{Context, complete};
use crate::client::Path;
use crate::failure::Outcome;
use crate::render::progress::Board;
use crate::render::{self, json, table};
use clap::{Args, Subcommand};
use clap_complete::ArgValueCandidates;
use hyper::Method;
use model::KernelName;
use serde::Serialize;
use std::path::PathBuf;
use wire::control::{KernelFacts, KernelImport, KernelList};

#[derive(Debug, Subcommand)]
pub enum KernelCommand {
    /// List kernels, those that are here and those that could be
    #[command(visible_alias = "ls", after_help = "Example:\n  banger kernel list")]
    List,
    /// Fetch a kernel
    #[command(after_help = "Example:\n  banger kernel pull debian-cloud")]
    Pull(NamedArgs),
    /// Register a kernel that lies on this machine
    #[command(after_help = "Example:\n  banger kernel import mine ./vmlinux --modules ./lib/modules/6.6.1")]
    Import(ImportArgs),
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
pub struct ImportArgs {
    /// What to call it
    #[arg(value_name = "NAME")]
    pub name: KernelName,
    /// The kernel: an ELF `vmlinux` or a bzImage
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Pass these words on its command line
    #[arg(long, value_name = "WORDS", default_value = "")]
    pub boot_args: String,
    /// Take its modules from this folder (`lib/modules/VERSION`)
    #[arg(long, value_name = "FOLDER")]
    pub modules: Option<PathBuf>,
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
        KernelCommand::Import(args) => import(context, args).await,
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
    make(context, Method::POST, Path::new("/v1/kernels").then(name).then("pull"), &()).await
}

async fn import(context: &Context, args: ImportArgs) -> Outcome {
    let modules = args.modules.as_deref().map(absolute).transpose()?;
    let request = KernelImport { vmlinux: absolute(&args.file)?, boot_args: args.boot_args, modules };
    make(context, Method::PUT, Path::new("/v1/kernels").then(args.name.as_str()), &request).await
}

async fn make<B: Serialize>(context: &Context, method: Method, path: Path, request: &B) -> Outcome {
    let line = Board::new(context.output.progress()).line(None);
    let kernel: KernelFacts = context.client.work(method, path, request, |event| line.event(event)).await?;
    drop(line);
    if context.output.json { json::document(&kernel) } else { render::data(&format!("{}\n", kernel.name)) }
}
