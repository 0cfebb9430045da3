//! `machine.json`: what a later daemon must know to find a VMM again, to adopt it or to refuse it.
//!
//! Written by rename before the VMM is told to boot, so a guest never runs without a record. It belongs to one boot of
//! the host: with another `boot_id` every pid in it is meaningless. Golden: `testdata/machine-v1.json`.

use super::process::{Identity, Process};
use engine::host::clock::Timestamp;
use engine::host::network::Attachment;
use engine::host::vmm::Machine;
use model::{Backend, ByteSize, ImageName, InitMode, KernelName, SandboxId, Vcpus};
use serde::{Deserialize, Serialize};
use std::io::{Read, Write};
use std::path::Path;
use std::{fs, io};

pub const VERSION: u32 = 1;
/// 64 KiB: a hundred times what a record takes; more was not written here.
const MAX_BYTES: u64 = 64 * 1024;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub version: u32,
    pub id: SandboxId,
    /// The host's boot in which the pids below mean something.
    pub boot_id: String,
    pub started_at_ns: Timestamp,
    pub vmm: Identity,
    /// The process that carries QEMU's vsock.
    #[serde(default)]
    pub vsock_device: Option<Identity>,
    pub machine: Shape,
}

/// The machine as it was started: the same shape asked for again is already so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    pub backend: Backend,
    pub image: ImageName,
    pub kernel: KernelName,
    pub vcpus: Vcpus,
    pub memory: ByteSize,
    pub init: InitMode,
    pub attachment: Attachment,
}

#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("cannot read the record of a VMM")]
    Read(#[source] io::Error),
    #[error("the record of a VMM is damaged")]
    Damaged(#[source] serde_json::Error),
    #[error("the record of a VMM is over {MAX_BYTES} bytes long")]
    TooLong,
    #[error("the record of a VMM has version {found}; this banger knows {VERSION}")]
    Version { found: u32 },
    #[error("the record of a VMM names another sandbox, {found}")]
    Misplaced { found: SandboxId },
}

impl From<&Machine> for Shape {
    fn from(machine: &Machine) -> Shape {
        Shape {
            backend: machine.backend,
            image: machine.image.clone(),
            kernel: machine.kernel.clone(),
            vcpus: machine.vcpus,
            memory: machine.memory,
            init: machine.init,
            attachment: machine.attachment.clone(),
        }
    }
}

impl Record {
    /// `None` when there is none.
    pub fn read(path: &Path, id: &SandboxId) -> Result<Option<Record>, RecordError> {
        let mut bytes = Vec::new();
        match fs::File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(RecordError::Read(error)),
            Ok(_) if bytes.len() as u64 > MAX_BYTES => return Err(RecordError::TooLong),
            Ok(_) => {}
        }
        Record::parse(&bytes, id).map(Some)
    }

    fn parse(bytes: &[u8], id: &SandboxId) -> Result<Record, RecordError> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let Versioned { version } = serde_json::from_slice(bytes).map_err(RecordError::Damaged)?;
        if version != VERSION {
            return Err(RecordError::Version { found: version });
        }
        let record: Record = serde_json::from_slice(bytes).map_err(RecordError::Damaged)?;
        match record.id == *id {
            true => Ok(record),
            false => Err(RecordError::Misplaced { found: record.id }),
        }
    }

    /// Whole or not at all: a reader never sees half a record.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let partial = path.with_extension("json.partial");
        let mut file = fs::File::create(&partial)?;
        serde_json::to_writer_pretty(&mut file, self)?;
        file.write_all(b"\n")?;
        fs::rename(&partial, path)
    }

    /// The two processes, if they still live and this is still their boot of the host.
    pub fn find(&self) -> (Option<Process>, Option<Process>) {
        match host_boot_id().is_ok_and(|boot_id| boot_id == self.boot_id) {
            true => (self.vmm.find(), self.vsock_device.as_ref().and_then(Identity::find)),
            false => (None, None),
        }
    }
}

/// Changes at every start of the host, and only then.
pub fn host_boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::host::network::LinkMode;
    use std::process;

    const GOLDEN: &str = include_str!("testdata/machine-v1.json");

    fn record() -> Record {
        Record {
            version: VERSION,
            id: SandboxId::from_bits(0x0123_4567_89ab_cdef),
            boot_id: "3bbaddc5-a3ce-49f7-aeee-cab55d718757".into(),
            started_at_ns: 1_795_000_000_000_000_000,
            vmm: Identity { pid: 4242, start_ticks: 123_456, program: "/usr/bin/qemu-system-x86_64".into() },
            vsock_device: Some(Identity { pid: 4241, start_ticks: 123_450, program: "/opt/vsock".into() }),
            machine: Shape {
                backend: Backend::Qemu,
                image: "debian-bookworm".parse().unwrap(),
                kernel: "debian-cloud".parse().unwrap(),
                vcpus: Vcpus::ONE,
                memory: ByteSize::from_mib(512),
                init: InitMode::Auto,
                attachment: Attachment {
                    mode: LinkMode::User,
                    mac: Some("02:00:00:00:00:01".into()),
                    addresses: vec!["10.0.2.15/24".into()],
                    ..Attachment::default()
                },
            },
        }
    }

    #[test]
    fn the_format_is_that_of_the_golden_file() {
        let written = serde_json::to_string_pretty(&record()).unwrap() + "\n";
        assert_eq!(written, GOLDEN);
        assert_eq!(Record::parse(GOLDEN.as_bytes(), &record().id).unwrap(), record());
    }

    #[test]
    fn a_record_survives_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("machine.json");
        assert!(Record::read(&path, &record().id).unwrap().is_none());
        record().write(&path).unwrap();
        assert_eq!(Record::read(&path, &record().id).unwrap(), Some(record()));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn hostile_records_are_refused() {
        let id = record().id;
        let check = |from: &str, to: &str, expected: &str| {
            let text = GOLDEN.replacen(from, to, 1);
            assert_ne!(text, GOLDEN, "{from}");
            let error = Record::parse(text.as_bytes(), &id).unwrap_err();
            assert!(error.to_string().contains(expected), "{to}: {error}");
        };
        check("\"version\": 1", "\"version\": 2", "version 2");
        check("\"version\": 1", "\"version\": -1", "damaged");
        check("0123456789abcdef", "0123456789abcdee", "another sandbox");
        check("0123456789abcdef", "../../../etc", "damaged");
        check("4242", "-1", "damaged");
        check("4242", "4294967296", "damaged");
        check("123456", "1e300", "damaged");
        check("debian-cloud", "../../x", "damaged");
        check("}", "", "damaged");

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("machine.json");
        fs::write(&path, " ".repeat(MAX_BYTES as usize + 1)).unwrap();
        assert!(matches!(Record::read(&path, &id), Err(RecordError::TooLong)));
        fs::create_dir(folder.path().join("folder")).unwrap();
        assert!(matches!(Record::read(&folder.path().join("folder"), &id), Err(RecordError::Read(_))));
    }

    #[test]
    fn a_record_of_another_boot_finds_nobody() {
        let own = Identity { pid: process::id(), start_ticks: 0, program: std::env::current_exe().unwrap() };
        let stat = fs::read_to_string("/proc/self/stat").unwrap();
        let start_ticks = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap().parse().unwrap();
        let own = Identity { start_ticks, ..own };
        let here = Record { boot_id: host_boot_id().unwrap(), vmm: own.clone(), ..record() };
        assert!(here.find().0.is_some());
        assert!(Record { boot_id: "another".into(), ..here }.find().0.is_none());
    }
}
