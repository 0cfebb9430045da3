//! Promise: whatever a registry has boots here, and a pull that was broken off goes on where it was.

use e2e::registry::{Guard, Registry, layout};
use e2e::{World, needs};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
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
    registry.push(&layout(world.path(), "1", &[], &config), "1", "a/box:1", &["--format", "oci"]);
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

    // As the default image it is what a run without a word gets.
    world.banger(&["daemon", "stop"]).ok();
    world.write_config(&format!("default_image = \"{reference}\"\n"));
    let ran = world.banger(&["vm", "run", "--rm", "--", "sh", "-c", "echo $COLOUR"]).ok();
    assert_eq!(ran.stdout, "green\n");
    let doctor = world.banger(&["doctor", "--json"]).json();
    assert!(doctor.to_string().contains(&format!("{reference} with kernel debian-cloud is here")), "{doctor}");
}

/// Knows where one host is, and makes tunnels to it for whoever has the login `u:p`; tells how often it did.
fn proxy(host: String, port: u16) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let own = listener.local_addr().expect("it has an address").port();
    let tunnels = Arc::new(AtomicUsize::new(0));
    let count = tunnels.clone();
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let (wanted, count) = (format!("CONNECT {host}:{port} HTTP/1.1"), count.clone());
            std::thread::spawn(move || tunnel(client, &wanted, port, &count));
        }
    });
    (own, tunnels)
}

fn tunnel(mut client: TcpStream, wanted: &str, port: u16, count: &AtomicUsize) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && client.read_exact(&mut byte).is_ok() {
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let login = head
        .lines()
        .any(|line| line.to_ascii_lowercase().starts_with("proxy-authorization: basic") && line.ends_with("dTpw"));
    let refused = match (head.lines().next() == Some(wanted), login) {
        (_, false) => Some("407 Proxy Authentication Required"),
        (false, true) => Some("403 Forbidden"),
        (true, true) => None,
    };
    if let Some(status) = refused {
        let _ = client.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").as_bytes());
        return;
    }
    let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { return };
    count.fetch_add(1, Ordering::SeqCst);
    let _ = client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n");
    let copies = [(client.try_clone(), server.try_clone()), (Ok(server), Ok(client))];
    std::thread::scope(|scope| {
        for (from, to) in copies {
            let (Ok(mut from), Ok(mut to)) = (from, to) else { return };
            scope.spawn(move || {
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(std::net::Shutdown::Write);
            });
        }
    });
}

#[test]
fn a_proxy_leads_to_a_registry_that_only_it_can_find() {
    let name = "a_proxy_leads_to_a_registry_that_only_it_can_find";
    if !has_registry(name) {
        return;
    }
    let mut world = World::empty();
    let registry = Registry::start(&world.path().join("registry"), Guard { tls: true, login: true });
    registry.push(&layout(world.path(), "1", &[1 << 20], &[]), "1", "a/box:1", &["--format", "oci"]);
    let port = registry.address().rsplit(':').next().expect("it has a port").parse().expect("a port is a number");
    let (proxy, tunnels) = proxy("registry.invalid".to_owned(), port);
    let reference = format!("registry.invalid:{port}/a/box:1");
    // The login is the registry's, whatever way leads there.
    let known = registry.auth_file();
    let login = std::fs::read_to_string(&known).expect("it reads");
    std::fs::write(&known, login.replace(&registry.address(), &format!("registry.invalid:{port}"))).expect("it writes");
    let (ca, login) = (registry.ca().display().to_string(), known.display().to_string());
    let pull = ["image", "pull", reference.as_str(), "--ca", &ca, "--authfile", &login];

    world.variables.push(("HTTPS_PROXY", format!("http://127.0.0.1:{proxy}")));
    let stranger = world.banger(&pull);
    let said = format!("the proxy 127.0.0.1:{proxy} does not lead to registry.invalid: it asks for a login");
    assert!(stranger.code == 125 && stranger.stderr.contains(&said), "{stranger:?}");
    world.banger(&["daemon", "stop"]).ok();

    world.variables.push(("HTTPS_PROXY", format!("http://u:p@127.0.0.1:{proxy}")));
    assert_eq!(world.banger(&pull).ok().stdout, "box-1\n");
    assert!(tunnels.load(Ordering::SeqCst) >= 4, "a manifest, a config and two layers came through it");
    let log = std::fs::read_to_string(world.state().join("bangerd.log")).unwrap_or_default();
    assert!(!log.contains("u:p@") && !log.contains("dTpw"), "the proxy's login is in the log");
}

#[test]
fn a_registry_with_tls_and_logins_is_pulled_from_and_a_killed_one_is_resumed() {
    let name = "a_registry_with_tls_and_logins_is_pulled_from_and_a_killed_one_is_resumed";
    if !has_registry(name) {
        return;
    }
    let world = World::empty();
    let mut registry = Registry::start(&world.path().join("registry"), Guard { tls: true, login: true });
    registry.push(&layout(world.path(), "1", &[96 << 20], &[]), "1", "a/large:1", &["--format", "v2s2"]);
    let reference = format!("{}/a/large:1", registry.address());
    let (ca, login) = (registry.ca().display().to_string(), registry.auth_file().display().to_string());

    let helper = Helper::new(&world, &registry.address());
    let path = format!("{}:{}", helper.0.display(), std::env::var("PATH").unwrap_or_default());
    let mut first = world.command(&["image", "list"]);
    let started = first.env("PATH", path).env("DOCKER_CONFIG", &helper.0).output().expect("banger starts");
    assert!(started.status.success());

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

    // A helper that hands out the login does as well as a file.
    world.banger(&["image", "delete", &reference]).ok();
    helper.unlock();
    world.banger(&["image", "pull", &reference, "--ca", &ca]).ok();
}

/// Docker's configuration with a credential helper that knows the login once it is unlocked.
struct Helper(std::path::PathBuf);

impl Helper {
    fn new(world: &World, registry: &str) -> Helper {
        use std::os::unix::fs::PermissionsExt;
        let folder = world.path().join("docker");
        std::fs::create_dir(&folder).expect("a folder can be made");
        let config = format!(r#"{{"credHelpers":{{"{registry}":"keeper"}}}}"#);
        std::fs::write(folder.join("config.json"), config).expect("a file can be written");
        let login = format!(r#"{{"Username":"{}","Secret":"{}"}}"#, e2e::registry::USER, e2e::registry::PASSWORD);
        let script = format!(
            "#!/bin/sh\nread registry\n[ \"$1 $registry\" = 'get {registry}' ] || exit 9\n\
             [ -e {0}/unlocked ] || {{ echo credentials not found in native keychain; exit 1; }}\necho '{login}'\n",
            folder.display()
        );
        let program = folder.join("docker-credential-keeper");
        std::fs::write(&program, script).expect("a file can be written");
        let executable = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&program, executable).expect("it can be made a program");
        Helper(folder)
    }

    fn unlock(&self) {
        std::fs::write(self.0.join("unlocked"), "").expect("a file can be written");
    }
}

#[test]
fn a_daemon_killed_in_a_pull_leaves_nothing_half_made_and_the_next_goes_on() {
    let name = "a_daemon_killed_in_a_pull_leaves_nothing_half_made_and_the_next_goes_on";
    if !has_registry(name) {
        return;
    }
    let world = World::empty();
    let registry = Registry::start(&world.path().join("registry"), Guard::default());
    registry.push(&layout(world.path(), "1", &[96 << 20], &[]), "1", "a/large:1", &["--dest-compress-format", "zstd"]);
    let reference = format!("{}/a/large:1", registry.address());
    world.banger(&["image", "list"]).ok();
    let pid = world.daemon_pid();
    let mut command = world.command(&["image", "pull", &reference]);
    let pulling = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn();
    let pulling = pulling.expect("banger starts");
    await_partial(&world);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)
        .expect("it can be killed");
    let broken = e2e::world::finish(pulling, "banger image pull");
    assert_ne!(broken.code, 0, "{broken:?}");

    let before = registry.log().len();
    world.banger(&["image", "pull", &reference]).ok();
    let log = registry.log().split_off(before);
    assert!(log.contains(" 206 "), "the rest alone was asked for: {log}");
    let images = std::fs::read_dir(world.state().join("images")).expect("the folder is there").flatten();
    let names: Vec<_> = images.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    assert_eq!(names, ["large-1"]);
}

/// Waits until a part of the large layer has arrived; tells how much.
fn await_partial(world: &World) -> u64 {
    let folder = world.path().join("cache/banger/blobs/sha256");
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        let partial = entries.filter(|entry| entry.file_name().to_string_lossy().ends_with(".partial"));
        let largest = partial.filter_map(|entry| entry.metadata().ok()).map(|found| found.len()).max().unwrap_or(0);
        // More than the small layers have in all.
        if largest > 4 << 20 {
            return largest;
        }
        assert!(Instant::now() < end, "nothing arrives");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn an_image_travels_in_files_to_where_no_registry_is() {
    let name = "an_image_travels_in_files_to_where_no_registry_is";
    if !needs::qemu(name) || !needs::program("umoci", name) || !needs::program("skopeo", name) {
        return;
    }
    let world = World::tiny();
    let place = |name: &str| world.path().join(name).display().to_string();
    let from = format!("{}:1", layout(world.path(), "1", &[], &["--config.cmd", "/bin/sh"]).display());
    let loaded = world.banger(&["image", "load", &from, "--name", "boxed"]).ok();
    assert_eq!(loaded.stdout, "boxed\n");

    // Another program reads what was saved.
    world.banger(&["image", "save", "boxed", "--output", &place("saved.tar")]).ok();
    let archive = format!("oci-archive:{}", place("saved.tar"));
    let mut inspect = std::process::Command::new("skopeo");
    let inspected = inspect.args(["inspect", "--config", &archive]).output().expect("skopeo runs");
    let said = String::from_utf8_lossy(&inspected.stdout).into_owned();
    assert!(said.contains("/bin/sh"), "{said} {}", String::from_utf8_lossy(&inspected.stderr));

    // Image and kernel in one file, to a machine that has neither.
    let bundled = world.banger(&["image", "bundle", "boxed", "--output", &place("")]).ok();
    let bundle = bundled.stdout.trim().to_owned();
    world.banger(&["image", "delete", "boxed"]).ok();
    world.banger(&["image", "load", &bundle]).ok();
    let ran = world.banger(&["vm", "run", "--rm", "--image", "boxed", "--", "echo", "there"]).ok();
    assert_eq!(ran.stdout, "there\n");
    let shown = world.banger(&["image", "show", "boxed", "--json"]).ok().json();
    assert!(std::path::Path::new(shown["files"]["kernel"].as_str().expect("it brought one")).is_file());
    assert_eq!(shown["kernel"], "boxed");
    let refused = world.banger(&["kernel", "delete", "boxed"]);
    assert!(refused.code != 0 && refused.stderr.contains("image boxed boots with it"), "{refused:?}");
    let used = world.banger(&["system", "df", "--json"]).ok().json();
    let whats: Vec<_> = used["rows"].as_array().expect("a list").iter().map(|row| row["what"].clone()).collect();
    assert_eq!(whats, ["sandboxes", "images", "kernels", "templates", "cache"]);
}

#[test]
fn a_registered_file_boots_and_stays_its_owners() {
    let name = "a_registered_file_boots_and_stays_its_owners";
    if !needs::qemu(name) {
        return;
    }
    let world = World::tiny();
    let own = world.path().join("mine.ext4");
    std::fs::copy(world.state().join("images/tiny/rootfs.ext4"), &own).expect("a file can be copied");
    let file = own.display().to_string();
    world.banger(&["image", "register", "--name", "mine", "--rootfs", &file, "--kernel-ref", "debian-cloud"]).ok();
    let ran = world.banger(&["vm", "run", "--rm", "--image", "mine", "--", "cat", "/etc/os-release"]).ok();
    assert!(ran.stdout.contains("ID=tiny"), "{ran:?}");
    world.banger(&["image", "delete", "mine"]).ok();
    assert!(own.is_file());
}
