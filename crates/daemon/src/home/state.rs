//! What is remembered of a workspace between two looks; `state.json` beside the quarantine.

use super::{HomeError, Result};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::path::Path;

/// 256 MiB: the facts of a million changed files.
const MAX_STATE_BYTES: u64 = 256 << 20;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// The shipment that all this is about, by its time; another one begins anew.
    pub prepared_at: u64,
    /// What stands after `refs/banger/` on the host.
    pub home: String,
    /// Something stands there already that this sandbox brought home.
    pub owns: bool,
    /// Packs of the guest that need not be fetched (again).
    pub seen_packs: BTreeSet<String>,
    /// Bytes that the quarantine took since it was last empty.
    pub held_bytes: u64,
    /// What changed files were when they were last read, by [`encode_path`].
    pub facts: BTreeMap<String, Fact>,
    /// Folders of the guest that git would not track, so that they are not looked through; by [`encode_path`].
    pub pruned: Vec<String>,
    /// A digest of the rules that led to `pruned`.
    pub rules: String,
    /// A digest of what the wip commit was made from.
    pub wip_key: String,
    /// How the guest was when it was first looked at.
    pub first: Option<First>,
    pub report: Report,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    pub size: u64,
    pub mtime_ns: i64,
    /// 0 where the source does not tell.
    pub ctime_ns: i64,
    pub inode: u64,
    pub object: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct First {
    pub head: Option<String>,
    pub wip: Option<String>,
    pub branches: BTreeMap<String, String>,
}

/// One look, for people.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// Nanoseconds since 1970-01-01 UTC; 0: never.
    pub looked_at: u64,
    /// The guest's branch and commit.
    pub branch: Option<String>,
    pub head: Option<String>,
    /// A commit of everything in the guest's tree; the same as `head` where all is committed.
    pub wip: Option<String>,
    /// Commits that the guest made.
    pub commits: u64,
    /// Files that differ from the guest's last commit.
    pub changed_files: u64,
    /// The guest is not as it was shipped.
    pub moved: bool,
    /// References on the host by which all of it is found.
    pub references: BTreeMap<String, String>,
    /// What is in the guest and not on the host, one sentence each; empty: nothing would be lost.
    pub left: Vec<String>,
}

impl State {
    /// What cannot be read is as good as nothing: it is only a memory.
    pub fn load(path: &Path) -> State {
        let small = std::fs::metadata(path).is_ok_and(|found| found.len() <= MAX_STATE_BYTES);
        let text = if small { std::fs::read(path).ok() } else { None };
        text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
    }

    pub fn save(&self, path: &Path) -> Result<()> {
        let write = || -> io::Result<()> {
            let partial = path.with_extension("partial");
            let mut file = std::fs::File::create(&partial)?;
            file.write_all(&serde_json::to_vec(self)?)?;
            file.sync_all()?;
            std::fs::rename(&partial, path)
        };
        write().map_err(|source| HomeError::Store { path: path.to_owned(), source })
    }
}

/// A path as text, without loss: each byte is the character of that number.
pub fn encode_path(path: &[u8]) -> String {
    path.iter().map(|byte| char::from(*byte)).collect()
}

/// None where the text was not made by [`encode_path`].
pub fn decode_path(text: &str) -> Option<Vec<u8>> {
    text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_keeps_its_shape() {
        let commit = "0123456789abcdef0123456789abcdef01234567".to_owned();
        let fact =
            Fact { size: 3, mtime_ns: 1_700_000_000_000_000_001, ctime_ns: 0, inode: 12, object: commit.clone() };
        let state = State {
            prepared_at: 1_700_000_000_000_000_000,
            home: "web".to_owned(),
            owns: true,
            seen_packs: ["pack-12".to_owned()].into(),
            held_bytes: 70_000,
            facts: [(encode_path(b"\xffile"), fact)].into(),
            pruned: vec![encode_path(b"target")],
            rules: "ab".to_owned(),
            wip_key: "cd".to_owned(),
            first: Some(First { head: Some(commit.clone()), wip: Some(commit.clone()), ..First::default() }),
            report: Report { looked_at: 5, head: Some(commit), left: vec!["x".to_owned()], ..Report::default() },
        };
        let text = serde_json::to_string_pretty(&state).expect("a state can be written") + "\n";
        crate::golden::check("crates/daemon/src/home/testdata/state.json", &text);
        assert_eq!(serde_json::from_str::<State>(&text).expect("a state is read"), state);
        assert_eq!(serde_json::from_str::<State>("{}").expect("an older state is read"), State::default());
    }

    #[test]
    fn any_path_comes_back() {
        let every: Vec<u8> = (0..=255).collect();
        assert_eq!(decode_path(&encode_path(&every)), Some(every));
        assert_eq!(decode_path("\u{100}"), None);
    }
}
