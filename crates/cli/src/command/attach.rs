//! Standing by while the image's own command runs as a service: its log until it ends, then its status.

use super::{Context, service};
use crate::client::Path;
use crate::failure::{Failure, Outcome};
use crate::interrupt::Interrupt;
use crate::render;
use crate::session::Ended;
use wire::control::{Sandbox, Service, exit};
use wire::guest::ExecStatus;
use wire::{Fault, FaultKind};

/// Ctrl-C leaves it: the service runs on, unless its sandbox goes with us.
pub async fn run(context: &Context, vm: &Sandbox) -> Outcome<Ended> {
    match Interrupt::listen()?.or(follow(context, &vm.id)).await {
        Ok(ended) => ended.map(Ended::Status),
        Err(signal) => Err(Failure::Status(exit::SIGNALLED.saturating_add(signal))),
    }
}

async fn follow(context: &Context, id: &str) -> Outcome<ExecStatus> {
    let path = Path::vm(id).then("logs").query("source", "service").query("follow", "true");
    let mut log = context.client.open(path).await?;
    while let Some(chunk) = log.chunk().await? {
        render::raw(&chunk)?;
    }
    status(service::fetch(context, id).await?)
}

fn status(service: Service) -> Outcome<ExecStatus> {
    match (service.exit_code, service.failure) {
        (Some(code), _) => Ok(ExecStatus::Exited { code }),
        (None, Some(failure)) => {
            let kind = if failure.contains("no such file") { FaultKind::NotFound } else { FaultKind::Refused };
            Ok(ExecStatus::NotStarted { fault: Fault::new(kind, failure) })
        }
        (None, None) => Err(Failure::new(FaultKind::Internal, "the log of the image's command broke off")),
    }
}
