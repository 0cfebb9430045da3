//! How long the network part of a start takes: told, not judged, since machines differ.
//! `cargo test --release -p helper --test speed -- --ignored --nocapture`

mod world;

use model::SandboxId;
use model::egress::Outbound;
use std::io::Write;
use std::time::{Duration, Instant};
use wire::privilege::policy::{GuestPolicy, Policy};
use wire::privilege::{ApplyPolicy, EnsureBridge, EnsureTap, RemoveTap};
use world::in_a_host;

#[test]
#[ignore = "measures"]
fn the_network_part_of_a_start() {
    in_a_host(|host| {
        let helper = host.helper();
        let range = helper.ask(&EnsureBridge { range: "10.44.0.0/20".parse().ok() }).range;
        let mut guests = Vec::new();
        for others in [0usize, 100, 1000] {
            while guests.len() < others {
                guests.push(guest(range.gateway().to_bits(), guests.len() as u64 + 1));
            }
            if others > 0 {
                helper.ask(&ApplyPolicy { policy: policy(&guests) });
            }
            let (mut taps, mut rules, mut removals) = (Vec::new(), Vec::new(), Vec::new());
            for round in 0..20 {
                let newcomer = guest(range.gateway().to_bits(), 2000 + round);
                let mut more = guests.clone();
                more.push(newcomer.clone());
                let began = Instant::now();
                helper.ask(&EnsureTap { id: newcomer.id.clone() });
                taps.push(began.elapsed());
                let began = Instant::now();
                helper.ask(&ApplyPolicy { policy: policy(&more) });
                rules.push(began.elapsed());
                let began = Instant::now();
                helper.ask(&RemoveTap { id: newcomer.id });
                removals.push(began.elapsed());
                helper.ask(&ApplyPolicy { policy: policy(&guests) });
            }
            let _ = writeln!(
                std::io::stderr(),
                "{others} others: tap {:?}, policy {:?}, tap removed {:?} (median of 20)",
                median(taps),
                median(rules),
                median(removals)
            );
        }
    });
}

fn policy(guests: &[GuestPolicy]) -> Policy {
    Policy { guests: guests.to_vec(), ..Policy::default() }
}

fn guest(gateway: u32, number: u64) -> GuestPolicy {
    GuestPolicy {
        id: SandboxId::from_bits(number << 24),
        ipv4: (gateway + number as u32).into(),
        outbound: Outbound::Nat,
        allow_networks: Vec::new(),
        allow_guests: Vec::new(),
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
