//! `sftp-server`: the SFTP protocol, version 3, on standard input and output, as OpenSSH's own server speaks it
//! (draft-ietf-secsh-filexfer-02 and OpenSSH's PROTOCOL, section 4). It runs as the person who asked, started through
//! `exec`, so that an image needs no sftp server and the kernel's permissions are the only rule.
//!
//! ```text
//!  packet: bytes ◄─► fields      request: one request ─► one answer      file: open handles      attributes: metadata
//! ```
//! One request after the other, in order, blocking: the client keeps many on their way. Paths are bytes, never text.
//! Bounds: [`packet::LIMIT_BYTES`] per packet, [`file::MAX_HANDLES`] open handles.

mod attributes;
mod file;
mod packet;
mod request;

use packet::Reader;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::process::ExitCode;

/// Four packets of the client's usual 32 KiB: one system call reads several.
const BUFFER_BYTES: usize = 128 * 1024;

pub fn run() -> ExitCode {
    match serve(io::stdin().lock(), io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            crate::console::say(&format!("sftp-server: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn serve(input: impl Read, output: impl Write) -> io::Result<()> {
    let mut input = BufReader::with_capacity(BUFFER_BYTES, input);
    let mut output = BufWriter::with_capacity(BUFFER_BYTES, output);
    let mut session = request::Session::default();
    while let Some(packet) = packet::read(&mut input)? {
        let answer = session.answer(&mut Reader::new(&packet))?;
        output.write_all(&answer)?;
        // Answers leave together while more requests wait here.
        if input.buffer().is_empty() {
            output.flush()?;
        }
    }
    output.flush()
}
