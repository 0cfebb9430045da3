//! Promise: whatever a registry has boots here, and a pull that was broken off goes on where it was.

use e2e::registry::{Guard, Registry, layout};
use e2e::{World, needs};
use std::time::{Duration, Instant};

fn has_registry(test: &str) -> bool {
    ["docker-registry", "skopeo", "umoci", "openssl", "htpasswd"]
        .into_iter()
        .all(|program| needs::program(program, test))
}

#[test]
fn an_image_of_a_registry_boots_by_its_reference() {
    let name = "an_image_of_a_registry_boots_by_its_reference";
    if !needs::qemu(name) || !has_registry(name) {
        return;
    }
    let world = World::tiny();
    let registry = Registry::start(&world.path().join("registry"), Guard::default());
    let config = ["--config.cmd", "/bin/sh", "--config.env", "COLOUR=green", "--config.exposedports", "80/tcp"];
    registry.push(&layout(world.path(), "1", &[], &config), "1", "a/box:1");
    let reference = format!("{}/a/box:1", registry.address());

    // It is pulled by itself.
    let ran = world.banger(&["vm", "run", "--rm", "--image", &reference, "--", "sh", "-c", "echo hello; id -u"]).ok();
    assert_eq!(ran.stdout, "hello\n0\n");
    let shown = world.banger(&["image", "show", &reference, "--json"]).ok().json();
    assert_eq!(shown["name"], "box-1");
    assert_eq!(shown["config"]["cmd"], serde_json::json!(["/bin/sh"]));
    assert_eq!(shown["config"]["exposed_ports"], serde_json::json!(["80/tcp"]));
    assert!(std::path::Path::new(shown["files"]["rootfs"].as_str().expect("it has one")).is_file());

    // An image that is used stays, and who uses it is said.
    world.banger(&["vm", "create", "--no-start", "--name", "user", "--image", "box-1"]).ok();
    let refused = world.banger(&["image", "delete", &reference]);
    assert!(refused.code != 0 && refused.stderr.contains("user uses it"), "{refused:?}");
    world.banger(&["vm", "delete", "user"]).ok();
    world.banger(&["image", "delete", &reference]).ok();
}

#[test]
fn a_registry_with_tls_and_logins_is_pulled_from_and_a_killed_one_is_resumed() {
    let name = "a_registry_with_tls_and_logins_is_pulled_from_and_a_killed_one_is_resumed";
    if !has_registry(name) {
        return;
    }
    let world = World::empty();
    let mut registry = Registry::start(&world.path().join("registry"), Guard { tls: true, login: true });
    registry.push(&layout(world.path(), "1", &[96 << 20], &[]), "1", "a/large:1");
    let reference = format!("{}/a/large:1", registry.address());
    let (ca, login) = (registry.ca().display().to_string(), registry.auth_file().display().to_string());

    let stranger = world.banger(&["image", "pull", &reference]);
    assert!(stranger.code == 125 && stranger.stderr.contains("certs.d"), "{stranger:?}");
    let unknown = world.banger(&["image", "pull", &reference, "--ca", &ca]);
    assert!(unknown.code == 125 && unknown.stderr.contains("asks for a login"), "{unknown:?}");

    let arguments = ["image", "pull", reference.as_str(), "--ca", &ca, "--authfile", &login];
    let mut command = world.command(&arguments);
    let pulling = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn();
    let pulling = pulling.expect("banger starts");
    let arrived = await_partial(&world);
    registry.kill();
    let broken = e2e::world::finish(pulling, "banger image pull");
    assert!(broken.code == 125 && broken.stderr.contains("goes on from there"), "{broken:?}");
    assert!(world.banger(&["image", "list", "--json"]).ok().stdout.matches("\"present\": true").count() == 0);

    registry.resume();
    let before = registry.log().len();
    world.banger(&arguments).ok();
    let log = registry.log().split_off(before);
    assert!(log.contains(" 206 "), "the rest alone was asked for after {arrived} bytes: {log}");
    let again = Instant::now();
    world.banger(&arguments).ok();
    assert!(again.elapsed() < Duration::from_secs(5), "what is here is not pulled again");
}

/// Waits until a part of the large layer has arrived; tells how much.
fn await_partial(world: &World) -> u64 {
    let folder = world.path().join("cache/banger/blobs/sha256");
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        let partial = entries.filter(|entry| entry.file_name().to_string_lossy().ends_with(".partial"));
        let largest = partial.filter_map(|entry| entry.metadata().ok()).map(|found| found.len()).max().unwrap_or(0);
        if largest > 1 << 20 {
            return largest;
        }
        assert!(Instant::now() < end, "nothing arrives");
        std::thread::sleep(Duration::from_millis(1));
    }
}
