use super::*;
use crate::testing::{Archive, listing, tree, tree_within};

/// The tree that a stack of layers makes.
fn check(layers: impl IntoIterator<Item = Archive>, expected: &str) {
    let layers: Vec<_> = layers.into_iter().map(Archive::bytes).collect();
    let tree = tree(&layers).expect("the layers are good");
    assert_eq!(listing(&tree), expected);
}

fn refused(layers: impl IntoIterator<Item = Archive>, reason: &str) {
    let layers: Vec<_> = layers.into_iter().map(Archive::bytes).collect();
    let error = tree(&layers).expect_err("the layers are bad");
    assert!(error.to_string().contains(reason), "{error}");
}

fn archive() -> Archive {
    Archive::default()
}

#[test]
fn upper_layers_win() {
    check(
        [archive().file("a/f", "old").symlink("b", "a"), archive().file("a/f", "newer").directory("b")],
        "a/ a/f=1:5 b/",
    );
}

#[test]
fn a_directory_keeps_its_children_when_it_comes_again_and_loses_them_to_a_file() {
    check([archive().file("d/f", ""), archive().directory("d")], "d/ d/f=0:0");
    check([archive().file("d/f", ""), archive().file("d", "x")], "d=1:1");
}

#[test]
fn a_whiteout_hides_lower_layers_only() {
    let lower = || archive().file("d/a", "").file("d/b", "").file("e/f", "");
    check([lower(), archive().file("d/.wh.a", "")], "d/ d/b=0:0 e/ e/f=0:0");
    check([lower(), archive().file(".wh.d", "").file("d/new", "")], "d/ d/new=1:0 e/ e/f=0:0");
    check([lower(), archive().file("d/new", "").file(".wh.d", "")], "d/ d/new=1:0 e/ e/f=0:0");
    check([lower(), archive().file(".wh.nothing", "").file("nowhere/.wh.x", "")], "d/ d/a=0:0 d/b=0:0 e/ e/f=0:0");
}

#[test]
fn an_opaque_directory_shows_only_its_own_layer() {
    let lower = || archive().file("d/a", "").file("d/s/b", "");
    check([lower(), archive().file("d/.wh..wh..opq", "").file("d/n", "")], "d/ d/n=1:0");
    check([lower(), archive().file("d/s/n", "").file("d/.wh..wh..opq", "")], "d/ d/s/ d/s/n=1:0");
    check([lower(), archive().file(".wh..wh..opq", "")], "");
}

#[test]
fn a_hard_link_does_not_save_the_other_name_from_a_whiteout() {
    let upper = archive().hard_link("kept", "old").file(".wh.old", "");
    check([archive().file("old", "abc"), upper], "kept=0:3");
}

#[test]
fn a_hard_link_is_a_second_name_across_layers_too() {
    let layers = [archive().file("a", "abc").bytes(), archive().hard_link("b", "/a").bytes()];
    let tree = tree(&layers).expect("the layers are good");
    assert_eq!(tree.child(ROOT, b"a"), tree.child(ROOT, b"b"));
    refused([archive().hard_link("b", "missing")], "does not exist");
    refused([archive().directory("d").hard_link("b", "d")], "is a directory");
    refused([archive().hard_link("b", "..")], "is the root");
    refused([archive().file("a", "").hard_link("./a", "a")], "does not exist");
}

#[test]
fn nothing_leaves_the_tree() {
    check([archive().file("../../etc/x", "")], "etc/ etc/x=0:0");
    check([archive().file("/abs", "")], "abs=0:0");
    check([archive().file("a/../b", "")], "b=0:0");
    check([archive().symlink("l", "../../..").file("l/x", "")], "l->../../.. x=0:0");
    check([archive().symlink("l", "/etc").file("l/x", "")], "etc/ etc/x=0:0 l->/etc");
    check([archive().symlink("l", "a/../../b").file("l/x", "")], "a/ b/ b/x=0:0 l->a/../../b");
}

#[test]
fn layers_write_through_symlinked_directories() {
    let base = || archive().directory("usr/lib").symlink("lib", "usr/lib");
    let merged = "lib->usr/lib usr/ usr/lib/ usr/lib/x=1:0";
    check([base(), archive().file("lib/x", "")], merged);
    check([base().file("usr/lib/old", ""), archive().file("lib/.wh.old", "").file("lib/x", "")], merged);
    // A missing name in a symlink's target, and then a link again: every step is resolved, made or not.
    check(
        [archive().symlink("s", "usr").symlink("l", "new/../s/lib").file("l/x", "")],
        "l->new/../s/lib new/ s->usr usr/ usr/lib/ usr/lib/x=0:0",
    );
}

#[test]
fn circles_and_files_on_the_way_are_errors() {
    refused([archive().symlink("a", "b").symlink("b", "a").file("a/x", "")], "too many symbolic links");
    refused([archive().file("f", "").file("f/x", "")], "no directory");
    refused([archive().symlink("l", "")], "points nowhere");
    refused([archive().file("/", "")], "root must be a directory");
}

#[test]
fn each_limit_has_its_own_answer() {
    let within = |archive: Archive, limits| tree_within(&[archive.bytes()], limits).expect_err("it is too much");
    let entries = Limits { entries: 2, ..Limits::default() };
    assert!(matches!(
        within(archive().file("a/b/c", ""), entries),
        TreeError::Exceeded(Exceeded::Entries { limit: 2 })
    ));
    let path = Limits { path_bytes: 8, ..Limits::default() };
    assert!(matches!(
        within(archive().file("123456789012", ""), path.clone()),
        TreeError::Exceeded(Exceeded::Path { .. })
    ));
    let hidden = archive().directory("1234").symlink("l", "1234").directory("l/67").file("l/67/a", "");
    assert!(matches!(within(hidden, path), TreeError::Exceeded(Exceeded::Path { .. })), "behind a link");
    let content = Limits { content_bytes: 3, ..Limits::default() };
    assert!(matches!(within(archive().file("a", "1234"), content), TreeError::Exceeded(Exceeded::Content { .. })));
}

#[test]
fn lookups_follow_links_as_a_process_in_the_guest_would() {
    let base = archive()
        .file("usr/lib/systemd/systemd", "")
        .symlink("lib", "usr/lib")
        .symlink("sbin/init", "/lib/systemd/systemd");
    let tree = tree(&[base.symlink("sbin/lost", "nowhere").bytes()]).expect("the layer is good");
    assert_eq!(tree.lookup("/sbin/init"), tree.lookup("/usr/lib/systemd/systemd"));
    assert!(tree.lookup("/sbin/init").is_some());
    assert_eq!(tree.lookup("/sbin/lost"), None);
    assert_eq!(tree.lookup("/"), Some(ROOT));
}
