//! What a repeatable deed answers: it changed something, or all was so already.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[must_use]
pub enum Change {
    Changed,
    Unchanged,
}

impl Change {
    /// Two deeds in a row changed something if either did.
    pub fn and(self, other: Change) -> Change {
        match (self, other) {
            (Change::Unchanged, Change::Unchanged) => Change::Unchanged,
            _ => Change::Changed,
        }
    }
}
