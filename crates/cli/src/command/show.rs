//! `banger vm show`.

use super::{Context, complete};
use crate::client::Path;
use crate::failure::Outcome;
use crate::render::table::{facts, size, workspace};
use crate::render::{self, json, time};
use clap::Args;
use clap_complete::ArgValueCandidates;
use wire::control::{Sandbox, Span};

/// Show everything about a sandbox.
///
/// With `--timing`, where the time of its last start went.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  banger vm show --timing web")]
pub struct ShowArgs {
    /// The sandbox: a name, an id or the beginning of one
    #[arg(value_name = "VM", add = ArgValueCandidates::new(complete::vms))]
    pub vm: String,
    /// Show how long each step of its last start took
    #[arg(long)]
    pub timing: bool,
}

pub async fn run(context: &Context, args: ShowArgs) -> Outcome {
    let vm: Sandbox = context.client.get(Path::vm(&args.vm)).await?;
    match () {
        () if context.output.json => json::document(&vm),
        () if args.timing => render::data(&timing(&vm.timing)),
        () => render::data(&everything(&vm)),
    }
}

fn everything(vm: &Sandbox) -> String {
    let labels: Vec<String> = vm.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let workspaces: Vec<String> =
        vm.workspaces.iter().map(|work| format!("{} from {}", workspace(work), work.host_path)).collect();
    facts(&[
        ("name", Some(vm.name.clone())),
        ("id", Some(vm.id.clone())),
        ("state", Some(vm.state.clone())),
        ("failure", vm.failure.clone()),
        ("image", Some(vm.image.clone())),
        ("kernel", Some(vm.kernel.clone())),
        ("vmm", vm.vmm.clone()),
        ("vmm pid", vm.vmm_pid.map(|pid| pid.to_string())),
        ("cpus", Some(vm.vcpus.to_string())),
        ("memory", Some(size(vm.memory_bytes))),
        ("work disk", Some(size(vm.disk_bytes))),
        ("root disk", Some(size(vm.root_bytes))),
        ("init", Some(vm.init.clone())),
        ("network", Some(vm.outbound.clone())),
        ("addresses", Some(vm.addresses.join(" "))),
        ("ports", Some(vm.ports.join(" "))),
        ("labels", Some(labels.join(" "))),
        ("workspaces", Some(workspaces.join("; "))),
        ("service", Some(vm.service.join(" "))),
        ("restart", Some(vm.restart.clone())),
        ("stop when idle", vm.stop_when_idle_s.map(|idle| format!("after {}", time::span_s(idle)))),
        ("removed at end", vm.ephemeral.then(|| "yes".into())),
        ("created", Some(time::moment(vm.created_at_ns))),
        ("started", vm.started_at_ns.map(time::moment)),
    ])
}

/// The span tree, indented by depth.
fn timing(spans: &[Span]) -> String {
    if spans.is_empty() {
        return "no start has been measured\n".into();
    }
    let label = |span: &Span| format!("{}{}", "  ".repeat(span.depth.into()), span.name);
    let width = spans.iter().map(|span| label(span).len()).max().unwrap_or_default();
    let line = |span: &Span| {
        let start = format!("+{}", time::span_us(span.start_us));
        format!("{:width$}  {start:>11}  {:>10}\n", label(span), time::span_us(span.duration_us))
    };
    spans.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_span_tree_is_indented() {
        let span = |name: &str, depth, start_us, duration_us| Span { name: name.into(), depth, start_us, duration_us };
        let shown = timing(&[span("start", 0, 0, 1_500_000), span("disk", 1, 120, 8_000)]);
        assert_eq!(shown, "start      +0.00 ms      1.50 s\n  disk     +0.12 ms     8.00 ms\n");
    }
}
