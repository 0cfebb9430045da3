//! An agent that lies: it sees the guest's files as they are, and answers with other bytes than it should.

use super::{Expect, Row};
use crate::repositories::home::FolderTree;
use daemon::home::fuzzing::Answer;
use daemon::home::tree::Each;
use daemon::home::{Result, Tree};
use std::io::{self, Read};
use std::time::{Duration, Instant};
use wire::guest::work::{Kind, RECORD_BYTES, Record};

/// From the honest bytes of an answer to what is sent; scans first, then contents.
#[derive(Clone, Copy)]
pub enum Lie {
    Scan(fn(Vec<u8>) -> Box<dyn Read>),
    /// Of the file with this path alone.
    Content(&'static [u8], fn(Vec<u8>) -> Box<dyn Read>),
    /// Everything comes after the time is over.
    Late,
}

pub struct Agent {
    pub tree: FolderTree,
    pub lie: Lie,
}

impl Agent {
    fn end(&self) -> Instant {
        let left = if matches!(self.lie, Lie::Late) { Duration::ZERO } else { Duration::from_secs(120) };
        Instant::now() + left
    }
}

impl Tree for Agent {
    fn path(&self) -> &str {
        "/root/repo"
    }

    fn scan(&mut self, pruned: &[Vec<u8>], each: &mut dyn FnMut(Record) -> Result<()>) -> Result<()> {
        let mut bytes = Vec::new();
        self.tree.scan(pruned, &mut |record| {
            record.encode(&mut bytes);
            Ok(())
        })?;
        Record::plain(Kind::End).encode(&mut bytes);
        let body: Box<dyn Read> = match self.lie {
            Lie::Scan(lie) => lie(bytes),
            Lie::Content(..) | Lie::Late => Box::new(io::Cursor::new(bytes)),
        };
        Answer::new(body, "/root/repo", self.end()).scan(each)
    }

    fn read(&mut self, paths: &[Vec<u8>], each: Each) -> Result<()> {
        let mut body: Box<dyn Read> = Box::new(io::empty());
        let lie = self.lie;
        self.tree.read(paths, &mut |number, record, content| {
            let mut bytes = Vec::new();
            record.encode(&mut bytes);
            content.read_to_end(&mut bytes).expect("a file reads");
            let told: Box<dyn Read> = match lie {
                Lie::Content(path, lie) if paths[number] == path => lie(bytes),
                _ => Box::new(io::Cursor::new(bytes)),
            };
            body = Box::new(std::mem::replace(&mut body, Box::new(io::empty())).chain(told));
            Ok(())
        })?;
        let mut end = Vec::new();
        Record::plain(Kind::End).encode(&mut end);
        Answer::new(body.chain(io::Cursor::new(end)), "/root/repo", self.end()).contents(0..paths.len(), each)
    }

    fn below(&self, _: &str) -> Box<dyn Tree + '_> {
        unreachable!("no repository lies within")
    }
}

fn file(path: &[u8], size: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    Record { mode: 0o644, size, path: path.to_vec(), mtime_ns: 1, ..Record::plain(Kind::File) }.encode(&mut bytes);
    bytes
}

/// These records before the honest ones.
fn with(first: Vec<u8>, honest: Vec<u8>) -> Box<dyn Read> {
    Box::new(io::Cursor::new([first, honest].concat()))
}

/// The honest content, which claims to be of another size.
fn sized(size: u64, honest: &[u8]) -> Vec<u8> {
    let mut bytes = honest.to_vec();
    bytes[5..13].copy_from_slice(&size.to_le_bytes());
    bytes
}

/// Files without end, their names padded to this length.
struct Endless {
    number: u64,
    record: Vec<u8>,
    at: usize,
}

impl Endless {
    fn boxed(name_bytes: usize) -> Box<dyn Read> {
        Box::new(Endless { number: 0, record: file(&vec![b'0'; name_bytes], 0), at: 0 })
    }
}

impl Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.record.len() {
            self.number += 1;
            let digits = format!("{:019}", self.number);
            let end = self.record.len();
            self.record[end - digits.len()..].copy_from_slice(digits.as_bytes());
            self.at = 0;
        }
        let count = buffer.len().min(self.record.len() - self.at);
        buffer[..count].copy_from_slice(&self.record[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

pub fn rows() -> Vec<Row> {
    let scan = |name: &str, expect: Expect, lie: fn(Vec<u8>) -> Box<dyn Read>| Row::lying(name, expect, Lie::Scan(lie));
    let content = |name: &str, path: &'static [u8], expect: Expect, lie: fn(Vec<u8>) -> Box<dyn Read>| {
        Row::lying(name, expect, Lie::Content(path, lie))
    };
    let leaves = Expect::Refused;
    vec![
        scan("a path that leads out", leaves("leaves its folder"), |honest| with(file(b"../x", 1), honest)),
        scan("a path from the root", leaves("leaves its folder"), |honest| with(file(b"/etc/x", 1), honest)),
        scan("a path with a way out within", leaves("leaves its folder"), |honest| with(file(b"a/../../x", 1), honest)),
        scan("a path with a NUL", leaves("leaves its folder"), |honest| with(file(b"a\0b", 1), honest)),
        scan("a path of nothing", leaves("leaves its folder"), |honest| with(file(b"", 1), honest)),
        scan("a path with nothing within", leaves("leaves its folder"), |honest| with(file(b"a//b", 1), honest)),
        scan("a path longer than any", leaves("4096 are allowed"), |honest| {
            let mut long = file(&vec![b'x'; 4096], 1);
            long[37..39].copy_from_slice(&u16::MAX.to_le_bytes());
            with(long, honest)
        }),
        scan("a kind that is none", leaves("unknown kind"), |mut honest| {
            honest[0] = b'?';
            with(Vec::new(), honest)
        }),
        scan("a listing that ends in the middle", leaves("cannot look at"), |honest| {
            with(Vec::new(), honest[..honest.len() / 2].to_vec())
        }),
        scan("a listing of nothing", leaves("holds no repository"), |honest| {
            with(honest[honest.len() - RECORD_BYTES..].to_vec(), Vec::new())
        }),
        scan("files without end", leaves("holds more than 2000000 files"), |_| Endless::boxed(20)),
        scan("names without end", leaves("bytes of names"), |_| Endless::boxed(4000)),
        scan("a file larger than all there is", Expect::Left, |honest| with(file(b"huge", u64::MAX), honest)),
        scan("a file that is not there", Expect::Home, |honest| with(file(b"ghost", 1 << 20), honest)),
        scan("a file and files below it", Expect::Home, |honest| {
            with([file(b"ghost", 1), file(b"ghost/inside", 1)].concat(), honest)
        }),
        scan("the same file a thousand times", Expect::Home, |honest| with(file(b"count", 2).repeat(1000), honest)),
        scan("git's own files that are none", Expect::Home, |honest| {
            with([file(b".git/objects/ab/cd", 1), file(b".git/objects/pack/pack-..pack", 1)].concat(), honest)
        }),
        content("a HEAD of many gigabytes", b".git/HEAD", leaves("has no HEAD"), |honest| {
            let size = 3_u64 << 30;
            Box::new(io::Cursor::new(sized(size, &honest[..RECORD_BYTES])).chain(io::repeat(b'x').take(size)))
        }),
        content("a HEAD that ends in the middle", b".git/HEAD", leaves("cannot look at"), |honest| {
            Box::new(io::Cursor::new(sized(4096, &honest)))
        }),
        content("more than was asked for", b".git/HEAD", leaves("cannot look at"), |honest| {
            Box::new(io::Cursor::new([honest.clone(), honest].concat()))
        }),
        content("a HEAD that is a folder", b".git/HEAD", leaves("has no HEAD"), |mut honest| {
            honest[0] = b'd';
            Box::new(io::Cursor::new(honest[..RECORD_BYTES].to_vec()))
        }),
        Row::lying("an agent that takes too long", leaves("was not looked through in time"), Lie::Late),
    ]
}
