//! `banger vm workspace status` and `pull`: where a guest's work stands, and into the checkout with it.

use super::export::Of;
use crate::client::Path;
use crate::command::Context;
use crate::failure::Outcome;
use crate::render::progress::Board;
use crate::render::{self, json};
use clap::Args;
use hyper::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;
use wire::control::{PullRequest, Pulled, WorkFacts, WorkRequest};

/// Show where the work of a guest stands and bring home what is new.
///
/// Lists the references of this host's repository that hold it, and what is not on the host (yet).
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  banger vm workspace status web")]
pub struct StatusArgs {
    #[command(flatten)]
    pub of: Of,
}

/// Bring what a guest did into the checkout on this host.
///
/// The branch that is checked out moves forward to the guest's commit, and what is not committed there is not committed
/// here. A checkout with changes of its own is refused, and so is one that has gone another way.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  banger vm workspace pull web\n  banger vm workspace pull --branch from-web web")]
pub struct PullArgs {
    #[command(flatten)]
    pub of: Of,
    /// Move the checked-out branch forward, and nothing else (this is the default)
    #[arg(long, conflicts_with = "branch")]
    pub ff: bool,
    /// Make this branch of the guest's commits and leave the checkout alone
    #[arg(long, value_name = "NAME")]
    pub branch: Option<String>,
}

pub async fn status(context: &Context, args: StatusArgs) -> Outcome {
    let request = WorkRequest { guest_path: args.of.guest_path.clone(), ..WorkRequest::default() };
    let facts: WorkFacts = ask(context, &args.of.vm, "look", &request).await?;
    if context.output.json { json::document(&facts) } else { render::data(&shown(&facts)) }
}

pub async fn pull(context: &Context, args: PullArgs) -> Outcome {
    let request = PullRequest { guest_path: args.of.guest_path.clone(), branch: args.branch };
    let pulled: Pulled = ask(context, &args.of.vm, "pull", &request).await?;
    if context.output.json { json::document(&pulled) } else { render::data(&told(&pulled)) }
}

async fn ask<B: Serialize, T: DeserializeOwned>(context: &Context, vm: &str, verb: &str, request: &B) -> Outcome<T> {
    let line = Board::new(context.output.progress()).line(None);
    let path = Path::vm(vm).then("work").then(verb);
    Ok(context.client.work(Method::POST, path, request, |event| line.event(event)).await?)
}

fn shown(facts: &WorkFacts) -> String {
    let commits = format!("{} made in the guest", facts.commits);
    let mut text = render::table::facts(&[
        ("branch", facts.branch.clone()),
        ("commit", facts.head_commit.clone()),
        ("commits", Some(commits)),
        ("uncommitted", Some(format!("{} files", facts.changed_files))),
    ]);
    for (name, object) in &facts.references {
        text.push_str(&format!("{object} {name}\n"));
    }
    for line in &facts.left {
        text.push_str(&format!("not on the host: {}\n", render::plain(line)));
    }
    text
}

fn told(pulled: &Pulled) -> String {
    let short = |commit: &Option<String>| {
        commit.as_deref().map_or("nothing", |commit| commit.get(..12).unwrap_or(commit)).to_owned()
    };
    let branch = pulled.branch.as_deref().unwrap_or("HEAD");
    let uncommitted = match pulled.uncommitted_files {
        0 => String::new(),
        count => format!(", {count} files not committed"),
    };
    format!(
        "{}: {branch} from {} to {}{uncommitted}\n",
        pulled.host_path,
        short(&pulled.from_commit),
        short(&pulled.to_commit)
    )
}

/// What a guest did, for a column: `+2 commits, 3 files`; `!` where something is not on the host.
pub fn moved(work: &WorkFacts) -> Option<String> {
    let left = if work.left.is_empty() { "" } else { "!" };
    let many = |count: u64, one: &str| match count {
        0 => None,
        1 => Some(format!("1 {one}")),
        count => Some(format!("{count} {one}s")),
    };
    let parts: Vec<String> =
        [many(work.commits, "commit"), many(work.changed_files, "file")].into_iter().flatten().collect();
    match (work.moved || !work.left.is_empty(), parts.is_empty()) {
        (false, _) => None,
        (true, true) => Some(format!("+moved{left}")),
        (true, false) => Some(format!("+{}{left}", parts.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_tells_what_a_guest_did() {
        let work = |commits, changed_files, moved, left: &[&str]| WorkFacts {
            commits,
            changed_files,
            moved,
            left: left.iter().map(|line| (*line).to_owned()).collect(),
            ..WorkFacts::default()
        };
        assert_eq!(moved(&work(0, 3, false, &[])), None);
        assert_eq!(moved(&work(1, 3, true, &[])).as_deref(), Some("+1 commit, 3 files"));
        assert_eq!(moved(&work(0, 0, true, &[])).as_deref(), Some("+moved"));
        assert_eq!(moved(&work(2, 0, true, &["x"])).as_deref(), Some("+2 commits!"));
    }
}
