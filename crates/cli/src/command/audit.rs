//! `banger audit`.

use super::Context;
use crate::client::Path;
use crate::failure::{Failure, Outcome};
use crate::render::{self, json};
use clap::Args;
use hyper::Method;
use wire::control::{Audit, exit};

/// Compare this machine with the records, and mend what differs.
///
/// Everything that banger made on this machine is compared with what it remembers, both ways. Fails while something
/// differs.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  banger audit --fix")]
pub struct AuditArgs {
    /// Mend what can be mended
    #[arg(long)]
    pub fix: bool,
}

pub async fn run(context: &Context, args: AuditArgs) -> Outcome {
    let audit: Audit = match args.fix {
        true => context.client.call(Method::POST, Path::new("/v1/audit/fix"), &()).await?,
        false => context.client.get(Path::new("/v1/audit")).await?,
    };
    if context.output.json {
        json::document(&audit)?;
    } else {
        show(context, &audit)?;
    }
    let left = audit.findings.iter().any(|finding| !finding.mended);
    if left { Err(Failure::Status(exit::FAILED)) } else { Ok(()) }
}

fn show(context: &Context, audit: &Audit) -> Outcome {
    if audit.findings.is_empty() {
        return if context.output.quiet { Ok(()) } else { render::data("all is well: machine and records agree\n") };
    }
    let rows = audit.findings.iter().map(|finding| {
        let mended = if finding.mended { "mended" } else { "left" };
        vec![finding.what.clone(), finding.subject.clone(), mended.into(), finding.detail.clone()]
    });
    render::table::show(&["WHAT", "SUBJECT", "STATE", "DETAIL"], rows.collect())?;
    if !audit.fixed {
        render::note("`banger audit --fix` mends what can be mended.");
    }
    Ok(())
}
