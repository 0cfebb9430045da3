//! The unit files, judged by systemd itself.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// systemd's own scale: below 2 is "OK" and better. What keeps it from 1 is root with the right to change the network.
const MOST_EXPOSURE: u32 = 20;

fn packaging() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging")
}

fn systemd_analyze(arguments: &[&str]) -> Option<(bool, String, String)> {
    match Command::new("systemd-analyze").args(arguments).output() {
        Ok(output) => {
            let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
            Some((output.status.success(), text(&output.stdout), text(&output.stderr)))
        }
        Err(_) => {
            let required = std::env::var("REQUIRE_NEEDS").unwrap_or_default();
            assert!(!required.split(',').any(|need| need == "systemd"), "systemd-analyze is required");
            let _ = writeln!(std::io::stderr(), "skipped: needs systemd-analyze");
            None
        }
    }
}

#[test]
fn the_units_hold_nothing_that_systemd_does_not_know() {
    // The program must exist for the check, so a copy of the units names one that does.
    let folder = tempfile::tempdir().unwrap();
    for name in ["bangerd-root.socket", "bangerd-root.service"] {
        let text = std::fs::read_to_string(packaging().join(name)).unwrap();
        let program = env!("CARGO_BIN_EXE_bangerd-root");
        std::fs::write(folder.path().join(name), text.replace("/usr/libexec/banger/bangerd-root", program)).unwrap();
    }
    let unit = folder.path().join("bangerd-root.service");
    // It answers 0 even for unknown keys; its complaints about our units are what counts.
    let Some((_, _, complaints)) = systemd_analyze(&["verify", "--man=no", unit.to_str().unwrap()]) else { return };
    let ours: Vec<_> = complaints.lines().filter(|line| line.contains("bangerd-root")).collect();
    assert!(ours.is_empty(), "{ours:#?}");
}

#[test]
fn the_service_is_locked_down() {
    let unit = packaging().join("bangerd-root.service");
    let threshold = MOST_EXPOSURE.to_string();
    let arguments = ["security", "--offline=true", "--threshold", &threshold, unit.to_str().unwrap()];
    let Some((good, report, complaints)) = systemd_analyze(&arguments) else { return };
    assert!(good, "{complaints}\n{report}");
}

/// The unit of `bangerd` itself, which runs as the owner's service: VMMs must outlive it, and "started" must be true.
#[test]
fn the_unit_of_the_daemon_is_one_and_spares_its_sandboxes() {
    let text = std::fs::read_to_string(packaging().join("bangerd.service")).unwrap();
    for line in ["Type=notify", "KillMode=process", "SendSIGKILL=no"] {
        assert!(text.lines().any(|one| one == line), "{line}");
    }
    let folder = tempfile::tempdir().unwrap();
    let unit = folder.path().join("bangerd.service");
    std::fs::write(&unit, text.replace("/usr/bin/bangerd", env!("CARGO_BIN_EXE_bangerd-root"))).unwrap();
    let Some((_, _, complaints)) = systemd_analyze(&["verify", "--user", "--man=no", unit.to_str().unwrap()]) else {
        return;
    };
    let ours: Vec<_> = complaints.lines().filter(|line| line.contains("bangerd.service")).collect();
    assert!(ours.is_empty(), "{ours:#?}");
}
