//! The same facts as documents for programs: `docs/reference/json.md`, generated from the types of `wire::control`.
//!
//! A listing is an array, so that nothing is `[]`; everything that flows is one document a line.

use crate::failure::Outcome;
use serde::Serialize;

/// A document on several lines.
pub fn document<T: Serialize>(value: &T) -> Outcome {
    let text = serde_json::to_string_pretty(value).expect("types of ours have string keys only");
    super::data(&format!("{text}\n"))
}

/// A document on one line, for what flows.
pub fn line<T: Serialize>(value: &T) -> Outcome {
    let text = serde_json::to_string(value).expect("types of ours have string keys only");
    super::data(&format!("{text}\n"))
}
