//! `banger vm list` and `banger ps`.

use super::values::{self, Pair};
use super::{Context, fleet};
use crate::failure::Outcome;
use crate::render::{self, json, table};
use clap::Args;
use model::State;
use wire::control::Sandbox;

/// List sandboxes.
///
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

pub async fn ps(context: &Context, args: PsArgs) -> Outcome {
    run(context, ListArgs { running: !args.all, label: args.label }).await
}

pub async fn run(context: &Context, args: ListArgs) -> Outcome {
    let wanted = |vm: &Sandbox| (!args.running || !is_off(vm)) && args.label.iter().all(|label| has_label(vm, label));
    let vms: Vec<Sandbox> = fleet::all(context).await?.into_iter().filter(wanted).collect();
    match () {
        () if context.output.json => json::document(&vms),
        () if context.output.quiet => render::data(&vms.iter().map(|vm| format!("{}\n", vm.name)).collect::<String>()),
        () => table::sandboxes(&vms),
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
