//! `banger vm workspace list`: what a sandbox has, and how far it is from the host.

use crate::client::{ClientError, Path};
use crate::command::{Context, complete};
use crate::failure::Outcome;
use crate::render::table::{self, dash};
use crate::render::{self, json};
use clap::Args;
use clap_complete::ArgValueCandidates;
use wire::control::{GuestSide, WorkspaceList, WorkspaceStatus};

/// List the workspaces of a sandbox, and what host and guest did since.
///
/// HOST tells what the host has that the guest has not, GUEST what the guest did by itself.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  banger vm workspace list web")]
pub struct ListArgs {
    /// The sandbox: a name, an id or the beginning of one
    #[arg(value_name = "VM", add = ArgValueCandidates::new(complete::vms))]
    pub vm: String,
}

pub async fn run(context: &Context, args: ListArgs) -> Outcome {
    let list = ask(context, &args.vm, true).await?;
    match () {
        () if context.output.json => json::document(&list.workspaces),
        () if context.output.quiet => {
            let paths = list.workspaces.iter().map(|status| format!("{}\n", status.workspace.guest_path));
            render::data(&paths.collect::<String>())
        }
        () => table::show(
            &["FOLDER", "FROM", "BRANCH", "COMMIT", "HOST", "GUEST"],
            list.workspaces.iter().map(row).collect(),
        ),
    }
}

/// With `guest`, the guest is asked, too.
pub async fn ask(context: &Context, vm: &str, guest: bool) -> Result<WorkspaceList, ClientError> {
    let path = Path::vm(vm).then("workspaces").query("guest", if guest { "true" } else { "false" });
    context.client.get(path).await
}

fn row(status: &WorkspaceStatus) -> Vec<String> {
    let work = &status.workspace;
    let commit: String = work.head_commit.as_deref().unwrap_or_default().chars().take(12).collect();
    vec![
        work.guest_path.clone(),
        work.host_path.clone(),
        dash(work.branch.clone().unwrap_or_default()),
        dash(commit),
        host_word(status),
        dash(status.guest.as_ref().map(guest_word).unwrap_or_default()),
    ]
}

/// What the host did since.
pub fn host_word(status: &WorkspaceStatus) -> String {
    match (status.host.as_str(), status.host_commits) {
        ("same", _) => "as shipped".into(),
        ("commits", Some(1)) => "1 new commit".into(),
        ("commits", Some(count)) => format!("{count} new commits"),
        ("commits", None) => "other commits".into(),
        ("edits", _) => "edited".into(),
        ("gone", _) => "gone".into(),
        (other, _) => other.into(),
    }
}

pub fn guest_word(guest: &GuestSide) -> String {
    let counts =
        [(guest.history, "refs moved"), (guest.changed, "changed"), (guest.removed, "removed"), (guest.added, "added")];
    let counts: Vec<_> =
        counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
    if counts.is_empty() { "as shipped".into() } else { counts.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_are_told_in_words() {
        let status = |host: &str, host_commits| WorkspaceStatus {
            host: host.into(),
            host_commits,
            ..WorkspaceStatus::default()
        };
        for (host, commits, word) in [
            ("same", None, "as shipped"),
            ("commits", Some(2), "2 new commits"),
            ("edits", None, "edited"),
            ("gone", None, "gone"),
        ] {
            assert_eq!(host_word(&status(host, commits)), word);
        }
        let guest = GuestSide { untouched: false, history: 1, changed: 0, removed: 0, added: 3 };
        assert_eq!(guest_word(&guest), "1 refs moved, 3 added");
        assert_eq!(guest_word(&GuestSide::default()), "as shipped");
    }
}
