//! Packs, made by hand: the branch `bad` needs a commit that only the pack could hold.

use super::objects::{deflated, point};
use super::{Expect, Row};
use crate::repositories::home::{Rig, command, git};
use sha1::Digest;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

const BLOB: u8 = 3;
const COMMIT: u8 = 1;
const OFS_DELTA: u8 = 6;
const REF_DELTA: u8 = 7;

/// Type and size as a pack writes them (gitformat-pack(5)).
fn head(kind: u8, size: u64) -> Vec<u8> {
    let mut bytes = vec![kind << 4 | (size & 15) as u8];
    let mut rest = size >> 4;
    while rest > 0 {
        *bytes.last_mut().expect("there is one") |= 0x80;
        bytes.push((rest & 0x7f) as u8);
        rest >>= 7;
    }
    bytes
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn object(kind: u8, content: &[u8]) -> Vec<u8> {
    [head(kind, content.len() as u64), deflated(content)].concat()
}

/// A delta on another object of this name.
fn on_name(base: &[u8; 20], delta: &[u8]) -> Vec<u8> {
    [head(REF_DELTA, delta.len() as u64), base.to_vec(), deflated(delta)].concat()
}

/// A delta on what lies right before it, so many bytes away (less than 128).
fn on_offset(distance: u8, delta: &[u8]) -> Vec<u8> {
    [head(OFS_DELTA, delta.len() as u64), vec![distance], deflated(delta)].concat()
}

fn pack(count: u32, objects: &[u8]) -> Vec<u8> {
    let mut bytes = b"PACK\0\0\0\x02".to_vec();
    bytes.extend(count.to_be_bytes());
    bytes.extend(objects);
    let sum = sha1::Sha1::digest(&bytes);
    bytes.extend(sum.as_slice());
    bytes
}

fn raw_name(content: &[u8]) -> [u8; 20] {
    let head = format!("blob {}\0", content.len());
    sha1::Sha1::digest([head.as_bytes(), content].concat()).into()
}

fn place(guest: &Path, bytes: &[u8]) {
    let name = format!(".git/objects/pack/pack-{}.pack", "12".repeat(20));
    std::fs::write(guest.join(name), bytes).expect("a file can be written");
}

fn bad(what: &str, make: fn(&Rig) -> Vec<u8>) -> Row {
    Row::new(format!("a pack {what}"), Expect::Left, move |rig| {
        place(&rig.guest, &make(rig));
        point(&rig.guest, "bad", &"ab".repeat(20));
    })
}

pub fn rows() -> Vec<Row> {
    vec![
        bad("of noise", |_| vec![0xff; 10_000]),
        bad("of nothing", |_| Vec::new()),
        bad("that ends in the middle", |_| {
            let whole = pack(1, &object(BLOB, &[b'x'; 5000]));
            whole[..whole.len() / 2].to_vec()
        }),
        bad("that claims four billion objects", |_| pack(u32::MAX, &object(BLOB, b"x"))),
        bad("of a later version", |_| {
            let mut bytes = pack(1, &object(BLOB, b"x"));
            bytes[7] = 9;
            bytes
        }),
        bad("with a sum that is another's", |_| {
            let mut bytes = pack(1, &object(BLOB, b"x"));
            *bytes.last_mut().expect("there is one") ^= 1;
            bytes
        }),
        bad("with an object that claims 2^60 bytes", |_| pack(1, &[head(BLOB, 1 << 60), deflated(b"x")].concat())),
        bad("with a commit that claims 2^60 bytes", |_| pack(1, &[head(COMMIT, 1 << 60), deflated(b"x")].concat())),
        bad("whose deltas are on each other", |_| {
            let delta = [varint(1), varint(1), vec![1, b'x']].concat();
            pack(2, &[on_name(&[1; 20], &delta), on_name(&[2; 20], &delta)].concat())
        }),
        bad("whose delta is on nothing", |_| pack(1, &on_offset(100, &[varint(1), varint(1), vec![1, b'x']].concat()))),
        bad("whose delta copies from beyond its base", |_| {
            let delta = [varint(1), varint(0xff_ffff), vec![0xff, 0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff]].concat();
            pack(2, &[object(BLOB, b"x"), on_name(&raw_name(b"x"), &delta)].concat())
        }),
        bad("whose delta makes 16 GiB of 16 MiB", |_| {
            let base = vec![0; 16 << 20];
            // A copy of 0xffffff bytes from the beginning: three bytes of size and none of offset.
            let copies = 1024;
            let copy = [0x80 | 0x70, 0xff, 0xff, 0xff].repeat(copies);
            let delta = [varint(base.len() as u64), varint(0xff_ffff * copies as u64), copy].concat();
            pack(2, &[object(BLOB, &base), on_name(&raw_name(&base), &delta)].concat())
        }),
        bad("with an object that inflates to a gigabyte and claims a byte", |_| {
            pack(1, &[head(BLOB, 1), deflated(&vec![0; 64 << 20])].concat())
        }),
        Row::new("an index of a pack that is not there", Expect::Home, |rig| {
            let name = format!(".git/objects/pack/pack-{}.idx", "34".repeat(20));
            std::fs::write(rig.guest.join(name), [0xff; 2000]).expect("a file can be written");
        }),
        Row::new("an index that says the host has it all", Expect::Left, |rig| {
            // The commit is in a pack alone, and the pack's index names nothing but what the host has.
            git(&rig.guest, &["checkout", "-q", "-b", "bad"]);
            git(&rig.guest, &["commit", "-q", "--allow-empty", "-m", "hidden"]);
            git(&rig.guest, &["checkout", "-q", "main"]);
            let packed = command(&rig.guest, &["pack-objects", "-q", "--revs", ".git/objects/pack/pack"])
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .spawn()
                .and_then(|mut child| {
                    child.stdin.take().expect("stdin is piped").write_all(b"bad\n^main\n")?;
                    child.wait()
                });
            assert!(packed.expect("git runs").success());
            git(&rig.guest, &["prune-packed", "-q"]);
            let packs = std::fs::read_dir(rig.guest.join(".git/objects/pack")).expect("it is there").flatten();
            for index in packs.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "idx"))
            {
                let empty = [&[0xff, b't', b'O', b'c', 0, 0, 0, 2][..], &[0; 1024], &[0; 40]].concat();
                let _ = std::fs::remove_file(&index);
                std::fs::write(index, empty).expect("a file can be written");
            }
        }),
    ]
}
