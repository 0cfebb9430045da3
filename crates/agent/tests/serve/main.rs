//! The real agent on a Unix socket of this machine, driven as a host drives it. Needs nothing: it runs as whoever runs the test.

mod client;
mod exec;
mod files;
mod service;
mod stream;
mod work;

use client::Agent;
use wire::Fault;
use wire::guest::{Health, Metrics, Ports};

#[tokio::test]
async fn the_agent_says_who_it_is() {
    let agent = Agent::start().await;
    let (status, body) = agent.call("GET", "/healthz", "").await;
    let health: Health = serde_json::from_slice(&body).expect("health");
    assert_eq!(status, 200);
    assert_eq!((health.api_version, health.init.as_str(), health.sessions), (wire::version::GUEST, "agent", 0));
    assert_eq!(health.system_state, None);
    assert!(health.clock_ns > 1_600_000_000_000_000_000);
}

#[tokio::test]
async fn metrics_and_ports_tell_of_this_machine() {
    let agent = Agent::start().await;
    let metrics: Metrics = serde_json::from_slice(&agent.call("GET", "/metrics", "").await.1).expect("metrics");
    assert!(metrics.memory_total_bytes > metrics.memory_available_bytes && metrics.processes > 1);
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("listen");
    let port = socket.local_addr().expect("address").port();
    let ports: Ports = serde_json::from_slice(&agent.call("GET", "/ports", "").await.1).expect("ports");
    let own = ports.listening.iter().find(|entry| entry.port == port).expect("our port");
    assert_eq!((own.address.as_str(), own.pid), ("127.0.0.1", Some(std::process::id())));
}

#[tokio::test]
async fn an_agent_on_a_strangers_machine_does_not_change_it() {
    let agent = Agent::start().await;
    for (path, body) in [
        ("/shutdown", r#"{"grace_ms": 0}"#),
        ("/clock", r#"{"clock_ns": 0}"#),
        ("/identity", r#"{"hostname": "stolen"}"#),
    ] {
        let (status, body) = agent.call("POST", path, body).await;
        let fault: Fault = serde_json::from_slice(&body).expect("a fault");
        assert_eq!((status.as_u16(), fault.kind), (422, wire::FaultKind::Refused), "{path}");
    }
}

#[tokio::test]
async fn an_unknown_path_is_a_fault_that_names_it() {
    let agent = Agent::start().await;
    let (status, body) = agent.call("DELETE", "/healthz", "").await;
    let fault: Fault = serde_json::from_slice(&body).expect("a fault");
    assert_eq!(status, 404);
    assert_eq!(fault.message, "the guest's agent has no DELETE /healthz");
}
