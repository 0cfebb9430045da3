//! `banger-gateway`, the companion of a VMM in user mode: it has one end of the guest's wire, the VMM the other. QEMU's is a
//! socket, Firecracker's a tap in a namespace that the gateway has made. It ends by itself when the VMM does: the wire's
//! other end is closed then, or a pipe that only the VMM holds.

use super::Start;
use super::console::open_log;
use super::process::{Launch, Process};
use std::ffi::OsString;
use std::fs::File;
use std::io::PipeWriter;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use std::{env, io};
use wire::gateway::NAMESPACE_FD;

/// It answers after a few milliseconds; a host under heavy load needs its time.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    #[error("`banger-gateway` is installed neither beside bangerd nor in /usr/libexec/banger")]
    Missing,
    #[error("cannot run {program}")]
    Spawn { program: String, source: io::Error },
    #[error("cannot make the guest's wire")]
    Wire(#[source] io::Error),
    #[error("the gateway ended at once")]
    Ended,
    #[error("the gateway did not open its socket within {} s", PATIENCE.as_secs())]
    Silent,
}

/// Where a VMM that wants a tap finds one.
pub struct Place {
    /// To enter, in this order.
    pub namespaces: Vec<File>,
    /// For the VMM alone to hold: its gateway ends when this does.
    pub life: PipeWriter,
}

/// The gateway, serving, and QEMU's end of the wire.
pub(in crate::host::vmm) fn start(start: &Start<'_>) -> Result<(Process, UnixStream), GatewayError> {
    let (ours, theirs) = UnixStream::pair().map_err(GatewayError::Wire)?;
    Ok((launch(start, "--link", ours.as_fd())?, theirs))
}

/// The gateway, serving, and where its tap is.
pub(in crate::host::vmm) fn start_with_tap(start: &Start<'_>) -> Result<(Process, Place), GatewayError> {
    let (until, life) = std::io::pipe().map_err(GatewayError::Wire)?;
    let gateway = launch(start, "--until", until.as_fd())?;
    let of_gateway = PathBuf::from(format!("/proc/{}", gateway.identity.pid));
    let user = (!rustix::process::geteuid().is_root()).then(|| of_gateway.join("ns/user"));
    let paths = user.into_iter().chain([of_gateway.join(format!("fd/{NAMESPACE_FD}"))]);
    match paths.map(File::open).collect() {
        Ok(namespaces) => Ok((gateway, Place { namespaces, life })),
        Err(error) => {
            gateway.kill(PATIENCE);
            Err(GatewayError::Wire(error))
        }
    }
}

fn launch(start: &Start<'_>, flag: &str, wire: BorrowedFd<'_>) -> Result<Process, GatewayError> {
    let program = program().ok_or(GatewayError::Missing)?;
    let spawned = |source| GatewayError::Spawn { program: program.display().to_string(), source };
    let id = &start.machine.id;
    let control = start.layout.gateway_control(id);
    let mut arguments: Vec<OsString> = vec![flag.into(), wire.as_raw_fd().to_string().into()];
    arguments.extend(["--policy".into(), start.layout.gateway_policy(id).into()]);
    arguments.extend(["--control".into(), control.clone().into()]);
    arguments.extend(["--mac".into(), start.machine.attachment.mac.clone().unwrap_or_default().into()]);
    let log = || open_log(&start.layout.vmm_log(id));
    let gateway = Process::start(Launch {
        program: &program,
        arguments: &arguments,
        folder: &start.layout.run(id),
        stdout: log().map_err(spawned)?,
        stderr: log().map_err(spawned)?,
        inherited: &[wire],
    })
    .map_err(spawned)?;
    let deadline = Instant::now() + PATIENCE;
    while UnixStream::connect(&control).is_err() {
        if gateway.await_end(Duration::from_millis(1)) {
            return Err(GatewayError::Ended);
        }
        if Instant::now() > deadline {
            gateway.kill(PATIENCE);
            return Err(GatewayError::Silent);
        }
    }
    Ok(gateway)
}

/// Whether a gateway can make a tap here: user namespaces may be forbidden, `/dev/net/tun` closed. Tried once.
pub fn can_make_taps() -> Result<(), String> {
    static TRIED: OnceLock<Result<(), String>> = OnceLock::new();
    TRIED.get_or_init(try_tap).clone()
}

fn try_tap() -> Result<(), String> {
    let program = program().ok_or_else(|| GatewayError::Missing.to_string())?;
    let tried = Command::new(program).arg("--try-tap").stdin(Stdio::null()).output();
    match tried {
        Ok(tried) if tried.status.success() => Ok(()),
        Ok(tried) => Err(String::from_utf8_lossy(&tried.stderr).trim().trim_start_matches("error: ").to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

pub fn program() -> Option<PathBuf> {
    let own = env::current_exe().unwrap_or_default();
    // Tests and examples of a debug build lie one folder deeper than the programs.
    let folders = own.ancestors().skip(1).take(if cfg!(debug_assertions) { 2 } else { 1 });
    let beside = folders.map(|folder| folder.join("banger-gateway"));
    beside.chain(["/usr/libexec/banger/banger-gateway".into()]).find(|path| path.is_file())
}
