//! The background: one task for each workspace of a guest that runs, from the agent's word to the next look.

use super::{HomeError, LOOK_WITHIN, chain, find, holds_work, lock, look_again, place};
use crate::app::{App, HostKind};
use crate::guest;
use crate::home::live::percent_encode;
use crate::home::recall::Memory;
use crate::home::state::decode_path;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Incoming;
use model::{SandboxId, State};
use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::broadcast::error::RecvError;
use wire::guest::work::{CHANGED_LIMIT, CHANGED_LIMIT_BYTES, WatchEvent, encode_paths};

/// A look that took t costs 4 t of rest: at most a fifth of a CPU goes into a guest that never does.
const REST_FACTOR: u32 = 4;
/// 20 s of rest may be owed: after a pause, the looks at a burst of work follow each other without one.
const MAX_DEBT: Duration = Duration::from_secs(20);
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// 1 s to 30 s between tries at a watch that broke off.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// 60 s between looks where not every folder can be watched.
const UNWATCHED_LOOK: Duration = Duration::from_secs(60);
/// 1 s between the end of a guest and the look at its disk.
const REST: Duration = Duration::from_secs(1);
/// 1 MiB: the longest line of a watch names folders in as many bytes as one may, each of which JSON writes as six at most.
const MAX_LINE_BYTES: usize = CHANGED_LIMIT_BYTES * 6 + CHANGED_LIMIT * 3 + 4096;
/// 16 lines are read before a look, however many more there are: an agent sends one every 200 ms at most.
const TOLD_AT_ONCE: u32 = 16;
/// 60 s for the agent to begin: it goes through all folders first.
const BEGIN_WITHIN: Duration = Duration::from_secs(60);

type Kept = Arc<Mutex<HashSet<(SandboxId, String)>>>;

/// Runs until the daemon stops.
pub async fn keep(app: Arc<App>) {
    if app.kind != HostKind::Real {
        return;
    }
    let remembered = app.ask(|app| {
        remember(app);
        Ok(())
    });
    let _ = remembered.await;
    let mut events = app.events();
    let mut news = app.homes.news.subscribe();
    let kept = Kept::default();
    loop {
        for record in app.engine.list().iter().filter(|record| record.state == State::Running) {
            for workspace in &record.workspaces {
                begin(&app, (record.id.clone(), workspace.guest_path.clone()), &kept);
            }
        }
        tokio::select! {
            event = events.recv() => match event {
                Ok(change) if change.to.is_none() => app.homes.forget(&change.id),
                // What the guest left on its disk comes home without being asked for.
                Ok(change) if matches!(change.to, Some(State::Failed | State::Stopped)) => look_at_all(&app, change.id),
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            },
            _ = news.changed() => {}
            () = app.stopped() => return,
        }
    }
}

/// What earlier daemons found.
fn remember(app: &App) {
    for record in app.engine.list().iter() {
        for workspace in &record.workspaces {
            let state = place(app, record, workspace).state();
            if state.prepared_at == workspace.prepared_at && state.report.looked_at > 0 {
                let key = (record.id.clone(), workspace.guest_path.clone());
                lock(&app.homes.reports).insert(key, state.report);
            }
        }
    }
}

fn look_at_all(app: &Arc<App>, id: SandboxId) {
    let Ok(record) = app.engine.get(&id) else { return };
    for workspace in record.workspaces.iter().filter(|workspace| holds_work(workspace)) {
        let (app, id, path) = (app.clone(), id.clone(), workspace.guest_path.clone());
        tokio::spawn(async move {
            // One that is started again at once is looked at while it runs.
            tokio::time::sleep(REST).await;
            if app.engine.get(&id).is_ok_and(|now| matches!(now.state, State::Failed | State::Stopped)) {
                look_once(&app, &id, &path, &mut Memory::default()).await;
            }
        });
    }
}

fn begin(app: &Arc<App>, key: (SandboxId, String), kept: &Kept) {
    if !lock(kept).insert(key.clone()) {
        return;
    }
    let (app, kept) = (app.clone(), kept.clone());
    tokio::spawn(async move {
        tokio::select! {
            () = follow(&app, &key.0, &key.1) => {}
            () = app.stopped() => {}
        }
        lock(&kept).remove(&key);
        // It may have been started, or recorded, again just now.
        app.homes.nudge();
    });
}

/// Returns once the guest does not run any more, or the workspace is none to follow.
async fn follow(app: &Arc<App>, id: &SandboxId, guest_path: &str) {
    let mut pause = RETRY.0;
    loop {
        let (asked, path) = (id.clone(), guest_path.to_owned());
        let wanted = app.ask(move |app| Ok(wanted(app, &asked, &path))).await.ok().flatten();
        let Some(pruned) = wanted else {
            // Not at once again and again: whoever begins us looks at the same records.
            return wait_for_end(app, id, guest_path).await;
        };
        let begun = Instant::now();
        match watch_once(app, id, guest_path, &pruned).await {
            Ok(()) => {}
            Err(error) => tracing::debug!(vm = %id, guest_path, error = chain(&error), "a watch broke off"),
        }
        if app.engine.get(id).map_or(true, |record| record.state != State::Running) {
            return;
        }
        pause = if begun.elapsed() > RETRY.1 { RETRY.0 } else { (pause * 2).min(RETRY.1) };
        tokio::time::sleep(pause).await;
    }
}

/// The folders to leave out, where the workspace is one to follow.
fn wanted(app: &App, id: &SandboxId, guest_path: &str) -> Option<Vec<Vec<u8>>> {
    let (record, workspace) = find(app, id, guest_path).ok()?;
    if record.state != State::Running || !holds_work(&workspace) {
        return None;
    }
    let pruned = place(app, &record, &workspace).state().pruned;
    Some(pruned.iter().filter_map(|path| decode_path(path)).collect())
}

/// Until the sandbox stops, or another shipment arrives at the same place.
async fn wait_for_end(app: &Arc<App>, id: &SandboxId, guest_path: &str) {
    let (mut events, mut news) = (app.events(), app.homes.news.subscribe());
    let shipped = find(app, id, guest_path).map(|(_, workspace)| workspace.prepared_at).ok();
    loop {
        let now = find(app, id, guest_path).ok();
        match now {
            Some((record, workspace)) if record.state == State::Running && Some(workspace.prepared_at) == shipped => {}
            _ => return,
        }
        tokio::select! {
            event = events.recv() => match event {
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            },
            _ = news.changed() => {}
        }
    }
}

/// From a watch's first word to its end; a look after each.
async fn watch_once(app: &Arc<App>, id: &SandboxId, guest_path: &str, pruned: &[Vec<u8>]) -> Result<(), HomeError> {
    let mut news = app.homes.news.subscribe();
    let shipped = find(app, id, guest_path).map(|(_, workspace)| workspace.prepared_at)?;
    let mut lines = open(app, id, guest_path, pruned).await?;
    let mut every = None;
    let (mut memory, mut debt) = (Memory::default(), Debt::default());
    loop {
        let unwatched = async {
            match every {
                Some(every) => tokio::time::sleep(every).await,
                None => std::future::pending().await,
            }
        };
        let event = tokio::select! {
            event = lines.next(guest_path) => event?,
            () = unwatched => Some(WatchEvent::Changed { folders: None }),
            // Another tree stands in the place of the one that is watched.
            _ = news.changed() => match find(app, id, guest_path) {
                Ok((_, workspace)) if workspace.prepared_at == shipped => continue,
                _ => return Ok(()),
            },
        };
        let (mut event, mut told) = (event, false);
        // One look sees everything that was told before it; a guest that never stops telling has to wait for it all the same.
        for turn in 1.. {
            match event {
                Some(WatchEvent::Watching { complete, .. }) => every = (!complete).then_some(UNWATCHED_LOOK),
                // Where not every folder is watched, others may have changed, too.
                Some(WatchEvent::Changed { ref folders }) => {
                    memory.note(folders.as_deref().filter(|_| every.is_none()))
                }
                Some(WatchEvent::Unknown) => {}
                None => return Ok(()),
            }
            told |= event != Some(WatchEvent::Unknown);
            if turn == TOLD_AT_ONCE {
                break;
            }
            match tokio::time::timeout(Duration::ZERO, lines.next(guest_path)).await {
                Ok(next) => event = next?,
                Err(_) => break,
            }
        }
        if !told {
            continue;
        }
        let begun = Instant::now();
        if !look_once(app, id, guest_path, &mut memory).await {
            return Ok(());
        }
        tokio::time::sleep(debt.pause_after(begun, Instant::now())).await;
        let (asked, path) = (id.clone(), guest_path.to_owned());
        let now = app.ask(move |app| Ok(wanted(app, &asked, &path))).await.ok().flatten();
        // Folders that are full of what git would not track are watched no longer.
        if now.is_none_or(|now| now != pruned) {
            return Ok(());
        }
    }
}

/// False when there is nothing to look at any more.
async fn look_once(app: &Arc<App>, id: &SandboxId, guest_path: &str, memory: &mut Memory) -> bool {
    let (asked, path, mut held) = (id.clone(), guest_path.to_owned(), std::mem::take(memory));
    let looked = app.ask(move |app| {
        let looked = look_again(app, &asked, &path, Instant::now() + LOOK_WITHIN, &mut held);
        Ok((looked, held))
    });
    let looked = looked.await.map(|(looked, held)| {
        *memory = held;
        looked
    });
    match looked {
        Ok(Ok(report)) => {
            let left = report.left.len();
            tracing::info!(vm = %id, guest_path, commits = report.commits, files = report.changed_files, left, "looked");
            true
        }
        Ok(Err(HomeError::Nothing { .. })) => false,
        Ok(Err(error)) => {
            tracing::warn!(vm = %id, guest_path, error = chain(&error), "work stays in the guest for now");
            true
        }
        Err(_) => false,
    }
}

async fn open(app: &Arc<App>, id: &SandboxId, guest_path: &str, pruned: &[Vec<u8>]) -> Result<Lines, HomeError> {
    let failed =
        |source: Box<dyn std::error::Error + Send + Sync>| HomeError::Guest { path: guest_path.to_owned(), source };
    let body = encode_paths(pruned.iter().map(Vec::as_slice));
    let uri = format!("/work/watch?path={}", percent_encode(guest_path));
    let request = Request::post(uri).header("host", "guest").body(Full::new(Bytes::from(body)));
    let request = request.map_err(|error| failed(error.into()))?;
    let socket = app.layout.vsock(id);
    let asked = tokio::time::timeout(BEGIN_WITHIN, guest::send(&socket, request)).await;
    let response = asked.map_err(|_| HomeError::Late { path: guest_path.to_owned() })?;
    let response = response.map_err(|error| failed(error.into()))?;
    match response.status() {
        status if status.is_success() => Ok(Lines { body: response.into_body(), pending: Vec::new() }),
        hyper::StatusCode::NOT_FOUND => Err(HomeError::Nothing { path: guest_path.to_owned() }),
        status => Err(failed(format!("the agent answered with status {status}").into())),
    }
}

/// Rest that looks have cost and that has not passed yet.
#[derive(Default)]
struct Debt {
    owed: Duration,
    /// Up to when it was counted.
    counted: Option<Instant>,
}

impl Debt {
    /// How long nobody looks after a look from `begun` to `now`.
    fn pause_after(&mut self, begun: Instant, now: Instant) -> Duration {
        let rested = self.counted.map_or(Duration::MAX, |counted| begun.saturating_duration_since(counted));
        let took = now.saturating_duration_since(begun);
        self.owed = self.owed.saturating_sub(rested).saturating_add(took.saturating_mul(REST_FACTOR));
        self.counted = Some(now);
        self.owed.saturating_sub(MAX_DEBT).min(MAX_PAUSE)
    }
}

struct Lines {
    body: Incoming,
    pending: Vec<u8>,
}

impl Lines {
    async fn next(&mut self, guest_path: &str) -> Result<Option<WatchEvent>, HomeError> {
        let failed =
            |source: Box<dyn std::error::Error + Send + Sync>| HomeError::Guest { path: guest_path.to_owned(), source };
        loop {
            if let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=end).collect();
                return serde_json::from_slice(&line).map(Some).map_err(|error| failed(error.into()));
            }
            if self.pending.len() > MAX_LINE_BYTES {
                return Err(failed("a line without an end".into()));
            }
            match self.body.frame().await {
                Some(frame) => {
                    let frame = frame.map_err(|error| failed(error.into()))?;
                    self.pending.extend(frame.into_data().unwrap_or_default());
                }
                None => return Ok(None),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOK: Duration = Duration::from_secs(1);

    /// Seconds of pause after each of so many looks of 1 s, each begun `apart` after the pause before it.
    fn pauses(looks: usize, apart: Duration) -> Vec<u64> {
        let (mut debt, mut now) = (Debt::default(), Instant::now());
        let mut pauses = Vec::new();
        for _ in 0..looks {
            let pause = debt.pause_after(now, now + LOOK);
            pauses.push(pause.as_secs());
            now += LOOK + pause + apart;
        }
        pauses
    }

    #[test]
    fn a_burst_is_looked_at_without_a_pause() {
        assert_eq!(pauses(5, Duration::ZERO), [0; 5]);
    }

    #[test]
    fn a_guest_that_never_rests_gets_a_fifth() {
        let pauses = pauses(40, Duration::ZERO);
        assert_eq!(pauses[pauses.len() - 10..], [4; 10]);
    }

    #[test]
    fn rest_is_rest_by_whatever_cause() {
        assert_eq!(pauses(100, Duration::from_secs(4)), [0; 100]);
    }

    #[test]
    fn one_very_long_look_pauses_no_longer_than_a_minute() {
        let now = Instant::now();
        assert_eq!(Debt::default().pause_after(now, now + Duration::from_secs(3600)), MAX_PAUSE);
    }
}
