//! A sandbox's ports on the control API: what listens in the guest and how the host reaches it, and which ports are
//! published.

use super::convert;
use super::fault::Refusal;
use super::input::{Json, Named};
use super::observe::{ask, running};
use crate::app::{App, HostKind};
use axum::extract::State;
use engine::host::Unwatched;
use model::port::{PortForward, Protocol};
use std::net::SocketAddr;
use std::sync::Arc;
use wire::Fault;
use wire::control::{PortRow, PortsAnswer, PortsRequest, SetAnswer};
use wire::guest::{ListeningSocket, Ports};

type Shared = State<Arc<App>>;
/// More listening sockets than a table can show; a guest may claim any number.
const MAX_PORTS: usize = 4096;
/// Ports of services that speak TLS first, and of those that speak anything but HTTP (services(5)). A port in neither
/// list gets a link for HTTP: asking the service would be a connection that it did not expect.
const HTTPS: &[u16] = &[443, 8443];
const NOT_HTTP: &[u16] = &[
    21, 22, 23, 25, 53, 110, 143, 389, 465, 587, 993, 995, 1433, 1883, 2049, 3306, 5432, 5672, 6379, 9092, 11211, 27017,
];

/// Lists what listens in the guest, and how the host reaches it
#[utoipa::path(get, path = "/v1/vms/{ref}/ports", tag = "vms", params(("ref" = String, Path)),
    responses((status = 200, body = PortsAnswer), (status = "default", body = Fault)))]
pub async fn ports(State(app): Shared, reference: Named) -> Result<axum::Json<PortsAnswer>, Refusal> {
    let sandbox = running(&app, &reference)?;
    let listening = match app.kind {
        HostKind::Sim => Vec::new(),
        HostKind::Real => ask::<Ports>(&app, &sandbox, "/ports").await?.listening,
    };
    let auto = app.ports.as_ref().map(|ports| ports.auto(&sandbox.id)).unwrap_or_default();
    Ok(axum::Json(PortsAnswer { ports: rows(listening, &sandbox.ports, &auto) }))
}

/// Publishes ports of a sandbox or withdraws them, at once where it runs
#[utoipa::path(post, path = "/v1/vms/{ref}/ports", tag = "vms", params(("ref" = String, Path)), request_body = PortsRequest,
    responses((status = 200, body = SetAnswer), (status = "default", body = Fault)))]
pub async fn change(
    State(app): Shared,
    reference: Named,
    Json(request): Json<PortsRequest>,
) -> Result<axum::Json<SetAnswer>, Refusal> {
    let id = app.engine.resolve(&reference.0)?.id.clone();
    let changes = convert::port_changes(&request)?;
    let applied = app.ask_engine(move |engine| engine.set(&id, &changes, &Unwatched)).await?;
    app.ports_changed.notify_one();
    Ok(axum::Json(convert::set_answer(&applied)))
}

/// Every listening socket, under each of its ways in; then the ways that lead to none.
fn rows(listening: Vec<ListeningSocket>, wanted: &[PortForward], auto: &[PortForward]) -> Vec<PortRow> {
    let mut rows = Vec::new();
    let leads_to = |forward: &PortForward, socket: &ListeningSocket| {
        forward.guest_port == socket.port && forward.protocol.word() == socket.protocol
    };
    let ways = || wanted.iter().map(|way| (way, false)).chain(auto.iter().map(|way| (way, true)));
    let idle: Vec<PortRow> = ways()
        .filter(|(way, is_auto)| !is_auto && !listening.iter().any(|socket| leads_to(way, socket)))
        .map(|(way, _)| PortRow { idle: true, url: None, ..published(way, "-".to_owned(), None) })
        .collect();
    for socket in listening.into_iter().take(MAX_PORTS) {
        let mut found = ways().filter(|(way, _)| leads_to(way, &socket)).peekable();
        if found.peek().is_none() {
            rows.push(PortRow {
                protocol: socket.protocol.clone(),
                guest_address: socket.address.clone(),
                guest_port: socket.port,
                process: socket.process.clone(),
                ..PortRow::default()
            });
        }
        for (way, auto) in found {
            rows.push(PortRow { auto, ..published(way, socket.address.clone(), socket.process.clone()) });
        }
    }
    rows.extend(idle);
    rows
}

fn published(way: &PortForward, guest_address: String, process: Option<String>) -> PortRow {
    PortRow {
        protocol: way.protocol.word().to_owned(),
        guest_address,
        guest_port: way.guest_port,
        process,
        host_address: Some(SocketAddr::new(way.host_address, way.host_port).to_string()),
        url: url(way),
        ..PortRow::default()
    }
}

fn url(way: &PortForward) -> Option<String> {
    if way.protocol == Protocol::Udp || NOT_HTTP.contains(&way.guest_port) {
        return None;
    }
    let scheme = if HTTPS.contains(&way.guest_port) { "https" } else { "http" };
    // An address that means all of them is none to go to.
    let host = match way.host_address {
        address if address.is_unspecified() => "localhost".to_owned(),
        std::net::IpAddr::V6(address) => format!("[{address}]"),
        address => address.to_string(),
    };
    Some(format!("{scheme}://{host}:{}/", way.host_port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_socket_is_listed_with_its_ways_in_and_every_way_that_leads_to_none() {
        let socket = |protocol: &str, port, process: &str| ListeningSocket {
            protocol: protocol.into(),
            address: "127.0.0.1".into(),
            port,
            pid: Some(7),
            process: Some(process.into()),
        };
        let listening = vec![socket("tcp", 22, "sshd"), socket("tcp", 80, "httpd"), socket("udp", 53, "dns")];
        let ports = |words: &[&str]| words.iter().map(|word| word.parse().unwrap()).collect::<Vec<PortForward>>();
        let rows =
            rows(listening, &ports(&["8080:80", "[::]:8443:443", "53:53/udp"]), &ports(&["40000:80", "40001:22"]));
        let shown: Vec<String> = rows
            .iter()
            .map(|row| {
                let way = row.host_address.clone().unwrap_or_default();
                let url = row.url.clone().unwrap_or_default();
                format!(
                    "{} {}:{} {way} {url}{}{}",
                    row.protocol,
                    row.guest_address,
                    row.guest_port,
                    if row.auto { " auto" } else { "" },
                    if row.idle { " idle" } else { "" }
                )
            })
            .collect();
        assert_eq!(
            shown,
            [
                "tcp 127.0.0.1:22 127.0.0.1:40001  auto",
                "tcp 127.0.0.1:80 127.0.0.1:8080 http://127.0.0.1:8080/",
                "tcp 127.0.0.1:80 127.0.0.1:40000 http://127.0.0.1:40000/ auto",
                "udp 127.0.0.1:53 127.0.0.1:53 ",
                "tcp -:443 [::]:8443  idle",
            ]
        );
        assert_eq!(url(&"[::]:8443:443".parse().unwrap()).as_deref(), Some("https://localhost:8443/"));
    }
}
