//! Names and link targets that are no UTF-8, which Linux allows and `mkext4` cannot be told.
//!
//! The image is written with a stand-in for each, whose entry takes as much room; afterwards the stand-in's bytes are
//! replaced in place and the checksum of its block or inode is made anew. A directory with an index (htree) finds a name by its hash, so there
//! the stand-in must hash to where the real name belongs: no other name of the directory may hash between the two, and the
//! stand-in not behind the real one. Then both sort into the same place of the same leaf, and the index holds for both.
//! Such a stand-in is found by trying: one in as many as the directory has names fits.

use mkext4::csum;
use mkext4::dirhash::{HashSeed, Signedness, half_md4, seed_from_uuid};
use mkext4::reader::Fs;
use mkext4::spec::dirent;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

const BLOCK: u64 = 4096;
/// From this many bytes of entries on `mkext4` makes an index: a block without its checksum and the two dots.
const INDEXED_FROM_BYTES: usize = 4096 - 24;
/// 4 million: a directory of a million names finds its stand-ins well before.
const MAX_TRIES: u32 = 1 << 22;
/// The characters that stand-ins are made of.
const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// 62^5 is more than the tries.
const COUNTED_DIGITS: usize = 5;

/// A stand-in for each name of a directory that is no UTF-8. `Err` holds a name for which there is none.
pub fn stand_ins<'a, I: Iterator<Item = &'a [u8]>>(
    names: &dyn Fn() -> I,
    uuid: &[u8; 16],
) -> Result<BTreeMap<&'a [u8], String>, &'a [u8]> {
    let wanted: Vec<&[u8]> = names().filter(|name| str::from_utf8(name).is_err()).collect();
    if wanted.is_empty() {
        return Ok(BTreeMap::new());
    }
    let seed = seed_from_uuid(uuid);
    let taken: BTreeSet<&[u8]> = names().collect();
    let bytes: usize = names().map(|name| dirent::rec_len_for(name.len())).sum();
    let mut directory = Directory { hashes: BTreeMap::new(), indexed: bytes >= INDEXED_FROM_BYTES, seed };
    for name in names() {
        let hash = directory.hash(name);
        *directory.hashes.entry(hash).or_insert(0) += 1;
    }
    let mut found: BTreeMap<&[u8], String> = BTreeMap::new();
    let mut used = BTreeSet::new();
    for name in wanted {
        let fits = |candidate: &String| {
            !taken.contains(candidate.as_bytes()) && !used.contains(candidate) && directory.fits(name, candidate)
        };
        let stand_in = (0..MAX_TRIES).map_while(|number| candidate(room(name), number)).find(fits).ok_or(name)?;
        used.insert(stand_in.clone());
        found.insert(name, stand_in);
    }
    Ok(found)
}

struct Directory {
    /// How many of its real names have each hash.
    hashes: BTreeMap<u32, u32>,
    indexed: bool,
    seed: HashSeed,
}

impl Directory {
    fn hash(&self, name: &[u8]) -> u32 {
        half_md4(&self.seed, Signedness::Signed, name).0
    }

    /// Nobody but the name itself hashes from the stand-in's place up to the name's.
    fn fits(&self, name: &[u8], candidate: &str) -> bool {
        if !self.indexed {
            return true;
        }
        let (from, to) = (self.hash(candidate.as_bytes()), self.hash(name));
        from <= to && self.hashes.range(from..=to).map(|(_, count)| count).sum::<u32>() == 1
    }
}

/// The longest name whose entry is as large: records are padded to 4 bytes, so a name of one byte has room for four.
fn room(name: &[u8]) -> usize {
    (dirent::rec_len_for(name.len()) - 8).min(255)
}

/// The `number`th word of this length, `None` when there are no more.
fn candidate(length: usize, number: u32) -> Option<String> {
    let counted = length.min(COUNTED_DIGITS);
    let mut word = vec![b'_'; length];
    let mut rest = number as usize;
    for place in word[length - counted..].iter_mut().rev() {
        *place = DIGITS[rest % DIGITS.len()];
        rest /= DIGITS.len();
    }
    (rest == 0).then(|| String::from_utf8(word).expect("it is made of letters"))
}

/// A stand-in for a link's target.
pub fn target_stand_in(target: &[u8]) -> String {
    "_".repeat(target.len())
}

/// What is to be replaced once the image is written.
#[derive(Debug, Default)]
pub struct Repairs {
    pub names: Vec<NameRepair>,
    pub targets: Vec<TargetRepair>,
}

/// A name in the directory with this path, whose parts are as they were written.
#[derive(Debug)]
pub struct NameRepair {
    pub directory: Vec<String>,
    pub written: String,
    pub real: Vec<u8>,
}

/// The target of the link with this path.
#[derive(Debug)]
pub struct TargetRepair {
    pub directory: Vec<String>,
    pub written: String,
    pub real: Vec<u8>,
}

impl Repairs {
    /// Targets first: links are found by their stand-ins.
    pub fn carry_out(&self, image: &File) -> io::Result<()> {
        if self.names.is_empty() && self.targets.is_empty() {
            return Ok(());
        }
        let fs = Fs::open(image).map_err(broken)?;
        let mut directories = BTreeMap::new();
        for path in self.names.iter().map(|name| &name.directory) {
            if !directories.contains_key(path) {
                directories.insert(path, inode_of(&fs, path)?);
            }
        }
        for target in &self.targets {
            let directory = inode_of(&fs, &target.directory)?;
            let link = fs.lookup(directory, target.written.as_bytes()).map_err(broken)?.ok_or_else(lost)?;
            replace_target(&fs, image, link, &target.real)?;
        }
        let mut by_directory: BTreeMap<u32, BTreeMap<&[u8], &[u8]>> = BTreeMap::new();
        for name in &self.names {
            let names = by_directory.entry(directories[&name.directory]).or_default();
            names.insert(name.written.as_bytes(), &name.real);
        }
        by_directory.iter().try_for_each(|(inode, names)| replace_names(&fs, image, *inode, names))
    }
}

const ROOT_INODE: u32 = 2;

fn inode_of(fs: &Fs<&File>, path: &[String]) -> io::Result<u32> {
    path.iter().try_fold(ROOT_INODE, |inode, name| fs.lookup(inode, name.as_bytes()).map_err(broken)?.ok_or_else(lost))
}

fn replace_names(fs: &Fs<&File>, image: &File, inode: u32, names: &BTreeMap<&[u8], &[u8]>) -> io::Result<()> {
    let node = fs.inode(inode).map_err(broken)?;
    let seed = csum::inode_seed(fs.fs_seed(), inode, node.generation);
    let mut left = names.len();
    for extent in fs.extents(inode, &node).map_err(broken)? {
        for physical in extent.physical..extent.physical + u64::from(extent.len) {
            let mut block = fs.read_block(physical).map_err(broken)?;
            let replaced = replace_in_block(&mut block, names);
            if replaced > 0 {
                let sum = csum::dirent_block(seed, &block);
                let end = block.len() - 4;
                block[end..].copy_from_slice(&sum.to_le_bytes());
                image.write_all_at(&block, physical * BLOCK)?;
                left -= replaced;
            }
        }
    }
    if left == 0 { Ok(()) } else { Err(lost()) }
}

/// Blocks of the index hold no names: they look like one unused entry.
fn replace_in_block(block: &mut [u8], names: &BTreeMap<&[u8], &[u8]>) -> usize {
    if dirent::tail_checksum(block).is_none() {
        return 0;
    }
    let mut places = Vec::new();
    for entry in dirent::DirentIter::new(block).flatten() {
        if let Some(real) = names.get(entry.name) {
            places.push((entry.offset + 8, entry.name.len(), *real));
        }
    }
    for (at, written, real) in &places {
        // The length stands two bytes before the name (struct ext4_dir_entry_2).
        block[at - 2] = real.len() as u8;
        block[*at..at + written].fill(0);
        block[*at..at + real.len()].copy_from_slice(real);
    }
    places.len()
}

/// A target below 60 bytes stands in the inode, a longer one in a block of its own, which has no checksum.
fn replace_target(fs: &Fs<&File>, image: &File, inode: u32, real: &[u8]) -> io::Result<()> {
    const I_BLOCK: usize = 0x28;
    const I_BLOCK_BYTES: usize = 60;
    let node = fs.inode(inode).map_err(broken)?;
    if real.len() >= I_BLOCK_BYTES {
        let extents = fs.extents(inode, &node).map_err(broken)?;
        let first = extents.first().ok_or_else(lost)?;
        return image.write_all_at(real, first.physical * BLOCK);
    }
    let mut raw = fs.inode_raw(inode).map_err(broken)?;
    raw[I_BLOCK..I_BLOCK + real.len()].copy_from_slice(real);
    let sum = csum::inode(fs.fs_seed(), inode, node.generation, &raw).to_le_bytes();
    raw[0x7c..0x7e].copy_from_slice(&sum[..2]);
    raw[0x82..0x84].copy_from_slice(&sum[2..]);
    let superblock = fs.superblock();
    let (group, index) = ((inode - 1) / superblock.inodes_per_group, (inode - 1) % superblock.inodes_per_group);
    let table = fs.group_desc(u64::from(group)).map_err(broken)?.inode_table;
    image.write_all_at(&raw, table * BLOCK + u64::from(index) * u64::from(superblock.inode_size))
}

fn broken(error: mkext4::Error) -> io::Error {
    io::Error::other(error.to_string())
}

fn lost() -> io::Error {
    io::Error::other("a name that was just written is not in the image")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_directory_takes_any_free_word_of_the_same_room() {
        let names: [&[u8]; 4] = [b"0", b"\xff", b"\xfe", b"a\xffbc"];
        let found = stand_ins(&|| names.iter().copied(), &[7; 16]).expect("there are enough");
        assert_eq!(found.len(), 3);
        assert!(found.iter().all(|(name, word)| room(name) == word.len() && !names.contains(&word.as_bytes())));
        assert_ne!(found[&names[1]], found[&names[2]]);
    }

    #[test]
    fn in_a_large_one_it_hashes_right_before_the_name() {
        let names: Vec<Vec<u8>> = (0..3000).map(|i| format!("file-{i}").into_bytes()).collect();
        let odd: Vec<Vec<u8>> = (0..20u8).map(|i| vec![b'n', 0xff, 0x80 + i, b'x', b'y', b'z']).collect();
        let all = || names.iter().chain(&odd).map(Vec::as_slice);
        let found = stand_ins(&all, &[7; 16]).expect("there are enough");
        let seed = seed_from_uuid(&[7; 16]);
        let hash = |name: &[u8]| half_md4(&seed, Signedness::Signed, name).0;
        for (name, word) in &found {
            let (from, to) = (hash(word.as_bytes()), hash(name));
            assert!(from <= to && all().filter(|other| (from..=to).contains(&hash(other))).count() == 1, "{word}");
        }
        assert_eq!(found.len(), odd.len());
    }

    #[test]
    fn words_run_out_only_where_there_are_few() {
        assert_eq!(candidate(1, 61).as_deref(), Some("z"));
        assert_eq!(candidate(1, 62), None);
        assert_eq!(candidate(7, 62).as_deref(), Some("__00010"));
        let many: Vec<Vec<u8>> = (0x80..=0xffu8).map(|byte| vec![byte]).collect();
        let found = stand_ins(&|| many.iter().map(Vec::as_slice), &[1; 16]).expect("four digits are enough");
        assert_eq!(found.len(), 128);
    }
}
