//! Promise: every program of a host finds its sandboxes by name. The host is a Debian of its own, a guest of ours, whose
//! names systemd-resolved answers; what runs on it is the product whole, with a sandbox in Firecracker on a real bridge.

use e2e::world::binary;
use e2e::{Ran, World, foreign, needs};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// A machine in a machine that is emulated.
const PATIENCE: Duration = Duration::from_secs(120);

const HOST: &str = "host";

/// A command on that host; its end is the caller's to judge.
fn on_host(world: &World, line: &str) -> Ran {
    let environment =
        "export XDG_RUNTIME_DIR=/run HOME=/root BANGER_STATE=/root/state PATH=/opt/banger:$PATH NO_COLOR=1";
    world.banger(&["vm", "exec", HOST, "--", "sh", "-c", &format!("{environment}; {line}")])
}

#[track_caller]
fn until(world: &World, what: &str, line: &str) -> String {
    let end = Instant::now() + PATIENCE;
    loop {
        let ran = on_host(world, line);
        if ran.code == 0 {
            return ran.stdout;
        }
        assert!(Instant::now() < end, "not in time: {what}: {ran:?}; {}", on_host(world, "resolvectl status").stdout);
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// The product, Firecracker, and an image and a kernel for it, in one folder that goes over as it is.
fn stage(world: &World) -> PathBuf {
    let (programs, state) = (world.path().join("staged/opt/banger"), world.path().join("staged/root/state"));
    std::fs::create_dir_all(programs.join("libexec")).expect("a folder can be made");
    std::fs::create_dir_all(&state).expect("a folder can be made");
    let firecracker = needs::which("firecracker").expect("the need was checked");
    let own = ["banger", "bangerd", "bangerd-root", "libexec/banger-vsock-agent"];
    let binaries = binary("bangerd").parent().expect("a binary lies in a folder").to_path_buf();
    for (from, name) in own.iter().map(|name| (binaries.join(name), *name)).chain([(firecracker, "firecracker")]) {
        strip(&from, &programs.join(name));
    }
    let artifacts = e2e::artifacts::tiny();
    let mut copy = Command::new("cp");
    copy.args(["-a", "--sparse=always"]).args(["images", "kernels"].map(|kind| artifacts.join(kind))).arg(&state);
    assert!(copy.status().expect("cp runs").success(), "an image cannot be copied");
    world.path().join("staged")
}

/// Without what only a debugger reads, which is most of it.
fn strip(from: &Path, to: &Path) {
    let status = Command::new("strip").arg("-o").arg(to).arg(from).status();
    assert!(status.expect("strip runs").success(), "cannot strip {}", from.display());
}

#[test]
fn a_host_finds_its_sandboxes_by_name_through_systemd_resolved_until_the_daemon_ends() {
    let test = "a_host_finds_its_sandboxes_by_name_through_systemd_resolved_until_the_daemon_ends";
    let programs = ["firecracker", "mmdebstrap", "strip"];
    if !needs::qemu(test) || !needs::root(test) || !programs.iter().all(|program| needs::program(program, test)) {
        return;
    }
    let world = World::with(&foreign::debian_host());
    let machine = ["--vcpu", "2", "--memory", "2G", "--nat", "off"];
    world.banger(&[&["vm", "run", "-d", "--name", HOST, "--image", foreign::DEBIAN_HOST], &machine[..]].concat()).ok();
    let staged = stage(&world);
    for folder in ["opt", "root"] {
        world.banger(&["vm", "cp", staged.join(folder).to_str().expect("UTF-8"), "host:/"]).ok();
    }
    on_host(&world, "systemctl start systemd-resolved && modprobe -a kvm_amd tun bridge nf_tables && ls /dev/kvm").ok();
    // As any machine's: programs ask the C library, and that asks systemd-resolved.
    on_host(
        &world,
        "ln -sf ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf && grep resolve /etc/nsswitch.conf",
    )
    .ok();
    assert_ne!(on_host(&world, "getent hosts web.vm").code, 0);
    let before = on_host(&world, "resolvectl domain; resolvectl dns").ok().stdout;

    // The daemon starts with the first command, and its root helper with the first bridge.
    on_host(&world, "banger vm run -d --name web --image tiny --vmm firecracker --vcpu 1 --memory 128").ok();
    let shown = on_host(&world, "banger vm net show web --json").ok().json();
    let address =
        shown["addresses"][0].as_str().and_then(|cidr| cidr.split('/').next()).expect("an address").to_owned();
    let found = until(&world, "the name is found", "getent ahostsv4 web.vm");
    assert!(found.starts_with(&address), "{found}, and not {address}");
    let asked = on_host(&world, "resolvectl query web.vm").ok().stdout;
    assert!(asked.contains(&address) && asked.contains("via protocol DNS"), "{asked}");
    let name = on_host(&world, &format!("getent hosts {address}")).ok().stdout;
    assert!(name.contains("web.vm"), "an address has its name, too: {name}");
    let doctor = on_host(&world, "banger doctor --json").json();
    let check = doctor["checks"].as_array().and_then(|all| all.iter().find(|check| check["name"] == "names").cloned());
    assert_eq!(check.expect("doctor tells of names")["verdict"], "pass", "{doctor}");
    on_host(&world, "banger vm exec web -- true").ok();

    on_host(&world, "banger daemon stop").ok();
    assert_ne!(on_host(&world, "getent hosts web.vm").code, 0, "nobody is asked who answers no more");
    let told = on_host(&world, "resolvectl domain br-banger; resolvectl dns br-banger").ok().stdout;
    assert!(!told.contains("~vm") && !told.contains("127.0.0.1"), "{told}");
    on_host(&world, "banger vm delete --force web && banger system network down && banger daemon stop").ok();
    assert_eq!(on_host(&world, "resolvectl domain; resolvectl dns").ok().stdout, before);
}
