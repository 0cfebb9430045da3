//! Firecracker: one process per machine, configured call by call over its API socket, then told to start.
//!
//! Its standard output is the guest's serial line, so that every version since 1.5 keeps a console log; its own words go
//! to the log of the VMM. Traps that are minded here: a stale vsock socket makes the start fail (the run folder is
//! fresh); run by root it *creates* a tap of an unknown name (so the device is looked up first); it heeds no
//! Ctrl-Alt-Del of a guest without a keyboard driver (nobody sends one: the agent is asked instead).

use super::Start;
use super::boot::{Boot, Drive};
use super::console::open_log;
use super::gateway::Place;
use super::http::{Client, HttpError};
use super::process::{Launch, Process};
use engine::host::network::LinkMode;
use engine::host::vmm::{Machine, VmmState};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};
use wire::gateway::TAP;

/// A fresh Firecracker answers in 3 ms; a host under heavy load needs its time.
const START_PATIENCE: Duration = Duration::from_secs(10);
/// Reading a large initramfs into the guest's memory is the longest call.
const CALL_PATIENCE: Duration = Duration::from_secs(20);
/// Every Firecracker has a vsock of its own, so all guests can have the first free context id (vsock(7)).
const GUEST_CID: u32 = 3;

#[derive(Debug, thiserror::Error)]
pub enum FirecrackerError {
    #[error("cannot run {program}")]
    Spawn { program: String, source: io::Error },
    #[error("it ended before it opened its API socket")]
    Ended,
    #[error("it did not open its API socket within {} s", START_PATIENCE.as_secs())]
    Silent,
    #[error("the tap device `{device}` does not exist")]
    NoTap { device: String },
    #[error(transparent)]
    Api(#[from] HttpError),
}

/// A Firecracker that is configured and waits to be told to start.
#[derive(Debug)]
pub struct Configured {
    api: Client,
}

impl Configured {
    pub fn boot(mut self) -> Result<(), HttpError> {
        self.api.call("PUT", "/actions", Some(&json!({"action_type": "InstanceStart"}))).map(|_| ())
    }
}

/// In user mode it runs where its gateway has made a tap for it.
pub fn start(start: &Start<'_>, program: &Path, place: Option<&Place>) -> Result<Process, FirecrackerError> {
    let spawned = |source| FirecrackerError::Spawn { program: program.display().to_string(), source };
    let (layout, id) = (start.layout, &start.machine.id);
    let mut arguments: Vec<OsString> = vec!["--id".into(), id.as_str().into()];
    arguments.extend(["--api-sock".into(), layout.api_socket(id).into()]);
    arguments.extend(["--log-path".into(), layout.vmm_log(id).into(), "--level".into(), "Warn".into()]);
    let mut inherited = vec![start.lock.as_fd()];
    inherited.extend(place.map(|place| place.life.as_fd()));
    let launch = Launch {
        program,
        arguments: &arguments,
        folder: &layout.run(id),
        stdout: open_log(&layout.console_log(id)).map_err(spawned)?,
        stderr: open_log(&layout.vmm_log(id)).map_err(spawned)?,
        inherited: &inherited,
    };
    Process::start_in(launch, place.map_or(&[], |place| &place.namespaces)).map_err(spawned)
}

/// Waits for the API of `process` and tells it everything but to start.
pub fn configure(start: &Start<'_>, process: &Process) -> Result<Configured, FirecrackerError> {
    let id = &start.machine.id;
    let mut api = connect(process, &start.layout.api_socket(id))?;
    for Call { path, body } in calls(start.machine, start.boot, &start.layout.vsock(id), &start.layout.metrics(id))? {
        api.call("PUT", &path, Some(&body))?;
    }
    Ok(Configured { api })
}

pub fn pause(socket: &Path) -> Result<(), HttpError> {
    patch_state(socket, "Paused")
}

pub fn resume(socket: &Path) -> Result<(), HttpError> {
    patch_state(socket, "Resumed")
}

fn patch_state(socket: &Path, state: &str) -> Result<(), HttpError> {
    Client::connect(socket, CALL_PATIENCE)?.call("PATCH", "/vm", Some(&json!({"state": state}))).map(|_| ())
}

/// Has Firecracker open the drive's file again, and tell the guest how large it is now.
pub fn look_at_drive(socket: &Path, drive: &Drive) -> Result<(), HttpError> {
    let patch = json!({"drive_id": drive.name, "path_on_host": drive.path});
    let path = format!("/drives/{}", drive.name);
    Client::connect(socket, CALL_PATIENCE)?.call("PATCH", &path, Some(&patch)).map(|_| ())
}

pub fn state(socket: &Path) -> Result<VmmState, HttpError> {
    let facts = Client::connect(socket, Duration::from_secs(2))?.call("GET", "/", None)?;
    Ok(match facts.get("state").and_then(Value::as_str) {
        Some("Paused" | "Not started") => VmmState::Paused,
        _ => VmmState::Running,
    })
}

/// Firecracker says nothing when it is ready; its socket takes a connection after a few milliseconds.
fn connect(process: &Process, socket: &Path) -> Result<Client, FirecrackerError> {
    let deadline = Instant::now() + START_PATIENCE;
    loop {
        if let Ok(client) = Client::connect(socket, CALL_PATIENCE) {
            return Ok(client);
        }
        if process.await_end(Duration::from_millis(1)) {
            return Err(FirecrackerError::Ended);
        }
        if Instant::now() > deadline {
            return Err(FirecrackerError::Silent);
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
struct Call {
    path: String,
    body: Value,
}

/// All PUTs that describe the machine, in an order that every version takes.
fn calls(machine: &Machine, boot: &Boot, vsock: &Path, metrics: &Path) -> Result<Vec<Call>, FirecrackerError> {
    let call = |path: &str, body: Value| Call { path: path.to_owned(), body };
    let mut source = json!({"kernel_image_path": boot.kernel, "boot_args": boot.command_line});
    if let Some(initramfs) = &boot.initramfs {
        source["initrd_path"] = json!(initramfs);
    }
    let mut calls = vec![
        call("/metrics", json!({"metrics_path": metrics})),
        call("/machine-config", json!({"vcpu_count": machine.vcpus, "mem_size_mib": machine.memory.mib()})),
        call("/boot-source", source),
    ];
    // No drive is the root device: Firecracker would add `root=/dev/vda`, and the agent assembles the root itself.
    calls.extend(boot.drives.iter().map(|drive| Call {
        path: format!("/drives/{}", drive.name),
        body: json!({
            "drive_id": drive.name, "path_on_host": drive.path, "is_root_device": false,
            "is_read_only": drive.read_only, "cache_type": "Writeback",
        }),
    }));
    calls.push(call("/vsock", json!({"guest_cid": GUEST_CID, "uds_path": vsock})));
    calls.push(call("/entropy", json!({})));
    calls.push(call("/balloon", json!({"amount_mib": 0, "deflate_on_oom": true, "stats_polling_interval_s": 0})));
    let device = match &machine.attachment.mode {
        LinkMode::None => None,
        // The one device of the namespace that it runs in.
        LinkMode::User => Some(TAP),
        LinkMode::Tap { device } => Some(existing_tap(device)?),
    };
    if let Some(device) = device {
        let mut link = json!({"iface_id": "eth0", "host_dev_name": device});
        if let Some(mac) = &machine.attachment.mac {
            link["guest_mac"] = json!(mac);
        }
        calls.push(call("/network-interfaces/eth0", link));
    }
    Ok(calls)
}

fn existing_tap(device: &str) -> Result<&str, FirecrackerError> {
    let is_name = !device.is_empty() && device.len() < 16 && !device.contains(['/', '.']);
    // Asked of the kernel, not of /sys, which shows the links of whoever mounted it.
    let known = is_name && std::ffi::CString::new(device).is_ok_and(|name| index(&name) != 0);
    if known { Ok(device) } else { Err(FirecrackerError::NoTap { device: device.to_owned() }) }
}

#[allow(unsafe_code)]
fn index(device: &std::ffi::CStr) -> u32 {
    // SAFETY: if_nametoindex(3) reads a terminated name, which a `CStr` is, and keeps nothing.
    unsafe { libc::if_nametoindex(device.as_ptr()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::host::network::Attachment;
    use model::{Backend, ByteSize, InitMode, SandboxId, Vcpus};

    fn calls_for(mode: LinkMode) -> Result<Vec<Call>, FirecrackerError> {
        let machine = Machine {
            id: SandboxId::from_bits(1),
            backend: Backend::Firecracker,
            image: "debian".parse().unwrap(),
            kernel: "cloud".parse().unwrap(),
            vcpus: Vcpus::ONE,
            memory: ByteSize::from_mib(128),
            init: InitMode::Auto,
            attachment: Attachment { mode, mac: Some("02:00:00:00:00:01".into()), ..Attachment::default() },
        };
        let drive = |name, read_only| super::super::boot::Drive { name, path: format!("/s/{name}").into(), read_only };
        let boot = Boot {
            kernel: "/k/vmlinux".into(),
            initramfs: Some("/k/initramfs.cpio".into()),
            command_line: "console=ttyS0 quiet".into(),
            drives: vec![drive("image", true), drive("root", false)],
        };
        calls(&machine, &boot, Path::new("/r/vsock.sock"), Path::new("/r/metrics.json"))
    }

    #[test]
    fn the_calls_are_those_of_the_golden_file() {
        let calls = calls_for(LinkMode::Tap { device: "lo".into() }).unwrap();
        let text: String = calls.iter().map(|Call { path, body }| format!("PUT {path} {body}\n")).collect();
        assert_eq!(text, include_str!("testdata/firecracker-calls.txt"));
    }

    #[test]
    fn a_network_that_firecracker_cannot_have_is_refused() {
        for device in ["banger-no-such", "", "..", "../net/lo", "a-name-of-16-byte"] {
            let refused = calls_for(LinkMode::Tap { device: device.into() });
            assert!(matches!(refused, Err(FirecrackerError::NoTap { .. })), "{device}");
        }
        assert!(!calls_for(LinkMode::None).unwrap().iter().any(|call| call.path.starts_with("/network")));
    }
}
