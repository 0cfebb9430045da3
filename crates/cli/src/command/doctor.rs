//! `banger doctor`.

use super::Context;
use crate::client::Path;
use crate::failure::{Failure, Outcome};
use crate::render::{self, json, table};
use clap::Args;
use owo_colors::OwoColorize;
use wire::control::{BackendRow, Check, DefaultRow, Doctor, Verdict, exit};

/// Check this machine and say what it can do.
///
/// One verdict per check, then which program would run a sandbox and why, then the defaults and where they come from.
/// Fails if a check does.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  banger doctor")]
pub struct DoctorArgs {}

pub async fn run(context: &Context, _args: DoctorArgs) -> Outcome {
    let doctor: Doctor = context.client.get(Path::new("/v1/doctor")).await?;
    if context.output.json {
        json::document(&doctor)?;
    } else {
        render::data(&doctor.checks.iter().map(verdict).collect::<String>())?;
        if !context.output.quiet {
            render::data("\n")?;
            backends(&doctor.backends)?;
            render::data("\n")?;
            defaults(&doctor.defaults)?;
        }
    }
    let failed = doctor.checks.iter().any(|check| check.verdict == Verdict::Fail);
    if failed { Err(Failure::Status(exit::FAILED)) } else { Ok(()) }
}

fn verdict(check: &Check) -> String {
    let word = match check.verdict {
        Verdict::Pass => "pass".green().to_string(),
        Verdict::Warn => "warn".yellow().to_string(),
        Verdict::Fail => "fail".red().bold().to_string(),
    };
    let hint = check.hint.as_ref().map(|hint| format!("      {} {hint}\n", "hint:".cyan())).unwrap_or_default();
    format!("{word}  {}: {}\n{hint}", check.name, check.detail)
}

fn backends(rows: &[BackendRow]) -> Outcome {
    let row = |row: &BackendRow| {
        vec![
            row.backend.clone(),
            if row.chosen {
                "chosen"
            } else if row.usable {
                "usable"
            } else {
                "-"
            }
            .into(),
            row.version.clone().unwrap_or_else(|| "-".into()),
            if row.accelerated { "hardware" } else { "emulated" }.into(),
            table::dash(row.features.join(" ")),
            row.reason.clone(),
        ]
    };
    table::show(&["VMM", "CHOICE", "VERSION", "SPEED", "FEATURES", "WHY"], rows.iter().map(row).collect())
}

fn defaults(rows: &[DefaultRow]) -> Outcome {
    let row = |row: &DefaultRow| vec![row.name.clone(), row.value.clone(), row.provenance.clone()];
    table::show(&["DEFAULT", "VALUE", "FROM"], rows.iter().map(row).collect())
}
