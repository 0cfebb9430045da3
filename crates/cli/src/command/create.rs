//! `banger vm create`: a sandbox to keep, without a command in it.

use super::Context;
use super::fleet::one;
use super::spec::SpecArgs;
use crate::client::{ClientError, Path};
use crate::failure::Outcome;
use crate::render::progress::Board;
use crate::render::{self, json, plan};
use clap::Args;
use hyper::Method;
use serde::de::DeserializeOwned;
use wire::control::{CreateRequest, Event, PlanFacts, Sandbox};

/// Create a sandbox and start it.
///
/// Prints its name. The image is fetched first where it is missing. Ctrl-C undoes what was begun.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  banger vm create --name web --memory 2G -p 8080:80")]
pub struct CreateArgs {
    /// Create it only; `banger vm start` starts it
    #[arg(long)]
    pub no_start: bool,
    #[command(flatten)]
    pub spec: SpecArgs,
}

pub async fn run(context: &Context, args: CreateArgs) -> Outcome {
    let request = CreateRequest { no_start: args.no_start, ..args.spec.request() };
    if request.dry_run {
        return show_plan(context, &request).await;
    }
    let vm = one(send::<Sandbox>(context, &request, |_| {})).await?;
    show_made(context, &vm)
}

pub async fn show_plan(context: &Context, request: &CreateRequest) -> Outcome {
    let facts = one(send::<PlanFacts>(context, request, |_| {})).await?;
    plan::show(context.output, &facts)
}

pub fn show_made(context: &Context, vm: &Sandbox) -> Outcome {
    if context.output.json { json::document(vm) } else { render::data(&format!("{}\n", vm.name)) }
}

/// Asks for it and shows how it gets on; `began` gets the operation's id.
pub async fn send<T: DeserializeOwned>(
    context: &Context,
    request: &CreateRequest,
    mut began: impl FnMut(&str),
) -> Result<T, ClientError> {
    let line = Board::new(context.output.progress()).line(None);
    let watch = |event: &Event<T>| {
        if let Event::Began { operation, .. } = event {
            began(operation);
        }
        line.event(event);
    };
    context.client.work(Method::POST, Path::new("/v1/vms"), request, watch).await
}
