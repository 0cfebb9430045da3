//! The script for a policy, held to golden text. Run with `UPDATE_GOLDEN=1` to write it anew, and read the difference.

use helper::rules::{self, Arrival, render, render_change, render_removal};
use model::SandboxId;
use model::egress::Outbound;
use wire::privilege::policy::{GuestPolicy, Policy};

fn guest(bits: u64, last: u8) -> GuestPolicy {
    GuestPolicy {
        id: SandboxId::from_bits(bits),
        ipv4: [10, 213, 212, last].into(),
        outbound: Outbound::Nat,
        allow_networks: Vec::new(),
        allow_guests: Vec::new(),
    }
}

fn check(name: &str, script: String) {
    let path = format!("{}/tests/golden/{name}.nft", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &script).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(script, golden, "{name}");
}

fn everything() -> Policy {
    let nets = |list: &[&str]| list.iter().map(|net| net.parse().unwrap()).collect();
    let web = 0x1111_1111_1111_1111;
    let db = 0x2222_2222_2222_2222;
    Policy {
        dns_port: Some(5354),
        resolvers: vec![[192, 168, 1, 1].into()],
        host_ports: vec![8080, 3000],
        guests: vec![
            GuestPolicy { allow_guests: vec![SandboxId::from_bits(db), SandboxId::from_bits(0xdead)], ..guest(web, 2) },
            GuestPolicy {
                allow_networks: nets(&["0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "fd00::/8", "169.254.169.254/32"]),
                ..guest(db, 3)
            },
            GuestPolicy {
                outbound: Outbound::Off,
                allow_networks: nets(&["192.168.0.0/16"]),
                ..guest(0x3333_3333_3333_3333, 4)
            },
        ],
    }
}

#[test]
fn the_rules_are_the_golden_ones() {
    let range = "10.213.212.0/22".parse().unwrap();
    check("empty", render(&Policy::default(), range, Arrival::Keep));
    check("everything", render(&everything(), range, Arrival::Keep));
    check("afresh", render(&Policy::default(), range, Arrival::Afresh));
    check("removal", render_removal());
}

#[test]
fn the_order_of_a_policy_makes_no_difference() {
    let range = "10.213.212.0/22".parse().unwrap();
    let policy = everything();
    let mut turned = policy.clone();
    turned.guests.reverse();
    turned.host_ports.reverse();
    assert_eq!(render(&policy, range, Arrival::Keep), render(&turned, range, Arrival::Keep));
}

#[test]
fn a_change_names_only_what_differs() {
    let range = "10.213.212.0/22".parse().unwrap();
    let policy = everything();
    let change = |to: &Policy| rules::change(&policy, to, range).map(|steps| render_change(&steps));
    assert_eq!(change(&policy), Some(String::new()));
    assert_eq!(change(&Policy { dns_port: None, ..policy.clone() }), None, "a rule differs, not an element");
    let mut other = policy.clone();
    other.guests[0].outbound = Outbound::Off;
    other.guests.push(guest(0x4444_4444_4444_4444, 5));
    check("change", change(&other).unwrap());
}
