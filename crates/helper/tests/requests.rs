//! Bytes of strangers: whatever arrives is refused or becomes a request whose every value is valid, and no value can
//! become a word of the firewall's language.

mod world;

use helper::rules::{Arrival, render};
use helper::serve::{protocol_error, read_call};
use model::SandboxId;
use model::egress::Outbound;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::net::Ipv4Addr;
use wire::privilege::address::{Network, Range};
use wire::privilege::policy::{GuestPolicy, Policy};
use wire::privilege::varlink::{Call, encode};
use wire::privilege::{ApplyPolicy, OPERATIONS, Request};
use world::{in_a_host, run};

const RANGE: &str = "10.9.0.0/22";

/// All that the helper does with a message before it touches anything.
fn understand(message: &[u8]) -> Option<Request> {
    let call = read_call(message).ok()?;
    match Request::parse(&call.method, call.parameters.into()) {
        Ok(request) => Some(request),
        Err(error) => {
            let refusal = encode(&protocol_error(&error));
            assert!(refusal.len() < message.len() + 1000, "a refusal is short");
            None
        }
    }
}

/// What an accepted policy becomes holds only what the address plan can say.
fn judge(request: Request) {
    let Request::ApplyPolicy(ApplyPolicy { policy }) = request else { return };
    let range: Range = RANGE.parse().unwrap();
    if policy.check(range).is_err() {
        return;
    }
    let script = render(&policy, range, Arrival::Keep);
    let elements = script.split("flush set").skip(1).collect::<String>();
    let harmless = |c: char| c.is_ascii_alphanumeric() || " .:/-_\"{},\t\n".contains(c);
    assert!(elements.chars().all(harmless), "{elements}");
}

/// JSON of any shape, with the words of our requests in it.
fn any_json() -> impl Strategy<Value = Value> {
    let words = prop::sample::select(vec![
        "id",
        "range",
        "policy",
        "guests",
        "ipv4",
        "outbound",
        "nat",
        "off",
        "allow_networks",
        "allow_guests",
        "dns_port",
        "0000000000000001",
        "10.9.0.2",
        "10.0.0.0/8",
        "::/0",
        "; flush ruleset",
        "../../etc/passwd",
        "\u{0}",
        "",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        words.clone().prop_map(Value::from),
        "\\PC{0,20}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((words.clone(), inner), 0..6)
                .prop_map(|pairs| pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect::<Value>()),
        ]
    })
}

fn any_method() -> impl Strategy<Value = String> {
    let names: Vec<&str> = OPERATIONS.iter().map(|operation| operation.name).collect();
    prop_oneof![
        prop::sample::select(names).prop_map(|name| format!("dev.banger.Root1.{name}")),
        "dev\\.banger\\.Root1\\.[A-Za-z]{0,12}",
        "\\PC{0,30}",
    ]
}

fn any_guest() -> impl Strategy<Value = GuestPolicy> {
    let network = prop_oneof![
        (any::<u32>(), 1u8..=32).prop_map(|(address, bits)| format!("{}/{bits}", Ipv4Addr::from_bits(address))),
        (any::<u128>(), 1u8..=128)
            .prop_map(|(address, bits)| format!("{}/{bits}", std::net::Ipv6Addr::from_bits(address))),
        Just("0.0.0.0/0".to_owned()),
        Just("169.254.169.254".to_owned()),
    ];
    let networks =
        prop::collection::vec(network.prop_filter_map("no network", |text| text.parse::<Network>().ok()), 0..12);
    (any::<u64>(), 2u32..1000, any::<bool>(), networks, prop::collection::vec(0u64..8, 0..3)).prop_map(
        |(bits, host, nat, allow_networks, others)| GuestPolicy {
            id: SandboxId::from_bits(bits),
            ipv4: Ipv4Addr::from_bits(Ipv4Addr::new(10, 9, 0, 0).to_bits() + host),
            outbound: if nat { Outbound::Nat } else { Outbound::Off },
            allow_networks,
            allow_guests: others.into_iter().map(SandboxId::from_bits).collect(),
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_refused_or_understood(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Some(request) = understand(&bytes) {
            judge(request);
        }
    }

    #[test]
    fn any_json_is_refused_or_understood(method in any_method(), parameters in any_json()) {
        let message = json!({ "method": method, "parameters": parameters }).to_string();
        if let Some(request) = understand(message.as_bytes()) {
            judge(request);
        }
    }

    #[test]
    fn a_request_with_any_byte_changed_is_refused_or_understood(
        guests in prop::collection::vec(any_guest(), 1..4), at: prop::sample::Index, byte: u8
    ) {
        let policy = Policy { guests, ..Policy::default() };
        let mut message = serde_json::to_vec(&Call::of(&ApplyPolicy { policy })).unwrap();
        let at = at.index(message.len());
        message[at] = byte;
        if let Some(request) = understand(&message) {
            judge(request);
        }
    }
}

#[test]
fn the_kernel_takes_the_rules_of_any_policy() {
    in_a_host(|host| {
        let path = host.folder.path().join("rules.nft");
        let law = |guests: Vec<GuestPolicy>| {
            let policy = Policy { guests, dns_port: Some(53535), ..Policy::default() };
            let range = RANGE.parse().unwrap();
            prop_assume!(policy.check(range).is_ok());
            std::fs::write(&path, render(&policy, range, Arrival::Keep)).unwrap();
            run(&format!("nft -f {}", path.display()));
            Ok(())
        };
        let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
            cases: 40,
            failure_persistence: None,
            ..ProptestConfig::default()
        });
        runner.run(&prop::collection::vec(any_guest(), 0..12), law).unwrap();
    });
}
