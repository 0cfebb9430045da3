//! ext4 on a disk's file: an empty one is written here, an existing one is checked and grown by e2fsprogs.

use super::DiskError;
use crate::host::vmm::process::{Launch, Process};
use crate::program;
use model::ByteSize;
use rustix::fs::{MemfdFlags, memfd_create};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::Path;
use std::time::Duration;

/// A check of a large, full disk takes minutes on a slow machine; half an hour is stuck.
const TOOL_PATIENCE: Duration = Duration::from_secs(30 * 60);
/// 0 and 1: clean, or mended (e2fsck(8)).
const MENDED: i32 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Label {
    Root,
    Work,
}

impl Label {
    pub fn word(self) -> &'static str {
        match self {
            Label::Root => "root",
            Label::Work => images::ext4::WORK_LABEL,
        }
    }

    /// Version 8 of RFC 9562, bits of our own choice. All disks of a kind share it: no guest sees two of them.
    pub fn uuid(self) -> [u8; 16] {
        let [a, b, c, d, ..] = *self.word().as_bytes() else { unreachable!("both words have four letters") };
        [a, b, c, d, 0, 0, 0x80, 0, 0x80, 0, b'b', b'a', b'n', b'g', b'e', b'r']
    }
}

/// An empty file system in a new file.
pub fn format(path: &Path, size: ByteSize, label: Label) -> Result<(), DiskError> {
    images::ext4::format_empty(path, size, label.word(), label.uuid(), 0).map_err(|error| match error {
        images::ext4::ImageError::Create { source, .. } | images::ext4::ImageError::Write(source) => source.into(),
        other => DiskError::Format(other),
    })
}

/// Replays the journal and mends what can be mended without a person.
pub fn check(path: &Path) -> Result<(), DiskError> {
    run("e2fsck", &["-f", "-p"], path, MENDED)
}

/// The file and the file system in it.
pub fn grow(path: &Path, size: ByteSize) -> Result<(), DiskError> {
    let file = File::options().write(true).open(path)?;
    let before = file.metadata()?.len();
    file.set_len(size.bytes())?;
    // A file system smaller than its file is whole, so only the file goes back.
    run("resize2fs", &["-f"], path, 0).inspect_err(|_| drop(file.set_len(before)))
}

fn run(program: &'static str, arguments: &[&str], path: &Path, worst: i32) -> Result<(), DiskError> {
    let tool = program::find(program).ok_or(DiskError::NoTool { program })?;
    let mut arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
    arguments.push(path.into());
    let mut said = File::from(memfd_create("said", MemfdFlags::CLOEXEC).map_err(io::Error::from)?);
    let (stdout, stderr) = (said.try_clone()?, said.try_clone()?);
    let folder = Path::new("/");
    let process =
        Process::start(Launch { program: &tool, arguments: &arguments, folder, stdout, stderr, inherited: &[] })?;
    if !process.await_end(TOOL_PATIENCE) {
        process.kill(TOOL_PATIENCE);
        return Err(DiskError::Tool { program, said: "it does not come to an end".into() });
    }
    if process.reap().code.is_some_and(|code| code <= worst) {
        return Ok(());
    }
    let mut text = String::new();
    said.rewind()?;
    drop(said.take(64 * 1024).read_to_string(&mut text));
    if text.contains("No space left on device") {
        return Err(DiskError::Full);
    }
    let said = text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("it said nothing");
    Err(DiskError::Tool { program, said: said.chars().take(300).collect() })
}
