//! What a guest may send, by its files and by an agent that lies: the good branch beside it comes home, the bad does not and
//! that is told, or all of it is refused in a sentence. The host's repository stays whole, and nothing of it changes but
//! `refs/banger/`.

mod agent;
mod luck;
mod objects;
mod pack;
mod references;
mod tree;

use crate::inward_programs::{HOOKS, programs, write_script};
use crate::repositories::home::{Rig, git, run};
use agent::Lie;
use daemon::home::{HomeError, Report, sync};
use std::path::Path;

pub enum Expect {
    /// The good branch is there, `bad` is not, and what is left is told.
    Left,
    /// All of it is there.
    Home,
    /// One sentence that holds these words; nothing is there.
    Refused(&'static str),
}

pub struct Row {
    name: String,
    expect: Expect,
    spoil: Box<dyn Fn(&Rig) + Send + Sync>,
    /// What becomes of the agent's answers.
    lie: Option<Lie>,
}

impl Row {
    pub fn new(name: impl Into<String>, expect: Expect, spoil: impl Fn(&Rig) + Send + Sync + 'static) -> Row {
        Row { name: name.into(), expect, spoil: Box::new(spoil), lie: None }
    }

    pub fn lying(name: impl Into<String>, expect: Expect, lie: Lie) -> Row {
        Row { lie: Some(lie), ..Row::new(name, expect, |_| ()) }
    }
}

#[test]
fn what_a_guest_sends_comes_home_or_is_refused_and_the_host_stays_whole() {
    let rows = [objects::rows(), references::rows(), tree::rows(), agent::rows(), pack::rows()];
    let rows: Vec<Row> = rows.into_iter().flatten().collect();
    crate::try_all("homeward", &rows, |row| &row.name, check);
}

fn check(row: &Row) {
    let name = &row.name;
    let rig = Rig::new();
    git(&rig.guest, &["commit", "-q", "--allow-empty", "-m", "good"]);
    let good = git(&rig.guest, &["rev-parse", "HEAD"]);
    (row.spoil)(&rig);
    arm(&rig, &rig.host);
    arm(&rig, &rig.guest);
    let before = rig.fingerprint();
    let outcome = match row.lie {
        Some(lie) => sync(&mut agent::Agent { tree: rig.tree(), lie }, &rig.place, NOW),
        None => rig.sync(),
    };
    match (&row.expect, &outcome) {
        (Expect::Refused(words), Err(error)) => {
            assert_sentence(name, words, error);
            assert_eq!(git(&rig.host, &["for-each-ref", "refs/banger"]), "", "{name}");
        }
        (Expect::Refused(_), Ok(report)) => panic!("{name}: it was not refused: {report:?}"),
        (_, Err(error)) => panic!("{name}: {}", daemon::homecoming::chain(error)),
        (expect, Ok(report)) => {
            assert_eq!(rig.host_ref("main"), Some(good), "{name}: {:?}", report.left);
            assert_eq!(rig.host_ref("bad"), None, "{name}");
            assert_told(name, expect, report);
        }
    }
    assert_eq!(rig.fingerprint(), before, "{name}: the host's repository changed");
    assert!(!rig.folder.path().join("canary").exists(), "{name}: a program ran");
    assert_no_leftovers(name, &rig);
    let checked = run(&rig.host, &["fsck", "--strict", "--full", "--no-dangling"]);
    assert!(checked.status.success(), "{name}: {}", String::from_utf8_lossy(&checked.stderr));
}

const NOW: u64 = 1_700_000_000_000_000_000;

fn assert_told(name: &str, expect: &Expect, report: &Report) {
    assert_eq!(report.left.is_empty(), matches!(expect, Expect::Home), "{name}: {:?}", report.left);
    for line in &report.left {
        assert!(!line.contains(char::is_control) && line.len() < 500, "{name}: {line:?} is no sentence");
    }
}

fn assert_sentence(name: &str, words: &str, error: &HomeError) {
    let said = daemon::homecoming::chain(error);
    assert!(said.contains(words), "{name}: {said:?} does not say {words:?}");
    assert!(!said.contains(char::is_control) && said.len() < 500, "{name}: {said:?} is no sentence");
}

/// Nothing half-done in the host's repository, and nothing held where only what is on its way belongs.
fn assert_no_leftovers(name: &str, rig: &Rig) {
    let incoming = rig.place.quarantine_folder().join("incoming");
    let held: Vec<_> = std::fs::read_dir(&incoming).into_iter().flatten().flatten().map(|one| one.path()).collect();
    assert!(held.is_empty(), "{name}: {held:?}");
    for top in [rig.host.join(".git"), rig.place.folder.clone()] {
        let mut waiting = vec![top];
        while let Some(folder) = waiting.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                let file = entry.file_name().to_string_lossy().into_owned();
                let half = file.starts_with("tmp_") || file.ends_with(".lock") || file.contains("crash");
                assert!(!half, "{name}: {}", entry.path().display());
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    waiting.push(entry.path());
                }
            }
        }
    }
}

/// Hooks and programs that would say so, had they run.
fn arm(rig: &Rig, top: &Path) {
    let (folder, command) = (top.join(".git"), format!("touch '{}'", rig.folder.path().join("canary").display()));
    let hooks = folder.join("hooks");
    if !folder.is_dir() {
        return;
    }
    std::fs::create_dir_all(&hooks).expect("a folder can be made");
    HOOKS.iter().for_each(|hook| write_script(&hooks.join(hook), &command));
    let text = std::fs::read_to_string(folder.join("config")).unwrap_or_default() + &programs(&command);
    let monitor = format!("[core]\n\tfsmonitor = \"{command}\"\n[filter \"evil\"]\n\tclean = \"{command}\"\n");
    std::fs::write(folder.join("config"), text + &monitor).expect("a file can be written");
}
