//! With a real helper, served in this process, in a network namespace that each test makes.

use super::*;
use crate::host::network::helper::Helper;
use helper::ops::Root;
use helper::serve;
use model::Backend;
use model::egress::{Egress, Outbound};
use std::process::Command;
use tempfile::TempDir;

/// Runs a test on a thread of its own in a network namespace of its own, with a helper on `<folder>/socket`.
fn with_helper(test: impl FnOnce(&TempDir) + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        let required = std::env::var("REQUIRE_NEEDS").unwrap_or_default();
        assert!(!required.split(',').any(|need| need == "root"), "root is required");
        return;
    }
    let thread = std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root may make a namespace");
        let folder = tempfile::tempdir().unwrap();
        let root = Root::open(&folder.path().join("ledger"), 1000).unwrap();
        let listener = serve::bind(&folder.path().join("socket"), 1000).unwrap();
        std::thread::spawn(move || serve::serve(&listener, root, None));
        test(&folder);
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn bridged(folder: &TempDir) -> Bridged {
    let helper = Helper::new(folder.path().join("socket"), None);
    let choice = Choice { wanted: Wanted::Auto, mode: Mode::Bridged, reason: "the test".into() };
    let options = Options { choice, range: None, names: None, resolvers: vec![[192, 168, 1, 1].into()] };
    Bridged::open(helper, HostNetwork::new(None), &folder.path().join("addresses.json"), options).unwrap()
}

fn link(bits: u64, backend: Backend) -> Link {
    Link { id: SandboxId::from_bits(bits), name: "web".parse().unwrap(), backend, egress: Egress::default() }
}

/// Whether that changed anything is another test's question.
fn connect(network: &Bridged, wanted: &Link) -> Attachment {
    network.ensure_link(wanted).unwrap().1
}

fn elements(set: &str) -> String {
    let output = Command::new("nft").args(["list", "set", "inet", "banger", set]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

const WEB: u64 = 0x1111_1111_1111_1111;
const DB: u64 = 0x2222_2222_2222_2222;

#[test]
fn the_same_sandbox_gets_the_same_bridged_link_again() {
    with_helper(|folder| {
        let network = bridged(folder);
        let wanted = link(WEB, Backend::Firecracker);
        let (change, first) = network.ensure_link(&wanted).unwrap();
        assert_eq!(change, Change::Changed);
        assert_eq!(first.mode, LinkMode::Tap { device: "bgr-11111111111".into() });
        assert_eq!(first.mac.as_deref(), Some("02:11:11:11:11:11"));
        assert_eq!(first.name_servers, [IpAddr::from([192, 168, 1, 1])]);
        assert_eq!(network.ensure_link(&wanted).unwrap(), (Change::Unchanged, first.clone()));
        assert_eq!(network.remove_link(&wanted.id).unwrap(), Change::Changed);
        assert_eq!(network.remove_link(&wanted.id).unwrap(), Change::Unchanged);
        assert_eq!(network.observe().unwrap(), []);
        assert_eq!(bridged(folder).ensure_link(&wanted).unwrap().1, first, "over stop, start and a restart");
    });
}

#[test]
fn a_restarted_daemon_does_not_cut_off_guests_that_run() {
    with_helper(|folder| {
        let web = bridged(folder).ensure_link(&link(WEB, Backend::Qemu)).unwrap().1;
        let next = bridged(folder);
        assert_eq!(next.observe().unwrap()[0].mode, web.mode);
        connect(&next, &link(DB, Backend::Qemu));
        let allowed = elements("outbound4");
        assert!(allowed.contains(web.addresses[0].split('/').next().unwrap()), "{allowed}");
    });
}

#[test]
fn rights_follow_the_spec_live() {
    with_helper(|folder| {
        let network = bridged(folder);
        let mut wanted = link(WEB, Backend::Qemu);
        wanted.egress.allow_networks = vec!["192.168.5.0/24".into()];
        connect(&network, &wanted);
        assert!(elements("allowed_networks4").contains("192.168.5.0/24"));
        wanted.egress.outbound = Outbound::Off;
        assert_eq!(network.ensure_link(&wanted).unwrap().0, Change::Changed);
        assert!(!elements("outbound4").contains("elements"));
        wanted.egress.allow_networks = vec!["all of it".into()];
        assert_eq!(network.ensure_link(&wanted).unwrap_err().kind, HostErrorKind::Invalid);
    });
}

#[test]
fn a_network_that_went_down_comes_up_with_the_next_link() {
    with_helper(|folder| {
        let network = bridged(folder);
        connect(&network, &link(WEB, Backend::Qemu));
        network.helper.ask(&wire::privilege::NetworkDown {}).unwrap();
        connect(&network, &link(DB, Backend::Qemu));
        assert!(network.facts().unwrap().unwrap().bridge.is_some_and(|bridge| bridge.up));
    });
}

#[test]
fn what_the_helper_refuses_is_an_error_and_no_other_mode() {
    with_helper(|folder| {
        assert!(Command::new("ip").args(["link", "add", "br-banger", "type", "bridge"]).status().unwrap().success());
        let error = bridged(folder).ensure_link(&link(WEB, Backend::Qemu)).unwrap_err();
        assert_eq!(error.kind, HostErrorKind::Busy);
        assert!(error.source.unwrap().to_string().contains("that banger did not make"));
    });
}

#[test]
fn without_a_helper_links_are_in_user_mode() {
    let folder = tempfile::tempdir().unwrap();
    let network = bridged(&folder);
    let (_, attachment) = network.ensure_link(&link(WEB, Backend::Qemu)).unwrap();
    assert_eq!(attachment.mode, LinkMode::User);
    assert_eq!(network.observe().unwrap().len(), 1);
    assert_eq!(network.remove_link(&SandboxId::from_bits(WEB)).unwrap(), Change::Changed);
}

#[test]
fn resolvers_that_guests_can_ask_are_no_loopback() {
    let text =
        "# x\nnameserver 127.0.0.53\nnameserver 192.168.1.1\nnameserver fe80::1\n nameserver 9.9.9.9\noptions edns0\n";
    assert_eq!(parse_resolvers(text), [Ipv4Addr::new(192, 168, 1, 1), Ipv4Addr::new(9, 9, 9, 9)]);
    assert!(parse_resolvers("").is_empty());
}

#[test]
fn bridged_links_keep_the_contract() {
    with_helper(|folder| {
        let mut host = engine::sim::World::new(7).host();
        host.network = std::sync::Arc::new(bridged(folder));
        engine::host::contract::network(&engine::host::contract::Subject {
            host: &host,
            image: "empty".parse().unwrap(),
            kernel: "none".parse().unwrap(),
            memory: model::ByteSize::from_mib(64),
            init: model::InitMode::Agent,
            outbound: Outbound::Nat,
            ready_timeout_ms: 1000,
        });
    });
}
