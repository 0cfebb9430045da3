//! Conversations: real `banger`, real `bangerd --host sim`, everything a person would see. One file each below
//! `conversations/`, which reads like a terminal:
//!
//! ```text
//! $ banger vm exec web -- sh -c 'echo out; echo err >&2; exit 42'
//! out
//! ! err
//! [42]
//! ```
//! `$` is a line for `sh`, `!` marks what came on stderr (it stands after stdout), `[n]` an exit status that is not 0,
//! `#` a remark. What differs from run to run is replaced by words in angle brackets. `UPDATE_GOLDEN=1` writes the
//! answers anew.

mod support;

use std::path::PathBuf;
use support::World;

fn check(name: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/conversations").join(format!("{name}.txt"));
    let expected = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let world = World::new();
    let mut said = String::new();
    for line in expected.lines() {
        if line.starts_with('#') {
            said.push_str(line);
            said.push('\n');
        } else if let Some(command) = line.strip_prefix("$ ") {
            said.push_str(&format!("$ {command}\n"));
            said.push_str(&world.answer(command));
        }
    }
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        return std::fs::write(&path, &said).expect("the conversation can be written");
    }
    assert!(
        said == expected,
        "{name} went differently; `UPDATE_GOLDEN=1` accepts it:\n{}",
        difference(&expected, &said)
    );
}

/// The lines from the first one that differs.
fn difference(expected: &str, said: &str) -> String {
    let same = expected.lines().zip(said.lines()).take_while(|(expected, said)| expected == said).count();
    let rest = |text: &str, mark: &str| {
        text.lines().skip(same).take(15).map(|line| format!("{mark} {line}\n")).collect::<String>()
    };
    format!("line {}:\n{}{}", same + 1, rest(expected, "-"), rest(said, "+"))
}

macro_rules! conversations {
    ($($name:ident),+ $(,)?) => {
        $(#[test]
        fn $name() {
            check(stringify!($name));
        })+

        #[test]
        fn every_conversation_is_held() {
            let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/conversations");
            let files = std::fs::read_dir(folder).expect("the folder is there");
            let mut files: Vec<String> =
                files.map(|file| file.expect("it can be read").file_name().to_string_lossy().into_owned()).collect();
            files.sort();
            let mut named = vec![$(concat!(stringify!($name), ".txt")),+];
            named.sort();
            assert_eq!(files, named);
        }
    };
}

conversations![
    a_command_in_a_fresh_sandbox,
    a_daemon_comes_and_goes,
    a_life_from_create_to_delete,
    a_repository_goes_in,
    an_audit_and_a_history,
    answers_for_programs,
    changes_now_and_later,
    help_and_usage,
    images_and_kernels,
    many_at_once,
    mistakes_get_a_sentence_and_a_hint,
    plans_are_shown_and_not_carried_out,
    ports_come_and_go,
    records_are_backed_up_damaged_and_restored,
    streams_signals_and_exit_codes,
];
