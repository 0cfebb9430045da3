//! Whatever a guest sends: the host's repository stays whole, nothing of it changes but `refs/banger/`, and what is good
//! beside the bad comes home all the same.

mod home_rig;

use home_rig::{Rig, git, raw_object, run, write};
use proptest::prelude::*;
use std::fs;
use std::path::Path;

/// A branch of the guest that points at this object.
fn point(guest: &Path, name: &str, object: &str) {
    write(&guest.join(".git/refs/heads").join(name), &format!("{object}\n"));
}

/// A commit over a tree that holds these bytes.
fn commit_over(guest: &Path, tree: &[u8]) -> String {
    let tree = raw_object(guest, "tree", tree);
    let text = format!("tree {tree}\nauthor A <a@b> 1 +0000\ncommitter A <a@b> 1 +0000\n\nbad\n");
    raw_object(guest, "commit", text.as_bytes())
}

fn entry(mode: &str, name: &str, object: &str) -> Vec<u8> {
    let raw: Vec<u8> = (0..20).map(|at| u8::from_str_radix(&object[2 * at..2 * at + 2], 16).unwrap()).collect();
    [format!("{mode} {name}\0").as_bytes(), &raw].concat()
}

/// The guest is spoilt; the good branch comes home, `bad` does not, the host is as it was.
#[track_caller]
fn check(what: &str, spoil: impl FnOnce(&Path)) {
    let rig = Rig::new();
    git(&rig.guest, &["commit", "-q", "--allow-empty", "-m", "good"]);
    let good = git(&rig.guest, &["rev-parse", "HEAD"]);
    let before = rig.fingerprint();
    spoil(&rig.guest);
    let report = rig.sync().unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(rig.host_ref("main"), Some(good), "{what}: {:?}", report.left);
    assert_eq!(rig.host_ref("bad"), None, "{what}");
    assert!(!report.left.is_empty(), "{what}: it is not told");
    assert_eq!(rig.fingerprint(), before, "{what}");
    rig.assert_host_is_sound();
}

#[test]
fn poisoned_objects_stay_out() {
    let blob = |guest: &Path| raw_object(guest, "blob", b"x");
    check("a tree with .git", |guest| {
        let tree = entry("100644", ".git", &blob(guest));
        point(guest, "bad", &commit_over(guest, &tree));
    });
    check("a tree with ..", |guest| {
        let tree = entry("40000", "..", &git(guest, &["rev-parse", "HEAD^{tree}"]));
        point(guest, "bad", &commit_over(guest, &tree));
    });
    check("a tree with a path", |guest| {
        let tree = entry("100644", "a/b", &blob(guest));
        point(guest, "bad", &commit_over(guest, &tree));
    });
    check("a tree with two of one name", |guest| {
        let one = entry("100644", "a", &blob(guest));
        point(guest, "bad", &commit_over(guest, &[one.clone(), one].concat()));
    });
    check("a .gitmodules that is an option", |guest| {
        let text = "[submodule \"x\"]\n\tpath = x\n\turl = --upload-pack=touch /tmp/owned\n";
        let tree = entry("100644", ".gitmodules", &raw_object(guest, "blob", text.as_bytes()));
        point(guest, "bad", &commit_over(guest, &tree));
    });
    check("a commit without a tree", |guest| {
        point(guest, "bad", &raw_object(guest, "commit", b"author A <a@b> 1 +0000\n\nbad\n"));
    });
    check("a commit whose tree is not there", |guest| {
        let text = format!("tree {}\nauthor A <a@b> 1 +0000\ncommitter A <a@b> 1 +0000\n\nbad\n", "ab".repeat(20));
        point(guest, "bad", &raw_object(guest, "commit", text.as_bytes()));
    });
    check("a commit that says NUL", |guest| {
        let tree = git(guest, &["rev-parse", "HEAD^{tree}"]);
        let text = format!("tree {tree}\nauthor A <a@b> 1 +0000\ncommitter A <a@b> 1 +0000\n\nbad\n");
        let text = [text.as_bytes(), b"\0hidden"].concat();
        point(guest, "bad", &raw_object(guest, "commit", &[&text[..60], b"\0", &text[60..]].concat()));
    });
}

#[test]
fn references_that_are_none_stay_out() {
    check("a blob", |guest| point(guest, "bad", &raw_object(guest, "blob", b"x")));
    check("an object that is not there", |guest| point(guest, "bad", &"cd".repeat(20)));
    check("no object at all", |guest| point(guest, "bad", "$(touch /tmp/owned)"));
    check("a loop", |guest| point(guest, "bad", "ref: refs/heads/bad"));
    for name in ["--upload-pack=touch owned", "a..b", "x.lock", "-x", "a~1", "with space", "@{0}"] {
        check(name, |guest| {
            let head = git(guest, &["rev-parse", "HEAD"]);
            point(guest, name, &head);
        });
    }
    check("packed, with a way out", |guest| {
        let head = git(guest, &["rev-parse", "HEAD"]);
        write(
            &guest.join(".git/packed-refs"),
            &format!("{head} refs/heads/../../../bad\n{head} refs/heads/\u{7}bell\n"),
        );
    });
}

#[test]
fn objects_that_are_not_what_they_say_stay_out() {
    let place = |guest: &Path, object: &str| guest.join(".git/objects").join(&object[..2]).join(&object[2..]);
    let spoil = |guest: &Path, bytes: &dyn Fn(Vec<u8>) -> Vec<u8>| {
        let tree = git(guest, &["rev-parse", "HEAD^{tree}"]);
        let text = format!("tree {tree}\nauthor A <a@b> 1 +0000\ncommitter A <a@b> 1 +0000\n\nbad\n");
        let object = raw_object(guest, "commit", text.as_bytes());
        point(guest, "bad", &object);
        let path = place(guest, &object);
        let old = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, bytes(old)).unwrap();
    };
    check("cut short", |guest| spoil(guest, &|old| old[..old.len() / 2].to_vec()));
    check("empty", |guest| spoil(guest, &|_| Vec::new()));
    check("something else", |guest| {
        let other = raw_object(guest, "blob", b"something else");
        let bytes = fs::read(place(guest, &other)).unwrap();
        spoil(guest, &|_| bytes.clone());
    });
    check("a bomb", |guest| {
        use std::io::Write;
        spoil(guest, &|_| {
            let mut bomb = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
            bomb.write_all(b"blob 9\0").unwrap();
            bomb.write_all(&vec![0; 64 << 20]).unwrap();
            bomb.finish().unwrap()
        });
    });
}

#[test]
fn damaged_objects_that_nothing_needs_are_no_lost_work() {
    let rig = Rig::new();
    write(&rig.guest.join("count"), "edited\n");
    fs::create_dir_all(rig.guest.join(".git/objects/ab")).unwrap();
    fs::write(rig.guest.join(".git/objects/ab").join("c".repeat(38)), "").unwrap();
    fs::write(rig.guest.join(".git/objects/pack/pack-00.pack"), b"PACK\0\0\0\x02\0\0\xff\xff noise").unwrap();
    rig.sync_all();
    assert_eq!(git(&rig.host, &["show", "refs/banger/x/wip:count"]), "edited");
    rig.assert_host_is_sound();
}

#[test]
fn a_repository_that_is_none_is_an_error_and_changes_nothing() {
    for (name, spoil) in [
        ("no HEAD", (|guest| fs::remove_file(guest.join(".git/HEAD")).unwrap()) as fn(&Path)),
        ("no .git", |guest| fs::remove_dir_all(guest.join(".git")).unwrap()),
        (".git is a file", |guest| {
            fs::remove_dir_all(guest.join(".git")).unwrap();
            fs::write(guest.join(".git"), "gitdir: /etc").unwrap();
        }),
    ] {
        let rig = Rig::new();
        let before = rig.fingerprint();
        spoil(&rig.guest);
        assert!(rig.sync().is_err(), "{name}");
        assert_eq!(rig.fingerprint(), before, "{name}");
    }
}

#[test]
fn files_that_git_refuses_are_told_of_and_the_others_come_home() {
    let rig = Rig::new();
    write(&rig.guest.join("a/.GIT/config"), "x\n");
    write(&rig.guest.join("git~1"), "x\n");
    write(&rig.guest.join("fine.txt"), "fine\n");
    let report = rig.sync().unwrap();
    assert_eq!(report.left.len(), 2, "{:?}", report.left);
    assert_eq!(git(&rig.host, &["show", "refs/banger/x/wip:fine.txt"]), "fine");
    rig.assert_host_is_sound();
}

#[test]
fn nothing_in_the_guest_or_the_host_is_executed() {
    let rig = Rig::new();
    let owned = rig.folder.path().join("owned");
    let touch = format!("touch {}", owned.display());
    for folder in [&rig.host, &rig.guest] {
        for key in [
            "core.fsmonitor",
            "core.sshCommand",
            "diff.external",
            "filter.x.clean",
            "filter.x.smudge",
            "filter.x.process",
        ] {
            git(folder, &["config", key, &touch]);
        }
        git(folder, &["config", "core.hooksPath", &rig.folder.path().display().to_string()]);
        write(&folder.join(".gitattributes"), "* filter=x diff=x\n");
    }
    for hook in ["reference-transaction", "post-checkout", "post-index-change", "pre-auto-gc", "post-rewrite"] {
        let path = rig.folder.path().join(hook);
        write(&path, &format!("#!/bin/sh\n{touch}\n"));
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    write(&rig.guest.join("count"), "edited\n");
    rig.sync().unwrap();
    assert!(rig.host_ref("wip").is_some());
    assert!(!owned.exists());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    /// Bytes of the guest's repository and tree are changed, cut or replaced at random.
    #[test]
    fn whatever_a_guest_sends_leaves_the_host_whole(
        which in 0_usize..9, at in any::<prop::sample::Index>(), with in proptest::collection::vec(any::<u8>(), 0..40), cut in any::<bool>(),
    ) {
        let rig = Rig::new();
        git(&rig.guest, &["commit", "-q", "--allow-empty", "-m", "more"]);
        git(&rig.guest, &["pack-refs", "--all"]);
        write(&rig.guest.join("count"), "edited\n");
        let before = rig.fingerprint();
        let head = git(&rig.guest, &["rev-parse", "HEAD"]);
        let object = format!(".git/objects/{}/{}", &head[..2], &head[2..]);
        let pack = fs::read_dir(rig.guest.join(".git/objects/pack")).unwrap()
            .map(|entry| entry.unwrap().path()).find(|path| path.extension().is_some_and(|end| end == "pack")).unwrap();
        let paths = [".git/HEAD", ".git/packed-refs", ".git/index", &object, ".gitignore", ".git/info/exclude", ".git/shallow", "count"];
        let path = paths.get(which).map_or(pack, |path| rig.guest.join(path));
        let mut bytes = fs::read(&path).unwrap_or_default();
        let start = if bytes.is_empty() { 0 } else { at.index(bytes.len()) };
        let end = if cut { bytes.len() } else { (start + with.len()).min(bytes.len()) };
        bytes.splice(start..end, with);
        let _ = fs::remove_file(&path);
        fs::write(&path, bytes).unwrap();
        let _ = rig.sync();
        prop_assert_eq!(rig.fingerprint(), before);
        let sound = run(&rig.host, &["fsck", "--strict", "--full", "--no-dangling"]);
        prop_assert!(sound.status.success(), "{}", String::from_utf8_lossy(&sound.stderr));
    }
}
