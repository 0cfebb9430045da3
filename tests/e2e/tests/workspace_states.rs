//! Promise: in whatever state a work tree is, the guest's git says what the host's says; what a dry run lists is what then
//! lies there; and who moved on since is told.

use e2e::repository::{git, shell};
use e2e::{Repository, World, needs};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

/// A work tree in one state, and where it lies in the guest.
struct State {
    name: &'static str,
    repository: Repository,
    top: PathBuf,
}

impl State {
    fn new(name: &'static str, repository: Repository, make: fn(&Repository)) -> State {
        make(&repository);
        let top = repository.top();
        State { name, repository, top }
    }

    fn guest_path(&self) -> String {
        format!("/root/{}", self.name)
    }
}

fn states() -> Vec<State> {
    let mut states = vec![
        State::new("clean", Repository::clean(), |_| ()),
        State::new("dirty", Repository::dirty(), |_| ()),
        State::new("staged", Repository::clean(), |repository| {
            repository.write("new", "staged\n");
            repository.write("meant", "to be added\n");
            repository.git(&["add", "new"]);
            repository.git(&["add", "-N", "meant"]);
            repository.write("new", "edited after\n");
        }),
        State::new("renamed", Repository::dirty(), |repository| {
            repository.git(&["commit", "-q", "-a", "-m", "all of it"]);
            repository.git(&["mv", "tool", "bin tool"]);
            let mode = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(repository.top().join("file"), mode).expect("a mode can be set");
        }),
        State::new("deleted", Repository::clean(), |repository| {
            repository.git(&["rm", "-q", "file"]);
            std::fs::remove_file(repository.top().join(".gitignore")).expect("a file can be removed");
        }),
        State::new("submodule", Repository::clean(), |repository| {
            git(repository.folder.path(), &["clone", "-q", "repo", "library"]);
            let library = repository.folder.path().join("library").display().to_string();
            let add = ["-c", "protocol.file.allow=always", "submodule", "add", "-q", &library, "sub"];
            repository.git(&add);
            repository.git(&["commit", "-q", "-m", "submodule"]);
            repository.write("sub/file", "edited in the submodule\n");
        }),
        State::new("sparse", Repository::dirty(), |repository| {
            repository.git(&["commit", "-q", "-a", "-m", "all of it"]);
            repository.git(&["sparse-checkout", "set", "--cone", "dir"]);
        }),
        State::new("conflict", Repository::clean(), |repository| {
            repository.git(&["checkout", "-q", "-b", "other", "HEAD~1"]);
            repository.write("file", "other\n");
            repository.git(&["commit", "-q", "-a", "-m", "other"]);
            let merged = repository.try_git(&repository.top(), &["merge", "-q", "main"]);
            assert!(!merged.status.success(), "the branches do not conflict");
        }),
        State::new("detached", Repository::clean(), |repository| {
            repository.git(&["checkout", "-q", "--detach", "HEAD~1"]);
        }),
    ];
    let mut tree = State::new("worktree", Repository::clean(), |repository| {
        repository.git(&["worktree", "add", "-q", "-b", "topic", "../tree"]);
    });
    tree.top = tree.repository.folder.path().join("tree");
    std::fs::write(tree.top.join("file"), "edited in the work tree\n").expect("a file can be written");
    states.push(tree);
    states
}

/// Modes and bytes of everything but git's folders.
const TREE: &str = "find . -name .git -prune -o -type f -print | LC_ALL=C sort | while read -r f; do \
                    stat -c '%A' \"$f\" | cut -c 4; sha256sum \"$f\"; done; \
                    find . -name .git -prune -o -type l -print | LC_ALL=C sort | while read -r l; do \
                    echo \"$l $(readlink \"$l\")\"; done";

fn questions(state: &State) -> Vec<String> {
    let mut questions: Vec<String> = [
        "status --porcelain=v2 -z --untracked-files=no",
        "ls-files -s -z",
        "ls-files -v -z",
        "rev-parse HEAD HEAD^{tree}",
        "rev-parse --abbrev-ref HEAD",
        "ls-tree -r -z HEAD",
        "write-tree",
        "fsck --no-dangling --no-progress",
    ]
    .map(str::to_owned)
    .to_vec();
    // The index of a conflict is no tree yet.
    questions.retain(|question| question != "write-tree" || state.name != "conflict");
    if state.name == "submodule" {
        questions.extend(["-C sub status --porcelain=v2 -z", "-C sub rev-parse HEAD"].map(str::to_owned));
    }
    questions
}

/// One line for a shell: each question's answer, and a mark after it.
fn script(state: &State) -> String {
    let asked: Vec<String> =
        questions(state).iter().map(|question| format!("git {question}; echo; echo '== {question}'")).collect();
    asked.join("; ")
}

#[test]
fn in_every_state_of_a_work_tree_the_guests_git_agrees() {
    if !needs::qemu("in_every_state_of_a_work_tree_the_guests_git_agrees") {
        return;
    }
    let states = states();
    let world = World::debian();
    let before: Vec<String> = states.iter().map(|state| state.repository.hash()).collect();
    let first = &states[0];
    let run = ["vm", "run", "-d", "--no-bootstrap", "--name", "deb", "--memory", "1G", "--guest-path"];
    world.banger(&[&run[..], &[&first.guest_path(), &first.repository.text()]].concat()).ok();
    for state in &states[1..] {
        let top = state.top.display().to_string();
        world.banger(&["vm", "workspace", "prepare", "--guest-path", &state.guest_path(), "deb", &top]).ok();
    }
    // Now, and not after the script: `git write-tree` notes what it wrote in the index.
    for (state, before) in states.iter().zip(before) {
        assert_eq!(before, state.repository.hash(), "{}: the host's repository changed", state.name);
    }
    for state in &states {
        let (script, path) = (script(state), state.guest_path());
        let told = world.banger(&["vm", "exec", "--cwd", &path, "deb", "--", "sh", "-c", &script]).ok();
        let wanted = shell(&state.top, &format!("export GIT_OPTIONAL_LOCKS=0; {script}"));
        assert_eq!(told.stdout, wanted, "{}", state.name);
        let told = world.banger(&["vm", "exec", "--cwd", &path, "deb", "--", "sh", "-c", TREE]).ok();
        assert_eq!(told.stdout, tracked_tree(state), "{}", state.name);
    }
}

/// What is tracked of the host's files.
fn tracked_tree(state: &State) -> String {
    let untracked = git(&state.top, &["ls-files", "--others"]);
    let copy = tempfile::tempdir().expect("a folder can be made");
    shell(&state.top, &format!("cp -a . '{}/copy'", copy.path().display()));
    let copy = copy.path().join("copy");
    untracked.lines().for_each(|name| std::fs::remove_file(copy.join(name)).expect("it was copied"));
    shell(&copy, TREE)
}

#[test]
fn what_a_dry_run_lists_is_what_lies_in_the_guest() {
    if !needs::qemu("what_a_dry_run_lists_is_what_lies_in_the_guest") {
        return;
    }
    let repository = Repository::dirty();
    repository.write(".gitignore", "*.log\n/out/\n");
    repository.git(&["add", ".gitignore"]);
    repository.write("noise.log", "ignored\n");
    repository.write("out/put", "ignored\n");
    repository.write("deep/er/untracked", "x\n");
    repository.write("odd \"name\"", "x\n");
    let world = World::tiny();
    let text = repository.text();
    for (name, option) in [("a", &[][..]), ("b", &["--include-untracked"])] {
        let dry = world.banger(&[&["vm", "run", "--dry-run"], option, &[&text]].concat()).ok();
        assert_eq!(world.banger(&["vm", "list", "--quiet"]).ok().stdout, "");
        let run = ["vm", "run", "-d", "--no-bootstrap", "--image", "tiny", "--name", name];
        world.banger(&[&run[..], option, &[&text]].concat()).ok();
        let find = "find . -path ./.git -prune -o ! -type d -print";
        let there = world.banger(&["vm", "exec", name, "--", "sh", "-c", find]).ok().stdout;
        let mut there: Vec<String> = there.lines().map(|line| quoted(line.trim_start_matches("./"))).collect();
        let mut listed: Vec<String> = dry.stdout.lines().map(str::to_owned).collect();
        listed.sort();
        there.sort();
        assert_eq!(listed, there, "{option:?}");
        let has = |name: &str| listed.iter().any(|line| line == name);
        let untracked = !option.is_empty();
        assert_eq!((has("untracked"), has("deep/er/untracked"), has("dir/3")), (untracked, untracked, untracked));
        assert!(
            has("tool") && has("dir/renamed") && !has("dir/2") && !has("noise.log") && !has("out/put"),
            "{listed:?}"
        );
        world.banger(&["vm", "delete", "--force", name]).ok();
    }
}

/// As a list of ours shows a name with quotes.
fn quoted(name: &str) -> String {
    if name.contains('"') { format!("\"{}\"", name.replace('"', "\\\"")) } else { name.to_owned() }
}

#[test]
fn who_moved_on_is_told_and_shipping_again_loses_nothing() {
    if !needs::qemu("who_moved_on_is_told_and_shipping_again_loses_nothing") {
        return;
    }
    let repository = Repository::clean();
    let world = World::tiny();
    world.banger(&["vm", "run", "-d", "--image", "tiny", "--name", "x", &repository.text()]).ok();
    let exec = |line: &str| world.banger(&["vm", "exec", "x", "--", "sh", "-c", line]).ok();
    let listed = || world.banger(&["vm", "list"]).ok().stdout;
    assert_eq!(exec("true").stderr, "");
    assert!(!listed().contains('+') && !listed().contains("host:"), "{}", listed());
    // The host alone.
    repository.write("file", "of the host\n");
    assert!(listed().contains("(host: edited)"), "{}", listed());
    assert!(exec("true").stderr.contains("is not what the host has now (edited)"));
    let again = world.banger(&["vm", "exec", "--auto-prepare", "x", "--", "cat", "file"]).ok();
    assert_eq!(again.stdout, "of the host\n");
    assert!(!listed().contains("host:"), "{}", listed());
    // The guest alone: it is told once its work was seen.
    exec("echo of the guest > file");
    repository.await_content("refs/banger/x/wip:file", "of the guest");
    assert!(listed().contains("/root/repo +1 file"), "{}", listed());
    let told = exec("true").stderr;
    assert!(told.contains("has work of the guest (+1 file)") && !told.contains("host has now"), "{told}");
    // Both: what would be lost is not, and the command does not run on half of it.
    repository.write("file", "of the host again\n");
    let told = exec("true").stderr;
    assert!(told.contains("has work of the guest (+1 file)") && told.contains("host has now (edited)"), "{told}");
    assert!(listed().contains("+1 file (host: edited)"), "{}", listed());
    let refused = world.banger(&["vm", "exec", "--auto-prepare", "x", "--", "touch", "ran"]);
    assert_ne!(refused.code, 0, "{refused:?}");
    assert!(refused.stderr.contains("work of its own") && refused.stderr.contains("1 changed"), "{refused:?}");
    assert_eq!(exec("cat file; ls ran 2> /dev/null || true").stdout, "of the guest\n");
    assert_eq!(std::fs::read_to_string(repository.top().join("file")).expect("it is there"), "of the host again\n");
}
