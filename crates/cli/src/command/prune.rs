//! `banger vm prune`.

use super::{Context, delete, fleet};
use crate::failure::Outcome;
use crate::render::{self, json};
use clap::Args;
use model::State;
use wire::control::Sandbox;

/// Remove all sandboxes that are off.
///
/// Shows which ones and asks first. Where nobody can be asked, nothing is removed without `--force`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  banger vm prune --force")]
pub struct PruneArgs {
    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
    /// Give up work in their workspaces that is not on this host
    #[arg(long)]
    pub discard: bool,
}

pub async fn run(context: &Context, args: PruneArgs) -> Outcome {
    let off: Vec<Sandbox> = fleet::all(context).await?.into_iter().filter(is_off).collect();
    let names: Vec<String> = off.iter().map(|vm| vm.name.clone()).collect();
    if args.force {
        return delete::deed(false, args.discard, false)
            .for_each(context, names, |vm| format!("{}: deleted", vm.name))
            .await;
    }
    show(context, &off)?;
    if off.is_empty() {
        return Ok(());
    }
    if render::confirm(&format!("Delete {} with what lies on their disks?", count(off.len()))) {
        return delete::deed(false, args.discard, false)
            .for_each(context, names, |vm| format!("{}: deleted", vm.name))
            .await;
    }
    render::note("Nothing was deleted; `banger vm prune --force` deletes them.");
    Ok(())
}

fn show(context: &Context, off: &[Sandbox]) -> Outcome {
    match off {
        _ if context.output.json => json::document(&off),
        [] => {
            render::note("No sandbox is off.");
            Ok(())
        }
        _ => render::table::sandboxes(off, &Default::default()),
    }
}

fn count(number: usize) -> String {
    if number == 1 { "1 sandbox".into() } else { format!("{number} sandboxes") }
}

fn is_off(vm: &Sandbox) -> bool {
    [State::Created, State::Stopped, State::Failed].iter().any(|state| state.word() == vm.state)
}
