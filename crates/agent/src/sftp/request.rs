//! One request, one answer.

use super::attributes::{self, Attributes};
use super::file::{Handle, Handles, MAX_HANDLES};
use super::packet::{DATA_BYTES, LIMIT_BYTES, Reader, Short, Writer};
use rustix::fs::{CWD, OFlags, RenameFlags};
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

const VERSION: u32 = 3;

const INIT: u8 = 1;
const VERSION_IS: u8 = 2;
const STATUS: u8 = 101;
const HANDLE: u8 = 102;
const DATA: u8 = 103;
const NAME: u8 = 104;
const ATTRIBUTES: u8 = 105;
const EXTENDED_REPLY: u8 = 201;

const OK: u32 = 0;
const END_OF_FILE: u32 = 1;
const NO_SUCH_FILE: u32 = 2;
const PERMISSION_DENIED: u32 = 3;
const FAILURE: u32 = 4;
const BAD_MESSAGE: u32 = 5;
const UNSUPPORTED: u32 = 8;

const READ: u32 = 1;
const WRITE: u32 = 2;
const APPEND: u32 = 4;
const CREATE: u32 = 8;
const TRUNCATE: u32 = 16;
const EXCLUSIVE: u32 = 32;

/// What OpenSSH's clients look for, with the version of each.
const EXTENSIONS: &[(&str, &str)] = &[
    ("posix-rename@openssh.com", "1"),
    ("hardlink@openssh.com", "1"),
    ("fsync@openssh.com", "1"),
    ("lsetstat@openssh.com", "1"),
    ("statvfs@openssh.com", "2"),
    ("fstatvfs@openssh.com", "2"),
    ("limits@openssh.com", "1"),
    ("expand-path@openssh.com", "1"),
];

#[derive(Default)]
pub struct Session {
    handles: Handles,
}

/// Why a request has no other answer than a status.
enum Refusal {
    Malformed,
    Unsupported,
    End,
    Failed(io::Error),
}

impl From<Short> for Refusal {
    fn from(_: Short) -> Self {
        Refusal::Malformed
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Refusal::Failed(error)
    }
}

impl From<rustix::io::Errno> for Refusal {
    fn from(error: rustix::io::Errno) -> Self {
        Refusal::Failed(error.into())
    }
}

type Answer = Result<Writer, Refusal>;

impl Session {
    /// A packet without an id cannot be answered and ends the session.
    pub fn answer(&mut self, packet: &mut Reader) -> io::Result<Vec<u8>> {
        let short = |_| io::Error::other("a packet without its first fields");
        let kind = packet.byte().map_err(short)?;
        if kind == INIT {
            return Ok(version().finish());
        }
        let id = packet.u32().map_err(short)?;
        let answer = self.dispatch(kind, id, packet);
        Ok(answer.unwrap_or_else(|refusal| status(id, &refusal)).finish())
    }

    fn dispatch(&mut self, kind: u8, id: u32, packet: &mut Reader) -> Answer {
        match kind {
            3 => self.open(id, packet),
            4 => done(id, self.handles.close(packet.string()?)),
            5 => self.read(id, packet),
            6 => done(id, self.handles.write(packet.string()?, packet.u64()?, packet.string()?)),
            7 => metadata(id, std::fs::symlink_metadata(packet.path()?)),
            8 => metadata(id, self.handles.file(packet.string()?)?.metadata()),
            9 => set(id, packet, false),
            10 => self.set_on_handle(id, packet),
            11 => self.open_folder(id, packet),
            12 => self.read_folder(id, packet),
            13 => done(id, std::fs::remove_file(packet.path()?)),
            14 => make_folder(id, packet),
            15 => done(id, std::fs::remove_dir(packet.path()?)),
            16 => real_path(id, packet),
            17 => metadata(id, std::fs::metadata(packet.path()?)),
            18 => rename(id, packet),
            19 => one_name(id, std::fs::read_link(packet.path()?)?.as_os_str().as_bytes()),
            20 => symbolic_link(id, packet),
            200 => self.extended(id, packet),
            _ => Err(Refusal::Unsupported),
        }
    }

    fn open(&mut self, id: u32, packet: &mut Reader) -> Answer {
        let (path, wanted) = (packet.path()?, packet.u32()?);
        let has = |flag| wanted & flag != 0;
        let access = match (has(READ), has(WRITE)) {
            (true, true) => OFlags::RDWR,
            (false, true) => OFlags::WRONLY,
            _ => OFlags::RDONLY,
        };
        let flag = |flag, meaning| if has(flag) { meaning } else { OFlags::empty() };
        let flags = access
            | flag(APPEND, OFlags::APPEND)
            | flag(CREATE, OFlags::CREATE)
            | flag(TRUNCATE, OFlags::TRUNC)
            | flag(EXCLUSIVE, OFlags::EXCL);
        let mode = Attributes::read(packet)?.mode(0o666);
        let file = File::from(rustix::fs::open(path, flags | OFlags::CLOEXEC | OFlags::NOCTTY, mode)?);
        handle(id, self.handles.add(Handle::File { file, append: has(APPEND) })?)
    }

    fn read(&mut self, id: u32, packet: &mut Reader) -> Answer {
        let (name, offset, length) = (packet.string()?, packet.u64()?, packet.u32()? as usize);
        let mut buffer = vec![0; length.min(DATA_BYTES)];
        match self.handles.read(name, offset, &mut buffer)? {
            0 if length > 0 => Err(Refusal::End),
            count => Ok(Writer::reply(DATA, id).string(&buffer[..count])),
        }
    }

    fn set_on_handle(&mut self, id: u32, packet: &mut Reader) -> Answer {
        let name = packet.string()?;
        let wanted = Attributes::read(packet)?;
        match self.handles.get(name)? {
            Handle::File { file, .. } => done(id, wanted.set_on(file)),
            Handle::Folder { path, .. } => done(id, wanted.set_at(path, false)),
        }
    }

    fn open_folder(&mut self, id: u32, packet: &mut Reader) -> Answer {
        let path = packet.path()?;
        let entries = std::fs::read_dir(&path)?;
        handle(id, self.handles.add(Handle::Folder { path, entries })?)
    }

    /// An entry that went away in the meantime is left out.
    fn read_folder(&mut self, id: u32, packet: &mut Reader) -> Answer {
        let handle = packet.string()?;
        loop {
            let (folder, entries) = self.handles.entries(handle)?;
            if entries.is_empty() {
                return Err(Refusal::End);
            }
            let (mut count, mut names) = (0, Writer::new(NAME));
            for entry in entries {
                let name = entry.file_name();
                let Ok(metadata) = std::fs::symlink_metadata(folder.join(&name)) else { continue };
                names = names.string(name.as_bytes()).string(&attributes::long_name(name.as_bytes(), &metadata));
                names = attributes::fields(names, &metadata);
                count += 1;
            }
            if count == 0 {
                continue;
            }
            debug_assert!(names.len() < LIMIT_BYTES, "100 names of 255 bytes, twice");
            return Ok(Writer::reply(NAME, id).u32(count).append(&names.into_fields()));
        }
    }

    fn extended(&mut self, id: u32, packet: &mut Reader) -> Answer {
        match packet.string()? {
            b"posix-rename@openssh.com" => done(id, std::fs::rename(packet.path()?, packet.path()?)),
            b"hardlink@openssh.com" => done(id, std::fs::hard_link(packet.path()?, packet.path()?)),
            b"fsync@openssh.com" => done(id, self.handles.file(packet.string()?)?.sync_all()),
            b"lsetstat@openssh.com" => set(id, packet, true),
            b"statvfs@openssh.com" => space(id, &rustix::fs::statvfs(packet.path()?)?),
            b"fstatvfs@openssh.com" => space(id, &rustix::fs::fstatvfs(self.handles.file(packet.string()?)?)?),
            b"limits@openssh.com" => limits(id),
            b"expand-path@openssh.com" => one_name(id, resolve(&expand(&packet.path()?))?.as_os_str().as_bytes()),
            _ => Err(Refusal::Unsupported),
        }
    }
}

fn version() -> Writer {
    EXTENSIONS.iter().fold(Writer::new(VERSION_IS).u32(VERSION), |packet, (name, version)| {
        packet.string(name.as_bytes()).string(version.as_bytes())
    })
}

fn status(id: u32, refusal: &Refusal) -> Writer {
    let (code, sentence) = match refusal {
        Refusal::Malformed => (BAD_MESSAGE, "Bad message".to_owned()),
        Refusal::Unsupported => (UNSUPPORTED, "Operation unsupported".to_owned()),
        Refusal::End => (END_OF_FILE, "End of file".to_owned()),
        Refusal::Failed(error) => match error.kind() {
            io::ErrorKind::NotFound => (NO_SUCH_FILE, "No such file".to_owned()),
            io::ErrorKind::PermissionDenied => (PERMISSION_DENIED, "Permission denied".to_owned()),
            _ => (FAILURE, error.to_string()),
        },
    };
    Writer::reply(STATUS, id).u32(code).string(sentence.as_bytes()).string(b"")
}

fn done(id: u32, outcome: io::Result<()>) -> Answer {
    outcome?;
    Ok(Writer::reply(STATUS, id).u32(OK).string(b"Success").string(b""))
}

fn handle(id: u32, number: u32) -> Answer {
    Ok(Writer::reply(HANDLE, id).string(&number.to_be_bytes()))
}

fn metadata(id: u32, found: io::Result<Metadata>) -> Answer {
    Ok(attributes::fields(Writer::reply(ATTRIBUTES, id), &found?))
}

fn set(id: u32, packet: &mut Reader, link_itself: bool) -> Answer {
    let path = packet.path()?;
    done(id, Attributes::read(packet)?.set_at(&path, link_itself))
}

fn make_folder(id: u32, packet: &mut Reader) -> Answer {
    let path = packet.path()?;
    let mode = Attributes::read(packet)?.mode(0o777);
    done(id, rustix::fs::mkdir(path, mode).map_err(io::Error::from))
}

fn real_path(id: u32, packet: &mut Reader) -> Answer {
    one_name(id, resolve(&packet.path()?)?.as_os_str().as_bytes())
}

/// The last part need not be there yet: a client asks before it creates.
fn resolve(path: &Path) -> io::Result<PathBuf> {
    match (std::fs::canonicalize(path), path.parent(), path.file_name()) {
        (Err(error), Some(parent), Some(name)) if error.kind() == io::ErrorKind::NotFound => {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            Ok(std::fs::canonicalize(parent)?.join(name))
        }
        (resolved, ..) => resolved,
    }
}

/// `~` and `~user`, as a shell means them; what is relative is relative to the home that this runs in.
fn expand(path: &Path) -> PathBuf {
    let Some(rest) = path.as_os_str().as_bytes().strip_prefix(b"~") else { return path.to_owned() };
    let end = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
    let name = std::str::from_utf8(&rest[..end]).ok().filter(|name| !name.is_empty());
    let home = match name {
        Some(name) => crate::exec::user::find(Some(name)).ok().map(|user| PathBuf::from(user.home)),
        None if end == 0 => std::env::var_os("HOME").map(PathBuf::from),
        None => None,
    };
    let below = std::ffi::OsStr::from_bytes(rest[end..].strip_prefix(b"/").unwrap_or(&rest[end..]));
    home.map_or_else(|| path.to_owned(), |home| home.join(below))
}

/// Version 3 wants a rename that replaces nothing.
fn rename(id: u32, packet: &mut Reader) -> Answer {
    let (from, to) = (packet.path()?, packet.path()?);
    match rustix::fs::renameat_with(CWD, &from, CWD, &to, RenameFlags::NOREPLACE) {
        // A file system that cannot: a look first is the best there is.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) if std::fs::symlink_metadata(&to).is_err() => {
            done(id, std::fs::rename(from, to))
        }
        renamed => done(id, renamed.map_err(io::Error::from)),
    }
}

/// The arguments stand the other way round than in the draft; OpenSSH began it, and everybody follows.
fn symbolic_link(id: u32, packet: &mut Reader) -> Answer {
    let (target, link) = (packet.path()?, packet.path()?);
    done(id, std::os::unix::fs::symlink(target, link))
}

fn one_name(id: u32, name: &[u8]) -> Answer {
    // No attributes: nobody reads them here.
    Ok(Writer::reply(NAME, id).u32(1).string(name).string(name).u32(0))
}

fn space(id: u32, found: &rustix::fs::StatVfs) -> Answer {
    let packet = Writer::reply(EXTENDED_REPLY, id).u64(found.f_bsize).u64(found.f_frsize).u64(found.f_blocks);
    let packet = packet.u64(found.f_bfree).u64(found.f_bavail).u64(found.f_files).u64(found.f_ffree);
    // 1: read-only, 2: no set-user-id; the kernel's own bits are the same.
    Ok(packet.u64(found.f_favail).u64(found.f_fsid).u64(found.f_flag.bits() & 3).u64(found.f_namemax))
}

fn limits(id: u32) -> Answer {
    let data = DATA_BYTES as u64;
    let packet = Writer::reply(EXTENDED_REPLY, id).u64(LIMIT_BYTES as u64).u64(data).u64(data);
    Ok(packet.u64(MAX_HANDLES as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    /// Sends the packets and answers what comes back: kind and fields of each.
    fn converse(packets: Vec<Vec<u8>>) -> Vec<(u8, Vec<u8>)> {
        let mut output = Vec::new();
        super::super::serve(Cursor::new(packets.concat()), &mut output).expect("served");
        let mut answers = Vec::new();
        let mut left = Cursor::new(output);
        while let Some(packet) = super::super::packet::read(&mut left).expect("a packet") {
            answers.push((packet[0], packet[5..].to_vec()));
        }
        answers
    }

    fn code(answer: &(u8, Vec<u8>)) -> u32 {
        assert_eq!(answer.0, STATUS);
        Reader::new(&answer.1).u32().expect("a code")
    }

    #[test]
    fn odd_packets_are_answered_and_the_session_goes_on() {
        let answers = converse(vec![
            Writer::new(INIT).u32(3).finish(),
            Writer::reply(99, 1).finish(),
            Writer::reply(3, 2).finish(),
            Writer::reply(4, 3).string(b"nope").finish(),
            Writer::reply(17, 4).string(b"/no/such/file").finish(),
            Writer::reply(200, 5).string(b"unheard@of").finish(),
            Writer::reply(16, 6).string(b"/").finish(),
        ]);
        let codes: Vec<u32> = answers[1..6].iter().map(code).collect();
        assert_eq!(codes, [UNSUPPORTED, BAD_MESSAGE, FAILURE, NO_SUCH_FILE, UNSUPPORTED]);
        assert_eq!((answers[0].0, answers[6].0), (VERSION_IS, NAME));
    }

    #[test]
    fn a_packet_that_is_too_long_ends_the_session() {
        let length = (LIMIT_BYTES as u32 + 1).to_be_bytes();
        assert!(super::super::serve(Cursor::new(length), Vec::new()).is_err());
        assert!(super::super::serve(Cursor::new([0, 0, 0, 9, 1]), Vec::new()).is_err());
    }

    #[test]
    fn names_are_bytes_and_a_rename_replaces_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &[u8]| [folder.path().as_os_str().as_bytes(), b"/", name].concat();
        std::fs::write(folder.path().join("b"), "b").expect("written");
        let odd = path(b"\xff odd");
        let open = Writer::reply(3, 1).string(&odd).u32(WRITE | CREATE).u32(0).finish();
        let write = Writer::reply(6, 2).string(&0_u32.to_be_bytes()).u64(0).string(b"text").finish();
        let rename = |to: &[u8]| Writer::reply(18, 3).string(&odd).string(&path(to)).finish();
        let answers = converse(vec![open, write, rename(b"b"), rename(b"c")]);
        assert_eq!(answers[0].0, HANDLE);
        assert_eq!(answers[1..].iter().map(code).collect::<Vec<_>>(), [OK, FAILURE, OK]);
        assert_eq!(std::fs::read(folder.path().join("c")).expect("it is there"), b"text");
    }

    #[test]
    fn a_tilde_is_a_home() {
        assert_eq!(expand(Path::new("a/~b")), Path::new("a/~b"));
        assert_eq!(expand(Path::new("~no-such-user/x")), Path::new("~no-such-user/x"));
        // Only root's agent serves another user's files.
        let home = if rustix::process::geteuid().is_root() { "/root/x" } else { "~root/x" };
        assert_eq!(expand(Path::new("~root/x")), Path::new(home));
    }
}
