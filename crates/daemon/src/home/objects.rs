//! A guest's objects on their way into the quarantine: loose ones one by one, packs whole, only those that are new.
//!
//! A loose object is taken when it inflates, within bounds, to what its name is the hash of. A pack is indexed anew by
//! git; the guest's own index of it only says whether it is worth fetching. What is not sound is left: a guest that was
//! killed has such objects, and whether anything needs one tells the walk from its references ([`land`]).
//!
//! [`land`]: super::land

use super::manifest::Manifest;
use super::quarantine::{Hash, Quarantine, judge, spawn_bounded};
use super::refs::is_object;
use super::tree::{Tree, read_small};
use super::{Result, limits};
use flate2::read::ZlibDecoder;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::process::Stdio;
use wire::guest::work::Kind;

/// Fetches what is new. `taken` counts the bytes of it; an answer says that there was too much.
pub fn import(
    tree: &mut dyn Tree,
    manifest: &Manifest,
    quarantine: &Quarantine,
    seen_packs: &mut BTreeSet<String>,
    taken: &mut u64,
) -> Result<Option<String>> {
    let end = taken.saturating_add(limits::LOOK_BYTES);
    import_loose(tree, manifest, quarantine, taken, end)?;
    import_packs(tree, manifest, quarantine, seen_packs, taken, end)?;
    Ok((*taken > end).then(|| format!("its objects are more than {} bytes", limits::LOOK_BYTES)))
}

fn import_loose(
    tree: &mut dyn Tree,
    manifest: &Manifest,
    quarantine: &Quarantine,
    taken: &mut u64,
    end: u64,
) -> Result<()> {
    let mut names = Vec::new();
    for record in &manifest.git {
        let Some(name) = loose_name(&record.path, quarantine.hash().digits()) else { continue };
        if record.size > limits::FILE_BYTES {
            tracing::debug!(name, size = record.size, "an object is too large");
        } else if !place(quarantine, &name).exists() {
            names.push(name);
        }
    }
    let missing = quarantine.missing(&names)?;
    names.retain(|name| missing.contains(name));
    let paths: Vec<Vec<u8>> =
        names.iter().map(|name| format!(".git/objects/{}/{}", &name[..2], &name[2..]).into_bytes()).collect();
    tree.read(&paths, &mut |number, record, content| {
        if record.kind != Kind::File || record.size > limits::FILE_BYTES || *taken > end {
            return Ok(());
        }
        *taken = taken.saturating_add(record.size);
        let sound = take_loose(quarantine, &names[number], content);
        if !sound.map_err(|source| quarantine.store_error(source))? {
            tracing::debug!(name = names[number], "an object is damaged");
        }
        Ok(())
    })
}

fn loose_name(path: &[u8], digits: usize) -> Option<String> {
    let (folder, rest) = std::str::from_utf8(path).ok()?.strip_prefix(".git/objects/")?.split_once('/')?;
    let name = format!("{folder}{rest}");
    (folder.len() == 2 && is_object(&name, digits)).then_some(name)
}

fn place(quarantine: &Quarantine, name: &str) -> std::path::PathBuf {
    quarantine.folder().join("objects").join(&name[..2]).join(&name[2..])
}

/// Keeps it under its name if that is what it is; false otherwise.
fn take_loose(quarantine: &Quarantine, name: &str, content: &mut dyn Read) -> io::Result<bool> {
    let incoming = quarantine.folder().join("incoming/object");
    let mut file = File::create(&incoming)?;
    io::copy(content, &mut file)?;
    file.flush()?;
    if !is_sound(File::open(&incoming)?, name, quarantine.hash()) {
        return Ok(false);
    }
    let to = place(quarantine, name);
    fs::create_dir_all(to.parent().expect("an object lies in a folder"))?;
    fs::rename(incoming, to)?;
    Ok(true)
}

/// Whether these bytes inflate to an object of that name.
pub fn is_sound(bytes: impl Read, name: &str, hash: Hash) -> bool {
    let mut inflated = ZlibDecoder::new(io::BufReader::new(bytes));
    let mut hasher = hash.begin();
    let mut head = Vec::new();
    let mut byte = [0];
    // The longest head: `commit`, a space, 20 digits, NUL.
    while head.last() != Some(&0) {
        if head.len() > 32 || !matches!(inflated.read(&mut byte), Ok(1)) {
            return false;
        }
        head.push(byte[0]);
    }
    let words = std::str::from_utf8(&head[..head.len() - 1]).unwrap_or_default();
    let size = match words.split_once(' ') {
        Some(("blob" | "tree" | "commit" | "tag", size)) => size.parse::<u64>().ok(),
        _ => None,
    };
    let Some(size) = size.filter(|size| *size <= limits::FILE_BYTES) else { return false };
    hasher.update(&head);
    let mut left = size;
    let mut chunk = vec![0; 64 * 1024];
    loop {
        match inflated.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) if count as u64 <= left => {
                left -= count as u64;
                hasher.update(&chunk[..count]);
            }
            // More than it said, or no zlib stream at all.
            Ok(_) | Err(_) => return false,
        }
    }
    left == 0 && hasher.finish() == name
}

fn import_packs(
    tree: &mut dyn Tree,
    manifest: &Manifest,
    quarantine: &Quarantine,
    seen: &mut BTreeSet<String>,
    taken: &mut u64,
    end: u64,
) -> Result<()> {
    for record in &manifest.git {
        let Some(name) = pack_name(&record.path) else { continue };
        if seen.contains(&name) {
            continue;
        }
        if is_known(tree, &name, quarantine)? {
            seen.insert(name);
            continue;
        }
        if record.size > limits::PACK_BYTES {
            tracing::debug!(name, size = record.size, "a pack is too large");
            continue;
        }
        if *taken > end {
            break;
        }
        *taken = taken.saturating_add(record.size);
        match take_pack(tree, &record.path, quarantine) {
            Ok(()) => drop(seen.insert(name)),
            Err(super::HomeError::Git { source }) => tracing::debug!(name, %source, "a pack is damaged"),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn pack_name(path: &[u8]) -> Option<String> {
    let name = std::str::from_utf8(path).ok()?.strip_prefix(".git/objects/pack/")?.strip_suffix(".pack")?;
    let sound = name.len() <= 80 && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    sound.then(|| name.to_owned())
}

/// 50000 names in one question to git.
const NAMES_AT_ONCE: usize = 50_000;

/// Everything in it, as the guest's index of it says, is here or on the host already. An index that lies about this only
/// leaves the guest's own objects out, which the check of what they are needed for then tells.
fn is_known(tree: &mut dyn Tree, name: &str, quarantine: &Quarantine) -> Result<bool> {
    let path = format!(".git/objects/pack/{name}.idx").into_bytes();
    let index = read_small(tree, &[(path, limits::INDEX_BYTES)])?.remove(0);
    let bytes = quarantine.hash().bytes();
    let Some(names) = index.as_deref().and_then(|index| names_in_index(index, bytes)) else { return Ok(false) };
    for names in names.chunks(NAMES_AT_ONCE * bytes) {
        let names: Vec<String> = names.chunks(bytes).map(super::index::hex).collect();
        if !quarantine.missing(&names)?.is_empty() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The names in a pack index of version 2 (gitformat-pack(5)), one after another.
pub fn names_in_index(index: &[u8], object_bytes: usize) -> Option<&[u8]> {
    let (head, rest) = index.split_at_checked(8 + 256 * 4)?;
    if head[..8] != [0xff, b't', b'O', b'c', 0, 0, 0, 2] {
        return None;
    }
    let count = u32::from_be_bytes(head[head.len() - 4..].try_into().ok()?) as usize;
    rest.get(..count.checked_mul(object_bytes)?)
}

fn take_pack(tree: &mut dyn Tree, path: &[u8], quarantine: &Quarantine) -> Result<()> {
    let incoming = quarantine.folder().join("incoming/pack");
    let mut arrived = false;
    tree.read(&[path.to_vec()], &mut |_, record, content| {
        if record.kind == Kind::File && record.size <= limits::PACK_BYTES {
            let copied = File::create(&incoming).and_then(|mut file| io::copy(content, &mut file));
            copied.map_err(|source| quarantine.store_error(source))?;
            arrived = true;
        }
        Ok(())
    })?;
    if !arrived {
        return Ok(());
    }
    let pack = File::open(&incoming).map_err(|source| quarantine.store_error(source))?;
    let limit = format!("--max-input-size={}", limits::PACK_BYTES);
    let mut command = quarantine.git().command(["index-pack", "--stdin", "--threads=1", &limit]);
    let child = spawn_bounded(command.stdin(Stdio::from(pack)))?;
    let output = child.wait_with_output().map_err(|source| quarantine.store_error(source))?;
    let _ = fs::remove_file(&incoming);
    judge(quarantine.git(), output).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_objects_and_packs_are_taken() {
        let object = "ab".to_owned() + &"c".repeat(38);
        let path = format!(".git/objects/ab/{}", "c".repeat(38));
        assert_eq!(loose_name(path.as_bytes(), 40), Some(object));
        for bad in [".git/objects/ab/cc", ".git/objects/../x", ".git/objects/pack/pack-x.pack", ".git/HEAD"] {
            assert_eq!(loose_name(bad.as_bytes(), 40), None, "{bad}");
        }
        assert_eq!(pack_name(b".git/objects/pack/pack-12ab.pack").as_deref(), Some("pack-12ab"));
        for bad in
            [&b".git/objects/pack/../../x.pack"[..], b".git/objects/pack/pack-1.idx", b".git/objects/pack/a b.pack"]
        {
            assert_eq!(pack_name(bad), None);
        }
    }
}
