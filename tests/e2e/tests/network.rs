//! Promise: guests reach the world and nothing private, each other only when allowed; what was made of the host's
//! network is unmade byte for byte. All in network namespaces that the tests make.

use e2e::netns::{HOST, HOST_V6, METADATA, PRIVATE, PRIVATE_V6, PUBLIC, PUBLIC_V6};
use e2e::netns::{Namespace, in_a_host, open_devices, picture, run};
use e2e::{World, needs};

/// A world whose sandboxes hang on a bridge, for a test in a namespace of its own.
fn bridged(test: &str) -> Option<World> {
    let can = needs::qemu(test) && needs::root(test) && needs::program("nft", test) && needs::program("ip", test);
    can.then(|| {
        let mut world = World::tiny();
        world.network = "bridged";
        world
    })
}

fn boot(world: &World, name: &str, more: &[&str]) {
    let arguments = [&["vm", "run", "-d", "--name", name, "--image", "tiny"], more].concat();
    world.banger(&arguments).ok();
}

/// What the server there says to the guest; `None` when it cannot be reached.
fn reach(world: &World, name: &str, address: &str, port: u16) -> Option<String> {
    reach_within(4, world, name, address, port)
}

fn reach_within(seconds: u32, world: &World, name: &str, address: &str, port: u16) -> Option<String> {
    let script = format!("nc -w {seconds} {address} {port} </dev/null | head -n 1");
    let ran = world.banger(&["vm", "exec", name, "--", "sh", "-c", &script]).ok();
    Some(ran.stdout.trim().to_owned()).filter(|said| !said.is_empty())
}

/// The address that the guest's own resolver finds.
fn look_up(world: &World, name: &str, wanted: &str) -> Option<String> {
    let script = format!("nslookup -type=a {wanted} | sed -n '/^Name/,$s/^Address: *//p' | head -n 1");
    let ran = world.banger(&["vm", "exec", name, "--", "sh", "-c", &script]).ok();
    Some(ran.stdout.trim().to_owned()).filter(|found| !found.is_empty())
}

fn address_of(world: &World, name: &str) -> String {
    let net = world.banger(&["vm", "net", "show", name, "--json"]).ok().json();
    assert_eq!(net["mode"], "bridged", "{net}");
    let cidr = net["addresses"][0].as_str().expect("an address is text").to_owned();
    cidr.split('/').next().expect("a network has an address").to_owned()
}

fn refused(world: &World, name: &str) -> Vec<(String, u64)> {
    let log = world.banger(&["vm", "net", "log", name, "--json"]).ok().json();
    let entry = |entry: &serde_json::Value| {
        (entry["destination"].as_str().unwrap_or_default().to_owned(), entry["port"].as_u64().unwrap_or_default())
    };
    log.as_array().expect("a log is a list").iter().map(entry).collect()
}

#[test]
fn a_bridged_guest_reaches_the_world_and_nothing_private() {
    let Some(world) = bridged("a_bridged_guest_reaches_the_world_and_nothing_private") else { return };
    in_a_host(move |_outside| {
        let before = picture();
        boot(&world, "web", &[]);
        assert_eq!(reach(&world, "web", PUBLIC, 80).as_deref(), Some(HOST), "masqueraded: the world sees the host");
        assert_eq!(reach(&world, "web", PRIVATE, 80), None);
        assert_eq!(reach(&world, "web", METADATA, 80), None);
        let log = refused(&world, "web");
        assert!(log.contains(&(PRIVATE.into(), 80)) && log.contains(&(METADATA.into(), 80)), "{log:?}");

        // Live, on the machine that runs.
        world.banger(&["vm", "set", "web", "--allow-net", "192.168.77.0/24"]).ok();
        assert_eq!(reach(&world, "web", PRIVATE, 80).as_deref(), Some(HOST));
        world.banger(&["vm", "net", "deny", "web", "192.168.77.0/24"]).ok();
        assert_eq!(reach(&world, "web", PRIVATE, 80), None);
        world.banger(&["vm", "set", "web", "--nat", "off"]).ok();
        assert_eq!(reach(&world, "web", PUBLIC, 80), None);
        world.banger(&["vm", "set", "web", "--nat", "on"]).ok();
        assert_eq!(reach(&world, "web", PUBLIC, 80).as_deref(), Some(HOST));

        let refused = world.banger(&["system", "network", "down"]);
        assert!(refused.code != 0 && refused.stderr.contains("web would lose it"), "{refused:?}");
        // A firewall that is reloaded wipes our tables with all others; the next look makes them anew.
        run("nft flush ruleset");
        world.banger(&["system", "network", "up"]).ok();
        assert_eq!(reach(&world, "web", PRIVATE, 80), None);
        assert_eq!(reach(&world, "web", PUBLIC, 80).as_deref(), Some(HOST));

        world.banger(&["vm", "delete", "--force", "web"]).ok();
        world.banger(&["system", "network", "down"]).ok();
        assert_eq!(picture(), before, "the host is as it was found");
        world.assert_audit_is_empty();
    });
}

#[test]
fn neighbours_meet_only_when_allowed_and_a_borrowed_address_is_not_heard() {
    let Some(world) = bridged("neighbours_meet_only_when_allowed_and_a_borrowed_address_is_not_heard") else { return };
    in_a_host(move |_outside| {
        boot(&world, "a", &[]);
        boot(&world, "b", &[]);
        let b = address_of(&world, "b");
        let serve = "while :; do echo hello from b | nc -l -p 7000; done >/dev/null 2>&1 &";
        world.banger(&["vm", "exec", "b", "--", "sh", "-c", serve]).ok();
        // By name, out of the guests' own zone; what is not ours is asked of whom this host asks.
        assert_eq!(look_up(&world, "a", "b.vm").as_deref(), Some(b.as_str()));
        assert_eq!(look_up(&world, "a", "example.org").as_deref(), Some("203.0.113.9"));
        assert_eq!(look_up(&world, "a", "c.vm"), None);
        assert_eq!(reach(&world, "a", &b, 7000), None);
        assert!(refused(&world, "a").contains(&(b.clone(), 7000)));
        world.banger(&["vm", "net", "allow", "a", "b"]).ok();
        assert_eq!(reach(&world, "a", &b, 7000).as_deref(), Some("hello from b"));
        world.banger(&["vm", "net", "deny", "a", "b"]).ok();
        assert_eq!(reach(&world, "a", &b, 7000), None);

        // B's address behind A's own hardware address, then a hardware address of nobody.
        let own = address_of(&world, "a");
        let swap = |from: &str, to: &str| {
            format!("ip addr del {from}/22 dev eth0; ip addr add {to}/22 dev eth0; ip route add default via $0")
        };
        let gateway = world.banger(&["vm", "net", "show", "a", "--json"]).ok().json()["gateways"][0]
            .as_str()
            .expect("a gateway is text")
            .to_owned();
        world.banger(&["vm", "exec", "a", "--", "sh", "-c", &swap(&own, &b), &gateway]).ok();
        assert_eq!(reach(&world, "a", PUBLIC, 80), None, "an address of somebody else");
        world.banger(&["vm", "exec", "a", "--", "sh", "-c", &swap(&b, &own), &gateway]).ok();
        assert_eq!(reach(&world, "a", PUBLIC, 80).as_deref(), Some(HOST));
        let mac = "ip link set eth0 address 02:de:ad:be:ef:00";
        world.banger(&["vm", "exec", "a", "--", "sh", "-c", mac]).ok();
        assert_eq!(reach(&world, "a", PUBLIC, 80), None, "a hardware address of nobody");
    });
}

#[test]
fn without_root_a_guest_reaches_the_world_and_neither_private_networks_nor_the_host() {
    let test = "without_root_a_guest_reaches_the_world_and_neither_private_networks_nor_the_host";
    if !needs::qemu(test) || !needs::root(test) || !needs::program("ip", test) {
        return;
    }
    // Root makes the namespace; `banger` and all that it starts run as somebody else.
    let world = World::tiny_of_user(NOBODY);
    in_a_host(move |_outside| {
        let here = Namespace::current();
        here.serve("127.0.0.1:9001");
        here.serve("0.0.0.0:9002");
        boot(&world, "web", &["-p", "0:8000"]);
        assert_eq!(world.banger(&["vm", "net", "show", "web", "--json"]).ok().json()["mode"], "user");
        assert_eq!(reach(&world, "web", PUBLIC, 80).as_deref(), Some(HOST));
        assert_eq!(look_up(&world, "web", "example.org").as_deref(), Some("203.0.113.9"));
        assert_eq!(look_up(&world, "web", "web.vm"), None, "known, and nowhere that a guest could reach");
        // By UDP, past our own name server.
        assert_eq!(look_up(&world, "web", &format!("example.org {PUBLIC}")).as_deref(), Some("203.0.113.9"));

        let closed = [(PRIVATE, 80), (METADATA, 80), ("10.0.2.2", 9001), ("127.0.0.1", 9001), (HOST, 9002)];
        for (address, port) in closed {
            assert_eq!(reach(&world, "web", address, port), None, "{address}:{port}");
        }
        let log = refused(&world, "web");
        for (address, port) in [(PRIVATE, 80), (METADATA, 80), ("10.0.2.2", 9001), (HOST, 9002)] {
            assert!(log.contains(&(address.to_owned(), port)), "{address}:{port} is not in {log:?}");
        }
        // A port that nobody serves is told from one that does not answer.
        let script = format!("nc -w 20 {PUBLIC} 81 </dev/null; echo $?");
        let began = std::time::Instant::now();
        world.banger(&["vm", "exec", "web", "--", "sh", "-c", &script]).ok();
        assert!(began.elapsed().as_secs() < 15, "a refusal is heard at once");

        // Live, on the machine that runs.
        world.banger(&["vm", "net", "allow", "web", "192.168.77.0/24"]).ok();
        assert_eq!(reach(&world, "web", PRIVATE, 80).as_deref(), Some(HOST));
        world.banger(&["vm", "net", "deny", "web", "192.168.77.0/24"]).ok();
        assert_eq!(reach(&world, "web", PRIVATE, 80), None);
        world.banger(&["vm", "set", "web", "--nat", "off"]).ok();
        assert_eq!(reach(&world, "web", PUBLIC, 80), None);
        assert_eq!(look_up(&world, "web", "example.org"), None);
        world.banger(&["vm", "set", "web", "--nat", "on"]).ok();
        assert_eq!(reach(&world, "web", PUBLIC, 80).as_deref(), Some(HOST));

        published_port_answers(&world, "web");
        let owners = world.owners_of_processes();
        assert!(owners.len() >= 4 && owners.iter().all(|owner| *owner == NOBODY), "{owners:?}");
        // The gateway lives with its guest, not with the daemon.
        world.kill_daemon();
        assert_eq!(reach(&world, "web", PUBLIC, 80).as_deref(), Some(HOST));
        assert_eq!(reach(&world, "web", PRIVATE, 80), None);

        boot(&world, "island", &["--net", "none"]);
        let links = world.banger(&["vm", "exec", "island", "--", "ls", "/sys/class/net"]).ok().stdout;
        assert_eq!(links.trim(), "lo");
    });
}

#[test]
fn without_root_a_guest_has_ipv6_as_far_as_its_host_has_it() {
    let test = "without_root_a_guest_has_ipv6_as_far_as_its_host_has_it";
    if !needs::qemu(test) || !needs::root(test) || !needs::program("ip", test) || !needs::ipv6(test) {
        return;
    }
    let world = World::tiny_of_user(NOBODY);
    in_a_host(move |outside| {
        boot(&world, "web", &[]);
        let net = world.banger(&["vm", "net", "show", "web", "--json"]).ok().json();
        assert_eq!((&net["mode"], &net["gateways"][1]), (&"user".into(), &"fe80::1".into()), "{net}");
        let succeeds = |command: &str| world.banger(&["vm", "exec", "web", "--", "sh", "-c", command]).code == 0;
        for own in ["fe80::1%eth0", "fd62:6772:a00:200::2"] {
            assert!(succeeds(&format!("ping -6 -c 1 -W 10 {own}")), "{own} is the gateway's");
        }
        // This host has no IPv6: a program hears so and takes IPv4, instead of waiting.
        let began = std::time::Instant::now();
        assert_eq!(reach_within(60, &world, "web", PUBLIC_V6, 80), None);
        assert!(began.elapsed().as_secs() < 30, "a refusal is heard at once");
        assert_eq!(reach(&world, "web", PUBLIC, 80).as_deref(), Some(HOST));

        // From now on it has, and its guests as well.
        outside.speaks_ipv6();
        Namespace::current().serve("[::]:9002");
        assert_eq!(reach(&world, "web", PUBLIC_V6, 80).as_deref(), Some(HOST_V6));
        let named = look_up(&world, "web", &format!("example.org {PUBLIC_V6}"));
        assert_eq!(named.as_deref(), Some("203.0.113.9"), "by UDP");

        // As a router it listens on its network's anycast address, too.
        std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").expect("root may forward");
        let closed = [(PRIVATE_V6, 80), (HOST_V6, 9002), ("2001:db8:1::", 9002), ("fd62:6772:a00:200::2", 9002)];
        for (address, port) in closed {
            assert_eq!(reach(&world, "web", address, port), None, "{address}:{port}");
        }
        let log = refused(&world, "web");
        for (address, port) in closed {
            assert!(log.contains(&(address.to_owned(), u64::from(port))), "{address}:{port} is not in {log:?}");
        }

        // Live, on the machine that runs.
        world.banger(&["vm", "net", "allow", "web", "fd12:3456::/64"]).ok();
        assert_eq!(reach(&world, "web", PRIVATE_V6, 80).as_deref(), Some(HOST_V6));
        world.banger(&["vm", "net", "deny", "web", "fd12:3456::/64"]).ok();
        assert_eq!(reach(&world, "web", PRIVATE_V6, 80), None);
        world.banger(&["vm", "set", "web", "--nat", "off"]).ok();
        assert_eq!(reach(&world, "web", PUBLIC_V6, 80), None);
        world.banger(&["vm", "set", "web", "--nat", "on"]).ok();
        assert_eq!(reach(&world, "web", PUBLIC_V6, 80).as_deref(), Some(HOST_V6));
    });
}

/// The user and group that own nothing (`nobody`).
const NOBODY: u32 = 65534;

fn published_port_answers(world: &World, name: &str) {
    let serve = "mkdir -p /srv && echo hello > /srv/index.html && httpd -p 127.0.0.1:8000 -h /srv";
    world.banger(&["vm", "exec", name, "--", "sh", "-c", serve]).ok();
    let bound = world.vm(name)["ports"][0].as_str().expect("the port is published").to_owned();
    let address: Vec<&str> = bound.rsplitn(2, ':').collect();
    let answer = run(&format!("busybox wget -q -O - http://{}/", address[1]));
    assert_eq!(answer, "hello\n");
}

/// More places than there are between two deeds of a helper that brings a network and a tap up.
const MOST_PLACES: u32 = 60;

#[test]
fn helper_and_daemon_killed_at_any_step_of_up_leave_nothing_after_audit_and_down() {
    let test = "helper_and_daemon_killed_at_any_step_of_up_leave_nothing_after_audit_and_down";
    let Some(mut world) = bridged(test) else { return };
    in_a_host(move |_outside| {
        let before = picture();
        for fatal in 1..MOST_PLACES {
            world.variables = vec![("BANGER_ROOT_DIE_AT", fatal.to_string())];
            let ran = world.banger(&["vm", "create", "--name", "doomed", "--image", "tiny"]);
            world.kill_daemon();
            world.kill_program("bangerd-root");
            world.variables.clear();

            world.banger(&["audit", "--fix"]);
            world.assert_audit_is_empty();
            world.banger(&["vm", "delete", "--all", "--force"]).ok();
            world.banger(&["system", "network", "down"]).ok();
            assert_eq!(picture(), before, "after a death at place {fatal}");
            world.assert_audit_is_empty();
            // The next daemon and helper shall hear of the next place.
            world.banger(&["daemon", "stop"]).ok();
            world.kill_program("bangerd-root");
            if ran.code == 0 {
                assert!(fatal > 8, "a sandbox came up at place {fatal}: {ran:?}");
                return;
            }
        }
        panic!("more than {MOST_PLACES} places");
    });
}

/// The kernel for emulated KVM and the least of a machine.
const FIRECRACKER: &[&str] =
    &["--vmm", "firecracker", "--kernel", "fcemu", "--image", "tiny", "--memory", "96", "--vcpu", "1"];

#[test]
fn firecracker_guests_have_both_networks() {
    let test = "firecracker_guests_have_both_networks";
    let can =
        needs::firecracker(test) && needs::root(test) && needs::program("nft", test) && needs::program("ip", test);
    if !can {
        return;
    }
    for network in ["user", "bridged"] {
        let mut world = World::firecracker();
        world.network = network;
        in_a_host(move |_outside| {
            world.banger(&[&["vm", "run", "-d", "--name", "fc"], FIRECRACKER].concat()).ok();
            assert_eq!(world.banger(&["vm", "net", "show", "fc", "--json"]).ok().json()["mode"], network);
            // Under emulated KVM a connection takes seconds.
            let reach = |address| reach_within(60, &world, "fc", address, 80);
            assert_eq!(reach(PUBLIC).as_deref(), Some(HOST), "{network}");
            assert_eq!(reach(PRIVATE), None, "{network}");
            assert!(refused(&world, "fc").contains(&(PRIVATE.to_owned(), 80)), "{network}");
        });
    }
}

#[test]
fn without_root_firecracker_guests_reach_the_world_and_neither_private_networks_nor_the_host() {
    let test = "without_root_firecracker_guests_reach_the_world_and_neither_private_networks_nor_the_host";
    if !needs::firecracker(test) || !needs::root(test) || !needs::program("ip", test) {
        return;
    }
    // Root makes the namespace and opens KVM and taps to everybody in it; the rest is somebody else's.
    let world = World::firecracker_of_user(NOBODY);
    in_a_host(move |_outside| {
        open_devices();
        let here = Namespace::current();
        here.serve("127.0.0.1:9001");
        world.banger(&[&["vm", "run", "-d", "--name", "fc", "-p", "0:8000"], FIRECRACKER].concat()).ok();
        assert_eq!(world.banger(&["vm", "net", "show", "fc", "--json"]).ok().json()["mode"], "user");
        // Under emulated KVM a connection takes seconds.
        let reach = |address, port| reach_within(60, &world, "fc", address, port);
        assert_eq!(reach(PUBLIC, 80).as_deref(), Some(HOST));
        for (address, port) in [(PRIVATE, 80), ("10.0.2.2", 9001)] {
            assert_eq!(reach(address, port), None, "{address}:{port}");
            assert!(refused(&world, "fc").contains(&(address.to_owned(), u64::from(port))), "{address}:{port}");
        }
        published_port_answers(&world, "fc");
        let owners = world.owners_of_processes();
        assert!(owners.len() >= 3 && owners.iter().all(|owner| *owner == NOBODY), "{owners:?}");
        world.kill_daemon();
        assert_eq!(reach(PUBLIC, 80).as_deref(), Some(HOST), "the gateway lives with its guest");
    });
}
