//! Promise: an audit sees what is there and should not be, and what should be there and is not, and mends it.

use e2e::{World, needs};
use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, SystemTime};

/// 1 s: who keeps names and host keys looks at them anew after a mending, 20 ms later; what the test breaks before that look
/// would be mended before an audit sees it.
const SETTLED: Duration = Duration::from_secs(1);

/// What of the findings' kinds and subjects an audit tells.
fn findings(world: &World, arguments: &[&str]) -> Vec<(String, String, bool)> {
    let audit = world.banger(&[&["audit", "--json"], arguments].concat()).json();
    let findings = audit["findings"].as_array().expect("findings are a list").clone();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let row = |one: &serde_json::Value| (text(&one["what"]), text(&one["subject"]), one["mended"] == true);
    findings.iter().map(row).collect()
}

fn check(world: &World, what: &str, subject: &str) {
    let wanted = |mended| (what.to_owned(), subject.to_owned(), mended);
    assert_eq!(findings(world, &[]), [wanted(false)]);
    assert_eq!(findings(world, &["--fix"]), [wanted(true)]);
    assert_eq!(findings(world, &[]), []);
    std::thread::sleep(SETTLED);
}

fn make_old(path: &Path) {
    let hour_ago = SystemTime::now() - Duration::from_secs(3600);
    File::options().write(true).open(path).and_then(|file| file.set_modified(hour_ago)).expect("its time can be set");
}

#[test]
fn an_audit_sees_and_mends_in_both_directions() {
    if !needs::qemu("an_audit_sees_and_mends_in_both_directions") {
        return;
    }
    let world = World::tiny();
    world.banger(&["vm", "create", "--no-start", "--name", "x", "--image", "tiny"]).ok();
    let id = world.vm("x")["id"].as_str().expect("an id is text").to_owned();
    world.assert_audit_is_empty();
    let state = world.state();

    // There, and should not be.
    let half_made = state.join("vms").join(&id).join("root.ext4.partial");
    fs::write(&half_made, "half").expect("it can be written");
    assert_eq!(findings(&world, &[]), [], "somebody may be at it");
    make_old(&half_made);
    check(&world, "file", &format!("vms/{id}/root.ext4.partial"));
    fs::write(state.join("ssh/host/00000000000000aa"), "a key").expect("it can be written");
    check(&world, "file", "ssh/host/00000000000000aa");
    fs::write(state.join("vms/notes"), "a stranger").expect("it can be written");
    check(&world, "file", "vms/notes");
    let known_hosts = state.join("ssh/known_hosts");
    let told = fs::read_to_string(&known_hosts).expect("it is there");
    fs::write(&known_hosts, told.clone() + "gone.vm ssh-ed25519 AAAA\n").expect("it can be written");
    check(&world, "name", "gone");

    // Should be there, and is not.
    fs::write(&known_hosts, "").expect("it can be written");
    check(&world, "name", "x");
    assert_eq!(fs::read_to_string(&known_hosts).expect("it is there"), told);

    // Neither can be mended while somebody holds it, and both are told.
    let lock = File::create(state.join("vms").join(&id).join("lock")).expect("it opens");
    let held = Flock::lock(lock, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| error).expect("it is free");
    assert_eq!(findings(&world, &["--fix"]), [("lock".to_owned(), "x".to_owned(), false)]);
    drop(held);
    assert_eq!(findings(&world, &[]), []);

    // A machine that runs has all of it: nothing is found, with or without the daemon that started it.
    world.banger(&["vm", "start", "x"]).ok();
    assert_eq!(findings(&world, &[]), []);
    world.kill_daemon();
    assert_eq!(findings(&world, &[]), []);
}
