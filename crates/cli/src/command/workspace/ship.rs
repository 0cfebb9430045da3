//! What of a folder travels, as `vm run` and `vm workspace prepare` take it.

use crate::failure::{Failure, Outcome};
use clap::Args;
use std::path::Path;
use wire::FaultKind;
use wire::control::PrepareRequest;

#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "What travels")]
pub struct ShipArgs {
    /// Check out this new branch, in the guest alone
    #[arg(long, value_name = "NAME")]
    pub branch: Option<String>,
    /// Start that branch here instead of at what is checked out
    #[arg(long, value_name = "REF", requires = "branch")]
    pub from: Option<String>,
    /// Ship untracked files, too; ignored ones never travel
    #[arg(long)]
    pub include_untracked: bool,
    /// Ship so many commits of history [default: 10]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    pub depth: Option<u32>,
    /// Take the write permission from the files: a reminder, since root in the guest may write anyway
    #[arg(long)]
    pub readonly: bool,
    /// Put it there in the guest [default: /root/repo]
    #[arg(long, value_name = "FOLDER")]
    pub guest_path: Option<String>,
}

impl ShipArgs {
    pub fn request(self, path: &Path, mode: Option<String>) -> Outcome<PrepareRequest> {
        Ok(PrepareRequest {
            path: absolute(path)?,
            guest_path: self.guest_path,
            mode,
            depth: self.depth,
            branch: self.branch,
            from: self.from,
            include_untracked: self.include_untracked,
            readonly: self.readonly,
            ..PrepareRequest::default()
        })
    }
}

/// The daemon works elsewhere; and what travels as JSON is text.
fn absolute(path: &Path) -> Outcome<String> {
    let cannot = |why: String| Failure::new(FaultKind::Invalid, format!("cannot ship `{}`: {why}", path.display()));
    let absolute = std::path::absolute(path).map_err(|error| cannot(error.to_string()))?;
    absolute.to_str().map(str::to_owned).ok_or_else(|| cannot("its name is no plain text".into()))
}
