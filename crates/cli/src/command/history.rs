//! `banger history`.

use super::{Context, complete};
use crate::client::Path;
use crate::failure::Outcome;
use crate::render::{self, json, time};
use clap::Args;
use clap_complete::ArgValueCandidates;
use wire::control::{History, OperationFacts};

/// List what was done to sandboxes, and how it ended.
///
/// Every operation has an id; it stands in errors, too, and in every line of bangerd's log about it.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  banger history --steps web")]
pub struct HistoryArgs {
    /// Only what was done to this sandbox
    #[arg(value_name = "VM", add = ArgValueCandidates::new(complete::vms))]
    pub vm: Option<String>,
    /// Show the steps of each operation
    #[arg(long)]
    pub steps: bool,
    /// Only the last so many
    #[arg(short = 'n', long, value_name = "COUNT", default_value = "50")]
    pub limit: u32,
}

pub async fn run(context: &Context, args: HistoryArgs) -> Outcome {
    let mut path = Path::new("/v1/history").query("limit", &args.limit.to_string());
    if let Some(vm) = &args.vm {
        path = path.query("vm", vm);
    }
    let history: History = context.client.get(path).await?;
    match () {
        () if context.output.json => json::document(&history.operations),
        () if args.steps => render::data(&history.operations.iter().map(with_steps).collect::<String>()),
        () => table(&history.operations),
    }
}

fn table(operations: &[OperationFacts]) -> Outcome {
    let row = |operation: &OperationFacts| {
        vec![
            time::moment(operation.began_at_ns),
            operation.id.clone(),
            operation.verb.clone(),
            operation.vm_name.clone(),
            took(operation),
            operation.outcome.clone(),
            render::table::dash(operation.error.clone().unwrap_or_default()),
        ]
    };
    let headers = ["BEGAN", "OPERATION", "VERB", "NAME", "TOOK", "OUTCOME", "ERROR"];
    render::table::show(&headers, operations.iter().map(row).collect())
}

fn with_steps(operation: &OperationFacts) -> String {
    let OperationFacts { id, verb, vm_name, outcome, .. } = operation;
    let began = time::moment(operation.began_at_ns);
    let mut text = format!("{began}  {id}  {verb} {vm_name}: {outcome} ({})\n", took(operation));
    for step in &operation.steps {
        let took = step.duration_us.map_or("-".into(), time::span_us);
        text.push_str(&format!("  {took:>10}  {:7}  {}\n", step.state, step.name));
    }
    if let Some(error) = &operation.error {
        text.push_str(&format!("  error: {}\n", render::plain(error)));
    }
    text
}

fn took(operation: &OperationFacts) -> String {
    let took = operation.ended_at_ns.map(|end| end.saturating_sub(operation.began_at_ns) / 1000);
    took.map_or("-".into(), time::span_us)
}
