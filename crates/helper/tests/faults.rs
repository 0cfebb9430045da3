//! What goes wrong around the helper: it is killed at every step, others hold its names and ranges, strangers knock,
//! bytes are no requests. Each ends in one sentence and leaves nothing behind.

mod world;

use model::egress::Outbound;
use model::{Change, SandboxId};
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::Command;
use wire::FaultKind;
use wire::privilege::address::BRIDGE;
use wire::privilege::facts::RulesState;
use wire::privilege::policy::{GuestPolicy, Policy};
use wire::privilege::varlink::{Call, Inbox, Reply, encode};
use wire::privilege::{ApplyPolicy, EnsureBridge, EnsureTap, NetworkDown, Observe, Ping, RemoveTap};
use world::{Helper, as_user, in_a_host, run, try_run};

fn id(digit: u64) -> SandboxId {
    SandboxId::from_bits(digit * 0x1111_1111_1111_1111)
}

fn policy(range: &str, digits: &[u8]) -> Policy {
    let gateway: std::net::Ipv4Addr = range.split('/').next().unwrap().parse().unwrap();
    let guests = digits.iter().map(|digit| GuestPolicy {
        id: id((*digit).into()),
        ipv4: (gateway.to_bits() + 1 + u32::from(*digit)).into(),
        outbound: Outbound::Nat,
        allow_networks: Vec::new(),
        allow_guests: Vec::new(),
    });
    Policy { guests: guests.collect(), ..Policy::default() }
}

/// A whole life of the network; stops quietly where the helper was killed.
fn live(helper: &Helper) -> Option<()> {
    let range = "10.55.0.0/24";
    helper.try_ask(&EnsureBridge { range: range.parse().ok() }).ok()?.expect("the bridge can be made");
    for digit in [1, 2] {
        helper.try_ask(&EnsureTap { id: id(digit) }).ok()?.expect("a tap can be made");
    }
    helper.try_ask(&ApplyPolicy { policy: policy(range, &[1, 2]) }).ok()?.expect("a policy can be applied");
    helper.try_ask(&RemoveTap { id: id(1) }).ok()?.expect("a tap can be removed");
    helper.try_ask(&NetworkDown {}).ok()?.expect("it can go down");
    Some(())
}

/// More places than there are; the loop ends by itself.
const MOST_CHECKPOINTS: u32 = 60;

#[test]
fn a_helper_killed_at_any_step_leaves_nothing_after_down() {
    in_a_host(|host| {
        run("ip link add eth0 type veth peer name eth1");
        run("ip addr add 192.0.2.1/24 dev eth0");
        run("ip link set eth0 up");
        let before = host.picture();
        for fatal in 1..MOST_CHECKPOINTS {
            let killed = host.helper_with(&[("BANGER_ROOT_DIE_AT", &fatal.to_string())]);
            let finished = live(&killed).is_some();
            let said = killed.kill();
            assert_eq!(finished, said.is_empty(), "checkpoint {fatal}: {said}");

            let next = host.helper();
            assert!(next.ready, "checkpoint {fatal}");
            next.ask(&NetworkDown {});
            assert_eq!(host.picture(), before, "{said}");
            drop(next);
            if finished {
                assert!(fatal > 20, "only {fatal} checkpoints");
                return;
            }
        }
        panic!("more than {MOST_CHECKPOINTS} checkpoints");
    });
}

#[test]
fn a_helper_killed_at_any_step_can_go_on() {
    in_a_host(|host| {
        let before = host.picture();
        for fatal in 1..MOST_CHECKPOINTS {
            let killed = host.helper_with(&[("BANGER_ROOT_DIE_AT", &fatal.to_string())]);
            let finished = live(&killed).is_some();
            drop(killed);
            // The same again from wherever it stood.
            let next = host.helper();
            live(&next).expect("the second life is whole");
            drop(next);
            assert_eq!(host.picture(), before, "checkpoint {fatal}");
            if finished {
                return;
            }
        }
    });
}

#[test]
fn a_restarted_helper_knows_what_it_made() {
    in_a_host(|host| {
        let first = host.helper();
        let range = first.ask(&EnsureBridge { range: None }).range;
        first.ask(&EnsureTap { id: id(1) });
        first.ask(&ApplyPolicy { policy: policy(&range.to_string(), &[1]) });
        drop(first);
        let second = host.helper();
        let facts = second.ask(&Observe {});
        assert_eq!((facts.taps.len(), facts.rules, facts.strangers.len()), (1, RulesState::InSync, 0));
        assert_eq!(second.ask(&EnsureBridge { range: None }).change, Change::Unchanged);
        assert_eq!(second.ask(&EnsureTap { id: id(1) }).change, Change::Unchanged);
        assert_eq!(second.ask(&ApplyPolicy { policy: policy(&range.to_string(), &[1]) }).change, Change::Unchanged);
    });
}

#[test]
fn what_others_hold_is_refused_with_their_name() {
    in_a_host(|host| {
        run("ip link add tun7 type veth peer name peer7");
        run("ip addr add 10.213.0.1/16 dev tun7");
        run("ip link set tun7 up");
        let helper = host.helper();
        let fault = helper.refusal(&EnsureBridge { range: "10.213.9.0/24".parse().ok() });
        assert_eq!(fault.kind, FaultKind::Conflict);
        assert_eq!(fault.message, "range 10.213.9.0/24 overlaps 10.213.0.0/16 of `tun7`");

        run(&format!("ip link add {BRIDGE} type bridge"));
        let fault = helper.refusal(&EnsureBridge { range: None });
        assert_eq!(fault.message, "a device `br-banger` exists that banger did not make");
        assert_eq!(helper.ask(&Observe {}).strangers, [BRIDGE]);
        assert!(!try_run("nft list table inet banger"), "nothing was begun");
        assert_eq!(helper.ask(&NetworkDown {}).change, Change::Unchanged);
        run(&format!("ip link del {BRIDGE}"));

        let made = helper.ask(&EnsureBridge { range: None });
        assert_eq!(made.range.to_string(), "172.16.212.0/22", "the first candidate is in use");
        let fault = helper.refusal(&EnsureBridge { range: "10.9.0.0/24".parse().ok() });
        assert_eq!(fault.message, "the bridge already serves 172.16.212.0/22, not 10.9.0.0/24");

        run("ip tuntap add bgr-33333333333 mode tap");
        let fault = helper.refusal(&EnsureTap { id: id(3) });
        assert_eq!(fault.message, "a device `bgr-33333333333` exists that banger did not make");
        helper.ask(&EnsureTap { id: id(4) });
        let twin = SandboxId::from_bits(0x4444_4444_4444_0000);
        assert!(helper.refusal(&EnsureTap { id: twin }).message.contains("would share the device name"));
        let outside = helper.refusal(&ApplyPolicy { policy: policy("10.9.0.0/24", &[1]) });
        assert_eq!(outside.kind, FaultKind::Invalid);
        helper.ask(&NetworkDown {});
        assert!(try_run("ip link show bgr-33333333333"), "what is not ours stays");
    });
}

#[test]
fn a_tap_needs_a_bridge() {
    in_a_host(|host| {
        let fault = host.helper().refusal(&EnsureTap { id: id(1) });
        assert_eq!(fault.message, "there is no bridge `br-banger`");
        assert!(fault.hint.is_some());
    });
}

#[test]
fn wiped_rules_are_noticed_and_mended() {
    in_a_host(|host| {
        let helper = host.helper();
        let range = helper.ask(&EnsureBridge { range: None }).range.to_string();
        let apply = || helper.ask(&ApplyPolicy { policy: policy(&range, &[1]) }).change;
        assert_eq!(apply(), Change::Changed);
        for vandal in [
            "nft flush ruleset",
            "nft delete table bridge banger",
            "nft flush chain inet banger guest_to_world",
            "nft add element inet banger outbound4 { 1.2.3.4 }",
            "nft insert rule inet banger forward accept",
        ] {
            run(vandal);
            assert_eq!(helper.ask(&Observe {}).rules, RulesState::Changed, "{vandal}");
            assert_eq!(apply(), Change::Changed, "{vandal}");
            assert_eq!(helper.ask(&Observe {}).rules, RulesState::InSync, "{vandal}");
        }
        // Sets of another version are in the way: the tables are made anew.
        run("nft delete table inet banger");
        run("nft add table inet banger");
        run("nft add set inet banger outbound4 { type ipv6_addr; }");
        assert_eq!(apply(), Change::Changed);
        assert_eq!(helper.ask(&Observe {}).rules, RulesState::InSync);
        // Somebody else's business is none of ours.
        run("nft add table inet somebody");
        assert_eq!(helper.ask(&Observe {}).rules, RulesState::InSync);
        assert_eq!(apply(), Change::Unchanged);
        run("ip link del br-banger");
        assert_eq!(helper.ask(&Observe {}).bridge.map(|bridge| bridge.up), Some(false));
        assert_eq!(helper.ask(&EnsureBridge { range: None }).change, Change::Changed);
    });
}

#[test]
fn other_firewalls_are_told_of_and_left_alone() {
    in_a_host(|host| {
        run("nft add table ip filter");
        run("nft add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }");
        run("nft add chain ip filter DOCKER-USER");
        run("nft add table inet firewalld");
        run("nft add chain inet firewalld filter_FORWARD { type filter hook forward priority 10; policy accept; }");
        let before = host.picture();
        let helper = host.helper();
        let obstacles = helper.ask(&EnsureBridge { range: None }).obstacles;
        let holders: Vec<_> = obstacles.iter().map(|obstacle| obstacle.holder.as_str()).collect();
        assert_eq!(holders, ["docker", "firewalld"]);
        assert!(obstacles[0].hint.as_ref().unwrap().contains("DOCKER-USER -i br-banger"));
        helper.ask(&NetworkDown {});
        assert_eq!(host.picture(), before);
    });
}

#[test]
fn forwarding_goes_back_unless_a_newcomer_needs_it() {
    in_a_host(|host| {
        let forward = || run("sysctl -n net.ipv4.ip_forward").trim().to_owned();
        run("ip link add lan0 type veth peer name lan1");
        run("sysctl -q -w net.ipv4.conf.lan0.forwarding=1");
        run("sysctl -q -w net.ipv4.conf.all.accept_redirects=0");
        let helper = host.helper();
        helper.ask(&EnsureBridge { range: None });
        assert_eq!(forward(), "1");
        assert!(helper.ask(&NetworkDown {}).kept.is_empty());
        assert_eq!(forward(), "0");
        assert_eq!(run("sysctl -n net.ipv4.conf.lan0.forwarding").trim(), "1");
        assert_eq!(run("sysctl -n net.ipv4.conf.all.accept_redirects").trim(), "0");

        helper.ask(&EnsureBridge { range: None });
        run("ip link add docker0 type bridge");
        let kept = helper.ask(&NetworkDown {}).kept;
        assert_eq!(kept, ["IPv4 forwarding stays on: `docker0` came up since and needs it"]);
        assert_eq!(forward(), "1");

        helper.ask(&EnsureBridge { range: None });
        helper.ask(&NetworkDown {});
        assert_eq!(forward(), "1", "it was on before");
    });
}

#[test]
fn a_tap_opens_for_its_owner_and_nobody_else() {
    in_a_host(|host| {
        let helper = host.helper();
        helper.ask(&EnsureBridge { range: None });
        let device = helper.ask(&EnsureTap { id: id(1) }).device;
        let opener = format!(
            "import fcntl,struct;f=open('/dev/net/tun','r+b',0);fcntl.ioctl(f,0x400454ca,struct.pack('16sH22x',b'{device}',0x5002))"
        );
        let open_as = |uid: u32| {
            // `/dev/net/tun` is open to everybody where udev runs; here root opens it and the user asks for the tap.
            let script = opener.replace(
                "f=open('/dev/net/tun','r+b',0)",
                &format!("import os;f=open('/dev/net/tun','r+b',0);os.setuid({uid})"),
            );
            Command::new("python3").args(["-c", &script]).output().unwrap().status.success()
        };
        assert!(open_as(1000));
        assert!(!open_as(1001));
    });
}

#[test]
fn strangers_are_turned_away() {
    in_a_host(|host| {
        let helper = host.helper();
        helper.ask(&Ping {});
        let folder = host.folder.path();
        std::fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let socket = host.socket();
        let ask = format!(
            "import socket,sys
s=socket.socket(socket.AF_UNIX)
s.connect('{}')
try:
    s.sendall(b'{{\"method\":\"dev.banger.Root1.Ping\"}}\\0')
    sys.exit(0 if s.recv(999) else 3)
except OSError:
    sys.exit(3)",
            socket.display()
        );
        let ask_as =
            |uid: u32| Command::new("python3").args(["-c", &ask]).uid(uid).gid(uid).output().unwrap().status.code();
        assert_eq!(ask_as(1000), Some(0), "the owner");
        assert_eq!(ask_as(1001), Some(1), "the socket is the owner's");
        // Even with a socket that is open to all.
        std::fs::set_permissions(&socket, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
        assert_eq!(ask_as(1001), Some(3), "the kernel knows who they are");
        assert!(!as_user(1000, &format!("cat {}/ledger.json", host.ledger().display())));
    });
}

#[test]
fn bytes_that_are_no_request_get_varlinks_own_answers() {
    in_a_host(|host| {
        let helper = host.helper();
        let answer = |bytes: &[u8]| -> Reply {
            let mut stream = helper.connect();
            stream.write_all(bytes).unwrap();
            let mut inbox = Inbox::default();
            let mut buffer = [0; 4096];
            loop {
                if let Some(message) = inbox.take().unwrap() {
                    return serde_json::from_slice(&message).unwrap();
                }
                let count = stream.read(&mut buffer).unwrap();
                assert!(count > 0, "no answer to {}", String::from_utf8_lossy(bytes));
                inbox.push(&buffer[..count]);
            }
        };
        for (bytes, wanted) in [
            (&b"\0"[..], "org.varlink.service.InvalidParameter"),
            (b"[]\0", "org.varlink.service.InvalidParameter"),
            (b"{\"method\":\"dev.banger.Root1.EnsureTap\"}\0", "org.varlink.service.InvalidParameter"),
            (b"{\"method\":\"dev.banger.Root1.Exec\"}\0", "org.varlink.service.MethodNotFound"),
            (b"{\"method\":\"io.systemd.Reboot\"}\0", "org.varlink.service.InterfaceNotFound"),
            (b"{\"method\":\"dev.banger.Root1.Ping\",\"more\":true}\0", "org.varlink.service.MethodNotImplemented"),
        ] {
            assert_eq!(answer(bytes).error.as_deref(), Some(wanted), "{}", String::from_utf8_lossy(bytes));
        }
        let info = answer(b"{\"method\":\"org.varlink.service.GetInfo\",\"parameters\":{}}\0");
        assert_eq!(info.parameters["interfaces"][1], "dev.banger.Root1");
        let described = answer(
            b"{\"method\":\"org.varlink.service.GetInterfaceDescription\",\"parameters\":{\"interface\":\"dev.banger.Root1\"}}\0",
        );
        assert_eq!(described.parameters["description"], wire::privilege::DESCRIPTION);

        // A oneway call is done and not answered: the next answer is the next call's.
        let oneway = Call { oneway: true, ..Call::of(&EnsureBridge { range: None }) };
        let both = [encode(&oneway), encode(&Call::of(&Ping {}))].concat();
        assert!(answer(&both).parameters["pid"].is_u64());
        assert!(helper.ask(&Observe {}).bridge.is_some());
    });
}

#[test]
fn a_second_helper_is_refused_and_a_dead_ones_socket_is_taken_over() {
    in_a_host(|host| {
        let first = host.helper();
        let second = host.helper();
        assert!(!second.ready);
        assert!(second.kill().contains("another bangerd-root holds this ledger"));
        first.ask(&Ping {});
        first.kill();
        assert!(host.socket().exists());
        host.helper().ask(&Ping {});
    });
}

#[test]
fn an_idle_helper_ends_and_leaves_the_network_up() {
    in_a_host(|host| {
        let mut child = Command::new(env!("CARGO_BIN_EXE_bangerd-root"))
            .args(["--owner", "1000", "--ready-fd", "1", "--idle-exit", "1", "--ledger"])
            .arg(host.ledger())
            .arg("--socket")
            .arg(host.socket())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = [0; 6];
        child.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
        assert_eq!(&said, b"ready\n");
        let mut stream = std::os::unix::net::UnixStream::connect(host.socket()).unwrap();
        let ask = EnsureBridge { range: None };
        assert!(wire::privilege::varlink::converse(&mut stream, &ask).unwrap().is_ok());
        drop(stream);
        assert!(child.wait().unwrap().success());
        assert!(try_run("ip link show br-banger up"));
        host.helper().ask(&NetworkDown {});
    });
}
