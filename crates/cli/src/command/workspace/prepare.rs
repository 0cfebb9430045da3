//! `banger vm workspace prepare`: a folder of the host into a sandbox that runs.

use super::ShipArgs;
use crate::client::{ClientError, Path};
use crate::command::{Context, complete};
use crate::failure::Outcome;
use crate::render::progress::Board;
use crate::render::table::size;
use crate::render::{self, json};
use clap::Args;
use clap::builder::PossibleValuesParser;
use clap_complete::ArgValueCandidates;
use hyper::Method;
use model::workspace::WorkspaceMode;
use std::path::PathBuf;
use wire::control::{PlanRequest, PrepareRequest, Prepared, WorkspacePlan};

/// Ship a folder of this host into a running sandbox.
///
/// A git repository travels with its last commits, its index and its files as they are; any other folder as it is, but
/// for what `.gitignore` and `.bangerignore` leave out. Shipping again brings what changed here since; what the guest
/// changed is never replaced without `--discard`, and what it added stays.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  banger vm workspace prepare web ./shop --guest-path /root/shop")]
pub struct PrepareArgs {
    /// The sandbox: a name, an id or the beginning of one
    #[arg(value_name = "VM", add = ArgValueCandidates::new(complete::vms))]
    pub vm: String,
    /// The folder
    #[arg(value_name = "PATH", default_value = ".", value_hint = clap::ValueHint::DirPath)]
    pub path: PathBuf,
    /// Ship the last commits, all of them, or the files alone
    #[arg(long, value_name = "MODE", value_parser = PossibleValuesParser::new(WorkspaceMode::ALL.iter().map(|m| m.word())))]
    pub mode: Option<String>,
    /// Replace what the guest changed since the last time
    #[arg(long)]
    pub discard: bool,
    /// List what would travel and ship nothing
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub ship: ShipArgs,
}

pub async fn run(context: &Context, args: PrepareArgs) -> Outcome {
    let mut request = args.ship.request(&args.path, args.mode)?;
    request.discard = args.discard;
    if args.dry_run {
        let plan =
            plan(context, PlanRequest { prepare: request, list: true, ignore_config: true, ..PlanRequest::default() })
                .await?;
        return if context.output.json { json::document(&plan) } else { render::data(&listing(&plan)) };
    }
    let prepared = send(context, &args.vm, &request).await?;
    if context.output.json { json::document(&prepared) } else { render::data(&format!("{}\n", arrived(&prepared))) }
}

pub async fn plan(context: &Context, request: PlanRequest) -> Outcome<WorkspacePlan> {
    Ok(context.client.call(Method::POST, Path::new("/v1/workspaces/plan"), &request).await?)
}

/// Ships it and shows how it gets on.
pub async fn send(context: &Context, vm: &str, request: &PrepareRequest) -> Result<Prepared, ClientError> {
    let line = Board::new(context.output.progress()).line(None);
    let path = Path::vm(vm).then("workspaces");
    let prepared: Prepared = context.client.work(Method::POST, path, request, |event| line.event(event)).await?;
    drop(line);
    prepared.notes.iter().for_each(|note| render::note(note));
    Ok(prepared)
}

pub fn arrived(prepared: &Prepared) -> String {
    let work = &prepared.workspace;
    format!("{}: {} files, {} from {}", work.guest_path, prepared.files, size(prepared.bytes), work.host_path)
}

/// Data first to last: one path a line, so that it can be counted and compared.
pub fn listing(plan: &WorkspacePlan) -> String {
    plan.files.iter().map(|file| format!("{file}\n")).collect()
}

/// One sentence about what would travel.
pub fn summary(plan: &WorkspacePlan) -> String {
    let what = if plan.git { "repository" } else { "folder" };
    let (files, bytes) = (plan.file_count, size(plan.file_bytes));
    format!("would ship {what} {} to {}: {files} files, {bytes}", plan.host_path, plan.guest_path)
}
