//! `docs/reference/json.md`, written from the types of `wire::control`: what `banger … --json` prints. The test fails
//! while the page differs; `UPDATE_GOLDEN=1` writes it anew.
#![cfg(feature = "control")]

use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;
use utoipa::{PartialSchema, ToSchema};
use wire::Fault;
use wire::control::*;

const HEAD: &str = "\
# What `--json` prints

Generated from the types of `wire::control` by `crates/wire/tests/json_reference.rs`.

Sizes are bytes; times are nanoseconds since 1970-01-01 UTC (`…_at_ns`), milliseconds (`…_ms`) or microseconds
(`…_us`). A field marked *may be absent* is left out where there is nothing to say. Fields are added in later versions,
never changed; unknown ones are to be ignored. A failure is one line on stderr, `{\"event\":\"fault\",\"fault\":Fault}`; the
exit status tells of it, too.

| command | document |
|---|---|
| `ps`, `vm list`, `vm prune` without `--force` | array of Sandbox, `[]` for none |
| `vm show`, `vm create`, `vm run -d` | Sandbox |
| `vm create --dry-run`, `vm run --dry-run` | PlanFacts |
| `vm start`, `stop`, `restart`, `kill`, `reset`, `delete`, `pause`, `resume` | array of `{\"vm\", \"result\": Sandbox}` or `{\"vm\", \"fault\": Fault}`, in the order asked for; PlanFacts with `--dry-run` |
| `vm set`, `vm rename` | the same with SetAnswer |
| `vm ping` | the same with `{\"latency_us\"}` |
| `image delete`, `kernel delete` | the same with `{\"deleted\"}` |
| `vm workspace status` | WorkFacts |
| `vm workspace pull` | Pulled |
| `vm workspace export --output` | `{\"file\", \"bytes\"}` |
| `vm health` | SandboxHealth |
| `vm stats` | array of Stats; with `--watch` one Stats a line |
| `vm ports` | array of PortRow |
| `image list` | array of ImageFacts |
| `image show`, `image pull`, `image import` | ImageFacts |
| `kernel list` | array of KernelFacts |
| `kernel pull`, `kernel import` | KernelFacts |
| `daemon status`, `daemon start` | DaemonStatus |
| `doctor` | Doctor |
| `history` | array of OperationFacts |
| `events` | one StateChange a line |
| `audit` | Audit |
| `version` | `{\"version\", \"api_version\", \"daemon\": {\"version\", \"api_version\"}}`; `daemon` may be absent |
";

#[test]
fn the_golden_page_of_documents_is_up_to_date() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/json.md");
    let page = page();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &page).expect("the page can be written");
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == page, "{} is out of date: `UPDATE_GOLDEN=1` writes it anew", path.display());
}

fn page() -> String {
    let mut types = BTreeMap::new();
    collect::<Sandbox>(&mut types);
    collect::<PlanFacts>(&mut types);
    collect::<SetAnswer>(&mut types);
    collect::<SandboxHealth>(&mut types);
    collect::<Stats>(&mut types);
    collect::<PortRow>(&mut types);
    collect::<ImageFacts>(&mut types);
    collect::<KernelFacts>(&mut types);
    collect::<DaemonStatus>(&mut types);
    collect::<Doctor>(&mut types);
    collect::<OperationFacts>(&mut types);
    collect::<StateChange>(&mut types);
    collect::<Audit>(&mut types);
    collect::<WorkFacts>(&mut types);
    collect::<Pulled>(&mut types);
    collect::<Fault>(&mut types);
    let mut page = HEAD.to_owned();
    for (name, schema) in &types {
        describe(name, schema, &mut page);
    }
    page
}

/// The type and all that it is made of.
fn collect<T: ToSchema + PartialSchema>(types: &mut BTreeMap<String, Value>) {
    let mut parts = Vec::new();
    T::schemas(&mut parts);
    parts.push((T::name().into_owned(), T::schema()));
    for (name, schema) in parts {
        types.insert(name, serde_json::to_value(schema).expect("a schema is JSON"));
    }
}

fn describe(name: &str, schema: &Value, page: &mut String) {
    let text = |value: &Value| value["description"].as_str().unwrap_or_default().replace('\n', " ");
    write!(page, "\n## {name}\n\n").expect("a string takes everything");
    let said = text(schema);
    if !said.is_empty() {
        write!(page, "{said}\n\n").expect("a string takes everything");
    }
    if let Some(words) = schema["enum"].as_array() {
        let words: Vec<String> = words.iter().filter_map(Value::as_str).map(|word| format!("`{word}`")).collect();
        writeln!(page, "One of {}.", words.join(", ")).expect("a string takes everything");
        return;
    }
    let nothing = Map::new();
    let required: Vec<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    page.push_str("| field | type | meaning |\n|---|---|---|\n");
    for (field, value) in schema["properties"].as_object().unwrap_or(&nothing) {
        let absent = if required.contains(&field.as_str()) { "" } else { " (may be absent)" };
        writeln!(page, "| `{field}` | {}{absent} | {} |", kind(value), text(value)).expect("a string takes everything");
    }
}

fn kind(schema: &Value) -> String {
    if let Some(reference) = schema["$ref"].as_str() {
        return reference.rsplit('/').next().unwrap_or(reference).to_owned();
    }
    if let Some(choice) = schema["oneOf"].as_array() {
        let kinds: Vec<String> = choice.iter().map(kind).filter(|kind| kind != "null").collect();
        return kinds.join(" or ");
    }
    let kinds: Vec<&str> = match &schema["type"] {
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).filter(|kind| *kind != "null").collect(),
        kind => kind.as_str().into_iter().collect(),
    };
    match kinds.as_slice() {
        ["array"] => format!("array of {}", kind(&schema["items"])),
        ["object"] => "object of strings".into(),
        kinds => kinds.join(" or "),
    }
}
