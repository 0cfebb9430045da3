//! Owns what tells other programs of this host about sandboxes by name: the name server's zone and ssh's known_hosts,
//! both made anew from the engine's published snapshot whenever a sandbox has changed.
//!
//! | link of the sandbox | `web.vm` is |
//! |---|---|
//! | a tap on our bridge | its own addresses |
//! | the VMM's user network | the address on this host to which its ports are bound, while there are any |
//! | none | known, without an address |
//!
//! Guests see a zone of their own: the same names, without what leads to this host's loopback.

use crate::app::{App, HostKind};
use crate::dns::{self, Host, NameServer, Service, Zone};
use crate::ssh::keys::{KeyError, Keys};
use engine::Sandbox;
use engine::host::network::LinkMode;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;

/// 20 ms: a start changes a sandbox several times; one zone tells of all of them.
const GATHER: Duration = Duration::from_millis(20);

/// Runs until the daemon stops. A simulated host has names that lead nowhere, so nobody is told them.
pub async fn keep(app: Arc<App>) {
    if app.kind == HostKind::Sim {
        return;
    }
    let server = start(&app).await;
    let behind_gateways = start_for_gateways(&app, server.is_some()).await;
    tell_host(&app, server.as_ref()).await;
    tell(&app, server, behind_gateways).await;
    let forgotten = app.ask(|app| {
        app.network.iter().for_each(|network| network.host_names_are_gone());
        Ok(())
    });
    let _ = forgotten.await;
}

/// Publishes every change until the daemon stops.
async fn tell(app: &Arc<App>, server: Option<NameServer>, behind_gateways: Option<NameServer>) {
    let mut events = app.events();
    for serial in 1.. {
        if let Some(server) = &server {
            let hosts: Vec<Host> = app.engine.list().iter().map(|record| host(record)).collect();
            app.note_told_names(hosts.iter().map(|host| host.name.clone()));
            server.publish(Zone::new(&hosts, serial));
        }
        if let Some(guests) = &app.guest_names {
            let hosts: Vec<Host> = app.engine.list().iter().map(|record| as_guests_see(record)).collect();
            guests.publish(Zone::new(&hosts, serial));
            if let Some(server) = &behind_gateways {
                server.publish(Zone::new(&hosts, serial));
            }
        }
        let pinned = app.ask(|app| {
            let pinned = Keys::open(app.layout.ssh()).and_then(|keys| pin_host_keys(app, &keys));
            pinned.map_err(|error| wire::Fault::new(wire::FaultKind::Internal, error.to_string()))
        });
        if let Err(fault) = pinned.await {
            tracing::warn!("known_hosts is not up to date: {fault}");
        }
        tokio::select! {
            event = events.recv() => if matches!(event, Err(RecvError::Closed)) { return },
            () = app.names_wanted_anew() => {}
            () = app.stopped() => return,
        }
        tokio::time::sleep(GATHER).await;
        // What has happened meanwhile is in the list that is read next.
        while matches!(events.try_recv(), Ok(_) | Err(tokio::sync::broadcast::error::TryRecvError::Lagged(_))) {}
    }
}

/// Exactly the sandboxes that there are. One at a time, so that an older list is never written last.
pub fn pin_host_keys(app: &App, keys: &Keys) -> Result<(), KeyError> {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let sandboxes: Vec<_> = app.engine.list().iter().map(|record| (record.id.clone(), record.name().clone())).collect();
    keys.write_known_hosts(&sandboxes)
}

async fn tell_host(app: &Arc<App>, server: Option<&NameServer>) {
    let (Some(network), Some(server)) = (app.network.clone(), server) else { return };
    let port = server.address().port();
    let told = app.ask(move |_| {
        network.host_names_are(port);
        Ok(())
    });
    let _ = told.await;
}

async fn start(app: &App) -> Option<NameServer> {
    let port = app.config.dns_port.unwrap_or(dns::DEFAULT_PORT);
    if port == 0 {
        return None;
    }
    match NameServer::start(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await {
        Ok(server) => {
            let address = server.address();
            tracing::info!(%address, wanted = port, "the name server answers");
            let _ = app.dns.set(address);
            Some(server)
        }
        Err(error) => {
            tracing::warn!(%error, "sandboxes have no names");
            None
        }
    }
}

/// The guests' zone once more, on this host's loopback, where the gateways of guests in user mode reach it.
async fn start_for_gateways(app: &Arc<App>, wanted: bool) -> Option<NameServer> {
    let network = app.network.clone().filter(|_| wanted)?;
    let server = NameServer::start(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await;
    let server = server.inspect_err(|error| tracing::warn!(%error, "guests cannot ask us for names")).ok()?;
    network.name_server_is(server.address());
    // Those that run already learn of it, too.
    let told = app.ask(move |app| {
        for record in app.engine.list().iter().filter(|record| record.state.may_have_vmm()) {
            network.refresh(&record.id, &record.spec.egress);
        }
        Ok(())
    });
    let _ = told.await;
    Some(server)
}

fn host(record: &Sandbox) -> Host {
    let bound = |port: &model::port::PortForward| SocketAddr::new(port.host_address, port.host_port);
    let service = |port: &model::port::PortForward| Service {
        protocol: port.protocol,
        guest_port: port.guest_port,
        bound: bound(port),
    };
    let addresses = match record.attachment.as_ref().map(|attachment| (&attachment.mode, &attachment.addresses)) {
        Some((LinkMode::Tap { .. }, addresses)) => addresses.iter().filter_map(|cidr| address(cidr)).collect(),
        _ => published_addresses(record),
    };
    Host { name: record.name().clone(), addresses, services: record.ports.iter().map(service).collect() }
}

/// What this host publishes on its loopback is nowhere for a guest, whose loopback is its own.
fn as_guests_see(record: &Sandbox) -> Host {
    let mut seen = host(record);
    seen.addresses.retain(|address| !address.is_loopback());
    seen.services.clear();
    seen
}

fn address(cidr: &str) -> Option<IpAddr> {
    cidr.split('/').next()?.parse().ok()
}

fn published_addresses(record: &Sandbox) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    if record.spec.auto_forward && record.state == model::State::Running {
        // Whatever is published by itself lies there.
        addresses.push(Ipv4Addr::LOCALHOST.into());
    }
    for port in &record.ports {
        let address = if port.host_address.is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { port.host_address };
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}
