//! How a guest's work is looked at and fetched: `/work/scan`, `/work/read`, `/work/watch`.
//!
//! | path | request | answer |
//! |---|---|---|
//! | `POST /work/scan?path=P` | paths (below `P`) whose insides are left out | a [`Record`] for everything below `P`, folders before what they hold |
//! | the same with `&flat=true` | folders below `P`; the empty path is `P` itself | a [`Record`] for everything in each of them, and for nothing in folders below; a folder that is gone holds nothing |
//! | `POST /work/read?path=P` | paths of files and links below `P` | for each, in order, a [`Record`] without a path and then `size` bytes: content or target |
//! | `POST /work/watch?path=P` | as for scan | [`WatchEvent`]s as lines of JSON, until the host hangs up |
//!
//! Names in a guest are bytes, so paths travel as such: in a request each ends with a NUL ([`encode_paths`]), in an answer
//! its length stands before it. An answer of records ends with [`Kind::End`]; one without it was cut short. The agent knows
//! nothing of git: the host decides from facts and names what it wants, and believes nothing that it has not checked.

use serde::{Deserialize, Serialize};

/// 4 MiB: the longest list of paths in one request; a host with more asks again.
pub const PATHS_LIMIT_BYTES: usize = 4 << 20;
/// 4096 bytes: the longest path (`PATH_MAX`, limits.h).
pub const PATH_LIMIT_BYTES: usize = 4096;
/// 200 ms without another change end a burst; 2 s of changes without such a pause are told all the same.
pub const QUIET_MS: u64 = 200;
pub const BURST_MS: u64 = 2000;
/// A line of a watch names so many changed folders, in so many bytes; of more it says that something changed somewhere.
pub const CHANGED_LIMIT: usize = 2000;
pub const CHANGED_LIMIT_BYTES: usize = 128 << 10;
/// 16384 folders are watched at most: about 16 MiB of the guest's kernel memory (inotify(7), 1 KiB each on 64 bits).
pub const WATCH_LIMIT: usize = 16384;

/// Bytes of a record before its path.
pub const RECORD_BYTES: usize = 1 + 4 + 8 + 8 + 8 + 8 + 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    File,
    Link,
    Folder,
    /// A socket, a pipe or a device.
    Other,
    /// Nothing that can be read is there (any more).
    Absent,
    /// The last record; its other fields are empty.
    End,
}

impl Kind {
    pub const ALL: &'static [Kind] = &[Kind::File, Kind::Link, Kind::Folder, Kind::Other, Kind::Absent, Kind::End];

    pub const fn letter(self) -> u8 {
        match self {
            Kind::File => b'f',
            Kind::Link => b'l',
            Kind::Folder => b'd',
            Kind::Other => b'o',
            Kind::Absent => b'-',
            Kind::End => b'e',
        }
    }

    fn from_letter(letter: u8) -> Option<Kind> {
        Kind::ALL.iter().copied().find(|kind| kind.letter() == letter)
    }
}

/// One file or folder. Times are nanoseconds since 1970-01-01 UTC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub kind: Kind,
    /// The permission bits.
    pub mode: u32,
    /// Bytes of a file's content or of a link's target.
    pub size: u64,
    pub mtime_ns: i64,
    /// 0 where it is not known.
    pub ctime_ns: i64,
    /// 0 where it is not known.
    pub inode: u64,
    /// Relative, without a leading `./`; empty for an answer of `/work/read`.
    pub path: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("a record of unknown kind {letter:#04x}")]
    Kind { letter: u8 },
    #[error("a path of {bytes} bytes; {PATH_LIMIT_BYTES} are allowed")]
    TooLong { bytes: usize },
    #[error("a path that leaves its folder")]
    Path,
}

impl Record {
    pub fn plain(kind: Kind) -> Record {
        Record { kind, mode: 0, size: 0, mtime_ns: 0, ctime_ns: 0, inode: 0, path: Vec::new() }
    }

    /// Appends the record. A path beyond [`PATH_LIMIT_BYTES`] cannot exist and is cut.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let path = &self.path[..self.path.len().min(PATH_LIMIT_BYTES)];
        out.push(self.kind.letter());
        out.extend(self.mode.to_le_bytes());
        out.extend(self.size.to_le_bytes());
        out.extend(self.mtime_ns.to_le_bytes());
        out.extend(self.ctime_ns.to_le_bytes());
        out.extend(self.inode.to_le_bytes());
        out.extend((path.len() as u16).to_le_bytes());
        out.extend(path);
    }

    /// Reads what stands before the path, and how long that is.
    pub fn decode(head: &[u8; RECORD_BYTES]) -> Result<(Record, usize), RecordError> {
        let kind = Kind::from_letter(head[0]).ok_or(RecordError::Kind { letter: head[0] })?;
        let word = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
        let bytes = usize::from(u16::from_le_bytes([head[37], head[38]]));
        if bytes > PATH_LIMIT_BYTES {
            return Err(RecordError::TooLong { bytes });
        }
        let record = Record {
            kind,
            mode: u32::from_le_bytes(head[1..5].try_into().expect("four bytes")),
            size: word(5),
            mtime_ns: word(13) as i64,
            ctime_ns: word(21) as i64,
            inode: word(29),
            path: Vec::new(),
        };
        Ok((record, bytes))
    }
}

/// A path as it may stand in a record or a request: relative, no empty part, no `.` or `..`, no NUL.
pub fn check_path(path: &[u8]) -> Result<(), RecordError> {
    if path.len() > PATH_LIMIT_BYTES {
        return Err(RecordError::TooLong { bytes: path.len() });
    }
    let detour = |part: &[u8]| matches!(part, b"" | b"." | b"..") || part.contains(&0);
    if path.split(|byte| *byte == b'/').any(detour) { Err(RecordError::Path) } else { Ok(()) }
}

/// A request's list of paths.
pub fn encode_paths<'a>(paths: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut out = Vec::new();
    for path in paths {
        out.extend(path);
        out.push(0);
    }
    out
}

pub fn decode_paths(body: &[u8]) -> Result<Vec<Vec<u8>>, RecordError> {
    let body = body.strip_suffix(&[0]).unwrap_or(body);
    if body.is_empty() {
        return Ok(Vec::new());
    }
    body.split(|byte| *byte == 0).map(|path| check_path(path).map(|()| path.to_vec())).collect()
}

/// As [`decode_paths`], for folders: an empty path is the top.
pub fn decode_folders(body: &[u8]) -> Result<Vec<Vec<u8>>, RecordError> {
    let Some(body) = body.strip_suffix(&[0]) else { return Ok(Vec::new()) };
    let folder = |path: &[u8]| if path.is_empty() { Ok(Vec::new()) } else { check_path(path).map(|()| path.to_vec()) };
    body.split(|byte| *byte == 0).map(folder).collect()
}

/// One line of `/work/watch`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum WatchEvent {
    /// First, once: from here on no change goes by untold.
    Watching {
        folders: u64,
        /// False: there are more folders than can be watched; changes in some go by untold.
        complete: bool,
    },
    /// Something below the path changed; many changes at once are told once.
    Changed {
        /// The folders in which it did, each byte of a name as the character of that number. Absent: somewhere.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        folders: Option<Vec<String>>,
    },
    /// From a newer agent; skipped.
    #[serde(other)]
    Unknown,
}
