//! Promise: bad input gets one sentence and a hint, and leaves nothing.

use e2e::{World, needs};
use std::process::Stdio;

fn check(world: &World, arguments: &[&str], wanted: &str) {
    let ran = world.banger(arguments);
    assert!(ran.code == 125 || ran.code == 2, "{arguments:?}: {ran:?}");
    assert!(ran.stderr.contains(wanted), "{arguments:?} should say {wanted:?}: {}", ran.stderr);
    assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
}

#[test]
fn bad_input_gets_a_sentence_and_leaves_nothing() {
    if !needs::qemu("bad_input_gets_a_sentence_and_leaves_nothing") {
        return;
    }
    let world = World::tiny();
    check(&world, &["vm", "run", "--name", "Bad_Name", "--", "true"], "is no sandbox name");
    check(&world, &["vm", "run", "--vcpu", "0", "--", "true"], "1 to 32");
    check(&world, &["vm", "run", "--memory", "1X", "--", "true"], "is no size");
    check(&world, &["vm", "run", "--memory", "1M", "--image", "tiny", "--", "true"], "too small");
    check(&world, &["vm", "run", "--image", "no-such-image", "--", "true"], "no-such-image");
    check(&world, &["vm", "run", "--vmm", "bochs", "--", "true"], "bochs");
    check(&world, &["vm", "exec", "nobody", "--", "true"], "nobody");
    assert_eq!(world.banger(&["vm", "list", "--json"]).ok().json(), serde_json::json!([]));
    world.assert_audit_is_empty();
}

#[test]
fn of_two_creates_with_one_name_one_wins() {
    if !needs::qemu("of_two_creates_with_one_name_one_wins") {
        return;
    }
    let world = World::tiny();
    let start = || {
        let mut command = world.command(&["vm", "create", "--no-start", "--name", "x", "--image", "tiny"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("banger starts")
    };
    let children = [start(), start(), start()];
    let ran: Vec<_> = children.into_iter().map(|child| e2e::world::finish(child, "vm create")).collect();
    assert_eq!(ran.iter().filter(|ran| ran.code == 0).count(), 1, "{ran:?}");
    assert!(ran.iter().filter(|ran| ran.code != 0).all(|ran| ran.stderr.contains("hint:")), "{ran:?}");
    assert_eq!(world.banger(&["vm", "list", "-q"]).ok().stdout.lines().count(), 1);
}

#[test]
fn a_machine_that_never_comes_up_is_named_with_its_last_words() {
    if !needs::qemu("a_machine_that_never_comes_up_is_named_with_its_last_words") {
        return;
    }
    let world = World::tiny();
    // The image is listed, but the disk under it is garbage: the guest's init says so and gives up.
    let rootfs = world.state().join("images/tiny/rootfs.ext4");
    let length = std::fs::metadata(&rootfs).expect("the image is there").len();
    std::fs::remove_file(&rootfs).expect("the link can be removed");
    std::fs::File::create(&rootfs).and_then(|file| file.set_len(length)).expect("a file can be made");
    let ran = world.banger(&["vm", "run", "--name", "x", "--image", "tiny", "--", "true"]);
    assert_eq!(ran.code, 125, "{ran:?}");
    assert!(ran.stderr.contains("banger-init"), "the console's last words are missing: {}", ran.stderr);
    // The id in the error leads to the log and to the history.
    let operation =
        ran.stderr.lines().find_map(|line| line.trim().strip_prefix("operation:")).unwrap_or_default().trim();
    assert_eq!(operation.len(), 16, "the error names its operation: {}", ran.stderr);
    let log = std::fs::read_to_string(world.state().join("bangerd.log")).expect("there is a log");
    let lines: Vec<&str> = log.lines().filter(|line| line.contains(operation)).collect();
    assert!(
        lines.len() >= 2 && lines.iter().any(|line| line.contains("did not") || line.contains("ended")),
        "{lines:#?}"
    );
    assert!(world.banger(&["history", "--json"]).ok().stdout.contains(operation));
    world.assert_audit_is_empty();
}
