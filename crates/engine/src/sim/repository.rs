//! No repositories in this world: every workspace is where its record says.

use super::World;
use crate::host::Result;
use crate::host::repository::Repository;
use model::workspace::Workspace;
use std::sync::Arc;

pub(super) struct SimRepository(pub Arc<World>);

impl Repository for SimRepository {
    fn head_commit(&self, workspace: &Workspace) -> Result<Option<String>> {
        self.0.call("cannot read a repository", |_| Ok(workspace.head_commit.clone()))
    }
}
