//! `banger internal ssh-proxy`: what ssh runs as its ProxyCommand. Bytes between ssh and the daemon, by blocking copies.
//!
//! Not by `std::io::copy`: it hands the work to splice(2), which holds the lock of ssh's pipe while it waits for the
//! socket, so that ssh cannot read what is in the pipe already.

use super::Context;
use crate::client::{Path, Tunnel};
use crate::failure::{Failure, Outcome};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use wire::FaultKind;
use wire::control::SSH_UPGRADE;
use wire::guest::STREAM_UPGRADE;

/// 64 KiB: as much as a pipe holds.
const CHUNK_BYTES: usize = 64 * 1024;
/// The domain of sandboxes, which a person types and the daemon does not need.
const DOMAIN: &str = ".vm";
/// Where a guest's own server listens (services(5)).
const SSH_PORT: &str = "22";

/// `host` is the name as ssh was given it: `web.vm`.
pub async fn connect(context: &Context, host: &str, direct: bool) -> Outcome<Tunnel> {
    let name = host.trim_end_matches('.');
    let name = name.strip_suffix(DOMAIN).unwrap_or(name);
    if !direct {
        return Ok(context.client.tunnel(Path::vm(name).then("ssh"), SSH_UPGRADE).await?);
    }
    let path = Path::vm(name).then("stream").query("port", SSH_PORT);
    context.client.tunnel(path, STREAM_UPGRADE).await.map_err(|error| {
        let nobody = error.is_not_found();
        let failure = Failure::from(error);
        if nobody { failure.with_hint("without `--direct` it needs no ssh server in the guest") } else { failure }
    })
}

/// Until the daemon has ended; what ssh still says then is of no interest.
pub fn join(tunnel: Tunnel) -> Outcome {
    let failed = |error: io::Error| Failure::new(FaultKind::Internal, format!("the ssh connection broke off: {error}"));
    let Tunnel { mut stream, read } = tunnel;
    let mut to_daemon = stream.try_clone().map_err(failed)?;
    std::thread::spawn(move || {
        let _ = copy(&mut io::stdin().lock(), &mut to_daemon);
        let _ = to_daemon.shutdown(Shutdown::Write);
    });
    // Not `io::stdout()`, which holds back what does not end in a line.
    let mut stdout = std::fs::File::from(io::stdout().as_fd().try_clone_to_owned().map_err(failed)?);
    match stdout.write_all(&read).and_then(|()| copy(&mut stream, &mut stdout)) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure::Unread),
        Err(error) => Err(failed(error)),
    }
}

fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match from.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(count) => to.write_all(&chunk[..count])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
