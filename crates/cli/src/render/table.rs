//! Facts in columns: upper-case headers, two spaces between, nothing that hinders `awk`.

use super::time;
use crate::failure::Outcome;
use comfy_table::{Table, presets};
use model::ByteSize;
use std::collections::BTreeMap;
use wire::control::{DiskUse, ImageFacts, KernelFacts, PortRow, Sandbox, Stats, WorkspaceFacts};

/// Rows below headers; a table without rows shows its headers only.
pub fn show(headers: &[&str], rows: Vec<Vec<String>>) -> Outcome {
    super::data(&text(headers, rows))
}

fn text(headers: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(headers.iter().copied());
    for row in rows {
        table.add_row(row.into_iter().map(|cell| super::plain(&cell)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// `work` tells by id what a sandbox works on; its column shows only where somebody has it.
pub fn sandboxes(vms: &[Sandbox], work: &BTreeMap<String, String>) -> Outcome {
    let with_work = !work.is_empty();
    let row = |vm: &Sandbox| {
        let mut row = vec![
            vm.name.clone(),
            vm.id.chars().take(8).collect(),
            vm.state.clone(),
            vm.image.clone(),
            vm.vcpus.to_string(),
            size(vm.memory_bytes),
            vm.started_at_ns.filter(|_| vm.state == "running").map_or("-".into(), time::since),
            dash(vm.ports.join(" ")),
        ];
        if with_work {
            row.push(dash(work.get(&vm.id).cloned().unwrap_or_default()));
        }
        row
    };
    let mut headers = vec!["NAME", "ID", "STATE", "IMAGE", "CPUS", "MEMORY", "UP", "PORTS"];
    headers.extend(with_work.then_some("WORKSPACE"));
    show(&headers, vms.iter().map(row).collect())
}

/// Where it lies, and what the guest did there.
pub fn workspace(workspace: &WorkspaceFacts) -> String {
    let moved = workspace.work.as_ref().and_then(crate::command::workspace::moved);
    match moved {
        Some(moved) => format!("{} {moved}", workspace.guest_path),
        None => workspace.guest_path.clone(),
    }
}

pub fn images(images: &[ImageFacts]) -> Outcome {
    let headers = ["NAME", "STATE", "SIZE", "ON DISK", "INIT", "USED BY", "SOURCE"];
    show(&headers, images.iter().map(image_row).collect())
}

fn image_row(image: &ImageFacts) -> Vec<String> {
    // Of what is not on this host yet, only its source is known.
    let known = |text: String| if image.present { text } else { "-".into() };
    vec![
        image.name.clone(),
        if image.present { "here" } else { "in catalog" }.into(),
        known(size(image.size_bytes)),
        known(size(image.allocated_bytes)),
        known(if image.has_systemd { "systemd" } else { "agent" }.into()),
        dash(image.used_by.join(" ")),
        image.source.clone(),
    ]
}

pub fn kernels(kernels: &[KernelFacts]) -> Outcome {
    let row = |kernel: &KernelFacts| {
        vec![
            kernel.name.clone(),
            if kernel.present { "here" } else { "in catalog" }.into(),
            kernel.version.clone().unwrap_or_else(|| "-".into()),
            if kernel.present { size(kernel.size_bytes) } else { "-".into() },
            kernel.source.clone(),
        ]
    };
    show(&["NAME", "STATE", "VERSION", "SIZE", "SOURCE"], kernels.iter().map(row).collect())
}

pub fn disk_use(used: &DiskUse) -> Outcome {
    let row = |row: &wire::control::DiskRow| {
        vec![row.what.clone(), row.count.to_string(), size(row.bytes), size(row.reclaimable_bytes)]
    };
    show(&["WHAT", "COUNT", "ON DISK", "COULD GO"], used.rows.iter().map(row).collect())
}

pub fn ports(ports: &[PortRow]) -> Outcome {
    let row = |port: &PortRow| {
        vec![
            port.protocol.clone(),
            format!("{}:{}", port.guest_address, port.guest_port),
            port.process.clone().unwrap_or_else(|| if port.idle { "nothing listens" } else { "-" }.into()),
            port.host_address
                .as_ref()
                .map_or("-".into(), |host| if port.auto { format!("{host} auto") } else { host.clone() }),
            port.url.clone().unwrap_or_else(|| "-".into()),
        ]
    };
    show(&["PROTOCOL", "GUEST", "PROCESS", "HOST", "URL"], ports.iter().map(row).collect())
}

pub fn stats(stats: &[Stats]) -> Outcome {
    let row = |vm: &Stats| {
        vec![
            vm.name.clone(),
            time::span_s(vm.uptime_ms / 1000),
            time::span_us(vm.cpu_ms.saturating_mul(1000)),
            size(vm.host_memory_bytes),
            used(
                vm.guest_memory_total_bytes.saturating_sub(vm.guest_memory_available_bytes),
                vm.guest_memory_total_bytes,
            ),
            used(vm.disk_allocated_bytes, vm.disk_logical_bytes),
            size(vm.network_received_bytes),
            size(vm.network_sent_bytes),
        ]
    };
    let headers = ["NAME", "UP", "CPU TIME", "HOST MEMORY", "GUEST MEMORY", "DISK", "RECEIVED", "SENT"];
    show(&headers, stats.iter().map(row).collect())
}

fn used(used: u64, total: u64) -> String {
    format!("{} of {}", size(used), size(total))
}

pub fn size(bytes: u64) -> String {
    ByteSize::from_bytes(bytes).to_string()
}

pub fn dash(text: String) -> String {
    if text.is_empty() { "-".into() } else { text }
}

/// `key  value` lines for one thing; absent values are left out.
pub fn facts(rows: &[(&str, Option<String>)]) -> String {
    let width = rows.iter().map(|(key, _)| key.len()).max().unwrap_or_default();
    let line = |(key, value): &(&str, Option<String>)| {
        let value = value.as_ref().filter(|value| !value.is_empty())?;
        Some(format!("{key:width$}  {}\n", super::plain(value)))
    };
    rows.iter().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_nothing_trails() {
        let rows = vec![vec!["web".into(), "running".into()], vec!["database".into(), "-".into()]];
        assert_eq!(text(&["NAME", "STATE"], rows), "NAME      STATE\nweb       running\ndatabase  -\n");
    }

    #[test]
    fn an_image_of_the_catalog_has_no_size_and_no_init_yet() {
        let named = |present| ImageFacts { name: "web".into(), present, size_bytes: 1 << 20, ..Default::default() };
        assert_eq!(image_row(&named(false))[1..5], ["in catalog", "-", "-", "-"]);
        assert_eq!(image_row(&named(true))[1..5], ["here", "1MiB", "0B", "agent"]);
    }

    #[test]
    fn an_empty_table_has_its_headers() {
        assert_eq!(text(&["NAME", "STATE"], Vec::new()), "NAME  STATE\n");
    }

    #[test]
    fn absent_facts_are_left_out() {
        let rows = [("name", Some("web".into())), ("failure", None), ("id", Some(String::new()))];
        assert_eq!(facts(&rows), "name     web\n");
    }
}
