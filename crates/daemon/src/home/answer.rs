//! What an agent answers, read from its stream: records of `/work/scan`, and contents of `/work/read`.
//!
//! Every byte is the guest's. A path is proven before anybody sees it, a content is handed out to exactly its size, and
//! one that is not wanted is read past; the stream ends with its own word or it was cut short.

use super::tree::{Each, guest};
use super::{HomeError, Result};
use std::io::{self, Read};
use std::ops::Range;
use std::time::Instant;
use wire::guest::work::{Kind, RECORD_BYTES, Record, check_path};

pub struct Answer<'a, R> {
    body: R,
    /// The folder, in the guest's words.
    path: &'a str,
    end: Instant,
}

impl<'a, R: Read> Answer<'a, R> {
    pub fn new(body: R, path: &'a str, end: Instant) -> Answer<'a, R> {
        Answer { body, path, end }
    }

    /// Hands out every record up to the last.
    pub fn scan(mut self, each: &mut dyn FnMut(Record) -> Result<()>) -> Result<()> {
        loop {
            let record = self.next()?;
            if record.kind == Kind::End {
                return Ok(());
            }
            check_path(&record.path).map_err(|error| guest(self.path, error))?;
            each(record)?;
        }
    }

    /// Hands out one record with its content for each number.
    pub fn contents(mut self, numbers: Range<usize>, each: Each) -> Result<()> {
        for number in numbers {
            let record = self.next()?;
            let size = if matches!(record.kind, Kind::File | Kind::Link) { record.size } else { 0 };
            let mut content = (&mut self.body).take(size);
            each(number, &record, &mut content)?;
            io::copy(&mut content, &mut io::sink()).map_err(|error| guest(self.path, error))?;
            if content.limit() > 0 {
                return Err(guest(self.path, "the agent broke off in the middle of a file"));
            }
        }
        match self.next()?.kind {
            Kind::End => Ok(()),
            _ => Err(guest(self.path, "the agent sent more than it was asked for")),
        }
    }

    fn next(&mut self) -> Result<Record> {
        if Instant::now() >= self.end {
            return Err(HomeError::Late { path: self.path.to_owned() });
        }
        let mut head = [0; RECORD_BYTES];
        self.body.read_exact(&mut head).map_err(|error| guest(self.path, error))?;
        let (mut record, length) = Record::decode(&head).map_err(|error| guest(self.path, error))?;
        let mut path = vec![0; length];
        self.body.read_exact(&mut path).map_err(|error| guest(self.path, error))?;
        record.path = path;
        Ok(record)
    }
}
