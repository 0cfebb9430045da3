//! `POST /work/read`: the contents of the named files and the targets of the named links, in one stream.

use super::scan::{EncodeTo, record};
use super::{answer, asked, below};
use crate::http::{Answer, Request};
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use wire::guest::work::{Kind, Record};

pub async fn read(request: Request) -> Answer {
    let (top, paths) = asked(request).await?;
    answer("application/octet-stream", move |out| {
        for path in &paths {
            send(&below(&top, path), out)?;
        }
        Record::plain(Kind::End).encode_to(out)
    })
}

/// What cannot be read is absent for the host: it asks again when it next hears of a change.
fn send(path: &Path, out: &mut dyn Write) -> io::Result<()> {
    let absent = Record::plain(Kind::Absent);
    // A pipe that nobody writes to would hold an open without NONBLOCK forever.
    let flags = (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits() as i32;
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let Some((file, facts)) = opened.and_then(|file| file.metadata().map(|facts| (file, facts))).ok() else {
        return send_link(path, out);
    };
    if !facts.is_file() {
        return absent.encode_to(out);
    }
    record(b"", &facts).encode_to(out)?;
    // The size is already said: a file that shrinks meanwhile is filled up with zeros, and its change is told anyway.
    io::copy(&mut file.chain(io::repeat(0)).take(facts.len()), out).map(drop)
}

/// What cannot be opened is a link, or nothing that can be sent.
fn send_link(path: &Path, out: &mut dyn Write) -> io::Result<()> {
    let absent = Record::plain(Kind::Absent);
    let Some(facts) = fs::symlink_metadata(path).ok().filter(fs::Metadata::is_symlink) else {
        return absent.encode_to(out);
    };
    let Ok(target) = fs::read_link(path) else { return absent.encode_to(out) };
    let target = target.as_os_str().as_bytes();
    Record { size: target.len() as u64, ..record(b"", &facts) }.encode_to(out)?;
    out.write_all(target)
}
