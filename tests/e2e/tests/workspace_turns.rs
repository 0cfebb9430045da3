//! Promise: an import is all or nothing, two clients take turns, and nobody waits for an import to stop a sandbox.

use e2e::world::{finish, pid_of};
use e2e::{World, needs};
use nix::sys::signal::{Signal, kill};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// A folder with one small file and, later, one that takes a while to ship.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        let folder = Folder(tempfile::tempdir().expect("a folder can be made"));
        folder.write("file", "one\n");
        folder
    }

    fn text(&self) -> String {
        self.0.path().to_string_lossy().into_owned()
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).expect("a file can be written");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// 1.5 GiB without a block on the host: seconds of work for any guest.
    fn grow(&self) {
        let file = std::fs::File::create(self.path("large")).expect("a file can be made");
        file.set_len(3 << 29).expect("a file can be sparse");
    }
}

fn begin(world: &World, folder: &Folder) -> Child {
    let mut command = world.command(&["vm", "workspace", "prepare", "x", &folder.text()]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("banger starts")
}

/// Until the guest holds a part of what is to come.
fn await_arrival(world: &World) {
    let end = Instant::now() + Duration::from_secs(60);
    let line = "test -e /root/.repo.banger-incoming-*/large";
    while world.banger(&["vm", "exec", "--cwd", "/", "x", "--", "sh", "-c", line]).code != 0 {
        assert!(Instant::now() < end, "nothing arrives");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_cancelled_import_leaves_the_tree_as_it_was() {
    if !needs::qemu("a_cancelled_import_leaves_the_tree_as_it_was") {
        return;
    }
    let world = World::tiny();
    let folder = Folder::new();
    world.banger(&["vm", "run", "-d", "--name", "x", "--image", "tiny", "--disk-size", "4G", &folder.text()]).ok();
    folder.write("file", "two\n");
    folder.grow();
    let import = begin(&world, &folder);
    await_arrival(&world);
    kill(pid_of(&import), Signal::SIGINT).expect("it can be interrupted");
    let ran = finish(import, "banger vm workspace prepare");
    assert_eq!(ran.code, 130, "{ran:?}");
    // What had come is cleared away by the agent, once it noticed.
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let line = "cat file; ls -A /root | grep incoming || true";
        let there = world.banger(&["vm", "exec", "x", "--", "sh", "-c", line]).ok().stdout;
        if there == "one\n" {
            break;
        }
        assert!(Instant::now() < end, "{there}");
        std::thread::sleep(Duration::from_millis(100));
    }
    std::fs::remove_file(folder.path("large")).expect("a file can be removed");
    world.banger(&["vm", "workspace", "prepare", "x", &folder.text()]).ok();
    assert_eq!(world.banger(&["vm", "exec", "x", "--", "cat", "file"]).ok().stdout, "two\n");
}

#[test]
fn two_imports_take_turns_and_stop_waits_for_neither() {
    if !needs::qemu("two_imports_take_turns_and_stop_waits_for_neither") {
        return;
    }
    let world = World::tiny();
    let folder = Folder::new();
    world.banger(&["vm", "run", "-d", "--name", "x", "--image", "tiny", "--disk-size", "4G", &folder.text()]).ok();
    let imports: Vec<Child> = (0..3).map(|_| begin(&world, &folder)).collect();
    for import in imports {
        finish(import, "banger vm workspace prepare").ok();
    }
    folder.grow();
    let imports = [begin(&world, &folder), begin(&world, &folder)];
    await_arrival(&world);
    world.banger(&["vm", "stop", "x"]).ok();
    assert_eq!(world.state_of("x"), "stopped");
    for import in imports {
        let ran = finish(import, "banger vm workspace prepare");
        assert_ne!(ran.code, 0, "{ran:?}");
        assert!(ran.stderr.contains("error: "), "{ran:?}");
    }
    world.banger(&["vm", "start", "x"]).ok();
    assert_eq!(world.banger(&["vm", "exec", "x", "--", "cat", "file"]).ok().stdout, "one\n");
    assert!(Path::new(&folder.text()).exists());
}
