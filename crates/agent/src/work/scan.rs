//! `POST /work/scan`: everything below a folder, as facts.

use super::{answer, asked};
use crate::http::{Answer, Request};
use std::collections::HashSet;
use std::fs::{self, Metadata};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use wire::guest::work::{Kind, Record};

pub async fn scan(request: Request) -> Answer {
    let (top, pruned) = asked(request).await?;
    answer("application/octet-stream", move |out| {
        let pruned: HashSet<Vec<u8>> = pruned.into_iter().collect();
        let device = fs::symlink_metadata(&top)?.dev();
        walk(&top, &mut |path, facts| {
            record(path, facts).encode_to(out)?;
            Ok(facts.is_dir() && facts.dev() == device && !pruned.contains(path))
        })?;
        Record::plain(Kind::End).encode_to(out)
    })
}

/// Every entry once, folders before what they hold; `visit` says whether to go into a folder. What vanishes is left out.
/// The stack is of our own: a tree may be deeper than a thread's.
pub(super) fn walk(top: &Path, visit: &mut dyn FnMut(&[u8], &Metadata) -> io::Result<bool>) -> io::Result<()> {
    let mut waiting = vec![(top.to_owned(), Vec::new())];
    while let Some((folder, name)) = waiting.pop() {
        let children = match fs::read_dir(&folder) {
            Ok(children) => children,
            Err(error) if gone(&error) => continue,
            Err(error) => return Err(error),
        };
        for child in children {
            let child = child?;
            let facts = match fs::symlink_metadata(child.path()) {
                Ok(facts) => facts,
                Err(error) if gone(&error) => continue,
                Err(error) => return Err(error),
            };
            let mut path: Vec<u8> = name.clone();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend(child.file_name().as_bytes());
            if visit(&path, &facts)? {
                waiting.push((child.path(), path));
            }
        }
    }
    Ok(())
}

/// Not there any more, or not as what it was a moment ago.
pub(super) fn gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

pub(super) fn record(path: &[u8], facts: &Metadata) -> Record {
    let kind = match facts.file_type() {
        kind if kind.is_file() => Kind::File,
        kind if kind.is_symlink() => Kind::Link,
        kind if kind.is_dir() => Kind::Folder,
        _ => Kind::Other,
    };
    let nanoseconds = |seconds: i64, rest: i64| seconds.saturating_mul(1_000_000_000).saturating_add(rest);
    Record {
        kind,
        mode: facts.mode() & 0o7777,
        size: facts.len(),
        mtime_ns: nanoseconds(facts.mtime(), facts.mtime_nsec()),
        ctime_ns: nanoseconds(facts.ctime(), facts.ctime_nsec()),
        inode: facts.ino(),
        path: path.to_vec(),
    }
}

pub(super) trait EncodeTo {
    fn encode_to(&self, out: &mut dyn Write) -> io::Result<()>;
}

impl EncodeTo for Record {
    fn encode_to(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(128);
        self.encode(&mut bytes);
        out.write_all(&bytes)
    }
}
