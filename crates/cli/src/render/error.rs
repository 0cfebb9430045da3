//! Failures as a person sees them: `error:` one sentence, `caused by:` each cause once, `hint:` the next command,
//! `operation:` an id to grep for.

use super::{Output, plain};
use owo_colors::OwoColorize;
use std::io::Write;
use wire::Fault;

/// With `--json` one line on stderr, in the shape in which a stream carries it.
pub fn show(output: Output, fault: &Fault) {
    if output.json {
        let line = serde_json::json!({ "event": "fault", "fault": fault });
        let _ = writeln!(anstream::stderr().lock(), "{line}");
    } else {
        say(fault);
    }
}

pub fn say(fault: &Fault) {
    // Nothing is left to do where even stderr is lost.
    let _ = anstream::stderr().lock().write_all(text(fault).as_bytes());
}

fn text(fault: &Fault) -> String {
    let mut text = format!("{} {}\n", "error:".red().bold(), plain(&fault.message));
    let mut said = &fault.message;
    for cause in fault.causes.iter().filter(|cause| **cause != fault.message) {
        if cause != said {
            text.push_str(&format!("  {} {}\n", "caused by:".dimmed(), plain(cause)));
        }
        said = cause;
    }
    if let Some(hint) = &fault.hint {
        text.push_str(&format!("  {} {}\n", "hint:".cyan(), plain(hint)));
    }
    if let Some(operation) = &fault.operation {
        text.push_str(&format!("  {}\n", format!("operation: {}", plain(operation)).dimmed()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::FaultKind;

    #[test]
    fn a_failure_has_four_parts() {
        let mut fault = Fault::new(FaultKind::Conflict, "cannot create `web`")
            .with_cause("the name is taken")
            .with_cause("the name is taken")
            .with_hint("`banger vm delete web` frees it");
        fault.operation = Some("00000000000000aa".into());
        let plain = anstream::adapter::strip_str(&text(&fault)).to_string();
        let expected = "error: cannot create `web`\n  caused by: the name is taken\n  hint: `banger vm delete web` frees it\n  operation: 00000000000000aa\n";
        assert_eq!(plain, expected);
    }
}
