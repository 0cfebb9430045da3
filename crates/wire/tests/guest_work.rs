//! The records of a guest's work against their golden file, and against what a guest may send instead.
#![cfg(feature = "guest")]

use proptest::prelude::*;
use std::path::PathBuf;
use wire::guest::work::{
    Kind, PATH_LIMIT_BYTES, RECORD_BYTES, Record, WatchEvent, check_path, decode_folders, decode_paths, encode_paths,
};

fn golden(name: &str, text: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/guest").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() && !path.exists() {
        std::fs::write(&path, text).expect("the golden file can be written");
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(text, golden, "{name}");
}

fn decode(bytes: &[u8]) -> Option<Record> {
    let (head, rest) = bytes.split_first_chunk::<RECORD_BYTES>()?;
    let (mut record, path) = Record::decode(head).ok()?;
    record.path = rest.get(..path)?.to_vec();
    Some(record)
}

#[test]
fn a_record_keeps_its_shape() {
    let record = Record {
        kind: Kind::File,
        mode: 0o755,
        size: 70_000,
        mtime_ns: 1_700_000_000_123_456_789,
        ctime_ns: 1_700_000_001_000_000_000,
        inode: 12,
        path: b"src/\xff.rs".to_vec(),
    };
    let mut bytes = Vec::new();
    record.encode(&mut bytes);
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    golden("work_record.hex", &format!("{hex}\n"));
    assert_eq!(decode(&bytes), Some(record));
    for kind in Kind::ALL {
        let mut bytes = Vec::new();
        Record::plain(*kind).encode(&mut bytes);
        assert_eq!(bytes.len(), RECORD_BYTES);
        assert_eq!(decode(&bytes), Some(Record::plain(*kind)));
    }
}

#[test]
fn events_of_a_watch_keep_their_shape() {
    let folders = Some(vec![String::new(), "src/\u{e9}".to_owned()]);
    let events = [
        WatchEvent::Watching { folders: 12, complete: true },
        WatchEvent::Changed { folders: None },
        WatchEvent::Changed { folders },
    ];
    let lines: String =
        events.iter().map(|event| serde_json::to_string(event).expect("an event is JSON") + "\n").collect();
    golden("work_watch.ndjson", &lines);
    let read: Vec<WatchEvent> =
        lines.lines().map(|line| serde_json::from_str(line).expect("a line is an event")).collect();
    assert_eq!(read, events);
    let later: WatchEvent = serde_json::from_str(r#"{"event":"paused"}"#).expect("a later event is read");
    assert_eq!(later, WatchEvent::Unknown);
}

#[test]
fn a_list_of_paths_comes_back_and_none_leaves_its_folder() {
    let paths: [&[u8]; 3] = [b"a", b"b c/\n\xfe", b".git/HEAD"];
    let body = encode_paths(paths);
    assert_eq!(decode_paths(&body).expect("the paths are fine"), paths);
    assert_eq!(decode_paths(b"").expect("no path is fine"), Vec::<Vec<u8>>::new());
    let folders = decode_folders(&encode_paths([&b""[..], b"a"])).expect("the top is a folder");
    assert_eq!(folders, [b"".to_vec(), b"a".to_vec()]);
    assert!(decode_folders(b"").expect("no folder is fine").is_empty() && decode_folders(b"a/..\0").is_err());
    for bad in [&b"../x\0"[..], b"/etc\0", b"a//b\0", b"a/./b\0", b"a\0\0b\0", &[b'a'; PATH_LIMIT_BYTES + 1]] {
        assert!(decode_paths(bad).is_err(), "{bad:?}");
    }
}

proptest! {
    #[test]
    fn whatever_a_guest_sends_is_a_record_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..128)) {
        if let Some(record) = decode(&bytes) {
            let mut again = Vec::new();
            record.encode(&mut again);
            prop_assert_eq!(&again[..], &bytes[..again.len()]);
        }
        if check_path(&bytes).is_ok() {
            let walked = std::path::Path::new(std::ffi::OsStr::new("/top")).join(
                <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(&bytes));
            prop_assert!(walked.components().all(|part| part != std::path::Component::ParentDir));
            prop_assert!(walked.starts_with("/top"));
        }
    }
}
