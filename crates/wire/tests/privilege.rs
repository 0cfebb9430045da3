//! Every message of the privilege API against its golden file. `UPDATE_GOLDEN=1` writes the files of new messages; a
//! released file stays as it is. A request refuses what it does not know; a reply passes over it.
#![cfg(feature = "privilege")]

use model::egress::Outbound;
use model::{Change, SandboxId};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::path::PathBuf;
use wire::privilege::facts::{
    BridgeFacts, BridgeMade, Done, Down, Facts, Forwarding, Obstacle, RefusedEntry, RefusedLog, RulesState, TapFacts,
    TapMade, Version,
};
use wire::privilege::policy::{GuestPolicy, Policy};
use wire::privilege::varlink::{Call, Reply};
use wire::privilege::{
    ApplyPolicy, Ask, EnsureBridge, EnsureNames, EnsureTap, NetworkDown, Observe, Ping, ReadRefused, RemoveTap, Request,
};
use wire::{Fault, FaultKind};

fn golden<T: Serialize>(name: &str, message: &T) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/privilege").join(format!("{name}.json"));
    let text = serde_json::to_string_pretty(message).expect("a message can be written") + "\n";
    if std::env::var_os("UPDATE_GOLDEN").is_some() && !path.exists() {
        std::fs::write(&path, &text).expect("the golden file can be written");
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(text, golden, "{name}");
    golden
}

/// The call is what the file says, and the file is read as the request.
fn check_request<A>(name: &str, ask: A)
where
    A: Ask + Clone + Into<Request>,
{
    let text = golden(name, &Call::of(&ask));
    let call: Call = serde_json::from_str(&text).expect("the golden file is a call");
    let read = Request::parse(&call.method, call.parameters.clone().into());
    assert_eq!(read, Ok(ask.into()), "{name}");
    let mut later = call.parameters;
    later.insert("of_a_later_version".to_owned(), true.into());
    assert!(Request::parse(&call.method, later.into()).is_err(), "{name}: a restriction must not vanish");
}

/// The reply is what the file says, the file is read as the reply, and so is one of a later version.
fn check_reply<T: Serialize + DeserializeOwned + PartialEq + Debug>(name: &str, message: &T) {
    let text = golden(name, message);
    assert_eq!(&serde_json::from_str::<T>(&text).expect("the golden file is a reply"), message, "{name}");
    let later = text.replacen('{', "{\"of_a_later_version\": [1],", 1);
    assert_eq!(&serde_json::from_str::<T>(&later).expect("a later reply is read"), message, "{name}");
}

fn id(digit: u64) -> SandboxId {
    SandboxId::from_bits(digit * 0x1111_1111_1111_1111)
}

#[test]
fn requests_keep_their_shape() {
    check_request("ping", Ping {});
    check_request("ensure_bridge", EnsureBridge { range: Some("10.213.212.0/22".parse().unwrap()) });
    check_request("ensure_bridge_anywhere", EnsureBridge { range: None });
    check_request("ensure_tap", EnsureTap { id: id(1) });
    check_request("remove_tap", RemoveTap { id: id(1) });
    check_request("ensure_names", EnsureNames { port: Some(42069) });
    check_request("ensure_no_names", EnsureNames { port: None });
    check_request("observe", Observe {});
    check_request("read_refused", ReadRefused { id: id(1) });
    check_request("network_down", NetworkDown {});
    let web = GuestPolicy {
        id: id(1),
        ipv4: [10, 213, 212, 2].into(),
        outbound: Outbound::Nat,
        allow_networks: vec!["192.168.0.0/16".parse().unwrap(), "fd00::/8".parse().unwrap()],
        allow_guests: vec![id(2)],
    };
    let quiet = GuestPolicy {
        id: id(2),
        ipv4: [10, 213, 212, 3].into(),
        outbound: Outbound::Off,
        allow_networks: Vec::new(),
        allow_guests: Vec::new(),
    };
    let policy = Policy {
        dns_port: Some(5354),
        resolvers: vec![[192, 168, 1, 1].into()],
        host_ports: vec![8080],
        guests: vec![web, quiet],
    };
    check_request("apply_policy", ApplyPolicy { policy });
}

#[test]
fn replies_keep_their_shape() {
    let version = Version { helper: "0.1.0".to_owned(), interface: 1, pid: 4711 };
    let range = "10.213.212.0/22".parse().unwrap();
    let docker = Obstacle {
        holder: "docker".to_owned(),
        effect: "drops forwarded packets it does not know".to_owned(),
        hint: Some("iptables -I DOCKER-USER -i br-banger -j ACCEPT".to_owned()),
    };
    check_reply("version", &version);
    check_reply("done", &Done { change: Change::Unchanged });
    check_reply(
        "bridge_made",
        &BridgeMade { change: Change::Changed, range, ipv6: true, obstacles: vec![docker.clone()] },
    );
    check_reply("tap_made", &TapMade { change: Change::Changed, device: "bgr-11111111111".to_owned() });
    check_reply(
        "facts",
        &Facts {
            version,
            bridge: Some(BridgeFacts { range, up: true, ipv6: true }),
            taps: vec![TapFacts { id: id(1), device: "bgr-11111111111".to_owned(), present: true, in_use: false }],
            rules: RulesState::InSync,
            forwarding: Forwarding { ipv4: true, ipv4_ours: true, ipv6: false },
            obstacles: vec![docker],
            strangers: vec!["bgr-deadbeef000".to_owned()],
            names_file: None,
            tun_open: true,
        },
    );
    let entry = RefusedEntry {
        destination: "169.254.169.254".parse().unwrap(),
        protocol: "tcp".to_owned(),
        port: 80,
        packets: 3,
        last_s: 12,
    };
    check_reply("refused_log", &RefusedLog { entries: vec![entry] });
    let kept = vec!["IPv4 forwarding stays on: `docker0` came up since and needs it".to_owned()];
    check_reply("down", &Down { change: Change::Changed, kept });
}

#[test]
fn a_fault_travels_as_a_varlink_error() {
    let fault = Fault::new(FaultKind::Conflict, "range 10.0.0.0/16 overlaps 10.0.0.0/8 of `tun0`")
        .with_hint("leave the range out, or name a free one");
    let text = golden("fault", &Reply::fault(&fault));
    let reply: Reply = serde_json::from_str(&text).unwrap();
    assert_eq!(reply.open::<Ping>(), Err(fault));
    let foreign = Reply::protocol_error("MethodNotFound", "method", "dev.banger.Root1.Later");
    assert!(foreign.open::<Ping>().unwrap_err().hint.is_some(), "versions differ: say so");
}
