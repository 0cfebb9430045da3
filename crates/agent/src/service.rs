//! The image's own command as a service of this guest: `POST /service` brings it, and it runs until it has ended for good.
//!
//! ```text
//!  host ─ POST /service ─► server ─ wanted.json ─► supervisor (a process of its own) ─► the command
//!       ◄─ GET /service ──   │  ◄── state.json ──────┘   └─► service.log ─► GET /service/log
//!                            └─ spawn, or `systemctl start` where systemd is PID 1
//! ```
//! Here: the routes, and what `exec` takes from the image. [`supervise`] keeps the command running, [`place`] is the folder
//! through which it and the server know each other, [`log`] what the command says.
//!
//! Invariants: one supervisor at most, which holds a lock for as long as it lives, so a server that was restarted neither
//! loses the command nor starts it twice. A command that ended for good stays ended until the next boot or another one
//! is wanted. Whatever is wrong with the command is told in its facts: a machine starts without it.

pub mod log;
pub mod place;
pub mod supervise;

use crate::http::{self, Answer, Request, io_fault};
use crate::machine::{self, InitKind};
use crate::serve::Server;
use hyper::StatusCode;
use place::{Place, State};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use wire::guest::{ExecRequest, Service, ServiceFacts, ServicePhase};
use wire::{Fault, FaultKind};

/// The unit that supervises the command where systemd is PID 1; it is installed at boot, see `init::systemd`.
pub const UNIT: &str = "banger-service.service";
/// 10 s for a command that is replaced by another one.
const REPLACE_WITHIN: Duration = Duration::from_secs(10);
/// Between two requests to a systemd that does not listen yet, and how long they go on.
const ASK_EVERY: Duration = Duration::from_millis(200);
const ASK_WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// `POST /service`.
pub async fn ensure(server: &Arc<Server>, request: Request) -> Answer {
    if server.service.folder() == Path::new(place::FOLDER) {
        server.check_owner()?;
    }
    let service: Service = http::read_json(request).await?;
    let server = Arc::clone(server);
    let work = tokio::task::spawn_blocking(move || bring(&server, &service));
    work.await.map_err(std::io::Error::other).map_err(io_fault("take the service"))??;
    http::status(StatusCode::NO_CONTENT)
}

fn bring(server: &Server, service: &Service) -> Result<(), Fault> {
    let place = &server.service;
    let same = place.wanted().as_ref() == Some(service);
    if !same {
        stop(place, REPLACE_WITHIN);
        place.forget_state();
        place.want(service).map_err(io_fault("keep the service"))?;
    }
    if !service.starts || place.supervisor().is_some() || place.state().is_some_and(|state| state.has_ended()) {
        return Ok(());
    }
    match server.init {
        InitKind::Agent => spawn(place).map_err(io_fault("start the service's supervisor")),
        InitKind::Systemd => {
            std::thread::spawn(start_unit);
            Ok(())
        }
    }
}

/// In a session of its own: it outlives a server that is restarted. PID 1 reaps it.
fn spawn(place: &Place) -> std::io::Result<()> {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("banger-vsock-agent").arg("supervise").arg(place.folder()).stdin(Stdio::null()).current_dir("/");
    let mut child = command.spawn()?;
    // Where the server is not PID 1's child (a test), nobody else would.
    std::thread::spawn(move || child.wait());
    Ok(())
}

/// Early in the boot systemd does not listen yet.
fn start_unit() {
    let end = Instant::now() + ASK_WITHIN;
    let asked = || {
        let mut ask = Command::new("systemctl");
        ask.args(["--no-block", "start", UNIT]).env("PATH", machine::PATH);
        ask.stdin(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    while !asked() {
        if Instant::now() >= end {
            crate::console::say(&format!("cannot start {UNIT}: systemd does not answer"));
            return;
        }
        std::thread::sleep(ASK_EVERY);
    }
}

/// Asks the supervisor to end the command with its stop signal, and waits. Also the first deed of a machine's end.
pub fn stop(place: &Place, within: Duration) {
    let end = Instant::now() + within;
    let mut asked = None;
    while let Some(pid) = place.supervisor()
        && Instant::now() < end
    {
        if asked != Some(pid) {
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
            asked = Some(pid);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// `GET /service`.
pub fn facts(server: &Server) -> Answer {
    http::json(&facts_of(&server.service)?)
}

fn facts_of(place: &Place) -> Result<ServiceFacts, Fault> {
    let service = place.wanted().ok_or_else(none)?;
    let waiting =
        ServiceFacts { argv: argv(&service), phase: ServicePhase::Waiting, pid: None, ended: None, restarts: 0 };
    let Some(State { facts, .. }) = place.state() else { return Ok(waiting) };
    // A supervisor that was killed left its last word behind.
    let orphaned = facts.phase != ServicePhase::Ended && place.supervisor().is_none();
    Ok(if orphaned { ServiceFacts { phase: ServicePhase::Ended, pid: None, ..facts } } else { facts })
}

fn none() -> Fault {
    Fault::new(FaultKind::NotFound, "the guest has no service: its image brings no command of its own")
}

/// The whole command.
pub fn argv(service: &Service) -> Vec<String> {
    [service.entrypoint.as_slice(), &service.command].concat()
}

/// `GET /service/log`.
pub fn read_log(server: &Arc<Server>, request: &Request) -> Answer {
    let number = |name| http::optional(request, name).map(|text| text.parse::<u64>());
    let tail = number("tail").transpose().map_err(|_| Fault::new(FaultKind::Invalid, "tail is no number of lines"))?;
    let follow = http::optional(request, "follow").is_some_and(|word| word == "true");
    if server.service.wanted().is_none() {
        return Err(none());
    }
    Ok(log::stream(Arc::clone(server), tail, follow))
}

/// True while a log may still grow: the command runs, or has not been started yet.
pub fn may_go_on(place: &Place) -> bool {
    match facts_of(place) {
        Ok(facts) if facts.phase == ServicePhase::Waiting => place.wanted().is_some_and(|service| service.starts),
        Ok(facts) => facts.phase != ServicePhase::Ended,
        Err(_) => false,
    }
}

/// What a command through `exec` takes from the image: its environment, and with `as_image` all that the image's own
/// command has.
pub fn dress(place: &Place, mut request: ExecRequest) -> ExecRequest {
    let Some(service) = place.wanted() else { return request };
    let mut env = service.env;
    env.append(&mut request.env);
    request.env = env;
    if request.as_image {
        let command = if request.argv.is_empty() { service.command } else { std::mem::take(&mut request.argv) };
        request.argv = [service.entrypoint, command].concat();
        request.user = request.user.or(service.user);
        request.cwd = request.cwd.or(service.cwd);
        ensure_folder(request.cwd.as_deref());
    }
    request
}

/// Docker makes the working folder of an image that does not bring it.
fn ensure_folder(path: Option<&str>) {
    if let Some(path) = path.map(Path::new)
        && path.is_absolute()
    {
        let _ = std::fs::create_dir_all(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn place(service: &Service) -> (tempfile::TempDir, Place) {
        let folder = tempfile::tempdir().expect("temp dir");
        let place = Place::at(folder.path());
        place.want(service).expect("it is kept");
        (folder, place)
    }

    #[test]
    fn a_command_gets_the_images_environment_and_as_the_image_all_of_it() {
        let service = Service {
            entrypoint: words("/entry -x"),
            command: words("serve"),
            env: [("A".to_owned(), "1".to_owned()), ("B".to_owned(), "1".to_owned())].into(),
            user: Some("web".to_owned()),
            stop_signal: 15,
            ..Service::default()
        };
        let (_folder, place) = place(&service);
        let own =
            ExecRequest { argv: words("id"), env: [("B".to_owned(), "2".to_owned())].into(), ..ExecRequest::default() };
        let plain = dress(&place, own.clone());
        assert_eq!((plain.argv.join(" ").as_str(), plain.user.as_deref()), ("id", None));
        assert_eq!(plain.env, [("A".to_owned(), "1".to_owned()), ("B".to_owned(), "2".to_owned())].into());
        let replaced = dress(&place, ExecRequest { as_image: true, ..own });
        assert_eq!((replaced.argv.join(" ").as_str(), replaced.user.as_deref()), ("/entry -x id", Some("web")));
        let whole = dress(&place, ExecRequest { as_image: true, ..ExecRequest::default() });
        assert_eq!(whole.argv.join(" "), "/entry -x serve");
    }

    #[test]
    fn a_service_that_was_never_started_waits_and_its_log_may_come() {
        let (_folder, place) = place(&Service { command: words("x"), starts: true, ..Service::default() });
        assert_eq!(facts_of(&place).expect("facts").phase, ServicePhase::Waiting);
        assert!(may_go_on(&place));
        place.want(&Service::default()).expect("kept");
        assert!(!may_go_on(&place));
        let empty = Place::at(Path::new("/nonexistent"));
        assert_eq!(facts_of(&empty).expect_err("none").kind, FaultKind::NotFound);
    }
}
