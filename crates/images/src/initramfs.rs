//! The initramfs from which every guest starts: the agent as `/init`, and the modules its kernel needs. A `newc`
//! cpio archive (Documentation/driver-api/early-userspace/buffer-format.rst), uncompressed, since a kernel without
//! gzip must read it too. Times, owners and inode numbers are fixed: the same parts give the same bytes.

use crate::modules::Module;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// One entry; parents come before their children.
#[derive(Debug)]
pub struct Entry<'a> {
    /// Without a leading slash.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    pub body: Body<'a>,
}

#[derive(Debug)]
pub enum Body<'a> {
    Directory,
    Bytes(&'a [u8]),
    File(&'a Path),
    CharDevice { major: u32, minor: u32 },
}

#[derive(Debug, thiserror::Error)]
pub enum InitramfsError {
    #[error("cannot read {path} for the initramfs")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} is larger than {MAX_FILE_BYTES} bytes, too large for an initramfs")]
    TooLarge { path: PathBuf },
    #[error("cannot write the initramfs")]
    Write(#[source] io::Error),
}

/// 256 MiB: an initramfs lives in the guest's memory.
const MAX_FILE_BYTES: u64 = 256 << 20;

const KIND: u32 = 0o170_000;
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const CHAR_DEVICE: u32 = 0o020_000;

/// Writes a sandbox's initramfs: mount points, `/dev/console` (without it `/init` starts with no stdio), `/init`,
/// `/modules/NNN-name.ko` and their names in load order in `/modules/order`, one a line.
pub fn write_sandbox(out: impl Write, agent: &Path, modules: &[Module]) -> Result<(), InitramfsError> {
    let directory = |path: &str| Entry { path: path.into(), mode: 0o755, body: Body::Directory };
    let mut entries: Vec<Entry<'_>> = ["dev", "proc", "sys", "run", "modules"].map(directory).into();
    let console = Body::CharDevice { major: 5, minor: 1 };
    entries.push(Entry { path: "dev/console".into(), mode: 0o600, body: console });
    entries.push(Entry { path: "init".into(), mode: 0o755, body: Body::File(agent) });
    let names: Vec<String> =
        modules.iter().enumerate().map(|(at, module)| format!("{at:03}-{}.ko", module.name)).collect();
    for (name, module) in names.iter().zip(modules) {
        entries.push(Entry { path: format!("modules/{name}"), mode: 0o644, body: Body::Bytes(&module.bytes) });
    }
    let order: String = names.iter().map(|name| format!("{name}\n")).collect();
    entries.push(Entry { path: "modules/order".into(), mode: 0o644, body: Body::Bytes(order.as_bytes()) });
    write(out, &entries)
}

/// Writes any entries as an archive.
pub fn write(mut out: impl Write, entries: &[Entry<'_>]) -> Result<(), InitramfsError> {
    for (index, entry) in entries.iter().enumerate() {
        let inode = index as u32 + 1;
        let from_file;
        let (kind, contents, device) = match &entry.body {
            Body::Directory => (DIRECTORY, &[][..], (0, 0)),
            Body::Bytes(bytes) => (REGULAR, *bytes, (0, 0)),
            Body::CharDevice { major, minor } => (CHAR_DEVICE, &[][..], (*major, *minor)),
            Body::File(path) => {
                from_file = read(path)?;
                (REGULAR, &from_file[..], (0, 0))
            }
        };
        write_entry(&mut out, inode, &entry.path, kind | entry.mode, contents, device)
            .map_err(InitramfsError::Write)?;
    }
    write_entry(&mut out, 0, "TRAILER!!!", 0, &[], (0, 0)).map_err(InitramfsError::Write)
}

fn read(path: &Path) -> Result<Vec<u8>, InitramfsError> {
    let failed = |source| InitramfsError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)).map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(InitramfsError::TooLarge { path: path.to_owned() });
    }
    Ok(bytes)
}

/// Magic and 13 fields of 8 hexadecimal digits, the name with its NUL and the contents, both padded to 4.
fn write_entry(
    out: &mut impl Write,
    inode: u32,
    path: &str,
    mode: u32,
    contents: &[u8],
    device: (u32, u32),
) -> io::Result<()> {
    let links = 1 + u32::from(mode & KIND == DIRECTORY);
    let (size, name_bytes) = (contents.len() as u32, path.len() as u32 + 1);
    write!(out, "070701")?;
    for field in [inode, mode, 0, 0, links, 0, size, 0, 0, device.0, device.1, name_bytes, 0] {
        write!(out, "{field:08x}")?;
    }
    write!(out, "{path}\0")?;
    pad(out, 110 + path.len() + 1)?;
    out.write_all(contents)?;
    pad(out, contents.len())
}

fn pad(out: &mut impl Write, written: usize) -> io::Result<()> {
    out.write_all(&[0; 3][..written.next_multiple_of(4) - written])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    fn sandbox() -> Vec<u8> {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let agent = folder.path().join("agent");
        std::fs::write(&agent, "the agent").unwrap();
        let module = |name: &str| Module { name: name.into(), bytes: name.as_bytes().into() };
        let mut archive = Vec::new();
        write_sandbox(&mut archive, &agent, &[module("failover"), module("virtio_net")]).expect("all is there");
        archive
    }

    #[test]
    fn the_same_parts_give_the_same_bytes() {
        assert_eq!(sandbox(), sandbox());
        assert_eq!(crate::digest::of_bytes(&sandbox()).hex().len(), 64);
    }

    #[test]
    #[allow(clippy::print_stderr)]
    fn cpio_reads_it_in_load_order() {
        let child = Command::new("cpio").arg("-tv").arg("--quiet").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let Ok(mut child) = child else {
            eprintln!("skip: `cpio` is not installed");
            return;
        };
        child.stdin.take().expect("it is piped").write_all(&sandbox()).unwrap();
        let listing = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
        let names: Vec<_> = listing.lines().map(|line| line.rsplit(' ').next().unwrap_or_default()).collect();
        let expected = ["dev", "proc", "sys", "run", "modules", "dev/console", "init", "modules/000-failover.ko"];
        assert_eq!(names[..8], expected, "{listing}");
        assert_eq!(names[8..], ["modules/001-virtio_net.ko", "modules/order"], "{listing}");
        assert!(listing.lines().nth(5).unwrap().starts_with("crw-------"), "{listing}");
    }
}
