//! Every message of the guest API against its golden file: what an agent of today writes, one of tomorrow must read.
//! `UPDATE_GOLDEN=1` writes the files of new messages; a released file stays as it is.
#![cfg(feature = "guest")]

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::path::PathBuf;
use wire::guest::{
    Clock, DiskUse, Drives, ExecRequest, ExecStatus, FileFacts, FileKind, GuestNetwork, Health, Identity, ListenEvent,
    ListeningSocket, Metrics, Placed, Ports, Ready, Service, ServiceFacts, ServicePhase, Shutdown, WindowSize,
    WorkspaceState,
};
use wire::{Fault, FaultKind};

/// The message is what the file says, the file is read as the message, and a field of a later version is passed over.
fn check<T: Serialize + DeserializeOwned + PartialEq + Debug>(name: &str, message: &T) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/guest").join(format!("{name}.json"));
    let text = serde_json::to_string_pretty(message).expect("a message can be written") + "\n";
    if std::env::var_os("UPDATE_GOLDEN").is_some() && !path.exists() {
        std::fs::write(&path, &text).expect("the golden file can be written");
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(text, golden, "{name}");
    assert_eq!(&serde_json::from_str::<T>(&golden).expect("the golden file is a message"), message);
    let later = golden.replacen('{', "{\"of_a_later_version\": [1],", 1);
    // An enum of variants has no room for more fields outside.
    if !name.starts_with("exec_status") {
        assert_eq!(&serde_json::from_str::<T>(&later).expect("a later message is read"), message, "{name}");
    }
}

#[test]
fn readiness_and_health_keep_their_shape() {
    let boot_id = "f3a1c7de-2c4b-4f7e-9a53-0d5c1f1e8a11".to_owned();
    check(
        "ready",
        &Ready {
            api_version: 1,
            agent_version: "0.1.0".to_owned(),
            boot_id: boot_id.clone(),
            uptime_ms: 1450,
            init: "agent".to_owned(),
        },
    );
    let health = Health {
        api_version: 1,
        agent_version: "0.1.0".to_owned(),
        boot_id,
        uptime_ms: 60_000,
        init: "systemd".to_owned(),
        system_state: Some("running".to_owned()),
        sessions: 2,
        clock_ns: 1_700_000_000_123_456_789,
    };
    check("health", &health);
    check("health_without_systemd", &Health { init: "agent".to_owned(), system_state: None, ..health });
}

#[test]
fn identity_clock_and_shutdown_keep_their_shape() {
    check(
        "identity",
        &Identity {
            hostname: "brave-otter".to_owned(),
            clock_ns: Some(1_700_000_000_123_456_789),
            entropy: Some("0f".repeat(32)),
            machine_id: Some("0123456789abcdef0123456789abcdef".to_owned()),
            network: Some(GuestNetwork {
                mac: "06:00:ac:10:00:02".to_owned(),
                addresses: vec!["172.16.0.2/24".to_owned(), "fd00::2/64".to_owned()],
                gateways: vec!["172.16.0.1".to_owned()],
                name_servers: vec!["172.16.0.1".to_owned()],
                search: vec!["vm".to_owned()],
                mtu: Some(1500),
            }),
            authorized_keys: vec!["ssh-ed25519 AAAA owner".to_owned()],
            timezone: Some("Europe/Berlin".to_owned()),
        },
    );
    let facts = FileFacts { kind: FileKind::File, size: 12, mode: 0o644, path: "/etc/hostname".to_owned() };
    check("file_facts", &facts);
    check("clock", &Clock { clock_ns: 1_700_000_000_123_456_789 });
    check("drives", &Drives { root_bytes: 8 << 30, work_bytes: 16 << 30 });
    check("shutdown", &Shutdown { grace_ms: 10_000 });
    let least: Identity = serde_json::from_str(r#"{"hostname": "x"}"#).expect("only the name is needed");
    assert_eq!(least, Identity { hostname: "x".to_owned(), ..Identity::default() });
}

#[test]
fn metrics_and_ports_keep_their_shape() {
    check(
        "metrics",
        &Metrics {
            load_1m: 0.25,
            cpu_busy_ms: 1200,
            cpu_idle_ms: 58_000,
            memory_total_bytes: 536_870_912,
            memory_available_bytes: 402_653_184,
            disks: vec![DiskUse { mount: "/".to_owned(), total_bytes: 4_294_967_296, used_bytes: 2_097_152 }],
            network_received_bytes: 4096,
            network_sent_bytes: 2048,
            processes: 31,
        },
    );
    let named = ListeningSocket {
        protocol: "tcp".to_owned(),
        address: "127.0.0.1".to_owned(),
        port: 8080,
        pid: Some(412),
        process: Some("python3".to_owned()),
    };
    let nameless =
        ListeningSocket { protocol: "udp".to_owned(), address: "::".to_owned(), port: 53, pid: None, process: None };
    check("ports", &Ports { listening: vec![named, nameless] });
}

#[test]
fn exec_keeps_its_shape() {
    check(
        "exec_request",
        &ExecRequest {
            argv: vec!["make".to_owned(), "test".to_owned()],
            env: [("CI".to_owned(), "1".to_owned())].into(),
            cwd: Some("/root/project".to_owned()),
            user: Some("dev".to_owned()),
            tty: Some(WindowSize { rows: 24, columns: 80 }),
            term: Some("xterm-256color".to_owned()),
            stdin: true,
            login_shell: true,
            as_image: false,
            with_tools: false,
            line: None,
        },
    );
    check("window_size", &WindowSize { rows: 50, columns: 132 });
    check("exec_status_exited", &ExecStatus::Exited { code: 42 });
    check("exec_status_signalled", &ExecStatus::Signalled { signal: 15 });
    let fault = Fault::new(FaultKind::NotFound, "cannot run nano").with_cause("no such file");
    check("exec_status_not_started", &ExecStatus::NotStarted { fault });
    let least: ExecRequest = serde_json::from_str("{}").expect("nothing is needed");
    assert_eq!(least, ExecRequest::default());
}

#[test]
fn services_keep_their_shape() {
    check(
        "service",
        &Service {
            entrypoint: vec!["/docker-entrypoint.sh".to_owned()],
            command: vec!["nginx".to_owned(), "-g".to_owned(), "daemon off;".to_owned()],
            env: [("NGINX_VERSION".to_owned(), "1.27".to_owned())].into(),
            user: Some("nginx:nginx".to_owned()),
            cwd: Some("/srv".to_owned()),
            stop_signal: 3,
            starts: true,
            restart: "on-failure".to_owned(),
        },
    );
    let facts = ServiceFacts {
        argv: vec!["nginx".to_owned()],
        phase: ServicePhase::Running,
        pid: Some(71),
        ended: Some(ExecStatus::Exited { code: 1 }),
        restarts: 2,
    };
    check("service_facts", &facts);
    let image = ExecRequest { as_image: true, ..ExecRequest::default() };
    check("exec_request_as_image", &image);
}

#[test]
fn the_agents_own_numbers_are_part_of_the_promise() {
    use wire::guest::{AGENT_PORT, CHANNEL_CLOSE, CHANNEL_STATUS, EXEC_CHUNK_BYTES, READY_PORT, cmdline};
    assert_eq!((AGENT_PORT, READY_PORT), (5000, 5001));
    assert_eq!((CHANNEL_STATUS, CHANNEL_CLOSE, EXEC_CHUNK_BYTES), (3, 255, 65536));
    assert_eq!(
        [cmdline::ROOT, cmdline::INIT, cmdline::WORK, cmdline::POWER_OFF],
        ["banger.root", "banger.init", "banger.work", "banger.poweroff"]
    );
}

#[test]
fn listening_keeps_its_shape() {
    check("listen_bound_port", &ListenEvent::Bound { port: Some(8022), path: None });
    check("listen_bound_socket", &ListenEvent::Bound { port: None, path: Some("/run/banger/ssh-1/agent".to_owned()) });
    let peer = "127.0.0.1:40022".to_owned();
    check("listen_accepted", &ListenEvent::Accepted { ticket: "9f86d081884c7d65".to_owned(), peer });
}

#[test]
fn workspaces_keep_their_shape() {
    check("placed", &Placed { written: 12, kept: 340, removed: 1 });
    let state = WorkspaceState {
        known: true,
        history: 1,
        changed: 2,
        removed: 1,
        added: 40,
        examples: vec!["src/main.rs".to_owned()],
    };
    check("workspace_state", &state);
    assert!(!state.is_untouched());
    assert!(WorkspaceState { known: true, added: 3, ..WorkspaceState::default() }.is_untouched());
}
