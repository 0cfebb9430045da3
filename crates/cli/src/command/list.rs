//! `banger vm list` and `banger ps`.

use super::values::{self, Pair};
use super::{Context, fleet, workspace};
use crate::failure::Outcome;
use crate::render::{self, json, table};
use clap::Args;
use futures_util::{StreamExt, stream};
use model::State;
use std::collections::BTreeMap;
use wire::control::{Sandbox, WorkspaceFacts, WorkspaceStatus};

/// List sandboxes.
///
/// WORKSPACE is the guest's folder with code of this host, what the guest did there, and what the host has new.
/// With `--quiet` only their names, one a line.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  banger vm list --label project=shop")]
pub struct ListArgs {
    /// Only those that run
    #[arg(long)]
    pub running: bool,
    /// Only those with this label
    #[arg(long, value_name = "KEY[=VALUE]")]
    pub label: Vec<String>,
}

/// List the sandboxes that run.
///
/// `banger vm list` lists all of them.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  banger ps --all")]
pub struct PsArgs {
    /// Those that do not run, too
    #[arg(short, long)]
    pub all: bool,
    /// Only those with this label
    #[arg(long, value_name = "KEY[=VALUE]")]
    pub label: Vec<String>,
}

/// 8 at a time: each asks git about a repository.
const AT_ONCE: usize = 8;

pub async fn ps(context: &Context, args: PsArgs) -> Outcome {
    run(context, ListArgs { running: !args.all, label: args.label }).await
}

pub async fn run(context: &Context, args: ListArgs) -> Outcome {
    let wanted = |vm: &Sandbox| (!args.running || !is_off(vm)) && args.label.iter().all(|label| has_label(vm, label));
    let vms: Vec<Sandbox> = fleet::all(context).await?.into_iter().filter(wanted).collect();
    match () {
        () if context.output.json => json::document(&vms),
        () if context.output.quiet => render::data(&vms.iter().map(|vm| format!("{}\n", vm.name)).collect::<String>()),
        () => table::sandboxes(&vms, &work(context, &vms).await),
    }
}

/// What each sandbox works on, by its id, and how far guest and host have moved; whose host cannot be looked at shows the guest alone.
async fn work(context: &Context, vms: &[Sandbox]) -> BTreeMap<String, String> {
    let with_work = vms.iter().filter(|vm| !vm.workspaces.is_empty());
    let asked = with_work.map(|vm| async move {
        let list = workspace::ask(context, &vm.id, false).await.unwrap_or_default();
        let told: Vec<_> = vm.workspaces.iter().map(|facts| told(facts, &list.workspaces)).collect();
        (vm.id.clone(), told.join("; "))
    });
    stream::iter(asked).buffered(AT_ONCE).collect().await
}

fn told(facts: &WorkspaceFacts, list: &[WorkspaceStatus]) -> String {
    let status = list.iter().find(|status| status.workspace.guest_path == facts.guest_path);
    match status.filter(|status| status.host != "same") {
        Some(status) => format!("{} (host: {})", table::workspace(facts), workspace::host_word(status)),
        None => table::workspace(facts),
    }
}

/// One that is starting or paused holds a machine as well: it "runs" for who asks what does.
fn is_off(vm: &Sandbox) -> bool {
    State::ALL.iter().any(|state| state.word() == vm.state && !state.may_have_vmm())
}

fn has_label(vm: &Sandbox, wanted: &str) -> bool {
    match values::pair(wanted) {
        Ok(Pair { key, value }) => vm.labels.get(&key) == Some(&value),
        Err(_) => vm.labels.contains_key(wanted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_asked_for_with_or_without_its_value() {
        let vm = Sandbox { labels: [("project".into(), "shop".into())].into(), ..Sandbox::default() };
        for (wanted, has) in [("project", true), ("project=shop", true), ("project=x", false), ("shop", false)] {
            assert_eq!(has_label(&vm, wanted), has, "{wanted}");
        }
    }
}
