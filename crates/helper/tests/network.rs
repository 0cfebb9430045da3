//! The network as guests feel it, in namespaces that each test makes: what passes, what does not, what is left behind.

mod world;

use helper::generation::Generations;
use helper::rules::{self, Arrival};
use model::egress::Outbound;
use model::{Change, SandboxId};
use std::io::{ErrorKind, Read, Write};
use std::net::Ipv4Addr;
use wire::privilege::address::{self, Range};
use wire::privilege::facts::RulesState;
use wire::privilege::policy::{GuestPolicy, Policy};
use wire::privilege::{ApplyPolicy, EnsureBridge, EnsureTap, NetworkDown, Observe, ReadRefused, RemoveTap};
use world::{Guest, Helper, Host, Namespace, in_a_host, run};

fn id(digit: u64) -> SandboxId {
    SandboxId::from_bits(digit * 0x1111_1111_1111_1111)
}

fn policy_of(range: Range, digit: u64) -> GuestPolicy {
    GuestPolicy {
        id: id(digit),
        ipv4: Ipv4Addr::from_bits(range.gateway().to_bits() + digit as u32),
        outbound: Outbound::Nat,
        allow_networks: Vec::new(),
        allow_guests: Vec::new(),
    }
}

fn apply(helper: &Helper, guests: &[GuestPolicy]) {
    let policy = Policy {
        dns_port: Some(5354),
        resolvers: vec![[192, 168, 77, 2].into()],
        host_ports: vec![8080],
        guests: guests.to_vec(),
    };
    let again = ApplyPolicy { policy };
    assert_eq!(helper.ask(&again).change, Change::Changed);
    assert_eq!(helper.ask(&again).change, Change::Unchanged);
}

/// What the firewall lists of both tables.
fn listing() -> [Option<serde_json::Value>; 2] {
    ["inet", "bridge"].map(|family| helper::nft::listing(family, "banger").unwrap())
}

#[test]
fn a_batch_leaves_what_the_whole_script_would() {
    in_a_host(|_| {
        let range: Range = "10.44.0.0/20".parse().unwrap();
        let nets = |list: &[&str]| list.iter().map(|net| net.parse().unwrap()).collect();
        let (one, two) = (policy_of(range, 2), policy_of(range, 3));
        let free = GuestPolicy {
            allow_networks: nets(&["10.0.0.0/8", "192.168.4.7/32", "fd00::/8", "169.254.169.254/32", "10.0.0.0/7"]),
            allow_guests: vec![id(2)],
            ..policy_of(range, 4)
        };
        let many = (5..1000).map(|number| GuestPolicy {
            id: SandboxId::from_bits(number << 24),
            ipv4: Ipv4Addr::from_bits(range.gateway().to_bits() + number as u32),
            ..policy_of(range, 1)
        });
        let policy = |guests: Vec<GuestPolicy>, host_ports: Vec<u16>| Policy {
            dns_port: Some(5354),
            resolvers: vec![[192, 168, 77, 2].into()],
            host_ports,
            guests,
        };
        let turns = [
            policy(vec![], vec![]),
            policy(vec![one.clone(), two.clone()], vec![80, 8080]),
            policy(vec![one.clone(), free.clone()], vec![443]),
            policy([one.clone()].into_iter().chain(many).collect(), vec![]),
            policy(vec![one.clone(), two, free], vec![443]),
            policy(vec![], vec![]),
        ];
        let generations = Generations::open().unwrap();
        helper::nft::commit(&rules::render(&turns[0], range, Arrival::Afresh)).unwrap();
        for (from, to) in turns.iter().zip(&turns[1..]) {
            let steps = rules::change(from, to, range).unwrap();
            // Of a thousand at once the batch is too large; a hundred fit.
            let large = steps.iter().map(|step| step.elements.len()).sum::<usize>() > 2000;
            let committed = generations.commit(&steps, generations.current().unwrap());
            assert_eq!(committed.is_err(), large, "{committed:?}");
            if large {
                helper::nft::commit(&rules::render_change(&steps)).unwrap();
            }
            let by_batch = listing();
            helper::nft::commit(&rules::render(to, range, Arrival::Afresh)).unwrap();
            assert_eq!(by_batch, listing());
        }
    });
}

#[test]
fn a_batch_for_rules_that_somebody_changed_is_refused_and_changes_nothing() {
    in_a_host(|_| {
        let range: Range = "10.44.0.0/20".parse().unwrap();
        let empty = Policy::default();
        let policy = Policy { guests: vec![policy_of(range, 2)], ..Policy::default() };
        let generations = Generations::open().unwrap();
        helper::nft::commit(&rules::render(&empty, range, Arrival::Afresh)).unwrap();
        let (known, before) = (generations.current().unwrap(), listing());
        helper::nft::commit("add table ip other\n").unwrap();
        let steps = rules::change(&empty, &policy, range).unwrap();
        assert!(generations.commit(&steps, known).is_err());
        assert_eq!(listing(), before);
        let wrong = rules::change(&policy, &empty, range).unwrap();
        assert!(generations.commit(&wrong, generations.current().unwrap()).is_err(), "there is no such element");
        assert_eq!(listing(), before);
        assert!(
            generations.commit(&steps, generations.current().unwrap()).is_ok(),
            "no old answer is taken for its own"
        );
        assert_ne!(listing(), before);
    });
}

fn up(helper: &Helper) -> Range {
    helper.ask(&EnsureBridge { range: None }).range
}

/// A guest as its policy says; all of a guest's addresses follow from it.
fn plug(helper: &Helper, range: Range, guest: &GuestPolicy) -> Guest {
    let device = helper.ask(&EnsureTap { id: guest.id.clone() }).device;
    let own = format!("{}/{}", guest.ipv4, range.network().prefix_len());
    let plugged = Guest::plug(&device, &address::mac(&guest.id).to_string(), &own, range.gateway().into());
    let own6 = range.address_v6(&guest.id);
    plugged.inside.run(|| {
        run(&format!("ip -6 addr add {own6}/128 dev eth0 nodad"));
        run("ip -6 route add default via fe80::1 dev eth0");
    });
    plugged
}

/// The world beyond the host: a public address, a private one, and the cloud's metadata.
fn outside(_: &Host) -> Namespace {
    let outside = Namespace::new();
    outside.wire("out0");
    run("ip addr add 203.0.113.1/24 dev out0");
    run("ip link set out0 up");
    for net in ["192.168.77.0/24", "169.254.169.254/32"] {
        run(&format!("ip route add {net} via 203.0.113.2 onlink dev out0"));
    }
    outside.run(|| {
        for address in ["203.0.113.2/24", "192.168.77.2/24", "169.254.169.254/32"] {
            run(&format!("ip addr add {address} dev eth0"));
        }
        run("ip link set eth0 up");
    });
    for address in ["203.0.113.2:80", "192.168.77.2:80", "192.168.77.2:53", "169.254.169.254:80"] {
        outside.serve(address);
    }
    outside
}

#[test]
fn a_guest_reaches_the_world_but_nothing_private() {
    in_a_host(|host| {
        let _outside = outside(host);
        let helper = host.helper();
        let range = up(&helper);
        let mut web = policy_of(range, 2);
        apply(&helper, std::slice::from_ref(&web));
        let guest = plug(&helper, range, &web).inside;

        // Masqueraded: the world sees the host's address.
        assert_eq!(guest.reach("203.0.113.2:80"), Ok("203.0.113.1".to_owned()));
        assert!(guest.reach("192.168.77.2:80").is_err());
        assert!(guest.reach("169.254.169.254:80").is_err());
        assert!(
            guest.reach("192.168.77.2:53").is_ok(),
            "the private network's resolver answers, and nothing else there"
        );
        let refused = helper.ask(&ReadRefused { id: web.id.clone() }).entries;
        let told: Vec<_> =
            refused.iter().map(|entry| (entry.destination.to_string(), entry.protocol.as_str(), entry.port)).collect();
        assert!(told.contains(&("192.168.77.2".to_owned(), "tcp", 80)), "{told:?}");
        assert!(told.contains(&("169.254.169.254".to_owned(), "tcp", 80)), "{told:?}");

        web.allow_networks = vec!["192.168.77.0/24".parse().unwrap(), "0.0.0.0/0".parse().unwrap()];
        apply(&helper, std::slice::from_ref(&web));
        assert_eq!(guest.reach("192.168.77.2:80"), Ok("203.0.113.1".to_owned()));
        assert!(guest.reach("169.254.169.254:80").is_err(), "a wide network does not open the metadata address");
        web.allow_networks.push("169.254.169.254".parse().unwrap());
        apply(&helper, std::slice::from_ref(&web));
        assert!(guest.reach("169.254.169.254:80").is_ok());
        assert!(!helper.ask(&ReadRefused { id: web.id.clone() }).entries.is_empty(), "a new policy keeps the record");
    });
}

#[test]
fn a_stricter_policy_ends_what_it_forbids() {
    in_a_host(|host| {
        let _outside = outside(host);
        let helper = host.helper();
        let range = up(&helper);
        let mut web = policy_of(range, 2);
        apply(&helper, std::slice::from_ref(&web));
        let guest = plug(&helper, range, &web).inside;
        let (mut stream, _) = guest.connect("203.0.113.2:80").unwrap();
        let mut byte = [0];
        stream.write_all(b"a").unwrap();
        stream.read_exact(&mut byte).unwrap();

        web.outbound = Outbound::Off;
        apply(&helper, std::slice::from_ref(&web));
        let _ = stream.write_all(b"b");
        assert!(stream.read_exact(&mut byte).is_err(), "an open connection ends as well");
        assert!(guest.reach("203.0.113.2:80").is_err());
    });
}

#[test]
fn guests_reach_each_other_only_when_allowed_and_in_that_direction() {
    in_a_host(|host| {
        let helper = host.helper();
        let range = up(&helper);
        let (mut a, b) = (policy_of(range, 2), policy_of(range, 3));
        apply(&helper, &[a.clone(), b.clone()]);
        let (guest_a, guest_b) = (plug(&helper, range, &a).inside, plug(&helper, range, &b).inside);
        let (at_a, at_b) = (format!("{}:80", a.ipv4), format!("{}:80", b.ipv4));
        guest_a.serve(&at_a);
        guest_b.serve(&at_b);
        assert!(guest_a.reach(&at_b).is_err());
        assert!(guest_b.reach(&at_a).is_err());

        a.allow_guests = vec![b.id.clone()];
        apply(&helper, &[a.clone(), b.clone()]);
        assert_eq!(guest_a.reach(&at_b), Ok(a.ipv4.to_string()), "by its own address, not the gateway's");
        assert!(guest_b.reach(&at_a).is_err());

        // Without any rules at all the ports stay isolated.
        run("nft flush ruleset");
        run("sysctl -q -w net.ipv4.ip_forward=0");
        assert!(guest_a.reach(&at_b).is_err());
    });
}

#[test]
fn a_guest_that_borrows_an_address_is_not_heard() {
    in_a_host(|host| {
        let _outside = outside(host);
        let helper = host.helper();
        let range = up(&helper);
        let (a, b) = (policy_of(range, 2), policy_of(range, 3));
        apply(&helper, &[a.clone(), b.clone()]);
        let guest = plug(&helper, range, &a).inside;
        let prefix = range.network().prefix_len();
        let reach = || guest.reach("203.0.113.2:80");
        assert!(reach().is_ok());

        // B's IPv4 address behind A's hardware address.
        let readdress = |from: Ipv4Addr, to: Ipv4Addr| {
            guest.run(|| {
                run(&format!("ip addr del {from}/{prefix} dev eth0"));
                run(&format!("ip addr add {to}/{prefix} dev eth0"));
                run(&format!("ip route replace default via {}", range.gateway()));
            })
        };
        readdress(a.ipv4, b.ipv4);
        assert!(reach().is_err(), "an address of somebody else");
        readdress(b.ipv4, a.ipv4);
        assert!(reach().is_ok());
        // Another hardware address.
        guest.run(|| run("ip link set eth0 address 02:de:ad:be:ef:00"));
        assert!(reach().is_err(), "a hardware address of nobody");
        guest.run(|| run(&format!("ip link set eth0 address {}", address::mac(&b.id))));
        assert!(reach().is_err(), "a hardware address of somebody else");
        guest.run(|| run(&format!("ip link set eth0 address {}", address::mac(&a.id))));
        assert!(reach().is_ok());
    });
}

#[test]
fn the_host_shows_guests_its_resolver_and_named_ports_only() {
    in_a_host(|host| {
        let helper = host.helper();
        let range = up(&helper);
        let web = policy_of(range, 2);
        apply(&helper, std::slice::from_ref(&web));
        let guest = plug(&helper, range, &web).inside;
        let at = |port: u16| format!("{}:{port}", range.gateway());
        for port in [22, 5354, 8080] {
            host.here.serve(&at(port));
        }
        assert!(guest.reach(&at(22)).is_err());
        assert!(guest.reach(&at(8080)).is_ok());
        assert!(guest.reach(&at(53)).is_ok(), "led to the resolver's own port");
        assert!(guest.reach(&at(5354)).is_err(), "which is not open by itself");

        host.here.serve(&format!("[{}]:8080", range.gateway_v6()));
        assert!(guest.reach(&format!("[{}]:8080", range.gateway_v6())).is_ok());
        let own = format!("[{}]:7777", range.address_v6(&web.id));
        guest.serve(&own);
        assert!(host.here.reach(&own).is_ok(), "the host reaches a guest");
    });
}

#[test]
fn a_guest_without_a_policy_is_mute() {
    in_a_host(|host| {
        let _outside = outside(host);
        let helper = host.helper();
        let range = up(&helper);
        let web = policy_of(range, 2);
        let guest = plug(&helper, range, &web).inside;
        assert!(guest.reach("203.0.113.2:80").is_err());
        assert!(
            guest.reach(&format!("{}:8080", range.gateway())).is_err_and(|kind| kind != ErrorKind::ConnectionRefused)
        );
    });
}

#[test]
fn nothing_is_left_when_the_network_goes_down() {
    in_a_host(|host| {
        run("ip link add eth0 type veth peer name eth1");
        run("ip addr add 192.0.2.1/24 dev eth0");
        run("ip link set eth0 up");
        run("nft add table inet somebody");
        let before = host.picture();
        let helper = host.helper();
        let range = up(&helper);
        for digit in 2..6 {
            helper.ask(&EnsureTap { id: id(digit) });
        }
        apply(&helper, &[policy_of(range, 2), policy_of(range, 3)]);
        assert_ne!(host.picture(), before);
        let facts = helper.ask(&Observe {});
        assert_eq!((facts.taps.len(), facts.rules, facts.forwarding.ipv4_ours), (4, RulesState::InSync, true));

        assert_eq!(helper.ask(&RemoveTap { id: id(5) }).change, Change::Changed);
        assert_eq!(helper.ask(&RemoveTap { id: id(5) }).change, Change::Unchanged);
        assert_eq!(helper.ask(&NetworkDown {}).change, Change::Changed);
        assert_eq!(host.picture(), before);
        assert_eq!(helper.ask(&NetworkDown {}).change, Change::Unchanged);
    });
}
