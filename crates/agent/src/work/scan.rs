//! `POST /work/scan`: everything below a folder, as facts.

use super::{answer, asked, asked_for, below};
use crate::http::{self, Answer, Request};
use std::collections::HashSet;
use std::fs::{self, Metadata};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use wire::guest::work::{Kind, Record, decode_folders};

pub async fn scan(request: Request) -> Answer {
    if http::optional(&request, "flat").as_deref() == Some("true") {
        return list(request).await;
    }
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

/// What is in each of the folders; one that is gone, or no folder, holds nothing.
async fn list(request: Request) -> Answer {
    let (top, folders) = asked_for(request, decode_folders).await?;
    answer("application/octet-stream", move |out| {
        for folder in &folders {
            let place = below(&top, folder);
            // A link leads to what is not below.
            if !fs::symlink_metadata(&place).is_ok_and(|facts| facts.is_dir()) {
                continue;
            }
            children(&place, folder, &mut |path, facts| {
                record(path, facts).encode_to(out)?;
                Ok(false)
            })?;
        }
        Record::plain(Kind::End).encode_to(out)
    })
}

/// Every entry once, folders before what they hold; `visit` says whether to go into a folder. What vanishes is left out.
/// The stack is of our own: a tree may be deeper than a thread's.
pub(super) fn walk(top: &Path, visit: &mut dyn FnMut(&[u8], &Metadata) -> io::Result<bool>) -> io::Result<()> {
    let mut waiting = vec![(top.to_owned(), Vec::new())];
    while let Some((folder, name)) = waiting.pop() {
        children(&folder, &name, &mut |path, facts| {
            let goes_in = visit(path, facts)?;
            if goes_in {
                waiting.push((below(top, path), path.to_owned()));
            }
            Ok(goes_in)
        })?;
    }
    Ok(())
}

/// What is in one folder, whose name below the top is `name`.
fn children(folder: &Path, name: &[u8], visit: &mut dyn FnMut(&[u8], &Metadata) -> io::Result<bool>) -> io::Result<()> {
    let children = match fs::read_dir(folder) {
        Ok(children) => children,
        Err(error) if gone(&error) => return Ok(()),
        Err(error) => return Err(error),
    };
    for child in children {
        let child = child?;
        // Relative to the open folder: the kernel does not walk the whole path again.
        let facts = match child.metadata() {
            Ok(facts) => facts,
            Err(error) if gone(&error) => continue,
            Err(error) => return Err(error),
        };
        let mut path: Vec<u8> = name.to_owned();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend(child.file_name().as_bytes());
        visit(&path, &facts)?;
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
