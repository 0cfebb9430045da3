//! Promise: a sandbox of a repository begins with its files, and is as if it had been shipped whole.

use e2e::world::DEADLINE;
use e2e::{World, needs};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// More than what a template is made for.
const FILES: usize = 600;
/// A file that changed less than 2 s ago always travels.
const SETTLE: Duration = Duration::from_secs(3);

struct Repository {
    folder: tempfile::TempDir,
}

impl Repository {
    fn large() -> Repository {
        let repository = Repository { folder: tempfile::tempdir().expect("a folder can be made") };
        std::fs::create_dir(repository.top()).expect("a folder can be made");
        repository.git(&["init", "-q", "-b", "main"]);
        repository.git(&["config", "user.name", "A Person"]);
        repository.git(&["config", "user.email", "person@example.org"]);
        for number in 0..FILES {
            repository.write(&format!("src/{}/file {number}", number % 12), &format!("{number}\n"));
        }
        repository.write("tool", "#!/bin/sh\necho it works\n");
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(repository.top().join("tool"), mode).expect("a mode can be set");
        symlink("../outside", repository.top().join("link")).expect("a link can be made");
        // In a layer of an image it would hide `tool`.
        repository.write(".wh.tool", "a name like any other\n");
        repository.commit("one");
        repository.write("file", "committed\n");
        repository.commit("two");
        repository.write("edited", "not yet committed\n");
        repository.git(&["add", "edited"]);
        repository.write("src/0/file 0", "edited\n");
        repository
    }

    fn top(&self) -> PathBuf {
        self.folder.path().join("repo")
    }

    fn text(&self) -> String {
        self.top().to_string_lossy().into_owned()
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.top().join(path);
        std::fs::create_dir_all(path.parent().expect("a file lies in a folder")).expect("a folder can be made");
        std::fs::write(path, text).expect("a file can be written");
    }

    fn commit(&self, message: &str) {
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "-m", message]);
    }

    #[track_caller]
    fn git(&self, arguments: &[&str]) -> String {
        git(&self.top(), arguments)
    }
}

#[track_caller]
fn git(folder: &Path, arguments: &[&str]) -> String {
    let mut git = Command::new("git");
    git.args(["-c", "safe.directory=*", "-C"]).arg(folder).args(arguments).env("GIT_CONFIG_GLOBAL", "/dev/null");
    let output = git.env("GIT_OPTIONAL_LOCKS", "0").output().expect("git runs");
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn run(world: &World, name: &str, repository: &Repository) {
    world.banger(&["vm", "run", "-d", "--image", "tiny", "--name", name, &repository.text()]).ok();
}

/// What the daemon told of the one shipment to this sandbox.
#[track_caller]
fn shipped_files(world: &World, name: &str) -> u64 {
    let log = std::fs::read_to_string(world.state().join("bangerd.log")).expect("the daemon has a log");
    let lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let shipped = lines.filter(|line| line["message"] == "shipped a workspace" && line["vm"] == name);
    let told: Vec<u64> = shipped.filter_map(|line| line["files"].as_u64()).collect();
    assert_eq!(told.len(), 1, "{log}");
    told[0]
}

fn templates(world: &World) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(world.state().join("templates")).expect("the folder is there").flatten();
    let is_one = |path: &PathBuf| {
        path.to_string_lossy().contains("/repository-") && path.extension().is_some_and(|e| e == "ext4")
    };
    entries.map(|entry| entry.path()).filter(is_one).collect()
}

/// What git on the host says of the guest's folder, brought out byte for byte, is what it says of the host's own.
#[track_caller]
fn assert_git_agrees(world: &World, name: &str, repository: &Repository) {
    let out = repository.folder.path().join(name);
    world.banger(&["vm", "cp", &format!("{name}:/root/repo"), &out.to_string_lossy()]).ok();
    let questions: &[&[&str]] = &[
        &["status", "--porcelain=v2", "-z", "--untracked-files=no"],
        &["ls-files", "-s", "-z"],
        &["rev-parse", "HEAD", "HEAD^{tree}"],
        &["symbolic-ref", "HEAD"],
        &["log", "--format=%H %an %s"],
        &["config", "user.email"],
        &["diff", "--binary", "HEAD"],
    ];
    for question in questions {
        assert_eq!(git(&out, question), repository.git(question), "git {question:?}");
    }
    git(&out, &["fsck", "--no-dangling"]);
}

#[track_caller]
fn assert_untouched(world: &World, name: &str) {
    let listed = world.banger(&["vm", "workspace", "list", name, "--json"]).ok().json();
    let guest = &listed[0]["guest"];
    assert!(guest["untouched"] == true && guest["added"] == 0, "{listed}");
}

#[test]
fn a_sandbox_of_a_repository_begins_with_its_files() {
    if !needs::qemu("a_sandbox_of_a_repository_begins_with_its_files") {
        return;
    }
    let repository = Repository::large();
    let world = World::tiny();
    std::thread::sleep(SETTLE);
    // Everything travels to one that is there already; the next ones get a template.
    world.banger(&["vm", "create", "--image", "tiny", "--name", "one"]).ok();
    world.banger(&["vm", "workspace", "prepare", "one", &repository.text()]).ok();
    assert!(shipped_files(&world, "one") > FILES as u64);
    // What a guest does is no part of what the next one begins with.
    world.banger(&["vm", "exec", "one", "--", "sh", "-c", "echo the guest > tool; echo x > new"]).ok();
    let end = Instant::now() + DEADLINE;
    while templates(&world).is_empty() {
        assert!(Instant::now() < end, "no template was made");
        std::thread::sleep(Duration::from_millis(100));
    }

    repository.commit("three");
    repository.write("src/1/file 1", "edited later\n");
    repository.write("staged", "never committed\n");
    repository.git(&["add", "staged"]);
    repository.git(&["mv", "src/2/file 2", "renamed"]);
    std::fs::remove_file(repository.top().join("src/3/file 3")).expect("a file can be removed");
    repository.git(&["checkout", "-q", "-b", "other"]);
    std::thread::sleep(SETTLE);
    run(&world, "two", &repository);
    let few = shipped_files(&world, "two");
    assert!(few < 20, "{few} files travelled");
    assert_untouched(&world, "two");
    assert_git_agrees(&world, "two", &repository);
    let told = world.banger(&["vm", "exec", "two", "--", "./tool"]).ok();
    assert_eq!(told.stdout, "it works\n");

    // From here on it is a workspace like any other.
    world.banger(&["vm", "exec", "two", "--", "sh", "-c", "echo guest > 'src/5/file 5'"]).ok();
    let refused = world.banger(&["vm", "workspace", "prepare", "two", &repository.text()]);
    assert!(refused.code != 0 && refused.stderr.contains("1 changed"), "{refused:?}");
    world.banger(&["vm", "stop", "two"]).ok();
    world.assert_disks_are_clean("two");

    // Where there is none, it is made before the sandbox.
    world.banger(&["image", "cache", "prune", "--all"]).ok();
    assert_eq!(templates(&world), Vec::<PathBuf>::new());
    run(&world, "three", &repository);
    assert_eq!(templates(&world).len(), 1);
    let few = shipped_files(&world, "three");
    assert!(few < 20, "{few} files travelled");
    assert_untouched(&world, "three");
    assert_git_agrees(&world, "three", &repository);

    // A create that is refused makes nothing.
    world.banger(&["image", "cache", "prune", "--all"]).ok();
    let again = world.banger(&["vm", "run", "-d", "--image", "tiny", "--name", "three", &repository.text()]);
    assert!(again.code != 0, "{again:?}");
    assert_eq!(templates(&world), Vec::<PathBuf>::new());
    world.banger(&["vm", "delete", "--force", "--discard", "--all"]).ok();
}
