//! Publishes by themselves the ports of sandboxes that want it (`auto_forward`): one task per running sandbox hears from
//! the agent what the guest listens on, and tells [`Ports`]. It ends with the wish or with the sandbox.

use super::Ports;
use crate::app::App;
use model::{SandboxId, State};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinHandle;
use wire::guest;

/// 1 s until an agent that broke off is asked again: it was restarted, or its guest is going.
const AGAIN: Duration = Duration::from_secs(1);

/// Runs until the daemon stops.
pub async fn keep(app: Arc<App>) {
    let Some(ports) = app.ports.clone() else { return };
    let mut events = app.events();
    let mut followed: BTreeMap<SandboxId, Follower> = BTreeMap::new();
    loop {
        let wanted = |id: &SandboxId| {
            let sandbox = app.engine.get(id).ok();
            sandbox.is_some_and(|sandbox| sandbox.state == State::Running && sandbox.spec.auto_forward)
        };
        followed.retain(|id, _| wanted(id));
        for sandbox in app.engine.list().iter().filter(|sandbox| wanted(&sandbox.id)) {
            let id = sandbox.id.clone();
            followed.entry(id.clone()).or_insert_with(|| Follower::begin(ports.clone(), id));
        }
        tokio::select! {
            event = events.recv() => if matches!(event, Err(RecvError::Closed)) { return },
            () = app.ports_changed.notified() => {}
            () = app.stopped() => return,
        }
    }
}

struct Follower {
    ports: Arc<Ports>,
    id: SandboxId,
    task: JoinHandle<()>,
}

impl Follower {
    fn begin(ports: Arc<Ports>, id: SandboxId) -> Follower {
        let task = tokio::spawn(follow(ports.clone(), id.clone()));
        Follower { ports, id, task }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
        self.ports.withdraw_auto(&self.id);
    }
}

async fn follow(ports: Arc<Ports>, id: SandboxId) {
    loop {
        match ports.guest(&id).watch_ports().await {
            Ok(mut changes) => {
                while let Ok(Some(now)) = changes.next().await {
                    ports.publish_auto(&id, &guest_ports(&now));
                }
            }
            Err(error) => tracing::debug!(%id, %error, "cannot hear what a guest listens on"),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// TCP alone: a UDP socket without a peer may as well be a client that has not asked yet (proc_net_udp tells no more).
fn guest_ports(now: &guest::Ports) -> Vec<u16> {
    let mut ports: Vec<u16> =
        now.listening.iter().filter(|socket| socket.protocol == "tcp").map(|socket| socket.port).collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}
