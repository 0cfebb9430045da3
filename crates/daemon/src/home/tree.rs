//! A folder of a guest as it can be looked at from outside: by its agent while it runs, on its disk afterwards.

use super::{HomeError, Result};
use std::io::Read;
use wire::guest::work::Record;

/// What is done with each file that was asked for: its place in the list, its facts, its bytes.
pub type Each<'a> = &'a mut dyn FnMut(usize, &Record, &mut dyn Read) -> Result<()>;

pub trait Tree {
    /// The folder, in the guest's words.
    fn path(&self) -> &str;

    /// Everything below the folder, folders before what they hold; the insides of `pruned` are left out.
    fn scan(&mut self, pruned: &[Vec<u8>], each: &mut dyn FnMut(Record) -> Result<()>) -> Result<()>;

    /// Files and links in the order in which they are named. The reader ends after exactly `record.size` bytes; what
    /// is gone is of kind `Absent`. A caller need not read to the end.
    fn read(&mut self, paths: &[Vec<u8>], each: Each) -> Result<()>;

    /// A folder further down, as a tree of its own.
    fn below(&self, path: &str) -> Box<dyn Tree + '_>;
}

/// Small files whole; what is absent, larger than its limit or no file is `None`.
pub fn read_small(tree: &mut dyn Tree, wanted: &[(Vec<u8>, u64)]) -> Result<Vec<Option<Vec<u8>>>> {
    let paths: Vec<Vec<u8>> = wanted.iter().map(|(path, _)| path.clone()).collect();
    let mut found: Vec<Option<Vec<u8>>> = vec![None; wanted.len()];
    let name = tree.path().to_owned();
    tree.read(&paths, &mut |number, record, content| {
        if record.kind == wire::guest::work::Kind::File && record.size <= wanted[number].1 {
            let mut bytes = Vec::with_capacity(record.size as usize);
            content.read_to_end(&mut bytes).map_err(|source| guest(&name, source))?;
            found[number] = Some(bytes);
        }
        Ok(())
    })?;
    Ok(found)
}

pub fn guest(path: &str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> HomeError {
    HomeError::Guest { path: path.to_owned(), source: source.into() }
}
