//! `banger system df`.

use super::Context;
use crate::client::Path;
use crate::failure::Outcome;
use crate::render::{json, table};
use clap::Args;
use wire::control::DiskUse;

/// Show what banger takes on the disk, and what of it could go
///
/// What could go is what deleting would free: sandboxes that are off, images and kernels that no sandbox uses, downloads
/// that no image was made of.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  banger system df")]
pub struct DfArgs {}

pub async fn run(context: &Context, _: DfArgs) -> Outcome {
    let used: DiskUse = context.client.get(Path::new("/v1/df")).await?;
    if context.output.json { json::document(&used) } else { table::disk_use(&used) }
}
