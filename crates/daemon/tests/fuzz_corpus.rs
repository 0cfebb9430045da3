//! The fuzzers' corpus, replayed, and mutations of it: as many and the same ones in every run, so that this needs neither a
//! fuzzer nor luck. A case that once failed is added to `fuzz/corpus/<target>/` and stays.

use daemon::home::fuzzing::TARGETS;
use std::path::PathBuf;

/// Of each file of the corpus; some seconds in all.
const MUTATIONS: usize = 600;

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("it can be read").path()).collect();
    files.sort();
    files.into_iter().map(|path| (path.clone(), std::fs::read(path).expect("it can be read"))).collect()
}

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
            match self.roll(7) {
                _ if bytes.is_empty() => bytes.push(self.roll(256) as u8),
                0 => bytes[at] ^= 1 << self.roll(8),
                1 => bytes[at] = *[0, 1, 0x7f, 0x80, 0xff, b'0', b'/', b'.'].get(self.roll(8)).expect("eight"),
                2 => bytes.truncate(at),
                3 => drop(bytes.drain(at..(at + 1 + self.roll(600)).min(bytes.len()))),
                4 => {
                    let end = (at + 1 + self.roll(600)).min(bytes.len());
                    let piece = bytes[at..end].to_vec();
                    bytes.splice(at..at, piece);
                }
                5 => {
                    let from = self.roll(other.len());
                    let piece = &other[from..(from + 1 + self.roll(600)).min(other.len())];
                    bytes.splice(at..at, piece.iter().copied());
                }
                _ => {
                    let end = (at + 8).min(bytes.len());
                    bytes[at..end].fill(*[0, 0xff].get(self.roll(2)).expect("two"));
                }
            }
        }
        bytes
    }
}

#[test]
fn what_a_guest_may_send_breaks_nothing() {
    for (name, run) in TARGETS {
        let corpus = corpus(name);
        assert!(corpus.len() >= 4, "{name} has only {} seeds", corpus.len());
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
        for (path, seed) in &corpus {
            run(seed);
            for number in 0..MUTATIONS {
                let other = &corpus[dice.roll(corpus.len())].1;
                let case = dice.mutate(seed, other);
                let outcome = std::panic::catch_unwind(|| run(&case));
                if outcome.is_err() {
                    let kept = std::env::temp_dir().join(format!("{name}-{number}.case"));
                    std::fs::write(&kept, &case).expect("the case can be kept");
                    panic!("{name}: mutation {number} of {} breaks it; it lies at {}", path.display(), kept.display());
                }
            }
        }
    }
}
