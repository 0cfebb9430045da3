//! The fuzzer's corpus, replayed, and mutations of it: as many and the same ones in every run, so that this needs neither a
//! fuzzer nor luck. A case that once failed is added to `fuzz/corpus/frames/` and stays.

use gateway::fuzzing::frames;
use std::path::{Path, PathBuf};

/// Of each file of the corpus.
const MUTATIONS: usize = 400;

/// Numbers that are the same in every run (xorshift64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % sides.max(1) as u64) as usize
    }

    fn mutate(&mut self, seed: &[u8], other: &[u8]) -> Vec<u8> {
        let mut bytes = seed.to_vec();
        for _ in 0..1 + self.roll(4) {
            let at = self.roll(bytes.len());
            match self.roll(4) {
                0 => bytes[at] ^= 1 << self.roll(8),
                1 => bytes[at] = [0, 1, 0x45, 0x7f, 0x80, 0xff][self.roll(6)],
                2 => bytes.truncate(at + 1),
                _ => {
                    let from = self.roll(other.len());
                    let piece = &other[from..(from + 1 + self.roll(60)).min(other.len())];
                    bytes.splice(at..at, piece.iter().copied());
                }
            }
        }
        bytes
    }
}

#[test]
fn whatever_a_guest_sends_it_hears_whole_frames_or_nothing() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/frames");
    let entries = std::fs::read_dir(&folder).expect("there is a corpus");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("it can be read").path()).collect();
    paths.sort();
    let corpus: Vec<Vec<u8>> = paths.iter().map(|path| std::fs::read(path).expect("it can be read")).collect();
    assert!(corpus.len() >= 8, "only {} seeds", corpus.len());
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    for (path, seed) in paths.iter().zip(&corpus) {
        frames(seed);
        for number in 0..MUTATIONS {
            let other = dice.roll(corpus.len());
            let case = dice.mutate(seed, &corpus[other]);
            if std::panic::catch_unwind(|| frames(&case)).is_err() {
                let kept = std::env::temp_dir().join(format!("frames-{number}.case"));
                std::fs::write(&kept, &case).expect("the case can be kept");
                panic!("mutation {number} of {} breaks it; it lies at {}", path.display(), kept.display());
            }
        }
    }
}
