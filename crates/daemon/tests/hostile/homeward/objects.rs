//! Objects that are not what they say, and what git's own rules refuse.

use super::{Expect, Row};
use crate::repositories::home::{Rig, git, raw_object, write};
use std::fs;
use std::io::Write;
use std::path::Path;

pub fn rows() -> Vec<Row> {
    [trees(), commits(), loose(), whole()].into_iter().flatten().collect()
}

/// A branch of the guest that points at this object.
pub fn point(guest: &Path, name: &str, object: &str) {
    write(&guest.join(".git/refs/heads").join(name), &format!("{object}\n"));
}

fn commit(guest: &Path, tree: &str) -> String {
    let text = format!("tree {tree}\nauthor A <a@b> 1 +0000\ncommitter A <a@b> 1 +0000\n\nbad\n");
    raw_object(guest, "commit", text.as_bytes())
}

fn entry(mode: &str, name: &[u8], object: &str) -> Vec<u8> {
    let raw: Vec<u8> = (0..20).map(|at| u8::from_str_radix(&object[2 * at..2 * at + 2], 16).expect("hex")).collect();
    [format!("{mode} ").as_bytes(), name, b"\0", &raw].concat()
}

/// A branch `bad` over a tree with this entry.
fn bad_tree(what: &str, mode: &'static str, name: &'static [u8]) -> Row {
    Row::new(format!("a tree with {what}"), Expect::Left, move |rig| {
        let object = match mode {
            "40000" => git(&rig.guest, &["rev-parse", "HEAD^{tree}"]),
            "120000" => raw_object(&rig.guest, "blob", b"/etc/passwd"),
            _ => raw_object(&rig.guest, "blob", b"x"),
        };
        let tree = raw_object(&rig.guest, "tree", &entry(mode, name, &object));
        point(&rig.guest, "bad", &commit(&rig.guest, &tree));
    })
}

fn trees() -> Vec<Row> {
    let mut rows: Vec<Row> = [
        ("git's folder", "40000", &b".git"[..]),
        ("git's folder as a file", "100644", b".git"),
        ("git's folder in capitals", "40000", b".GIT"),
        ("git's folder as NTFS shortens it", "40000", b"git~1"),
        ("git's folder as a stream of NTFS", "40000", b".git::$INDEX_ALLOCATION"),
        ("git's folder with what HFS+ passes over", "40000", b".g\xe2\x80\x8cit"),
        ("git's folder with a dot after it", "40000", b".git. "),
        ("the folder above", "40000", b".."),
        ("the folder itself", "40000", b"."),
        ("a path", "100644", b"a/b"),
        ("a path that leads out", "100644", b"../x"),
        ("a name of nothing", "100644", b""),
        ("a `.gitmodules` that is a link", "120000", b".gitmodules"),
    ]
    .into_iter()
    .map(|(what, mode, name)| bad_tree(what, mode, name))
    .collect();
    rows.push(Row::new("a tree with two of one name", Expect::Left, |rig| {
        let one = entry("100644", b"a", &raw_object(&rig.guest, "blob", b"x"));
        let tree = raw_object(&rig.guest, "tree", &[one.clone(), one].concat());
        point(&rig.guest, "bad", &commit(&rig.guest, &tree));
    }));
    rows.push(Row::new("a tree with a link and files below it", Expect::Left, |rig| {
        let link = entry("120000", b"a", &raw_object(&rig.guest, "blob", b"/tmp"));
        let folder = entry("40000", b"a", &git(&rig.guest, &["rev-parse", "HEAD^{tree}"]));
        let tree = raw_object(&rig.guest, "tree", &[link, folder].concat());
        point(&rig.guest, "bad", &commit(&rig.guest, &tree));
    }));
    rows.push(Row::new("a tree out of order", Expect::Left, |rig| {
        let blob = raw_object(&rig.guest, "blob", b"x");
        let tree = [entry("100644", b"b", &blob), entry("100644", b"a", &blob)].concat();
        let tree = raw_object(&rig.guest, "tree", &tree);
        point(&rig.guest, "bad", &commit(&rig.guest, &tree));
    }));
    rows.push(Row::new("trees ten thousand deep", Expect::Left, |rig| {
        let mut tree = git(&rig.guest, &["rev-parse", "HEAD^{tree}"]);
        for bytes in deep(&tree, 10_000) {
            tree = loose_tree(&rig.guest, &bytes);
        }
        point(&rig.guest, "bad", &commit(&rig.guest, &tree));
    }));
    rows.push(Row::new("a link to a commit of nobody", Expect::Home, |rig| {
        let tree = raw_object(&rig.guest, "tree", &entry("160000", b"sub", &"ab".repeat(20)));
        point(&rig.guest, "linked", &commit(&rig.guest, &tree));
    }));
    for (what, text) in [
        ("an option", "[submodule \"x\"]\n\tpath = x\n\turl = --upload-pack=touch canary\n"),
        ("a command", "[submodule \"x\"]\n\tpath = x\n\turl = ./x\n\tupdate = !touch canary\n"),
        ("a name that leads out", "[submodule \"../../x\"]\n\tpath = x\n\turl = ./x\n"),
        ("a path that is an option", "[submodule \"x\"]\n\tpath = -x\n\turl = ./x\n"),
    ] {
        rows.push(Row::new(format!("a `.gitmodules` with {what}"), Expect::Left, move |rig| {
            let blob = raw_object(&rig.guest, "blob", text.as_bytes());
            let tree = raw_object(&rig.guest, "tree", &entry("100644", b".gitmodules", &blob));
            point(&rig.guest, "bad", &commit(&rig.guest, &tree));
        }));
    }
    rows
}

/// The bytes of trees, each of which holds the one before.
fn deep(innermost: &str, depth: usize) -> Vec<Vec<u8>> {
    let mut trees = Vec::with_capacity(depth);
    let mut inner = innermost.to_owned();
    for _ in 0..depth {
        let bytes = entry("40000", b"d", &inner);
        inner = name_of("tree", &bytes);
        trees.push(bytes);
    }
    trees
}

fn name_of(kind: &str, bytes: &[u8]) -> String {
    let mut hasher = daemon::home::quarantine::Hash::Sha1.begin();
    hasher.update(format!("{kind} {}\0", bytes.len()).as_bytes());
    hasher.update(bytes);
    hasher.finish()
}

/// Without a process for each.
fn loose_tree(guest: &Path, bytes: &[u8]) -> String {
    let name = name_of("tree", bytes);
    let head = format!("tree {}\0", bytes.len());
    place_loose(guest, &name, &deflated(&[head.as_bytes(), bytes].concat()));
    name
}

pub fn deflated(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(bytes).expect("memory takes it");
    out.finish().expect("memory takes it")
}

fn place_loose(guest: &Path, name: &str, bytes: &[u8]) {
    let path = guest.join(".git/objects").join(&name[..2]).join(&name[2..]);
    let _ = fs::remove_file(&path);
    fs::create_dir_all(path.parent().expect("it lies in a folder")).expect("a folder can be made");
    fs::write(path, bytes).expect("a file can be written");
}

fn commits() -> Vec<Row> {
    let bad = |what: &str, text: fn(&Path) -> Vec<u8>| {
        Row::new(format!("a commit {what}"), Expect::Left, move |rig| {
            point(&rig.guest, "bad", &raw_object(&rig.guest, "commit", &text(&rig.guest)));
        })
    };
    fn text(guest: &Path, tree: Option<&str>, rest: &str) -> Vec<u8> {
        let own = git(guest, &["rev-parse", "HEAD^{tree}"]);
        format!("tree {}\n{rest}", tree.unwrap_or(&own)).into_bytes()
    }
    const WHO: &str = "author A <a@b> 1 +0000\ncommitter A <a@b> 1 +0000\n\nbad\n";
    vec![
        bad("without a tree", |_| WHO.as_bytes().to_vec()),
        bad("whose tree is not there", |guest| text(guest, Some(&"ab".repeat(20)), WHO)),
        bad("whose tree is a file", |guest| text(guest, Some(&raw_object(guest, "blob", b"x")), WHO)),
        bad("whose parent is not there", |guest| text(guest, None, &format!("parent {}\n{WHO}", "ab".repeat(20)))),
        bad("whose parent is a tree", |guest| {
            let tree = git(guest, &["rev-parse", "HEAD^{tree}"]);
            text(guest, None, &format!("parent {tree}\n{WHO}"))
        }),
        bad("with a NUL in its head", |guest| text(guest, None, &WHO.replace("author A", "author A\0"))),
        bad("by nobody", |guest| text(guest, None, "\nbad\n")),
        bad("by two who are one line", |guest| text(guest, None, "author A <a@b> 1 +0000committer\n\nbad\n")),
        bad("of nonsense", |_| vec![0xff; 300]),
    ]
}

fn loose() -> Vec<Row> {
    let spoilt = |what: &str, spoil: fn(&Path, Vec<u8>) -> Vec<u8>| {
        Row::new(format!("an object that is {what}"), Expect::Left, move |rig| {
            let object = commit(&rig.guest, &git(&rig.guest, &["rev-parse", "HEAD^{tree}"]));
            point(&rig.guest, "bad", &object);
            let path = rig.guest.join(".git/objects").join(&object[..2]).join(&object[2..]);
            let bytes = spoil(&rig.guest, fs::read(path).expect("it is loose"));
            place_loose(&rig.guest, &object, &bytes);
        })
    };
    vec![
        spoilt("cut short", |_, old| old[..old.len() / 2].to_vec()),
        spoilt("empty", |_, _| Vec::new()),
        spoilt("longer than it says", |_, old| [old, b"more".to_vec()].concat().repeat(2)),
        spoilt("something else", |_, _| deflated(b"blob 14\0something else")),
        spoilt("a bomb", |_, _| deflated(&[&b"blob 9\0"[..], &vec![0; 64 << 20]].concat())),
        spoilt("larger than anything", |_, _| deflated(b"blob 18446744073709551615\0x")),
        spoilt("of a kind that git knows not", |_, _| deflated(b"bomb 1\0x")),
    ]
}

/// What looks bad and loses nothing.
fn whole() -> Vec<Row> {
    vec![
        Row::new("damaged objects that nothing needs", Expect::Home, |rig: &Rig| {
            write(&rig.guest.join("count"), "edited\n");
            place_loose(&rig.guest, &format!("ab{}", "c".repeat(38)), b"");
            fs::write(rig.guest.join(".git/objects/pack/pack-00.pack"), b"PACK\0\0\0\x02\0\0\xff\xff noise").unwrap();
        }),
        Row::new("objects borrowed from the host's files", Expect::Home, |rig: &Rig| {
            write(&rig.guest.join(".git/objects/info/alternates"), "/etc\n../../../host/.git/objects\n");
        }),
    ]
}
