//! systemd-resolved, through its own program: a link's name servers and domains (resolvectl(1)).

use crate::external::{self, ExternalError};
use std::path::{Path, PathBuf};

/// Where it keeps its state while it runs.
const RUNS: &str = "run/systemd/resolve";

/// Its program, where it runs.
pub struct Resolved(PathBuf);

impl Resolved {
    pub fn find(root: &Path) -> Option<Resolved> {
        let program = external::find(root, "resolvectl")?;
        root.join(RUNS).is_dir().then_some(Resolved(program))
    }

    pub fn tell(&self, arguments: &[&str]) -> Result<(), ExternalError> {
        external::run(&self.0, arguments)
    }
}
