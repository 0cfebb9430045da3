//! QEMU's `microvm`: virtio-mmio devices and a serial line, nothing else, as close to Firecracker as QEMU comes.
//!
//! ```text
//!  bangerd ──listens──► qmp.sock ──descriptor──► QEMU -S        so connecting never races with QEMU's start
//!  bangerd ──connects──► vhost.sock (vsock device) ──descriptor──► QEMU
//!                              └── vsock.sock: Firecracker's protocol, without /dev/vhost-vsock
//! ```
//! QEMU starts with its processors stopped; only a machine that was written down is told to run.

use super::Start;
use super::boot::{Boot, Drive};
use super::console::open_log;
use super::process::{Launch, Process};
use super::qmp::{Client, QmpError};
use engine::host::network::LinkMode;
use engine::host::vmm::{Machine, VmmState};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use serde_json::json;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

/// QEMU answers within 0.1 s; a host under heavy load needs its time.
const START_PATIENCE: Duration = Duration::from_secs(20);
const QUESTION_PATIENCE: Duration = Duration::from_secs(2);
const DEVICE_PATIENCE: Duration = Duration::from_secs(10);
const LISTEN_GAP: Duration = Duration::from_micros(200);
/// Each device process serves one guest, so all guests can have the first free context id (vsock(7)).
const GUEST_CID: u32 = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// The guest's code runs on the processor.
    Kvm,
    /// QEMU translates the guest's code.
    Tcg,
}

/// Which descriptors QEMU finds under which numbers.
#[derive(Debug, Clone, Copy)]
struct Descriptors {
    control: RawFd,
    vsock: RawFd,
    /// The guest's wire to its gateway.
    network: Option<RawFd>,
}

#[derive(Debug, thiserror::Error)]
pub enum QemuError {
    #[error("cannot run {program}")]
    Spawn { program: String, source: io::Error },
    #[error("the vsock device did not open its socket within {} s", DEVICE_PATIENCE.as_secs())]
    DeviceSilent,
    #[error("the vsock device ended at once")]
    DeviceEnded,
    #[error("cannot make QEMU's control socket")]
    Control(#[source] io::Error),
    #[error("QEMU does not come up")]
    Greeting(#[source] QmpError),
}

/// A QEMU that waits to be told to run.
#[derive(Debug)]
pub struct Waiting {
    control: Client,
}

impl Waiting {
    pub fn boot(mut self) -> Result<(), QmpError> {
        self.control.execute("cont", json!({})).map(|_| ())
    }
}

pub fn start_vsock_device(start: &Start<'_>, program: &Path) -> Result<(Process, UnixStream), QemuError> {
    let spawned = |source| QemuError::Spawn { program: program.display().to_string(), source };
    let socket = start.layout.vsock_device(&start.machine.id);
    let mut arguments: Vec<OsString> = vec!["--guest-cid".into(), GUEST_CID.to_string().into()];
    arguments.extend(["--socket".into(), socket.clone().into()]);
    arguments.extend(["--uds-path".into(), start.layout.vsock(&start.machine.id).into()]);
    let log = || open_log(&start.layout.vmm_log(&start.machine.id));
    let folder = start.layout.run(&start.machine.id);
    // Before the start, so that nothing is missed.
    let appeared = watch_folder(&folder).map_err(spawned)?;
    let device = Process::start(Launch {
        program,
        arguments: &arguments,
        folder: &folder,
        stdout: log().map_err(spawned)?,
        stderr: log().map_err(spawned)?,
        inherited: &[],
    })
    .map_err(spawned)?;
    match connect_device(&device, &socket, &appeared) {
        Ok(stream) => Ok((device, stream)),
        Err(error) => {
            device.kill(DEVICE_PATIENCE);
            Err(error)
        }
    }
}

/// The device says nothing when it is ready: its socket appears in the run folder (inotify(7)), and a moment later it listens.
fn connect_device(device: &Process, socket: &Path, appeared: &OwnedFd) -> Result<UnixStream, QemuError> {
    let deadline = Instant::now() + DEVICE_PATIENCE;
    loop {
        match UnixStream::connect(socket) {
            Ok(stream) => return Ok(stream),
            // Between bind(2) and listen(2) there is no event to wait for, only some microseconds.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::thread::sleep(LISTEN_GAP),
            Err(_) => await_either(device, appeared, deadline),
        }
        if device.has_ended() {
            return Err(QemuError::DeviceEnded);
        }
        if Instant::now() > deadline {
            return Err(QemuError::DeviceSilent);
        }
    }
}

/// Returns when something new lies in the folder, the device has ended, or the time is over.
fn await_either(device: &Process, appeared: &OwnedFd, deadline: Instant) {
    let left = deadline.saturating_duration_since(Instant::now());
    let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
    let mut fds = [PollFd::new(device, PollFlags::IN), PollFd::new(appeared, PollFlags::IN)];
    if poll(&mut fds, Some(&left)).is_ok_and(|ready| ready > 0) {
        let mut events = [0; 4096];
        while rustix::io::read(appeared, &mut events).is_ok_and(|count| count > 0) {}
    }
}

fn watch_folder(folder: &Path) -> io::Result<OwnedFd> {
    let watch = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)?;
    inotify::add_watch(&watch, folder, inotify::WatchFlags::CREATE)?;
    Ok(watch)
}

pub fn start(
    start: &Start<'_>,
    program: &Path,
    accelerator: Accelerator,
    vsock: &UnixStream,
    network: Option<&UnixStream>,
) -> Result<(Process, UnixListener), QemuError> {
    let spawned = |source| QemuError::Spawn { program: program.display().to_string(), source };
    let id = &start.machine.id;
    let control = UnixListener::bind(start.layout.qmp_socket(id)).map_err(QemuError::Control)?;
    let network_fd = network.map(AsRawFd::as_raw_fd);
    let descriptors = Descriptors { control: control.as_raw_fd(), vsock: vsock.as_raw_fd(), network: network_fd };
    let mut inherited = vec![start.lock.as_fd(), control.as_fd(), vsock.as_fd()];
    inherited.extend(network.map(AsFd::as_fd));
    let arguments = arguments(start.machine, start.boot, &start.layout.console_log(id), accelerator, descriptors);
    let log = || open_log(&start.layout.vmm_log(id));
    let process = Process::start(Launch {
        program,
        arguments: &arguments,
        folder: &start.layout.run(id),
        stdout: log().map_err(spawned)?,
        stderr: log().map_err(spawned)?,
        inherited: &inherited,
    })
    .map_err(spawned)?;
    Ok((process, control))
}

/// Waits until QEMU has set up the machine. Our end of the listening socket is closed first, so that the end of QEMU is
/// the end of the conversation.
pub fn await_control(socket: &Path, listener: UnixListener) -> Result<Waiting, QemuError> {
    let stream = UnixStream::connect(socket).map_err(QemuError::Control)?;
    drop(listener);
    let control = Client::greet(stream, START_PATIENCE).map_err(QemuError::Greeting)?;
    Ok(Waiting { control })
}

pub fn pause(socket: &Path) -> Result<(), QmpError> {
    Client::connect(socket, QUESTION_PATIENCE)?.execute("stop", json!({})).map(|_| ())
}

pub fn resume(socket: &Path) -> Result<(), QmpError> {
    Client::connect(socket, QUESTION_PATIENCE)?.execute("cont", json!({})).map(|_| ())
}

/// Has QEMU tell the guest how large the drive's file is now.
pub fn look_at_drive(socket: &Path, drive: &Drive) -> Result<(), QmpError> {
    let size = std::fs::metadata(&drive.path).map_or(0, |found| found.len());
    let resize = json!({"node-name": drive.name, "size": size});
    Client::connect(socket, QUESTION_PATIENCE)?.execute("block_resize", resize).map(|_| ())
}

pub fn state(socket: &Path) -> Result<VmmState, QmpError> {
    let status = Client::connect(socket, QUESTION_PATIENCE)?.execute("query-status", json!({}))?;
    Ok(match status.get("status").and_then(|status| status.as_str()) {
        Some("paused" | "prelaunch" | "suspended") => VmmState::Paused,
        _ => VmmState::Running,
    })
}

fn arguments(
    machine: &Machine,
    boot: &Boot,
    console: &Path,
    accelerator: Accelerator,
    descriptors: Descriptors,
) -> Vec<OsString> {
    let mut arguments = Arguments::default();
    arguments.flags(&["-nodefaults", "-no-user-config", "-no-reboot", "-S"]);
    arguments.pair("-display", "none");
    arguments.pair("-name", format!("banger-{}", machine.id));
    // No new privileges, no programs of its own, no obsolete system calls: what a guest that breaks out of QEMU's
    // devices meets first.
    arguments.pair("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
    // ACPI stays on: Debian's kernel learns of virtio-mmio devices from it alone. The clock gives the guest its date.
    arguments.pair("-machine", "microvm,acpi=on,rtc=on,x-option-roms=off,memory-backend=mem0");
    let (accel, cpu) = match accelerator {
        Accelerator::Kvm => ("kvm", "host"),
        Accelerator::Tcg => ("tcg,thread=multi", "max"),
    };
    arguments.pair("-accel", accel);
    arguments.pair("-cpu", cpu);
    arguments.pair("-smp", machine.vcpus.to_string());
    // Shared memory is what lets the vsock device read and write the guest's buffers.
    let memory = machine.memory.mib();
    arguments.pair("-m", format!("{memory}M"));
    arguments.pair("-object", format!("memory-backend-memfd,id=mem0,size={memory}M,share=on"));
    arguments.kernel(boot);
    boot.drives.iter().for_each(|drive| arguments.drive(drive));
    arguments.network(machine, descriptors.network);
    arguments.pair("-chardev", format!("socket,id=vsock,fd={}", descriptors.vsock));
    arguments.pair("-device", "vhost-user-vsock-device,chardev=vsock");
    arguments.pair("-device", "virtio-rng-device");
    arguments.pair("-device", "virtio-balloon-device");
    arguments.pair("-chardev", format!("file,id=console,append=on,path={}", comma_safe(console)));
    arguments.pair("-serial", "chardev:console");
    arguments.pair("-chardev", format!("socket,id=control,fd={},server=on,wait=off", descriptors.control));
    arguments.pair("-mon", "chardev=control,mode=control");
    arguments.0
}

#[derive(Default)]
struct Arguments(Vec<OsString>);

impl Arguments {
    fn flags(&mut self, flags: &[&str]) {
        self.0.extend(flags.iter().map(OsString::from));
    }

    fn pair(&mut self, option: &str, value: impl Into<OsString>) {
        self.0.extend([option.into(), value.into()]);
    }

    fn kernel(&mut self, boot: &Boot) {
        self.pair("-kernel", &boot.kernel);
        if let Some(initramfs) = &boot.initramfs {
            self.pair("-initrd", initramfs);
        }
        self.pair("-append", &boot.command_line);
    }

    /// The shared image is not locked: every sandbox has it open, and nobody can write to it.
    fn drive(&mut self, drive: &Drive) {
        let locking = if drive.read_only { "off" } else { "auto" };
        let node = json!({
            "driver": "raw", "node-name": drive.name, "read-only": drive.read_only, "discard": "unmap",
            "file": {"driver": "file", "filename": drive.path, "locking": locking, "aio": "threads", "discard": "unmap"},
        });
        self.pair("-blockdev", node.to_string());
        self.pair("-device", format!("virtio-blk-device,drive={0},serial={0}", drive.name));
    }

    /// In user mode the wire leads to the gateway and nowhere else: QEMU's own network would reach the host's loopback.
    fn network(&mut self, machine: &Machine, wire: Option<RawFd>) {
        match &machine.attachment.mode {
            LinkMode::None => return,
            LinkMode::User => match wire {
                Some(wire) => self.pair("-netdev", format!("socket,id=net0,fd={wire}")),
                None => return,
            },
            LinkMode::Tap { device } => {
                self.pair("-netdev", format!("tap,id=net0,ifname={device},script=no,downscript=no,vhost=off"))
            }
        }
        let mac = machine.attachment.mac.as_ref().map(|mac| format!(",mac={mac}")).unwrap_or_default();
        self.pair("-device", format!("virtio-net-device,netdev=net0{mac}"));
    }
}

/// In QEMU's option syntax a comma separates; two of them are one.
fn comma_safe(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::host::network::Attachment;
    use model::{Backend, ByteSize, InitMode, SandboxId, Vcpus};

    fn check(accelerator: Accelerator, mode: LinkMode, expected: &str) {
        let machine = Machine {
            id: SandboxId::from_bits(1),
            backend: Backend::Qemu,
            image: "debian".parse().unwrap(),
            kernel: "cloud".parse().unwrap(),
            vcpus: Vcpus::try_from(2).unwrap(),
            memory: ByteSize::from_mib(512),
            init: InitMode::Auto,
            attachment: Attachment { mode, mac: Some("02:00:00:00:00:01".into()), ..Attachment::default() },
        };
        let drive = |name, read_only| Drive { name, path: format!("/s,x/{name}").into(), read_only };
        let boot = Boot {
            kernel: "/k/vmlinux".into(),
            initramfs: Some("/k/initramfs.cpio".into()),
            command_line: "console=ttyS0 quiet".into(),
            drives: vec![drive("image", true), drive("work", false)],
        };
        let descriptors = Descriptors { control: 7, vsock: 8, network: Some(9) };
        let arguments = arguments(&machine, &boot, Path::new("/s,x/console.log"), accelerator, descriptors);
        let text: Vec<String> = arguments.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        let text = text.join("\n").replace("\n-", "\0-").replace('\n', " ").replace('\0', "\n");
        assert_eq!(text + "\n", expected, "{accelerator:?}");
    }

    #[test]
    fn the_arguments_are_those_of_the_golden_files() {
        check(Accelerator::Tcg, LinkMode::User, include_str!("testdata/qemu-tcg-user.txt"));
        let tap = LinkMode::Tap { device: "banger1".into() };
        check(Accelerator::Kvm, tap, include_str!("testdata/qemu-kvm-tap.txt"));
    }
}
