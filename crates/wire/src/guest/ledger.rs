//! The ledger of a workspace, `.NAME.banger` beside the folder `NAME`: every path that was put there, with the moment of its
//! last change. The agent writes it; the host does, too, on a disk that is to begin with a workspace.
//!
//! [`HEAD_LINE`], then records, each ended by a NUL byte:
//!
//! | record | means |
//! |---|---|
//! | `+CTIME SIZE MODE PATH` | it was put there; nanoseconds since 1970, bytes, `st_mode` in octal |
//! | `-PATH` | it was there, and went |
//! | `=ID` | all records up to here belong to the shipments up to this one |
//!
//! Of two records for one path the later one counts, so changes are appended; what stands behind the last `=ID` was being
//! written when something broke off, and is not there.

pub const HEAD_LINE: &[u8] = b"banger workspace 2\n";

/// A file or link at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    pub changed_ns: i64,
    pub size: u64,
    /// With the kind of file.
    pub mode: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry<'a> {
    There(Stamp, &'a [u8]),
    Gone(&'a [u8]),
}

impl<'a> Entry<'a> {
    pub fn encode(self, out: &mut Vec<u8>) {
        match self {
            Entry::There(stamp, path) => {
                out.extend(format!("+{} {} {:o} ", stamp.changed_ns, stamp.size, stamp.mode).bytes());
                out.extend(path);
            }
            Entry::Gone(path) => {
                out.push(b'-');
                out.extend(path);
            }
        }
        out.push(0);
    }

    pub fn path(self) -> &'a [u8] {
        match self {
            Entry::There(_, path) | Entry::Gone(path) => path,
        }
    }
}

pub fn encode_id(id: &str, out: &mut Vec<u8>) {
    out.push(b'=');
    out.extend(id.bytes());
    out.push(0);
}

/// What a ledger holds, not yet read.
#[derive(Debug, Clone, Copy)]
pub struct Records<'a> {
    pub id: &'a str,
    records: &'a [u8],
}

impl<'a> Records<'a> {
    /// None for a ledger of another version, or one that holds no whole shipment.
    pub fn of(ledger: &'a [u8]) -> Option<Records<'a>> {
        let mut records = ledger.strip_prefix(HEAD_LINE)?;
        loop {
            let end = records.iter().rposition(|byte| *byte == 0)?;
            let begin = records[..end].iter().rposition(|byte| *byte == 0).map_or(0, |at| at + 1);
            let last = &records[begin..end];
            records = &records[..begin];
            if let Some(id) = last.strip_prefix(b"=") {
                return Some(Records { id: std::str::from_utf8(id).ok()?, records });
            }
        }
    }

    /// In their order, those that cannot be read as `None`.
    pub fn entries(self) -> impl Iterator<Item = Option<Entry<'a>>> {
        let records = self.records.split(|byte| *byte == 0);
        records.filter(|record| !matches!(record.first(), None | Some(b'='))).map(entry)
    }

    /// Those of paths that `wanted` names; the others are passed over quickly.
    pub fn entries_of(self, wanted: impl Fn(&[u8]) -> bool) -> impl Iterator<Item = Option<Entry<'a>>> {
        let records = self.records.split(|byte| *byte == 0);
        records.filter(move |record| path(record).is_some_and(&wanted)).map(entry)
    }
}

/// Of a record of any kind but `=`.
fn path(record: &[u8]) -> Option<&[u8]> {
    match record.split_first()? {
        (b'-', path) => Some(path),
        (b'+', rest) => rest.splitn(4, |byte| *byte == b' ').nth(3),
        _ => None,
    }
}

fn entry(record: &[u8]) -> Option<Entry<'_>> {
    let (kind, rest) = record.split_first()?;
    if *kind == b'-' {
        return Some(Entry::Gone(rest));
    }
    let mut parts = rest.splitn(4, |byte| *byte == b' ');
    let mut text = || std::str::from_utf8(parts.next()?).ok();
    let (changed_ns, size, mode) = (text()?.parse().ok()?, text()?.parse().ok()?, text()?);
    let stamp = Stamp { changed_ns, size, mode: u32::from_str_radix(mode, 8).ok()? };
    (*kind == b'+').then_some(Entry::There(stamp, parts.next()?))
}

/// Whether a path below the folder has a place in the ledger. Of a git folder: HEAD, `packed-refs` and `refs` but for
/// `refs/banger`, which is the host's; objects and the index change without meaning work.
pub fn counts(path: &[u8]) -> bool {
    let mut parts = path.split(|byte| *byte == b'/').skip_while(|part| *part != b".git").skip(1);
    let (first, second) = (parts.next(), parts.next());
    match first {
        None | Some(b"HEAD" | b"packed-refs") => true,
        Some(b"refs") => second.is_none_or(|name| name != b"banger"),
        Some(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { changed_ns: 1_700_000_000_000_000_001, size: 5, mode: 0o100_644 };

    fn ledger(parts: &[&[u8]]) -> Vec<u8> {
        [&[HEAD_LINE], parts].concat().concat()
    }

    #[test]
    fn what_is_written_reads_back() {
        let mut bytes = HEAD_LINE.to_vec();
        Entry::There(STAMP, b"a b\n\xff").encode(&mut bytes);
        encode_id("0123", &mut bytes);
        Entry::Gone(b"a b\n\xff").encode(&mut bytes);
        encode_id("4567", &mut bytes);
        let expected = ledger(&[b"+1700000000000000001 5 100644 a b\n\xff\0=0123\0-a b\n\xff\0=4567\0"]);
        assert_eq!(bytes, expected);
        let records = Records::of(&bytes).unwrap();
        assert_eq!(records.id, "4567");
        let entries: Option<Vec<Entry>> = records.entries().collect();
        assert_eq!(entries.unwrap(), [Entry::There(STAMP, b"a b\n\xff"), Entry::Gone(b"a b\n\xff")]);
        let count = |wanted: &[u8]| records.entries_of(|path| path == wanted).count();
        assert_eq!((count(b"a b\n\xff"), count(b"a")), (2, 0));
    }

    #[test]
    fn what_broke_off_is_not_there() {
        let whole = ledger(&[b"+1 2 100644 a\0=one\0"]);
        for torn in [&b"+3 4 100644 a"[..], b"+3 4 100644 a\0", b"-a\0=tw", b"\0"] {
            let bytes = [whole.as_slice(), torn].concat();
            let records = Records::of(&bytes).unwrap();
            assert_eq!((records.id, records.entries().count()), ("one", 1), "{torn:?}");
        }
        assert!(Records::of(&ledger(&[b"+1 2 100644 a\0"])).is_none());
        assert!(Records::of(b"banger workspace 1\nx\0").is_none());
        assert_eq!(Records::of(&ledger(&[b"+x 2 100644 a\0=\0"])).unwrap().entries().next(), Some(None));
    }

    #[test]
    fn of_a_git_folder_only_what_means_work_counts() {
        for (path, expected) in [
            (&b"a/b"[..], true),
            (b".git", true),
            (b".git/HEAD", true),
            (b"sub/.git/refs/heads/x", true),
            (b".git/packed-refs", true),
            (b".git/refs/banger/base", false),
            (b".git/index", false),
            (b".git/objects/ab/c", false),
            (b".github/x", true),
        ] {
            assert_eq!(counts(path), expected, "{path:?}");
        }
    }
}
