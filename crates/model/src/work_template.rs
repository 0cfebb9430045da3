//! The name of a work disk that is prepared with a repository: `KEY-COMMIT-ID`, all lowercase hexadecimal.
//!
//! `KEY` stands for what a disk must have in common with it (image, size, repository, folder, depth), `COMMIT` is what
//! is checked out, `ID` the shipment on it. What lies under a name never changes.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

const KEY_DIGITS: usize = 16;
const ID_DIGITS: usize = 16;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WorkTemplate(String);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` names no prepared work disk")]
pub struct WorkTemplateError {
    pub given: String,
}

impl WorkTemplate {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn key(&self) -> &str {
        self.part(0)
    }

    pub fn commit(&self) -> &str {
        self.part(1)
    }

    pub fn id(&self) -> &str {
        self.part(2)
    }

    fn part(&self, number: usize) -> &str {
        self.0.split('-').nth(number).expect("a name has three parts")
    }
}

impl FromStr for WorkTemplate {
    type Err = WorkTemplateError;
    fn from_str(given: &str) -> Result<Self, WorkTemplateError> {
        let hexadecimal = |part: &&str| part.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        let parts: Vec<&str> = given.split('-').filter(hexadecimal).collect();
        let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
        match (lengths.as_slice(), given.split('-').count()) {
            ([KEY_DIGITS, 40 | 64, ID_DIGITS], 3) => Ok(WorkTemplate(given.to_owned())),
            _ => Err(WorkTemplateError { given: given.chars().take(120).collect() }),
        }
    }
}

impl TryFrom<String> for WorkTemplate {
    type Error = WorkTemplateError;
    fn try_from(given: String) -> Result<Self, WorkTemplateError> {
        given.parse()
    }
}

impl From<WorkTemplate> for String {
    fn from(template: WorkTemplate) -> String {
        template.0
    }
}

impl fmt::Display for WorkTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_three_parts_and_nothing_that_leads_anywhere() {
        let (key, commit, id) = ("0123456789abcdef", "a".repeat(40), "f".repeat(16));
        let name: WorkTemplate = format!("{key}-{commit}-{id}").parse().unwrap();
        assert_eq!((name.key(), name.commit(), name.id()), (key, commit.as_str(), id.as_str()));
        for bad in [
            String::new(),
            format!("{key}-{commit}"),
            format!("{key}-{commit}-{id}-"),
            format!("{key}-{commit}-{id}-{id}"),
            format!("{key}-{commit}-../{id}"),
            format!("{key}-{}-{id}", "A".repeat(40)),
            format!("{key}-{}-{id}", "a".repeat(41)),
        ] {
            assert!(bad.parse::<WorkTemplate>().is_err(), "{bad}");
        }
    }
}
